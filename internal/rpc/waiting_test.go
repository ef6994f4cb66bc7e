package rpc_test

import (
	"context"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestWaiting(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn := connect(t, b.url)
		queue := "waiting." + trove.NewID()
		look := func(want int) {
			t.Helper()
			for {
				n, err := rpc.Waiting(ctx, conn, queue)
				if err != nil {
					t.Fatal(err)
				}
				if n == want {
					return
				}
				select {
				case <-time.After(20 * time.Millisecond): // RabbitMQ counts a little later
				case <-ctx.Done():
					t.Fatalf("%d messages wait, want %d", n, want)
				}
			}
		}
		look(0) // there is no such queue
		if err := rpc.DeclareQueues(ctx, conn, exchange, queue); err != nil {
			t.Fatal(err)
		}
		look(0)
		c := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange})
		defer c.Close(ctx) //nolint:errcheck // a test's end
		for range 3 {
			if err := c.Cast(ctx, rpc.Message{Topic: queue, Method: "m", Version: "1.0"}); err != nil {
				t.Fatal(err)
			}
		}
		look(3)
		if err := rpc.DeleteQueues(ctx, conn, queue); err != nil {
			t.Fatal(err)
		}
		look(0)
	})
}
