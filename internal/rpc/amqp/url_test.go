package amqp

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	tcp := func(address, serverName string) endpoint {
		return endpoint{network: "tcp", address: address, login: "u", password: "p", serverName: serverName}
	}
	second := endpoint{network: "tcp", address: "h2:5673", login: "u2", password: "p2", serverName: "h2"}
	for s, want := range map[string]target{
		"rabbit://u:p@h":                        {endpoints: []endpoint{tcp("h:5672", "h")}, vhost: "/"},
		"rabbit://u:p@h:1/":                     {endpoints: []endpoint{tcp("h:1", "h")}, vhost: "/"},
		"rabbit://u:p@h//":                      {endpoints: []endpoint{tcp("h:5672", "h")}, vhost: "/"},
		"amqp://u:p@h/%2f":                      {endpoints: []endpoint{tcp("h:5672", "h")}, vhost: "/"},
		"amqp://u:p@h/trove":                    {endpoints: []endpoint{tcp("h:5672", "h")}, vhost: "trove"},
		"amqps://u:p@h/trove":                   {endpoints: []endpoint{tcp("h:5671", "h")}, vhost: "trove", tls: true},
		"rabbit://u:p@h/?ssl=true&x=1":          {endpoints: []endpoint{tcp("h:5672", "h")}, vhost: "/", tls: true},
		"rabbit://u:p@[::1]:5/v":                {endpoints: []endpoint{tcp("[::1]:5", "::1")}, vhost: "v"},
		"rabbit://u:p@h:1,u2:p2@h2:5673/v":      {endpoints: []endpoint{tcp("h:1", "h"), second}, vhost: "v"},
		"rabbit://u:p@h:1,h2:2/v":               {endpoints: []endpoint{tcp("h:1", "h"), tcp("h2:2", "h2")}, vhost: "v"},
		"rabbit+unix://u:p@/?socket=/run/a%20b": {endpoints: []endpoint{{network: "unix", address: "/run/a b", login: "u", password: "p", serverName: "localhost"}}, vhost: "/"},
		"rabbit+unix://u:p@/v?socket=/s":        {endpoints: []endpoint{{network: "unix", address: "/s", login: "u", password: "p", serverName: "localhost"}}, vhost: "v"},
		"rabbit://a%40b:p%2F%3A%25%40q@h":       {endpoints: []endpoint{{network: "tcp", address: "h:5672", login: "a@b", password: "p/:%@q", serverName: "h"}}, vhost: "/"},
		"rabbit://u:p@":                         {endpoints: []endpoint{tcp("localhost:5672", "localhost")}, vhost: "/"},
		"rabbit://u:with:colon@h":               {endpoints: []endpoint{{network: "tcp", address: "h:5672", login: "u", password: "with:colon", serverName: "h"}}, vhost: "/"},
	} {
		got, err := parseURL(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		slices.SortFunc(got.endpoints, func(a, b endpoint) int { return strings.Compare(a.serverName, b.serverName) })
		if d := cmp.Diff(want, got, cmp.AllowUnexported(target{}, endpoint{})); d != "" {
			t.Errorf("%s: %s", s, d)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, s := range []string{
		"", "h:5672", "http://u:hunter2@h", "rabbit://u:hunter2%zz@h", "rabbit://u:hunter2@h:port/", "rabbit://u:hunter2@h/%zz",
		"rabbit+unix://u:hunter2@/", "rabbit+unix://u:hunter2@host/?socket=/s", "rabbit://u:hunter2@h/?a=%zz",
	} {
		_, err := parseURL(s)
		if !errors.Is(err, errURL) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestRetry(t *testing.T) {
	osloDefault := Retry{First: time.Second, Step: 2 * time.Second, Max: 30 * time.Second}
	for _, c := range []struct {
		retry Retry
		n     int
		most  time.Duration
	}{
		{Retry{}, 1, firstPause}, {Retry{}, 2, 2 * firstPause}, {Retry{}, 10, maxPause}, {Retry{}, 1 << 40, maxPause},
		{osloDefault, 1, time.Second}, {osloDefault, 2, 3 * time.Second}, {osloDefault, 1 << 40, 30 * time.Second},
	} {
		for range 20 {
			if d := c.retry.pause(c.n); d < c.most/2 || d > c.most {
				t.Errorf("%+v, failure %d: %v, want half of %v to all of it", c.retry, c.n, d, c.most)
			}
		}
	}
	if d := (Retry{Lost: 10, Splay: 1000}).afterLoss(); d < 5 || d > 1010 {
		t.Error(d)
	}
}
