package rpc_test

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/trove"
)

// through gives the URL of b by way of a proxy on a unix socket.
func through(t *testing.T, b endpoint) (string, *rabbittest.Proxy) {
	t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	network, address := "tcp", u.Host
	if s := u.Query().Get("socket"); s != "" {
		network, address = "unix", s
	}
	socket := filepath.Join(socketDir(t), "p")
	p, err := rabbittest.NewProxy("unix", socket, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return "rabbit+unix://" + u.User.String() + "@/?socket=" + url.QueryEscape(socket), p
}

func TestConnectionLost(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		road, proxy := through(t, b)
		clientConn := connect(t, road)
		client := newClient(t, clientConn)
		began, goOn := make(chan string, 10), make(chan struct{})
		newServer(t, connect(t, b.url), rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			if in.Method == "slow" {
				began <- in.UniqueID
				<-goOn
			}
			return "done", nil
		}), rpc.ServerOptions{Topic: t.Name(), Workers: 4})
		ctx := within(t)
		fast := rpc.Message{Topic: t.Name(), Method: "fast"}
		if err := client.Call(ctx, fast, nil); err != nil {
			t.Fatal(err)
		}

		slow := make(chan error, 1)
		go func() { slow <- client.Call(ctx, rpc.Message{Topic: t.Name(), Method: "slow"}, nil) }()
		until(t, began, "the slow call")
		proxy.Cut()
		if err := until(t, slow, "the call to fail"); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("call in flight: %v: %v", trove.KindOf(err), err)
		}
		close(goOn)

		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if err := client.Call(short, fast, nil); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("call without a broker: %v: %v", trove.KindOf(err), err)
		}
		short, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if err := client.Cast(short, fast); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("cast without a broker: %v: %v", trove.KindOf(err), err)
		}

		// A cast waits for the broker; the proxy is mended under its wait.
		cast := make(chan error, 1)
		go func() {
			cast <- client.Cast(ctx, rpc.Message{Topic: t.Name(), Method: "slow", UniqueID: "kept", Mandatory: true})
		}()
		proxy.Mend()
		if err := until(t, cast, "the cast"); err != nil {
			t.Error(err)
		}
		if id := until(t, began, "the cast to arrive"); id != "kept" {
			t.Error(id)
		}
		if err := clientConn.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if err := client.Call(ctx, fast, nil); err != nil {
			t.Errorf("call after the loss: %v", err)
		}
	})
}

// A server listens again after a loss, and does not run a cast twice that it
// could not acknowledge.
func TestServerLosesConnection(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		road, proxy := through(t, b)
		client := newClient(t, connect(t, b.url))
		began, goOn := make(chan string, 10), make(chan struct{})
		newServer(t, connect(t, road), rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			began <- in.UniqueID
			if in.UniqueID == "1" {
				<-goOn
			}
			return nil, nil
		}), rpc.ServerOptions{Topic: t.Name(), Workers: 2, Fanout: true, RequeueDelay: 50 * time.Millisecond})
		cast := func(id string) {
			if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", UniqueID: id, Mandatory: true}); err != nil {
				t.Fatal(err)
			}
		}
		cast("1")
		until(t, began, "cast 1")
		proxy.Cut()
		proxy.Mend()
		cast("2")
		close(goOn)
		if id := until(t, began, "cast 2"); id != "2" {
			t.Errorf("%s ran, want 2", id)
		}
		cast("3")
		if id := until(t, began, "cast 3"); id != "3" {
			t.Errorf("%s ran, want 3", id)
		}
	})
}

// A guest has no right to declare or to write anywhere else.
func TestGuestLogin(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		control := connect(t, b.url)
		caller := newClient(t, control)
		ctx := within(t)
		topic := "guestagent." + guestID
		if err := rpc.DeclareQueues(ctx, control, exchange, topic, topic+"."+guestID); err != nil {
			t.Fatal(err)
		}
		conductor, heard := collector(10)
		newServer(t, control, conductor, rpc.ServerOptions{Topic: "trove-conductor"})

		guest := connect(t, b.guestURL)
		newServer(t, guest, router(nil), rpc.ServerOptions{
			Topic: topic, Server: guestID, Passive: true, ReplyExchange: replyExchange, ReplyPrefix: guestID,
		})
		var got string
		if err := caller.Call(ctx, rpc.Message{Topic: topic, Method: "echo", Args: map[string]any{"text": "hi"}}, &got); err != nil || got != "hi" {
			t.Fatalf("%q, %v", got, err)
		}
		client := rpc.NewClient(guest, rpc.ClientOptions{Exchange: exchange, Passive: true, Log: logOf(t)})
		closing(t, client)
		if err := client.Cast(ctx, rpc.Message{Topic: "trove-conductor", Method: "heartbeat"}); err != nil {
			t.Fatal(err)
		}
		if in := until(t, heard, "the heartbeat"); in.Sender != guestID {
			t.Errorf("sender %q", in.Sender)
		}
		if err := client.Cast(ctx, rpc.Message{Topic: topic, Method: "echo"}); !trove.IsKind(err, trove.KindForbidden) {
			t.Errorf("cast to another topic: %v: %v", trove.KindOf(err), err)
		}
		// And the refusal did not harm others on the connection.
		if err := client.Cast(ctx, rpc.Message{Topic: "trove-conductor", Method: "heartbeat"}); err != nil {
			t.Fatal(err)
		}
		if err := rpc.DeleteQueues(ctx, guest, topic); err == nil {
			t.Error("a guest deleted a queue")
		}
		if err := rpc.DeleteQueues(ctx, control, topic, topic+"."+guestID); err != nil {
			t.Error(err)
		}
	})
}

// A reply that comes by the topic exchange must come from the guest called.
func TestReplyOfAnother(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		caller := newClient(t, conn)
		newServer(t, conn, router(nil), rpc.ServerOptions{Topic: "guestagent.victim", ReplyExchange: replyExchange, ReplyPrefix: "other"})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := caller.Call(ctx, rpc.Message{Topic: "guestagent.victim", Method: "echo"}, nil)
		if !trove.IsKind(err, trove.KindGuestTimeout) {
			t.Errorf("%v: %v", trove.KindOf(err), err)
		}
	})
}

func TestWrongPassword(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		u, err := url.Parse(b.url)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("trove", "wrong-secret")
		c, err := amqp.New(amqp.Config{URL: u.String(), Log: logOf(t)})
		if err != nil {
			t.Fatal(err)
		}
		closing(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := c.Ready(ctx); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%v", err)
		}
	})
}
