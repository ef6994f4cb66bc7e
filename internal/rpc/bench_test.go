package rpc_test

import (
	"slices"
	"testing"
	"time"

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
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := client.Call(ctx, m, nil); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
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
