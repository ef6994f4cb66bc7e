package rpc_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// What later versions of oslo.messaging declare than the one at hand: transient
// queues that are quorum queues, that never expire, whose names are of a queue
// manager, and fanouts by a stream.
func TestLaterForms(t *testing.T) {
	options := "rabbit_quorum_queue=true&rabbit_transient_quorum_queue=true&rabbit_transient_queues_ttl=0"
	for name, c := range map[string]struct {
		query string
		want  []string // parts of the topology
	}{
		"quorum": {options, []string{
			`{"arguments":{"x-queue-type":"quorum"},"auto_delete":false,"durable":true,"exclusive":false,"name":"reply_*"`,
			`{"arguments":{"x-queue-type":"quorum"},"auto_delete":false,"durable":true,"exclusive":false,"name":"later-quorum_fanout_*"`,
			`{"arguments":{},"auto_delete":true,"durable":true,"internal":false,"name":"later-quorum_fanout","type":"fanout"}`,
		}},
		"expiry": {strings.Replace(options, "ttl=0", "ttl=5", 1), []string{
			`{"arguments":{"x-expires":5000,"x-queue-type":"quorum"},"auto_delete":false,"durable":true,"exclusive":false,"name":"reply_*"`,
		}},
		"names": {options + "&use_queue_manager=true&hostname=ctl1&processname=" + url.QueryEscape(t.Name()), []string{
			`"name":"reply_ctl1:TestLaterForms:`, `"name":"later-names_fanout_ctl1:TestLaterForms:`,
		}},
		"stream": {options + "&rabbit_stream_fanout=true", []string{
			`{"arguments":{"x-queue-type":"stream"},"auto_delete":false,"durable":true,"exclusive":false,"name":"later-stream_fanout"`,
			`"destination":"later-stream_fanout","destination_type":"queue","routing_key":"later-stream","source":"later-stream_fanout"`,
		}},
		"stream's age": {strings.Replace(options, "ttl=0", "ttl=60", 1) + "&rabbit_stream_fanout=true", []string{
			`{"arguments":{"x-max-age":"60s","x-queue-type":"stream"},"auto_delete":false,"durable":true,"exclusive":false,"name":"later-stream's age_fanout"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			names := t.TempDir()
			here := func(c *amqp.Config) {
				if c.Declare.Names != nil {
					c.Declare.Names.Dir = names
				}
			}
			topic := "later-" + name
			conn := connectWith(t, vhostURL(t, "options", c.query), here)
			client := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Log: logOf(t)})
			closing(t, client)
			h, got := collector(10)
			o := rpc.ServerOptions{Topic: topic, Server: "a", Fanout: true}
			first := newServer(t, conn, h, o)
			o.Server = "b"
			newServer(t, connectWith(t, vhostURL(t, "options", c.query), here), h, o)
			if err := client.Call(within(t), rpc.Message{Topic: topic, Server: "a", Method: "m", UniqueID: "call"}, nil); err != nil {
				t.Fatal(err)
			}
			if in := until(t, got, "the call"); in.UniqueID != "call" {
				t.Error(in)
			}
			fanout := func(id string) {
				t.Helper()
				if err := client.Cast(within(t), rpc.Message{Topic: topic, Method: "m", Fanout: true, UniqueID: id}); err != nil {
					t.Fatal(err)
				}
			}
			fanout("all")
			for range 2 {
				if in := until(t, got, "the fanout"); in.UniqueID != "all" {
					t.Errorf("got %q", in.UniqueID)
				}
			}
			have := strings.Join(topology(t, "options"), "\n")
			for _, want := range c.want {
				if !strings.Contains(have, want) {
					t.Errorf("no %s in\n%s", want, have)
				}
			}
			if err := first.Close(within(t)); err != nil {
				t.Fatal(err)
			}
			fanout("the other")
			if in := until(t, got, "the fanout"); in.UniqueID != "the other" {
				t.Errorf("got %q", in.UniqueID)
			}
			if err := rpc.DeleteQueues(within(t), conn, topic, topic+".a", topic+".b", amqp.FanoutName(topic)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who comes second with other options is told which, and what to do; and the
// one that was there first is not harmed.
func TestMismatch(t *testing.T) {
	const topic = "mismatch"
	durable := connectWith(t, vhostURL(t, "options", "amqp_durable_queues=true&amqp_auto_delete=false"), nil)
	if err := rpc.DeclareQueues(within(t), durable, "mismatch", topic); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]amqp.Mismatch{
		"amqp_durable_queues=false":                      {Object: "exchange", Name: "mismatch", Flag: "durable", Ours: "false", Theirs: "true"},
		"amqp_durable_queues=true&amqp_auto_delete=true": {Object: "exchange", Name: "mismatch", Flag: "auto_delete", Ours: "true", Theirs: "false"},
		"rabbit_quorum_queue=true":                       {Object: "queue", Name: topic, Flag: "x-queue-type", Ours: "quorum", Theirs: "none"},
	} {
		t.Run(query, func(t *testing.T) {
			conn := connectWith(t, vhostURL(t, "options", query), nil)
			err := rpc.DeclareQueues(within(t), conn, "mismatch", topic)
			m, ok := errors.AsType[*amqp.Mismatch](err)
			if !ok {
				t.Fatalf("%v", err)
			}
			if m.Object != want.Object || m.Name != want.Name || m.Host != "options" || m.Flag != want.Flag || m.Ours != want.Ours || m.Theirs != want.Theirs {
				t.Errorf("%+v", m)
			}
			option, _, _ := strings.Cut(query, "=")
			if strings.Contains(query, "auto_delete") {
				option = "amqp_auto_delete"
			}
			if action := trove.ActionOf(err); !trove.IsKind(err, trove.KindConflict) || !strings.Contains(action, option) || !strings.Contains(action, want.Name) {
				t.Errorf("%v; %s", err, action)
			}
			most := 1
			if want.Object == "exchange" {
				most = 2 // the queue's flag is the same option's
			}
			if found := rpc.Mismatches(within(t), conn, "mismatch", topic, "not there"); len(found) != most {
				t.Errorf("found %v", found)
			}
			// A sender and a server say the same.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if want.Object == "exchange" {
				client := rpc.NewClient(conn, rpc.ClientOptions{Exchange: "mismatch", Log: logOf(t)})
				closing(t, client)
				if _, ok := errors.AsType[*amqp.Mismatch](client.Cast(ctx, rpc.Message{Topic: topic, Method: "m"})); !ok {
					t.Errorf("cast: %v", err)
				}
			}
		})
	}
	if found := rpc.Mismatches(within(t), durable, "mismatch", topic, "not there"); len(found) > 0 {
		t.Error(found)
	}
	if err := onChannel(t, durable, func(ch *amqp091.Channel) error {
		_, err := ch.QueueDeclarePassive("not there", true, false, false, false, nil)
		return err
	}); err == nil {
		t.Error("looking for mismatches made a queue")
	}
	if err := rpc.DeleteQueues(within(t), durable, topic); err != nil {
		t.Error(err)
	}
}

// A reply queue that is deleted under its client is made anew.
func TestReplyQueueDeleted(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		newServer(t, conn, router(nil), rpc.ServerOptions{Topic: t.Name()})
		client := newClient(t, connect(t, b.url))
		spy := t.Name() + "-spy"
		if err := rpc.DeclareQueues(within(t), conn, exchange, spy); err != nil {
			t.Fatal(err)
		}
		var requests <-chan amqp091.Delivery
		s, err := conn.Session(within(t))
		if err != nil {
			t.Fatal(err)
		}
		ch, err := s.Channel(func(ch *amqp091.Channel) (err error) {
			requests, err = ch.Consume(spy, "", true, false, false, false, nil)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ch.Close() })
		ctx := within(t)
		lost := make(chan error, 1)
		go func() { lost <- client.Call(ctx, rpc.Message{Topic: spy, Method: "m"}, nil) }()
		r, err := wire.DecodeRequest(until(t, requests, "the call").Body, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := rpc.DeleteQueues(ctx, conn, r.ReplyQueue); err != nil {
			t.Fatal(err)
		}
		if err := until(t, lost, "the call to fail"); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%v: %v", trove.KindOf(err), err)
		}
		if err := client.Call(ctx, rpc.Message{Topic: t.Name(), Method: "echo", Args: map[string]any{"text": "x"}}, nil); err != nil {
			t.Error(err)
		}
		if err := rpc.DeleteQueues(ctx, conn, spy); err != nil {
			t.Error(err)
		}
	})
}

func onChannel(t *testing.T, conn *amqp.Conn, f func(*amqp091.Channel) error) error {
	t.Helper()
	s, err := conn.Session(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return s.Do(f)
}
