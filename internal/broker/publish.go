package broker

import (
	"strconv"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// maxExpiration is the longest time to live taken, as in RabbitMQ: in ms.
const maxExpiration = 1<<32 - 1

// firstAlloc is what a body gets before its bytes have come.
const firstAlloc = 128 << 10

func (ch *channel) basicPublish(m *wire.BasicPublish) error {
	if m.Immediate {
		return hardErr(notImplemented, "immediate=true")
	}
	ch.pub = &publishing{method: m}
	return nil
}

// dropPublishing forgets a message half received.
func (ch *channel) dropPublishing() {
	if ch.pub != nil && ch.pub.msg != nil {
		ch.conn.partial -= int(ch.pub.size)
		ch.conn.b.partial.Add(-int64(ch.pub.size))
	}
	ch.pub = nil
}

// content takes a header or body frame.
func (ch *channel) content(f wire.Frame) error {
	p := ch.pub
	if p == nil || (f.Type == wire.FrameHeader) != (p.header == nil) {
		return hardErr(unexpectedFrame, "expected method on channel %d, got frame of type %d instead", ch.id, f.Type)
	}
	if f.Type == wire.FrameHeader {
		h, err := wire.ParseHeader(f.Payload)
		if err != nil {
			return err
		}
		p.header = &h
		return ch.soft(ch.header(p, &h))
	}
	if uint64(len(p.msg.body)+len(f.Payload)) > p.size {
		return hardErr(frameError, "content is longer than its header says")
	}
	p.msg.body = append(p.msg.body, f.Payload...)
	if uint64(len(p.msg.body)) < p.size {
		return nil
	}
	return ch.soft(ch.finish(p))
}

// soft closes the channel for a soft exception of a publish.
func (ch *channel) soft(err error) error {
	if e := asException(err); e != nil && e.soft {
		class, id := (*wire.BasicPublish)(nil).ID()
		ch.fail(e, class, id)
		return nil
	}
	return err
}

func (ch *channel) header(p *publishing, h *wire.Header) error {
	c := ch.conn
	limit := uint64(c.b.limits.MessageBytes)
	if h.BodySize > limit {
		return softErr(preconditionFailed, "message size %d is larger than configured max size %d", h.BodySize, limit)
	}
	if uint64(c.partial)+h.BodySize > 2*limit {
		return hardErr(resourceError, "too many large messages at once on one connection")
	}
	if c.b.partial.Add(int64(h.BodySize)) > c.b.limits.TotalBytes {
		c.b.partial.Add(-int64(h.BodySize))
		return hardErr(resourceError, "too many large messages at once")
	}
	p.size = h.BodySize
	c.partial += int(h.BodySize)
	p.msg = &message{
		exchange: p.method.Exchange, key: p.method.RoutingKey,
		props: append([]byte(nil), h.Raw...),
		body:  make([]byte, 0, min(h.BodySize, firstAlloc)),
		ttl:   -1,
	}
	if h.BodySize == 0 {
		return ch.finish(p)
	}
	return nil
}

// finish checks and routes a message that is complete.
func (ch *channel) finish(p *publishing) error {
	c, b := ch.conn, ch.conn.b
	ch.dropPublishing()
	m := p.msg
	if err := c.mayExchange(c.perms.Write, m.exchange); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var x *exchange
	if m.exchange != "" {
		if x = b.exchanges[m.exchange]; x == nil {
			return noExchange(m.exchange)
		}
	}
	if err := c.mayTopic(c.perms.TopicWrite, x, m.key); err != nil {
		return err
	}
	props := &p.header.Properties
	if props.Flags&wire.FlagUserID != 0 && props.UserID != c.user {
		return softErr(preconditionFailed, "user_id property set to '%s' but authenticated user was '%s'", props.UserID, c.user)
	}
	if props.Flags&wire.FlagExpiration != 0 {
		ms, err := strconv.ParseUint(props.Expiration, 10, 64)
		if err != nil || ms > maxExpiration {
			return softErr(preconditionFailed, "invalid expiration '%s'", props.Expiration)
		}
		m.ttl = time.Duration(ms) * time.Millisecond
	}
	b.routed = b.route(x, m.key, b.routed[:0])
	stored := true
	for _, q := range b.routed {
		stored = q.publish(m) && stored
	}
	if len(b.routed) == 0 && p.method.Mandatory {
		c.out.push(item{channel: ch.id, msg: m, method: &wire.BasicReturn{
			ReplyCode: uint16(noRoute), ReplyText: replyNames[noRoute], Exchange: m.exchange, RoutingKey: m.key,
		}})
	}
	clear(b.routed)
	if ch.confirm {
		ch.published++
		if stored {
			c.send(ch.id, &wire.BasicAck{DeliveryTag: ch.published})
		} else {
			c.send(ch.id, &wire.BasicNack{DeliveryTag: ch.published})
		}
	}
	return nil
}
