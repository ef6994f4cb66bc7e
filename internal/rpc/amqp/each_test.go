package amqp

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEach(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][][2]string{
		"rabbit://u:p%40@h:1/v?ssl=true": {{"tcp:h:1", "rabbit://u:p%40@h:1/v?ssl=true"}},
		"rabbit://u:p@a,b:2,x:y@c/":      {{"tcp:a:5672", "rabbit://u:p@a/"}, {"tcp:b:2", "rabbit://u:p@b:2/"}, {"tcp:c:5672", "rabbit://x:y@c/"}},
		"amqps://u:p@[::1]":              {{"tcp:[::1]:5671", "amqps://u:p@[::1]"}},
		"rabbit+unix://u:p@/?socket=/s":  {{"unix:/s", "rabbit+unix://u:p@/?socket=/s"}},
		"nonsense":                       nil,
		"rabbit://u:p@h:x/":              nil,
	} {
		all, err := Each(url)
		if (err == nil) != (want != nil) {
			t.Errorf("%s: %v", url, err)
		}
		var got [][2]string
		for _, s := range all {
			got = append(got, [2]string{s.Name, s.URL.Reveal()})
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", url, d)
		}
	}
}
