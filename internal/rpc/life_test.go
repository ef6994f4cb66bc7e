package rpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/trove"
)

// quick reconnects at once and finds a dead broker in seconds.
func quick(c *amqp.Config) {
	c.Heartbeat = 2 * time.Second
	c.Retry = amqp.Retry{First: 50 * time.Millisecond, Max: 500 * time.Millisecond}
}

// restart bounds a start of RabbitMQ, which takes 10 s of a core and more.
const restart = 3 * time.Minute

// A RabbitMQ killed, shut down and frozen under a client and a server: calls
// fail at once, casts wait for it, and all it had forgotten is there again.
func TestBrokerDies(t *testing.T) {
	t.Parallel()
	s := rabbittest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*restart)
	defer cancel()
	transport := strings.Replace(s.URL(), "amqp://", "rabbit://", 1)
	clientConn := connectWith(t, transport, quick)
	connected := clientConn.Connected()
	until(t, connected, "the signal of the first login")
	client := newClient(t, clientConn)
	began, goOn := make(chan string, 10), make(chan struct{})
	newServer(t, connectWith(t, transport, quick), rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
		if in.Method == "slow" || !in.Call {
			began <- in.UniqueID
		}
		if in.Method == "slow" {
			<-goOn
		}
		return nil, nil
	}), rpc.ServerOptions{Topic: "life", Server: "one", Fanout: true, Workers: 8})
	fast := rpc.Message{Topic: "life", Method: "fast"}
	for what, f := range map[string]struct{ end, begin func() error }{
		"killed":    {func() error { s.Stop(); return nil }, func() error { return s.Start(ctx) }},
		"shut down": {func() error { s.Shutdown(ctx); return nil }, func() error { return s.Start(ctx) }},
		"frozen":    {s.Pause, func() error { s.Resume(); return nil }},
	} {
		t.Log(what)
		if err := client.Call(within(t), fast, nil); err != nil {
			t.Fatalf("before it is %s: %v", what, err)
		}
		inFlight := make(chan error, 1)
		go func() { inFlight <- client.Call(ctx, rpc.Message{Topic: "life", Method: "slow", UniqueID: what}, nil) }()
		until(t, began, "the slow call")
		if err := f.end(); err != nil {
			t.Fatal(err)
		}
		if err := until(t, inFlight, "the call in flight to fail"); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: call in flight: %v: %v", what, trove.KindOf(err), err)
		}
		if err := clientConn.Check(); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		if err := client.Call(short, fast, nil); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: call: %v: %v", what, trove.KindOf(err), err)
		}
		stop()
		casts := make(chan error, 1)
		go func() {
			casts <- client.Cast(ctx, rpc.Message{Topic: "life", Server: "one", Method: "m", UniqueID: "cast " + what, Mandatory: true})
		}()
		if err := f.begin(); err != nil {
			t.Fatal(err)
		}
		goOn <- struct{}{}
		until(t, connected, "the signal of a login")
		// Retried until the server has declared its queues again.
		var err error
		for err = until(t, casts, "the cast"); errors.Is(err, amqp.ErrUnroutable) && ctx.Err() == nil; {
			err = client.Cast(ctx, rpc.Message{Topic: "life", Server: "one", Method: "m", UniqueID: "cast " + what, Mandatory: true})
		}
		if err != nil {
			t.Fatalf("%s: cast: %v", what, err)
		}
		if id := until(t, began, "the cast"); id != "cast "+what {
			t.Errorf("%s: got %q", what, id)
		}
		if err := client.Call(within(t), fast, nil); err != nil {
			t.Errorf("after it was %s: %v", what, err)
		}
		if err := clientConn.Check(); err != nil {
			t.Errorf("after it was %s: %v", what, err)
		}
	}
}

// A broker that is out of memory takes no messages: who publishes waits, at
// most until his deadline, and can tell why.
func TestBrokerBlocks(t *testing.T) {
	t.Parallel()
	s := rabbittest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	conn := connect(t, s.URL())
	client := newClient(t, conn)
	h, got := collector(10)
	newServer(t, connect(t, s.URL()), h, rpc.ServerOptions{Topic: "blocked"})
	m := rpc.Message{Topic: "blocked", Method: "m", Mandatory: true}
	if err := client.Cast(ctx, m); err != nil {
		t.Fatal(err)
	}
	until(t, got, "the first")
	if err := s.Ctl(ctx, "set_vm_memory_high_watermark", "absolute", "1"); err != nil {
		t.Fatal(err)
	}
	// RabbitMQ tells a connection that it is blocked when that publishes.
	for conn.Check() == nil && ctx.Err() == nil {
		short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
		_ = client.Cast(short, m)
		stop()
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	err := client.Cast(short, rpc.Message{Topic: "blocked", Method: "m", UniqueID: "given up"})
	if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("%v: %v", trove.KindOf(err), err)
	}
	if err := conn.Check(); !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("%v: %v", trove.KindOf(err), err)
	}
	waiting := make(chan error, 1)
	go func() {
		waiting <- client.Cast(ctx, rpc.Message{Topic: "blocked", Method: "m", UniqueID: "patient", Mandatory: true})
	}()
	if err := s.Ctl(ctx, "set_vm_memory_high_watermark", "absolute", "1GB"); err != nil {
		t.Fatal(err)
	}
	if err := until(t, waiting, "the cast that waited"); err != nil {
		t.Error(err)
	}
	for {
		switch in := until(t, got, "the cast that waited"); in.UniqueID {
		case "given up":
			t.Error("a cast that was given up arrived")
		case "patient":
			if err := conn.Check(); err != nil {
				t.Error(err)
			}
			return
		}
	}
}

// A queue whose node is down can be neither declared nor deleted: who needs it
// says so, and what to do, and has it as soon as the node is back.
func TestQueueOnDeadNode(t *testing.T) {
	t.Parallel()
	dead := rabbittest.Start(t)
	alive := rabbittest.StartWith(t, rabbittest.Options{Join: dead})
	url := func(s *rabbittest.Server) string {
		return strings.Replace(s.URL(), "amqp://", "rabbit://", 1) + "?amqp_durable_queues=true"
	}
	if err := rpc.DeclareQueues(within(t), connectWith(t, url(dead), quick), exchange, "homeless", "homeless.a"); err != nil {
		t.Fatal(err)
	}
	dead.Stop()
	conn := connectWith(t, url(alive), quick)
	err := rpc.DeclareQueues(within(t), conn, exchange, "homeless")
	if lost, ok := errors.AsType[*amqp.UnreachableQueue](err); !ok || lost.Name != "homeless" || !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
		t.Errorf("%v: %v", trove.KindOf(err), err)
	}
	h, got := collector(10)
	s := rpc.NewServer(conn, h, rpc.ServerOptions{Exchange: exchange, Topic: "homeless", Server: "a", Log: logOf(t)})
	closing(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), restart)
	defer cancel()
	if err := dead.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := newClient(t, conn).Cast(within(t), rpc.Message{Topic: "homeless", Method: "m", Mandatory: true}); err != nil {
		t.Fatal(err)
	}
	until(t, got, "the cast")
}
