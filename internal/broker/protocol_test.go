package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/broker/wire"
)

func TestOtherProtocol(t *testing.T) {
	_, addr := start(t, broker.Options{})
	r := rawDial(t, addr)
	r.bytes([]byte("GET / HTTP/1.1\r\n\r\n"))
	var got [8]byte
	if _, err := r.nc.Read(got[:]); err != nil || string(got[:]) != wire.ProtocolHeader {
		t.Errorf("answered %q, %v", got, err)
	}
}

func TestProtocolErrors(t *testing.T) {
	_, addr := start(t, broker.Options{})
	method := func(channel uint16, m wire.Method) []byte {
		b, err := wire.AppendMethod(nil, channel, m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	publish := method(1, &wire.BasicPublish{})
	badEnd := method(1, &wire.BasicPublish{})
	badEnd[len(badEnd)-1] = 0
	body := func(n int) []byte {
		return wire.AppendEnd(append(wire.AppendBodyHead(nil, 1, n), make([]byte, n)...))
	}
	unknown := []byte{wire.FrameMethod, 0, 1, 0, 0, 0, 4, 0, 90, 0, 10, 0xce} // tx.select
	cutMethod := []byte{wire.FrameMethod, 0, 1, 0, 0, 0, 5, 0, 60, 0, 40, 0, 0xce}
	for name, tc := range map[string]struct {
		in   []byte
		code uint16
	}{
		"no end mark":            {badEnd, 501},
		"frame too large":        {binary.BigEndian.AppendUint32([]byte{1, 0, 1}, 131072), 501},
		"unknown frame type":     {[]byte{9, 0, 1, 0, 0, 0, 0, 0xce}, 501},
		"method cut short":       {cutMethod, 502},
		"channel not open":       {method(2, &wire.BasicQos{}), 504},
		"body on no channel":     {wire.AppendEnd(wire.AppendBodyHead(nil, 2, 0)), 504},
		"channel opened twice":   {method(1, &wire.ChannelOpen{}), 504},
		"body without a publish": {body(1), 505},
		"body without a header":  {append(bytes.Clone(publish), body(1)...), 505},
		"method for a header":    {append(bytes.Clone(publish), publish...), 505},
		"body longer than said":  {append(wire.AppendHeader(bytes.Clone(publish), 1, 1, []byte{0, 0}), body(2)...), 501},
		"bad properties":         {wire.AppendHeader(bytes.Clone(publish), 1, 1, []byte{0x80, 0, 9}), 502},
		"server's method":        {method(1, &wire.BasicGetEmpty{}), 503},
		"method on channel 0":    {method(0, &wire.ConnectionOpen{}), 503},
		"transactions":           {unknown, 540},
	} {
		t.Run(name, func(t *testing.T) {
			r := rawDial(t, addr)
			r.open(0)
			r.bytes(tc.in)
			if got := r.closed(); got != tc.code {
				t.Errorf("closed with %d, want %d", got, tc.code)
			}
		})
	}
}

func TestHandshakeErrors(t *testing.T) {
	_, addr := start(t, broker.Options{})
	r := rawDial(t, addr)
	r.bytes([]byte(wire.ProtocolHeader))
	want[*wire.ConnectionStart](r)
	r.send(0, &wire.ConnectionStartOk{Mechanism: "PLAIN", Response: "\x00guest\x00wrong"})
	if code := r.closed(); code != 0 {
		t.Errorf("a client without authentication_failure_close was told %d", code)
	}

	r = rawDial(t, addr)
	r.bytes([]byte(wire.ProtocolHeader))
	want[*wire.ConnectionStart](r)
	r.send(0, &wire.ConnectionOpen{VirtualHost: "/"})
	if code := r.closed(); code != 503 {
		t.Errorf("open before login: %d", code)
	}

	r = rawDial(t, addr)
	r.bytes([]byte(wire.ProtocolHeader))
	want[*wire.ConnectionStart](r)
	r.send(0, &wire.ConnectionStartOk{Mechanism: "PLAIN", Response: "\x00guest\x00guest"})
	want[*wire.ConnectionTune](r)
	r.send(0, &wire.ConnectionTuneOk{FrameMax: 100})
	if code := r.closed(); code != 530 {
		t.Errorf("frame-max of 100: %d", code)
	}
}

func TestHandshakeDeadline(t *testing.T) {
	_, addr := start(t, broker.Options{Limits: broker.Limits{Handshake: 100 * time.Millisecond}})
	r := rawDial(t, addr)
	r.bytes([]byte("AMQP"))
	if code := r.closed(); code != 0 {
		t.Errorf("closed with %d", code)
	}
}

func TestHeartbeats(t *testing.T) {
	b, addr := start(t, broker.Options{})
	r := rawDial(t, addr)
	r.open(1)
	f, err := r.r.Next()
	if err != nil || f.Type != wire.FrameHeartbeat {
		t.Fatalf("frame %+v, %v: want a heartbeat", f, err)
	}
	// We send none: the connection is cut.
	if code := r.closed(); code != 0 {
		t.Errorf("closed with %d", code)
	}
	waitFor(t, "the dead peer to be gone", func() bool { return len(b.Connections()) == 0 })
}

func TestAMQPLAIN(t *testing.T) {
	_, addr := start(t, broker.Options{})
	for password, ok := range map[string]bool{"guest": true, "wrong": false} {
		c, err := amqp.DialConfig("amqp://"+addr, amqp.Config{
			SASL: []amqp.Authentication{&amqp.AMQPlainAuth{Username: "guest", Password: password}},
		})
		if (err == nil) != ok {
			t.Errorf("password %s: %v", password, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

func TestUnixSocket(t *testing.T) {
	b := broker.New(broker.Options{Auth: logins{"guest": {"guest", broker.All()}}})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l) }()
	c, err := amqp.DialConfig("amqp://guest:guest@localhost/", amqp.Config{
		Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", path) },
	})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve after its context ended: %v", err)
	}
	if _, err := c.Channel(); err != nil {
		t.Errorf("an open connection did not outlive its listener: %v", err)
	}
	closed := c.NotifyClose(make(chan *amqp.Error, 1))
	shut, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Shutdown(shut); err != nil {
		t.Error(err)
	}
	if err := <-closed; err == nil || err.Code != 320 {
		t.Errorf("client heard %v", err)
	}
	if err := b.Serve(context.Background(), l); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

func TestNotImplemented(t *testing.T) {
	_, addr := start(t, broker.Options{})
	queue := func(args amqp.Table) func(*amqp.Channel) error {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("q", false, false, false, false, args)
			return err
		}
	}
	for name, act := range map[string]func(*amqp.Channel) error{
		"tx":           (*amqp.Channel).Tx,
		"quorum":       queue(amqp.Table{"x-queue-type": "quorum"}),
		"stream":       queue(amqp.Table{"x-queue-type": "stream"}),
		"max-length":   queue(amqp.Table{"x-max-length": int32(5)}),
		"dead letters": queue(amqp.Table{"x-dead-letter-exchange": "x"}),
		"queue ttl":    queue(amqp.Table{"x-message-ttl": int32(5)}),
		"headers exchange": func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("x", "headers", false, false, false, false, nil)
		},
		"internal exchange": func(ch *amqp.Channel) error { return ch.ExchangeDeclare("x", "topic", false, false, true, false, nil) },
		"alternate": func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("x", "topic", false, false, false, false, amqp.Table{"alternate-exchange": "y"})
		},
		"exchange to exchange": func(ch *amqp.Channel) error { return ch.ExchangeBind("amq.topic", "k", "amq.direct", false, nil) },
		"binding arguments": func(ch *amqp.Channel) error {
			if err := queue(nil)(ch); err != nil {
				return nil
			}
			return ch.QueueBind("q", "k", "amq.topic", false, amqp.Table{"x": "y"})
		},
		"priority": func(ch *amqp.Channel) error {
			if err := queue(nil)(ch); err != nil {
				return nil
			}
			_, err := ch.Consume("q", "", false, false, false, false, amqp.Table{"x-priority": int32(1)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ch, err := dial(t, addr, "guest", "guest").Channel()
			if err != nil {
				t.Fatal(err)
			}
			err = act(ch)
			if a, ok := errors.AsType[*amqp.Error](err); !ok || a.Code != 540 {
				t.Errorf("got %v, want 540", err)
			}
		})
	}
}

func TestCloseConnections(t *testing.T) {
	b, addr := start(t, broker.Options{Auth: logins{"guest": {"guest", broker.All()}, "agent": {"a", broker.All()}}})
	stays := dial(t, addr, "guest", "guest")
	closed := dial(t, addr, "agent", "a").NotifyClose(make(chan *amqp.Error, 1))
	if n := b.CloseConnections("agent"); n != 1 {
		t.Errorf("closed %d", n)
	}
	select {
	case err := <-closed:
		if err == nil || err.Code != 320 {
			t.Errorf("client heard %v", err)
		}
	case <-time.After(patience):
		t.Fatal("not closed")
	}
	waitFor(t, "one connection left", func() bool { cs := b.Connections(); return len(cs) == 1 && cs[0].User == "guest" })
	if _, err := stays.Channel(); err != nil {
		t.Error(err)
	}
}

func TestTopicRead(t *testing.T) {
	all := broker.All()
	all.TopicRead = map[string]*regexp.Regexp{"amq.topic": regexp.MustCompile(`^mine\.`), "other": nil}
	_, addr := start(t, broker.Options{Auth: logins{"agent": {"a", all}}})
	c := dial(t, addr, "agent", "a")
	for key, ok := range map[string]bool{"mine.#": true, "#": false} {
		ch, err := c.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("q", false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.QueueBind("q", key, "amq.topic", false, nil); (err == nil) != ok {
			t.Errorf("bind with %s: %v", key, err)
		}
	}
}

// FuzzConnection sends a logged in client's bytes: whatever they are, the
// broker ends that connection and lives.
func FuzzConnection(f *testing.F) {
	add := func(ms ...any) {
		var b []byte
		for _, m := range ms {
			switch m := m.(type) {
			case wire.Method:
				b, _ = wire.AppendMethod(b, 1, m)
			case string:
				b = wire.AppendHeader(b, 1, uint64(len(m)), []byte{0, 0})
				b = wire.AppendEnd(append(wire.AppendBodyHead(b, 1, len(m)), m...))
			}
		}
		f.Add(b)
	}
	q := &wire.QueueDeclare{Queue: "q"}
	p := &wire.BasicPublish{RoutingKey: "q", Mandatory: true}
	add(q, &wire.ConfirmSelect{}, p, "one", p, "two", &wire.BasicQos{PrefetchCount: 1}, &wire.BasicConsume{ConsumerTag: "c"},
		&wire.BasicNack{DeliveryTag: 1, Requeue: true}, &wire.BasicAck{DeliveryTag: 2}, &wire.BasicCancel{ConsumerTag: "c"})
	add(q, p, "one", p, "two", &wire.BasicGet{}, &wire.BasicGet{}, &wire.BasicRecover{Requeue: true}, &wire.BasicGet{NoAck: true},
		&wire.QueuePurge{}, &wire.QueueDelete{}, &wire.BasicAck{DeliveryTag: 1, Multiple: true})
	add(&wire.ExchangeDeclare{Exchange: "x", Type: "topic", AutoDelete: true}, &wire.QueueDeclare{Exclusive: true, AutoDelete: true},
		&wire.QueueBind{Exchange: "x", RoutingKey: "a.#"}, &wire.BasicPublish{Exchange: "x", RoutingKey: "a.b"}, "body",
		&wire.QueueUnbind{Exchange: "x", RoutingKey: "a.#"}, &wire.ExchangeDelete{Exchange: "x"}, &wire.ChannelClose{})
	add(&wire.QueueDeclare{Queue: "e", Arguments: wire.Table{"x-expires": int32(1)}}, &wire.ChannelFlow{Active: true}, &wire.BasicReject{DeliveryTag: 9})
	b, addr := start(f, broker.Options{Limits: broker.Limits{TotalBytes: 1 << 20, QueueMessages: 100}})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := rawDial(t, addr)
		r.open(0)
		// The broker may have closed the connection before all is written.
		_, _ = r.nc.Write(in)
		_ = r.nc.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, r.nc)
		_ = r.nc.Close()
		for _, q := range b.Queues() {
			if q.Messages < 0 || q.Unacked < 0 || q.Bytes < 0 || q.Messages+q.Unacked == 0 && q.Bytes != 0 {
				t.Errorf("%+v", q)
			}
		}
	})
}
