package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

type echoArgs struct {
	Text string `json:"text"`
}

func router(extra map[string]rpc.Method) rpc.Router {
	m := map[string]rpc.Method{
		"echo": rpc.Bind(func(_ context.Context, a echoArgs) (string, error) { return a.Text, nil }),
		"who":  rpc.Bind(func(ctx context.Context, _ struct{}) (rpc.Context, error) { return rpc.ContextFrom(ctx), nil }),
		"fail": rpc.Bind(func(_ context.Context, a echoArgs) (any, error) {
			return nil, trove.Errorf(trove.KindNotFound, "no %s", a.Text).WithAction("make one")
		}),
	}
	for k, v := range extra {
		m[k] = v
	}
	return rpc.Router{Version: "1.3", Methods: m}
}

func TestCall(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		topic := "call-" + t.Name()
		newServer(t, conn, router(nil), rpc.ServerOptions{Topic: topic, Server: "host 1", Workers: 4})
		client := newClient(t, conn)
		ctx := within(t)

		t.Run("result", func(t *testing.T) {
			for _, server := range []string{"", "host 1"} {
				const text = "å 😀 \"quoted\" <&> \x00"
				var got string
				err := client.Call(ctx, rpc.Message{Topic: topic, Server: server, Method: "echo", Version: "1.1", Args: map[string]any{"text": text}}, &got)
				if err != nil || got != text {
					t.Errorf("server %q: %q, %v", server, got, err)
				}
			}
		})
		t.Run("context", func(t *testing.T) {
			want := rpc.Context{RequestID: "req-1", User: "u", ProjectID: "p", IsAdmin: true, Roles: []string{"admin"},
				AuthToken: "t", ServiceCatalog: json.RawMessage(`[1]`), Notification: json.RawMessage(`{"a":1}`)}
			var got rpc.Context
			if err := client.Call(rpc.WithContext(ctx, want), rpc.Message{Topic: topic, Method: "who"}, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
		t.Run("failure", func(t *testing.T) {
			err := client.Call(ctx, rpc.Message{Topic: topic, Method: "fail", Args: map[string]any{"text": "such thing"}}, nil)
			remote, ok := errors.AsType[*rpc.RemoteError](err)
			if !ok || remote.Class != "NotFound" || remote.Module != "trove.common.exception" {
				t.Fatalf("%#v", err)
			}
			if !trove.IsKind(err, trove.KindNotFound) || err.Error() != "no such thing" || trove.ActionOf(err) != "make one" {
				t.Errorf("%v: %v, %q", trove.KindOf(err), err, trove.ActionOf(err))
			}
		})
		t.Run("refused", func(t *testing.T) {
			for _, c := range []struct{ version, method, class string }{
				{"1.4", "echo", "UnsupportedVersion"}, {"2.0", "echo", "UnsupportedVersion"}, {"1.0", "nope", "NoSuchMethod"},
			} {
				err := client.Call(ctx, rpc.Message{Topic: topic, Method: c.method, Version: c.version}, nil)
				if remote, ok := errors.AsType[*rpc.RemoteError](err); !ok || remote.Class != c.class {
					t.Errorf("%v: %v", c, err)
				}
			}
		})
		t.Run("no answer", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			err := client.Call(ctx, rpc.Message{Topic: "nobody", Method: "echo"}, nil)
			if !trove.IsKind(err, trove.KindGuestTimeout) || !strings.Contains(err.Error(), "nobody") {
				t.Errorf("%v: %v", trove.KindOf(err), err)
			}
		})
		t.Run("no queue", func(t *testing.T) {
			err := client.Call(ctx, rpc.Message{Topic: "nobody", Method: "echo", Mandatory: true}, nil)
			if !trove.IsKind(err, trove.KindUnavailable) {
				t.Errorf("call: %v: %v", trove.KindOf(err), err)
			}
			err = client.Cast(ctx, rpc.Message{Topic: "nobody", Method: "echo", Mandatory: true})
			if !trove.IsKind(err, trove.KindUnavailable) {
				t.Errorf("cast: %v: %v", trove.KindOf(err), err)
			}
			if err := client.Cast(ctx, rpc.Message{Topic: "nobody", Method: "echo"}); err != nil {
				t.Errorf("cast that need not arrive: %v", err)
			}
		})
	})
}

// A server may answer on another connection than it listens on.
func TestReplyConn(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		road, proxy := through(t, b)
		newServer(t, connect(t, b.url), router(nil), rpc.ServerOptions{Topic: t.Name(), ReplyConn: connect(t, road)})
		client := newClient(t, connect(t, b.url))
		m := rpc.Message{Topic: t.Name(), Method: "echo", Args: map[string]any{"text": "x"}}
		if err := client.Call(within(t), m, nil); err != nil {
			t.Fatal(err)
		}
		proxy.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := client.Call(ctx, m, nil); !trove.IsKind(err, trove.KindGuestTimeout) {
			t.Errorf("answered on a connection that is cut: %v", err)
		}
		proxy.Mend()
		if err := client.Call(within(t), m, nil); err != nil {
			t.Error(err)
		}
	})
}
