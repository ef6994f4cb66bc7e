package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/broker/wire"
)

// confirmed publishes to a queue and reports the broker's ack or nack.
func confirmed(t testing.TB, ch *amqp.Channel, queue string, size int) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conf, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, amqp.Publishing{Body: make([]byte, size)})
	if err != nil {
		t.Fatal(err)
	}
	ok, err := conf.WaitContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func confirmChannel(t testing.TB, addr string, queues ...string) *amqp.Channel {
	t.Helper()
	ch, err := dial(t, addr, "guest", "guest").Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		if _, err := ch.QueueDeclare(q, false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	return ch
}

func TestQueueFull(t *testing.T) {
	for name, tc := range map[string]struct {
		limits broker.Limits
		size   int
	}{
		"messages": {broker.Limits{QueueMessages: 3}, 1},
		"bytes":    {broker.Limits{QueueBytes: 3500}, 800},
		"total":    {broker.Limits{TotalBytes: 3500}, 800},
	} {
		t.Run(name, func(t *testing.T) {
			b, addr := start(t, broker.Options{Limits: tc.limits})
			ch := confirmChannel(t, addr, "q")
			for i := range 5 {
				if got := confirmed(t, ch, "q", tc.size); got != (i < 3) {
					t.Errorf("message %d: acknowledged %v", i, got)
				}
			}
			if q := b.Queues()[0]; q.Messages != 3 || q.Refused != 2 {
				t.Errorf("%+v", q)
			}
			d, _, err := ch.Get("q", false)
			if err != nil {
				t.Fatal(err)
			}
			if confirmed(t, ch, "q", tc.size) {
				t.Error("taken while the other is unacknowledged")
			}
			if err := d.Ack(false); err != nil {
				t.Fatal(err)
			}
			if !confirmed(t, ch, "q", tc.size) {
				t.Error("refused with room again")
			}
			if _, err := ch.QueueDelete("q", false, false, false); err != nil {
				t.Fatal(err)
			}
			confirmChannel(t, addr, "q2")
			if !confirmed(t, ch, "q2", tc.size) {
				t.Error("a deleted queue's bytes still count")
			}
		})
	}
}

func TestMessageTooLarge(t *testing.T) {
	_, addr := start(t, broker.Options{Limits: broker.Limits{MessageBytes: 1000}})
	ch := confirmChannel(t, addr, "q")
	if !confirmed(t, ch, "q", 1000) {
		t.Error("refused at the limit")
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.PublishWithContext(t.Context(), "", "q", false, false, amqp.Publishing{Body: make([]byte, 1001)}); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; err == nil || err.Code != 406 {
		t.Errorf("got %v", err)
	}
}

func TestUnackedLimit(t *testing.T) {
	b, addr := start(t, broker.Options{Limits: broker.Limits{Unacked: 2}})
	ch := confirmChannel(t, addr, "q")
	for range 4 {
		confirmed(t, ch, "q", 1)
	}
	ds, err := ch.Consume("q", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := <-ds
	<-ds
	if q := b.Queues()[0]; q.Unacked != 2 || q.Messages != 2 {
		t.Errorf("%+v", q)
	}
	if err := d.Ack(false); err != nil {
		t.Fatal(err)
	}
	<-ds
}

func TestConnectionLimits(t *testing.T) {
	b, addr := start(t, broker.Options{
		Auth:   logins{"guest": {"guest", broker.All()}, "other": {"o", broker.All()}},
		Limits: broker.Limits{Connections: 3, ConnectionsPerUser: 2, Channels: 5},
	})
	c := dial(t, addr, "guest", "guest")
	if c.Config.ChannelMax != 5 {
		t.Errorf("channel-max %d", c.Config.ChannelMax)
	}
	dial(t, addr, "guest", "guest")
	_, err := amqp.Dial("amqp://guest:guest@" + addr + "/")
	if a, ok := errors.AsType[*amqp.Error](err); !ok || a.Code != 530 {
		t.Errorf("third of one user: %v", err)
	}
	waitFor(t, "room for one", func() bool {
		c, err := amqp.Dial("amqp://other:o@" + addr + "/")
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err == nil
	})
	if _, err := amqp.Dial("amqp://other:o@" + addr + "/"); err == nil {
		t.Error("a fourth connection was taken")
	}
	_ = c.Close()
	waitFor(t, "the closed one to be gone", func() bool { return len(b.Connections()) == 2 })
	dial(t, addr, "guest", "guest")
}

// slow is a consumer that has asked for messages and reads none.
func slow(t *testing.T, addr, queue string) *raw {
	r := rawDial(t, addr)
	r.open(0)
	r.send(1, &wire.BasicConsume{Queue: queue, ConsumerTag: "c", NoAck: true})
	want[*wire.BasicConsumeOk](r)
	return r
}

func TestSlowConsumer(t *testing.T) {
	const n, size = 400, 64 << 10
	b, addr := start(t, broker.Options{Limits: broker.Limits{OutgoingBytes: 128 << 10}})
	ch := confirmChannel(t, addr, "slow", "fast")
	r := slow(t, addr, "slow")
	ds, err := ch.Consume("fast", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		confirmed(t, ch, "slow", size)
		confirmed(t, ch, "fast", 1)
		<-ds
	}
	if q := b.Queues()[1]; q.Name != "slow" || q.Messages < n/4 {
		t.Errorf("messages pile up elsewhere than in the queue: %+v", q)
	}
	for range n {
		want[*wire.BasicDeliver](r)
	}
}

func TestStalledConsumerIsCut(t *testing.T) {
	b, addr := start(t, broker.Options{Limits: broker.Limits{WriteStall: 500 * time.Millisecond}})
	ch := confirmChannel(t, addr, "slow")
	slow(t, addr, "slow")
	for range 200 {
		confirmed(t, ch, "slow", 64<<10)
	}
	waitFor(t, "the consumer to be cut", func() bool { return b.Queues()[0].Consumers == 0 })
}

func TestContentsBeingReceived(t *testing.T) {
	const message = 1 << 20
	_, addr := start(t, broker.Options{Limits: broker.Limits{MessageBytes: message, TotalBytes: 5 * message}})
	half := func(r *raw, channel uint16) {
		r.send(channel, &wire.BasicPublish{RoutingKey: "none"})
		r.bytes(wire.AppendHeader(nil, channel, message, []byte{0, 0}))
	}
	channel := func(r *raw, id uint16) {
		r.send(id, &wire.ChannelOpen{})
		want[*wire.ChannelOpenOk](r)
	}
	greedy := func() *raw {
		r := rawDial(t, addr)
		r.open(0)
		channel(r, 2)
		half(r, 1)
		half(r, 2)
		channel(r, 3)
		return r
	}
	r := greedy()
	half(r, 3)
	if code := r.closed(); code != 506 {
		t.Errorf("a third message at once on one connection: %d", code)
	}
	a := greedy()
	greedy()
	r = rawDial(t, addr)
	r.open(0)
	half(r, 1)
	channel(r, 2)
	half(r, 2)
	if code := r.closed(); code != 506 {
		t.Errorf("a sixth message at once: %d", code)
	}
	a.send(0, &wire.ConnectionClose{})
	want[*wire.ConnectionCloseOk](a)
	waitFor(t, "room for others", func() bool {
		r := rawDial(t, addr)
		r.open(0)
		half(r, 1)
		r.bytes(wire.AppendEnd(append(wire.AppendBodyHead(nil, 1, 4), "part"...)))
		r.send(0, &wire.ConnectionClose{})
		f, err := r.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := m.(*wire.ConnectionCloseOk)
		return ok
	})
}

type faulty struct{ logins }

func (f faulty) Login(login, password string) (broker.Permissions, error) {
	if login == "evil" {
		panic("a fault in the program")
	}
	return f.logins.Login(login, password)
}

// A fault that one client runs into must not end the service of all.
func TestPanicEndsItsConnectionOnly(t *testing.T) {
	_, addr := start(t, broker.Options{Auth: faulty{logins{"guest": {"guest", broker.All()}}}})
	before := confirmChannel(t, addr, "q")
	for range 3 {
		c, err := amqp.Dial("amqp://evil:evil@" + addr + "/")
		if err == nil {
			_ = c.Close()
			t.Fatal("the login that panics was admitted")
		}
	}
	if !confirmed(t, before, "q", 1) || !confirmed(t, confirmChannel(t, addr, "q2"), "q2", 1) {
		t.Error("messages are not taken any more")
	}
}
