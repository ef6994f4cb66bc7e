package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

const python = "/usr/bin/python3"

// peer is a program with Debian's oslo.messaging.
func peer(t *testing.T, mode string, b endpoint, topic string) *exec.Cmd {
	t.Helper()
	if testing.Short() {
		t.Skip("needs oslo.messaging")
	}
	if err := exec.Command(python, "-c", "import oslo_messaging").Run(); err != nil {
		t.Fatalf("%s cannot import oslo_messaging (%v): install Debian's package python3-oslo.messaging", python, err)
	}
	url := "rabbit://" + strings.TrimPrefix(b.tcpURL, "amqp://")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, python, "testdata/peer.py", mode, url, exchange, topic)
	c.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	return c
}

type outcome struct {
	Result  json.RawMessage `json:"result"`
	Raised  string          `json:"raised"`
	Base    string          `json:"base"`
	Text    string          `json:"text"`
	ExcType string          `json:"exc_type"`
}

func TestPythonClient(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		topic := "py-client"
		b.tcpURL += "?kombu_compression=gzip" // what its sender compresses is read
		notes := make(chan string, 10)
		h := rpc.Router{Version: "1.3", Methods: map[string]rpc.Method{
			"echo":    echoValue,
			"context": rpc.Bind(func(ctx context.Context, _ struct{}) (rpc.Context, error) { return rpc.ContextFrom(ctx), nil }),
			"not_found": rpc.Bind(func(context.Context, struct{}) (any, error) {
				return nil, trove.Errorf(trove.KindNotFound, "user 100%% gone")
			}),
			"guest_error": rpc.Bind(func(context.Context, struct{}) (any, error) {
				return nil, trove.Errorf(trove.KindGuest, "disk full")
			}),
			"internal": rpc.Bind(func(context.Context, struct{}) (any, error) { return nil, errors.New("secret detail") }),
			"strict": rpc.Bind(func(_ context.Context, a struct {
				Number int `json:"number"`
			}) (int, error) {
				return a.Number, nil
			}),
			"slow": rpc.Bind(func(ctx context.Context, _ struct{}) (string, error) {
				timer := time.NewTimer(4 * time.Second) // twice the caller's monitor timeout
				defer timer.Stop()
				select {
				case <-timer.C:
					return "slow", nil
				case <-ctx.Done():
					return "", ctx.Err()
				}
			}),
			"note": rpc.BindCast(func(ctx context.Context, a echoArgs) error {
				notes <- a.Text + " " + rpc.ContextFrom(ctx).RequestID
				return nil
			}),
		}}
		newServer(t, connect(t, b.url), h, rpc.ServerOptions{Topic: topic, Server: "host-1", Fanout: true, Workers: 8, Ping: true})
		c := peer(t, "client", b, topic)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		var many []int
		var values json.RawMessage
		told := map[string]outcome{}
		var raw map[string]json.RawMessage
		if err := json.Unmarshal(out, &raw); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for k, v := range raw {
			var o outcome
			var err error
			switch k {
			case "many":
				err = json.Unmarshal(v, &many)
			case "values":
				values = v
			default:
				err = json.Unmarshal(v, &o)
				told[k] = o
			}
			if err != nil {
				t.Fatalf("%s: %v", k, err)
			}
		}
		if d := cmp.Diff([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, many); d != "" {
			t.Error(d)
		}
		if got := told["echo"].Result; string(got) != string(values) {
			t.Errorf("echo: %s, want %s", got, values)
		}
		if got := string(told["server"].Result); got != `"by name"` {
			t.Errorf("by server name: %s", got)
		}
		if got := string(told["ping"].Result); got != `"pong"` {
			t.Errorf("ping: %s", got)
		}
		if got := string(told["slow"].Result); got != `"slow"` {
			t.Errorf("slow, with a call monitor: %+v", told["slow"])
		}
		var ctx rpc.Context
		if err := json.Unmarshal(told["context"].Result, &ctx); err != nil {
			t.Error(err)
		}
		ctx.Notification = nil
		want := rpc.Context{RequestID: "req-py", User: "u1", ProjectID: "p1", IsAdmin: true, Roles: []string{"admin"}}
		if d := cmp.Diff(want, ctx); d != "" {
			t.Error(d)
		}
		for key, want := range map[string]outcome{
			"not_found":   {Raised: "NotFound_Remote", Base: "NotFound", Text: "user 100% gone"},
			"guest_error": {Raised: "GuestError_Remote", Base: "GuestError", Text: "disk full"},
			"internal":    {Raised: "TroveError_Remote", Base: "TroveError", Text: "internal error; the server's log tells more"},
			"no_method":   {Raised: "RemoteError", ExcType: "NoSuchMethod"},
			"version":     {Raised: "RemoteError", ExcType: "UnsupportedVersion"},
			"arguments":   {Raised: "TypeError", Text: "strict()"},
			"nobody":      {Raised: "MessagingTimeout"},
			"ping":        {},
		} {
			got := told[key]
			if got.Raised != want.Raised || want.Base != "" && got.Base != want.Base ||
				!strings.Contains(got.Text, want.Text) && want.Text != "" || got.ExcType != want.ExcType {
				t.Errorf("%s: got %+v, want %+v", key, got, want)
			}
			if strings.Contains(got.Text, "secret detail") {
				t.Errorf("%s: tells %q", key, got.Text)
			}
		}
		for range 2 {
			if note := until(t, notes, "a note"); note != "cast req-py" && note != "fanout req-py" {
				t.Error(note)
			}
		}
	})
}

