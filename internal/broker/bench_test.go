package broker_test

import (
	"runtime"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/broker"
)

func benchChannel(b *testing.B, addr string, queues ...string) (*amqp.Channel, []<-chan amqp.Delivery) {
	b.Helper()
	ch := confirmChannel(b, addr, queues...)
	var ds []<-chan amqp.Delivery
	for _, q := range queues {
		d, err := ch.Consume(q, "", true, false, false, false, nil)
		if err != nil {
			b.Fatal(err)
		}
		ds = append(ds, d)
	}
	return ch, ds
}

func send(b *testing.B, ch *amqp.Channel, queue string, body []byte) {
	if err := ch.PublishWithContext(b.Context(), "", queue, false, false, amqp.Publishing{Body: body}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDeliver is one message from publish to delivery, one at a time.
func BenchmarkDeliver(b *testing.B) {
	_, addr := start(b, broker.Options{})
	ch, ds := benchChannel(b, addr, "q")
	body := make([]byte, 1000)
	b.ReportAllocs()
	for b.Loop() {
		send(b, ch, "q", body)
		<-ds[0]
	}
}

// BenchmarkThroughput keeps messages of 1 kB on their way.
func BenchmarkThroughput(b *testing.B) {
	_, addr := start(b, broker.Options{})
	ch, ds := benchChannel(b, addr, "q")
	body := make([]byte, 1000)
	window := make(chan struct{}, 1000)
	done := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		defer close(done)
		for range b.N {
			<-ds[0]
			<-window
		}
	}()
	for range b.N {
		window <- struct{}{}
		send(b, ch, "q", body)
	}
	<-done
}

// BenchmarkCall is a request and its reply between two connections, confirmed.
func BenchmarkCall(b *testing.B) {
	_, addr := start(b, broker.Options{})
	client, replies := benchChannel(b, addr, "reply")
	server, requests := benchChannel(b, addr, "request")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			d := <-requests[0]
			if !confirmed(b, server, "reply", len(d.Body)) {
				b.Error("reply refused")
			}
		}
	}()
	b.ResetTimer()
	for range b.N {
		if !confirmed(b, client, "request", 1000) {
			b.Fatal("request refused")
		}
		<-replies[0]
	}
	<-done
}

// BenchmarkIdleConnection tells what a connection with a channel costs the
// broker in memory while nothing happens.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 100
	_, addr := start(b, broker.Options{})
	memory := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	for b.Loop() {
		before := memory()
		rs := make([]*raw, n)
		for i := range rs {
			rs[i] = rawDial(b, addr)
			rs[i].open(0)
		}
		b.ReportMetric((memory()-before)/n/1024, "KiB/conn")
		for _, r := range rs {
			_ = r.nc.Close()
		}
	}
}
