package rpc_test

import (
	"testing"

	"github.com/gotrove/gotrove/internal/rpc"
)

// BenchmarkCall measures a call and its answer, one after the other, over one
// connection each for client and server.
func BenchmarkCall(b *testing.B) {
	for name, get := range map[string]func(testing.TB) endpoint{"rabbitmq": rabbit.get, "embedded": embedded} {
		b.Run(name, func(b *testing.B) {
			e := get(b)
			newServer(b, connect(b, e.url), router(nil), rpc.ServerOptions{Topic: "bench"})
			client := newClient(b, connect(b, e.url))
			m := rpc.Message{Topic: "bench", Method: "echo", Args: map[string]any{"text": "x"}}
			ctx := within(b)
			for b.Loop() {
				if err := client.Call(ctx, m, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCast measures a cast until the broker has confirmed it.
func BenchmarkCast(b *testing.B) {
	for name, get := range map[string]func(testing.TB) endpoint{"rabbitmq": rabbit.get, "embedded": embedded} {
		b.Run(name, func(b *testing.B) {
			client := newClient(b, connect(b, get(b).url))
			m := rpc.Message{Topic: "nobody", Method: "m"}
			ctx := within(b)
			for b.Loop() {
				if err := client.Cast(ctx, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
