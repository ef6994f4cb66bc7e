package rpc_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// What is not a request is dropped for good and harms nobody.
func TestNotARequest(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		h, got := collector(10)
		newServer(t, conn, h, rpc.ServerOptions{Topic: t.Name(), MaxBody: 1000})
		publish := func(contentType, body string) {
			err := conn.Publish(within(t), amqp.Publishing{Exchange: amqp.Exchange{Name: exchange}, Key: t.Name(),
				ContentType: contentType, Body: []byte(body), Mandatory: true})
			if err != nil {
				t.Fatal(err)
			}
		}
		const good = `{"method": "m", "args": {}, "_unique_id": "good"}`
		publish("text/plain", good)
		publish("", good)
		publish(wire.ContentType, "{")
		publish(wire.ContentType, "")
		publish(wire.ContentType, `{"oslo.version": "2.1", "oslo.message": "{\"method\": \"m\"}"}`)
		publish(wire.ContentType, `{"method": "m", "x": "`+string(make([]byte, 1000))+`"}`)
		publish(wire.ContentType, good) // without an envelope, as in version 1.0
		if in := until(t, got, "the good one"); in.UniqueID != "good" {
			t.Error(in)
		}
		// A call that names another queue than one for replies: nothing is
		// written there. The cast after it shows that it was handled.
		other := t.Name() + ".other"
		if err := rpc.DeclareQueues(within(t), conn, exchange, other); err != nil {
			t.Fatal(err)
		}
		publish(wire.ContentType, `{"method": "m", "_msg_id": "1", "_reply_q": "`+other+`"}`)
		publish(wire.ContentType, `{"method": "m", "_unique_id": "next"}`)
		for _, call := range []bool{true, false} {
			if in := until(t, got, "a request"); in.Call != call {
				t.Errorf("%+v", in)
			}
		}
		session, err := conn.Session(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Do(func(ch *amqp091.Channel) error {
			d, found, err := ch.Get(other, true)
			if found {
				t.Errorf("a reply was written to a queue of requests: %s", d.Body)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if err := rpc.DeleteQueues(within(t), conn, other); err != nil {
			t.Error(err)
		}
	})
}

// A server of another make: its reply comes in two parts, after heartbeats and
// replies to nobody.
func TestReplyInParts(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		client := newClient(t, conn)
		ctx := within(t)
		if err := rpc.DeclareQueues(ctx, conn, exchange, t.Name()); err != nil {
			t.Fatal(err)
		}
		s, err := conn.Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var requests <-chan amqp091.Delivery
		ch, err := s.Channel(func(ch *amqp091.Channel) (err error) {
			requests, err = ch.Consume(t.Name(), "", true, false, false, false, nil)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ch.Close() })
		type answer struct {
			result string
			err    error
		}
		answers := make(chan answer, 1)
		go func() {
			var a answer
			a.err = client.Call(ctx, rpc.Message{Topic: t.Name(), Method: "m"}, &a.result)
			answers <- a
		}()
		d := until(t, requests, "the call")
		if d.Expiration == "" || d.ContentType != wire.ContentType || d.ContentEncoding != "utf-8" || d.DeliveryMode != 2 || d.MessageId != "" {
			t.Errorf("properties: %+v", d)
		}
		r, err := wire.DecodeRequest(d.Body, 0)
		if err != nil {
			t.Fatal(err)
		}
		reply := func(p wire.Reply) {
			body, err := wire.EncodeReply(p)
			if err == nil {
				err = conn.Publish(ctx, amqp.Publishing{Key: r.ReplyQueue, ContentType: wire.ContentType, Body: body, Mandatory: true})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		reply(wire.Reply{MsgID: "someone else's", Result: json.RawMessage(`"wrong"`), Ending: true})
		reply(wire.Reply{MsgID: r.MsgID})
		reply(wire.Reply{MsgID: r.MsgID, Result: json.RawMessage(`"right"`)})
		reply(wire.Reply{MsgID: r.MsgID, Ending: true})
		reply(wire.Reply{MsgID: r.MsgID, Result: json.RawMessage(`"too late"`), Ending: true})
		if a := until(t, answers, "the answer"); a.err != nil || a.result != "right" {
			t.Error(a)
		}
		if err := rpc.DeleteQueues(ctx, conn, t.Name()); err != nil {
			t.Error(err)
		}
	})
}

// A request for a guest that is not there yet waits in its queue; a server
// whose queues are not there yet takes them when they come.
func TestQueuesComeLate(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		h, got := collector(10)
		s := rpc.NewServer(conn, h, rpc.ServerOptions{Exchange: exchange, Topic: t.Name(), Passive: true, Log: logOf(t)})
		closing(t, s)
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := s.Ready(short); !trove.IsKind(err, trove.KindUnavailable) {
			t.Error(err)
		}
		if err := rpc.DeclareQueues(within(t), conn, exchange, t.Name()); err != nil {
			t.Fatal(err)
		}
		if err := newClient(t, conn).Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", Mandatory: true}); err != nil {
			t.Fatal(err)
		}
		until(t, got, "the cast")
		if err := s.Ready(within(t)); err != nil {
			t.Error(err)
		}
		// Its queue is deleted under it, and comes back.
		if err := rpc.DeleteQueues(within(t), conn, t.Name()); err != nil {
			t.Fatal(err)
		}
		if err := rpc.DeclareQueues(within(t), conn, exchange, t.Name()); err != nil {
			t.Fatal(err)
		}
		if err := newClient(t, conn).Cast(within(t), rpc.Message{Topic: t.Name(), Method: "m", Mandatory: true}); err != nil {
			t.Fatal(err)
		}
		until(t, got, "the cast to the new queue")
	})
}