func TestPythonServer(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		topic := "py-server"
		b.tcpURL += "?kombu_compression=bzip2"
		c := peer(t, "server", b, topic)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		stdin, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines, eof := make(chan string, 100), make(chan struct{})
		go func() {
			defer close(eof)
			for s := bufio.NewScanner(stdout); s.Scan(); {
				lines <- s.Text()
			}
		}()
		stop := func() {
			_ = stdin.Close()
			<-eof
			if err := c.Wait(); err != nil {
				t.Errorf("%v\n%s", err, stderr.String())
			}
		}
		defer stop()
		if l := until(t, lines, "the Python server"); l != `{"ready": true}` {
			t.Fatal(l)
		}
		client := newClient(t, connect(t, b.url))
		rc := rpc.Context{RequestID: "req-go", User: "u1", ProjectID: "p1", Roles: []string{"member"},
			Notification: json.RawMessage(`{"notification_classname": "trove.common.notification.DBaaSInstanceCreate",
				"request_id": "req-go", "server_type": "guest", "client_ip": "", "server_ip": "", "tenant_id": "p1", "instance_id": "i1"}`)}
		ctx := rpc.WithContext(within(t), rc)
		call := func(method, version string, args map[string]any, result any) error {
			return client.Call(ctx, rpc.Message{Topic: topic, Method: method, Version: version, Args: args}, result)
		}
		value := map[string]any{"s": "å 😀 \"<&>", "n": nil, "l": []any{1.5, true}}
		var got map[string]any
		if err := call("echo", "1.2", map[string]any{"value": value}, &got); err != nil || !cmp.Equal(value, got) {
			t.Errorf("%v, %v", got, err)
		}
		var wire map[string]any
		if err := call("context", "1.0", nil, &wire); err != nil {
			t.Fatal(err)
		}
		for k, want := range map[string]any{
			"request_id": "req-go", "user": "u1", "project_id": "p1", "project": "p1", "is_admin": false,
			"user_identity": "u1 p1 - - -", "read_only": false, "auth_token": nil, "is_admin_project": true,
			"roles": []any{"member"}, "service_catalog": nil, "client_timeout": nil,
		} {
			if got, ok := wire[k]; !ok || !cmp.Equal(got, want) {
				t.Errorf("context key %s: %v, want %v", k, got, want)
			}
		}
		for _, c := range []struct {
			method, version, class string
			kind                   trove.Kind
			text                   string
		}{
			{"guest_error", "1.0", "GuestError", trove.KindGuest, "disk full"},
			{"not_found", "1.0", "NotFound", trove.KindNotFound, "Resource u-1 cannot be found."},
			{"builtin", "1.0", "ValueError", trove.KindInternal, "no good"},
			{"nope", "1.0", "NoSuchMethod", trove.KindInternal, ""},
			{"echo", "1.9", "UnsupportedVersion", trove.KindInternal, ""},
		} {
			err := call(c.method, c.version, nil, nil)
			remote, ok := errors.AsType[*rpc.RemoteError](err)
			if !ok || remote.Class != c.class || trove.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v: %v %#v", c, trove.KindOf(err), err)
			}
		}
		for _, m := range []rpc.Message{
			{Topic: topic, Method: "note", Args: map[string]any{"text": "cast"}, Mandatory: true},
			{Topic: topic, Method: "note", Args: map[string]any{"text": "fanout"}, Fanout: true},
			{Topic: topic, Server: "py-1", Method: "note", Args: map[string]any{"text": "server"}, Mandatory: true},
		} {
			if err := client.Cast(ctx, m); err != nil {
				t.Fatal(err)
			}
			want := `{"note": "` + m.Args["text"].(string) + `", "request_id": "req-go"}`
			if got := until(t, lines, "a cast to arrive"); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}
