package broker

import (
	"strings"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// channel is one channel of a connection. Its connection's reader owns confirm,
// published, pub and lastQueue; Broker.mu guards the rest.
type channel struct {
	conn *conn
	id   uint16

	confirm   bool
	published uint64
	pub       *publishing
	lastQueue string

	// closing is set when we sent channel.close: all but the answer is ignored.
	closing   bool
	consumers map[string]*consumer
	prefetch  int // of consumers to come
	limit     int // of all consumers together, 0 is none
	taken     int // unacked deliveries to consumers
	nextTag   uint64
	unacked   unackedList
}

// publishing is a message being received.
type publishing struct {
	method *wire.BasicPublish
	header *wire.Header // nil until it came
	msg    *message
	size   uint64
}

func newChannel(c *conn, id uint16) *channel {
	return &channel{conn: c, id: id, consumers: map[string]*consumer{}}
}

// reply answers a method unless the client wants no answer.
func (ch *channel) reply(noWait bool, m wire.Method) {
	if !noWait {
		ch.conn.send(ch.id, m)
	}
}

// fail closes the channel from our side.
func (ch *channel) fail(e *exception, class, method uint16) {
	c := ch.conn
	c.log.Info("closing channel", "user", c.user, "channel", ch.id, "code", int(e.code), "reason", e.text)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	ch.release()
	ch.closing = true
	c.send(ch.id, &wire.ChannelClose{ReplyCode: uint16(e.code), ReplyText: e.Error(), ClassID: class, MethodID: method})
}

// release gives back consumers and deliveries. b.mu is held.
func (ch *channel) release() {
	ch.dropPublishing()
	ch.closing = true // no deliveries while consumers go one by one
	for _, cons := range ch.consumers {
		cons.q.removeConsumer(cons)
	}
	clear(ch.consumers)
	ch.requeue(ch.unacked.takeAll())
}

func (ch *channel) handle(m wire.Method) error {
	switch m.(type) {
	case *wire.ChannelClose:
		ch.conn.b.mu.Lock()
		if !ch.closing {
			ch.release()
		}
		delete(ch.conn.channels, ch.id)
		ch.conn.b.mu.Unlock()
		ch.reply(false, &wire.ChannelCloseOk{})
		return nil
	case *wire.ChannelCloseOk:
		if ch.closing {
			ch.conn.b.mu.Lock()
			delete(ch.conn.channels, ch.id)
			ch.conn.b.mu.Unlock()
		}
		return nil
	}
	if ch.closing {
		return nil
	}
	if ch.pub != nil {
		class, id := m.ID()
		return hardErr(unexpectedFrame, "expected content on channel %d, got method %d.%d instead", ch.id, class, id)
	}
	switch m := m.(type) {
	case *wire.BasicPublish:
		return ch.basicPublish(m)
	case *wire.BasicAck:
		return ch.settle(m.DeliveryTag, m.Multiple, false)
	case *wire.BasicNack:
		return ch.settle(m.DeliveryTag, m.Multiple, m.Requeue)
	case *wire.BasicReject:
		return ch.settle(m.DeliveryTag, false, m.Requeue)
	case *wire.BasicGet:
		return ch.basicGet(m)
	case *wire.BasicConsume:
		return ch.basicConsume(m)
	case *wire.BasicCancel:
		return ch.basicCancel(m)
	case *wire.BasicCancelOk:
		return nil
	case *wire.BasicQos:
		return ch.basicQos(m)
	case *wire.BasicRecover:
		return ch.basicRecover(m.Requeue, false)
	case *wire.BasicRecoverAsync:
		return ch.basicRecover(m.Requeue, true)
	case *wire.QueueDeclare:
		return ch.queueDeclare(m)
	case *wire.QueueBind:
		return ch.queueBind(m)
	case *wire.QueueUnbind:
		return ch.queueUnbind(m)
	case *wire.QueuePurge:
		return ch.queuePurge(m)
	case *wire.QueueDelete:
		return ch.queueDelete(m)
	case *wire.ExchangeDeclare:
		return ch.exchangeDeclare(m)
	case *wire.ExchangeDelete:
		return ch.exchangeDelete(m)
	case *wire.ConfirmSelect:
		ch.confirm = true
		ch.reply(m.NoWait, &wire.ConfirmSelectOk{})
		return nil
	case *wire.ChannelFlow:
		if !m.Active {
			return hardErr(notImplemented, "active=false")
		}
		ch.reply(false, &wire.ChannelFlowOk{Active: true})
		return nil
	case *wire.ChannelFlowOk:
		return nil
	}
	class, id := m.ID()
	return hardErr(commandInvalid, "unexpected method %d.%d", class, id)
}

// stripCRLF cleans a name as RabbitMQ does, which logs names.
func stripCRLF(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(s)
}

func isReserved(name string) bool { return strings.HasPrefix(name, "amq.") }
