package rpc_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

// collector is a handler that passes on the unique ids it gets.
func collector(n int) (rpc.Handler, <-chan *rpc.Incoming) {
	c := make(chan *rpc.Incoming, n)
	return rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
		c <- in
		return nil, nil
	}), c
}

func TestCastsInOrder(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn, client := connect(t, b.url), newClient(t, connect(t, b.url))
		const n = 200
		h, got := collector(n)
		// Declared first: some are sent before the server is there.
		if err := rpc.DeclareQueues(within(t), conn, exchange, t.Name(), t.Name()+".a"); err != nil {
			t.Fatal(err)
		}
		send := func(from, to int) {
			for i := from; i < to; i++ {
				m := rpc.Message{Topic: t.Name(), Method: "m", UniqueID: strconv.Itoa(i), Mandatory: true}
				if err := client.Cast(within(t), m); err != nil {
					t.Fatal(err)
				}
			}
		}
		send(0, n/2)
		newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name(), Server: "a", Workers: 1, Prefetch: 3})
		send(n/2, n)
		for i := range n {
			in := until(t, got, "cast "+strconv.Itoa(i))
			if in.UniqueID != strconv.Itoa(i) || in.Call || in.Sender != "trove" {
				t.Fatalf("%d: %+v", i, in)
			}
		}
		if err := rpc.DeleteQueues(within(t), conn, t.Name(), t.Name()+".a", "never was"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDuplicateCast(t *testing.T) {
	for name, c := range map[string]struct {
		repeats bool
		want    []string
	}{
		"dropped":     {false, []string{"a", "b", "c"}},
		"handed over": {true, []string{"a", "a", "b", "a", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			eachBroker(t, func(t *testing.T, b endpoint) {
				conn := connect(t, b.url)
				client := newClient(t, conn)
				h, got := collector(10)
				newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name(), Repeats: c.repeats})
				for _, id := range []string{"a", "a", "b", "a", "c"} {
					if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", UniqueID: id}); err != nil {
						t.Fatal(err)
					}
				}
				var ids []string
				for range c.want {
					ids = append(ids, until(t, got, "a cast").UniqueID)
				}
				if !slices.Equal(ids, c.want) {
					t.Error(ids)
				}
			})
		})
	}
}

// A sender that sends a cast again, as an outbox does, gets another try if the
// first one failed, and only then.
func TestFailedCastSentAgain(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		client := newClient(t, conn)
		tries := make(chan string, 10)
		var failed atomic.Bool
		newServer(t, conn, rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			tries <- in.UniqueID
			if failed.CompareAndSwap(false, true) {
				return nil, errors.New("broken for now")
			}
			return nil, nil
		}), rpc.ServerOptions{Topic: t.Name()})
		for _, id := range []string{"a", "a", "a", "b"} {
			if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", UniqueID: id}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []string{"a", "a", "b"} {
			if got := until(t, tries, "a cast"); got != want {
				t.Errorf("handled %s, want %s", got, want)
			}
		}
	})
}

// A cast that ends in KindUnavailable comes again, and is no duplicate; one
// that fails otherwise, or panics, does not.
func TestCastFails(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		client := newClient(t, conn)
		var away, broken, panics atomic.Int32
		done := make(chan string, 10)
		h := rpc.Router{Version: "1.0", Methods: map[string]rpc.Method{
			"away": func(context.Context, *rpc.Incoming) (any, error) {
				if n := away.Add(1); n < 3 {
					return nil, trove.Errorf(trove.KindUnavailable, "the database is away")
				}
				done <- "away"
				return nil, nil
			},
			"broken": func(context.Context, *rpc.Incoming) (any, error) {
				broken.Add(1)
				return nil, errors.New("broken")
			},
			"panic": func(context.Context, *rpc.Incoming) (any, error) {
				panics.Add(1)
				panic("oh")
			},
			"last": func(context.Context, *rpc.Incoming) (any, error) {
				done <- "last"
				return nil, nil
			},
		}}
		newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name(), RequeueDelay: 50 * time.Millisecond})
		cast := func(method string) {
			if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: method}); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range []string{"away", "broken", "panic", "nope"} {
			cast(m)
		}
		if got := until(t, done, "the third try"); got != "away" {
			t.Error(got)
		}
		cast("last")
		until(t, done, "the last")
		if a, b, p := away.Load(), broken.Load(), panics.Load(); a != 3 || b != 1 || p != 1 {
			t.Error(a, b, p)
		}
	})
}

func TestFanout(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		client := newClient(t, conn)
		h, got := collector(10)
		for _, name := range []string{"a", "b"} {
			newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name(), Server: name, Fanout: true})
		}
		if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", Fanout: true, UniqueID: "all"}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if in := until(t, got, "the fanout"); in.UniqueID != "all" {
				t.Error(in.UniqueID)
			}
		}
	})
}

// Close lets what runs end, and answers it; what is not begun is for the next.
func TestServerCloseDrains(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn, client := connect(t, b.url), newClient(t, connect(t, b.url))
		began, goOn := make(chan string, 10), make(chan struct{})
		h := rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			began <- in.UniqueID
			<-goOn
			return "done", nil
		})
		s := rpc.NewServer(conn, h, rpc.ServerOptions{Exchange: exchange, Topic: t.Name(), Log: logOf(t)})
		if err := s.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		ctx := within(t)
		answer := make(chan error, 1)
		go func() {
			answer <- client.Call(ctx, rpc.Message{Topic: t.Name(), Method: "m", UniqueID: "1"}, nil)
		}()
		until(t, began, "the call to begin")
		if err := client.Cast(ctx, rpc.Message{Topic: t.Name(), Method: "m", UniqueID: "2"}); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close(ctx) }()
		close(goOn)
		if err := until(t, answer, "the answer"); err != nil {
			t.Error(err)
		}
		if err := until(t, closed, "Close"); err != nil {
			t.Error(err)
		}
		newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name()})
		// It may have been taken in the moment before Close.
		if got := until(t, began, "the cast"); got != "2" {
			t.Error(got)
		}
	})
}

func TestServerCloseGivesUp(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		client := newClient(t, conn)
		began := make(chan struct{}, 10)
		s := rpc.NewServer(conn, rpc.HandlerFunc(func(ctx context.Context, _ *rpc.Incoming) (any, error) {
			began <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}), rpc.ServerOptions{Exchange: exchange, Topic: t.Name(), Log: logOf(t)})
		if err := s.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		if err := client.Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", UniqueID: "x"}); err != nil {
			t.Fatal(err)
		}
		until(t, began, "the cast")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := s.Close(within(t)); err != nil {
			t.Error(err)
		}
		// What was cut off is not lost.
		h, got := collector(1)
		newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name()})
		if in := until(t, got, "the cast again"); in.UniqueID != "x" {
			t.Error(in.UniqueID)
		}
	})
}
