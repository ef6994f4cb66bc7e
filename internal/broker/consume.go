package broker

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// consumer gets the messages of one queue on one channel.
type consumer struct {
	tag       string
	ch        *channel
	q         *queue
	noAck     bool
	exclusive bool
	prefetch  int // 0 is no limit
	taken     int // unacked
}

// canTake reports whether a message may be delivered now. Whatever makes it
// true again dispatches the queue: settling, or the connection's writer.
func (c *consumer) canTake() bool {
	ch := c.ch
	if ch.closing {
		return false
	}
	if !c.noAck && (c.prefetch > 0 && c.taken >= c.prefetch || ch.limit > 0 && ch.taken >= ch.limit ||
		len(ch.unacked.byTag) >= ch.conn.b.limits.Unacked) {
		return false
	}
	return ch.conn.out.hasRoom()
}

// delivery is an unacked message.
type delivery struct {
	tag        uint64
	e          *entry
	q          *queue
	c          *consumer // nil: basic.get
	prev, next *delivery
}

// unackedList keeps deliveries in order of their tags.
type unackedList struct {
	byTag      map[uint64]*delivery
	head, tail *delivery
}

func (l *unackedList) add(d *delivery) {
	if l.byTag == nil {
		l.byTag = map[uint64]*delivery{}
	}
	l.byTag[d.tag] = d
	if d.prev = l.tail; d.prev == nil {
		l.head = d
	} else {
		d.prev.next = d
	}
	l.tail = d
}

func (l *unackedList) remove(d *delivery) {
	delete(l.byTag, d.tag)
	if d.prev == nil {
		l.head = d.next
	} else {
		d.prev.next = d.next
	}
	if d.next == nil {
		l.tail = d.prev
	} else {
		d.next.prev = d.prev
	}
	d.prev, d.next = nil, nil
}

func (l *unackedList) takeAll() []*delivery {
	ds := make([]*delivery, 0, len(l.byTag))
	for d := l.head; d != nil; d = d.next {
		ds = append(ds, d)
	}
	*l = unackedList{}
	return ds
}

// track numbers a delivery and, unless no ack is wanted, remembers it.
func (ch *channel) track(q *queue, c *consumer, e *entry, noAck bool) uint64 {
	ch.nextTag++
	if noAck {
		q.forget(e)
		return ch.nextTag
	}
	q.unacked++
	ch.unacked.add(&delivery{tag: ch.nextTag, e: e, q: q, c: c})
	if c != nil {
		c.taken++
		ch.taken++
	}
	return ch.nextTag
}

// untake gives back the credit of a delivery.
func (ch *channel) untake(d *delivery) {
	if d.c != nil {
		d.c.taken--
		ch.taken--
	}
}

// settle is ack, nack and reject.
func (ch *channel) settle(tag uint64, multiple, requeue bool) error {
	b := ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	var ds []*delivery
	switch d := ch.unacked.byTag[tag]; {
	case multiple && tag == 0:
		ds = ch.unacked.takeAll()
	case d == nil:
		return softErr(preconditionFailed, "unknown delivery tag %d", tag)
	case multiple:
		for h := ch.unacked.head; ; h = ch.unacked.head {
			ch.unacked.remove(h)
			ds = append(ds, h)
			if h == d {
				break
			}
		}
	case !requeue:
		// The usual case, without a slice.
		ch.unacked.remove(d)
		ch.untake(d)
		d.q.settle(d.e)
		ch.resume()
		return nil
	default:
		ch.unacked.remove(d)
		ds = append(ds, d)
	}
	if requeue {
		ch.requeue(ds)
	} else {
		for _, d := range ds {
			ch.untake(d)
			d.q.settle(d.e)
		}
	}
	ch.resume()
	return nil
}

// requeue puts deliveries back into their queues, each at its old place.
func (ch *channel) requeue(ds []*delivery) {
	byQueue := map[*queue][]*entry{}
	for _, d := range ds {
		ch.untake(d)
		byQueue[d.q] = append(byQueue[d.q], d.e)
	}
	for q, es := range byQueue {
		q.requeue(es)
	}
}

// resume dispatches the queues this channel consumes. b.mu is held.
func (ch *channel) resume() {
	for _, c := range ch.consumers {
		if c.q.head != nil {
			c.q.dispatch()
		}
	}
}

// consumerLost tells the client that the queue of its consumer is gone.
func (ch *channel) consumerLost(c *consumer) {
	if ch.closing {
		return
	}
	delete(ch.consumers, c.tag)
	if ch.conn.canCancel {
		ch.conn.send(ch.id, &wire.BasicCancel{ConsumerTag: c.tag, NoWait: true})
	}
}

func (ch *channel) basicQos(m *wire.BasicQos) error {
	if m.PrefetchSize != 0 {
		return hardErr(notImplemented, "prefetch_size!=0 (%d)", m.PrefetchSize)
	}
	ch.conn.b.mu.Lock()
	defer ch.conn.b.mu.Unlock()
	if m.Global {
		ch.limit = int(m.PrefetchCount)
	} else {
		ch.prefetch = int(m.PrefetchCount)
	}
	ch.reply(false, &wire.BasicQosOk{})
	ch.resume()
	return nil
}

func (ch *channel) basicConsume(m *wire.BasicConsume) error {
	c, b := ch.conn, ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch.consumers[m.ConsumerTag] != nil {
		return hardErr(notAllowed, "attempt to reuse consumer tag '%s'", m.ConsumerTag)
	}
	name, err := ch.queueName(m.Queue)
	if err != nil {
		return err
	}
	if err := c.mayQueue(c.perms.Read, name); err != nil {
		return err
	}
	q, err := c.findQueue(name)
	if err != nil {
		return err
	}
	if m.Arguments["x-priority"] != nil {
		return hardErr(notImplemented, "consumer priorities")
	}
	if len(ch.consumers) >= b.limits.Consumers {
		return hardErr(resourceError, "too many consumers on one channel: the limit is %d", b.limits.Consumers)
	}
	if len(q.consumers) > 0 && (m.Exclusive || q.consumers[0].exclusive) {
		return softErr(accessRefused, "queue '%s' in vhost '/' in exclusive use", name)
	}
	tag := m.ConsumerTag
	if tag == "" {
		tag = randomName("amq.ctag-")
	}
	cons := &consumer{tag: tag, ch: ch, q: q, noAck: m.NoAck, exclusive: m.Exclusive, prefetch: ch.prefetch}
	ch.consumers[tag] = cons
	q.consumers = append(q.consumers, cons)
	q.used()
	ch.reply(m.NoWait, &wire.BasicConsumeOk{ConsumerTag: tag})
	q.dispatch()
	return nil
}

func (ch *channel) basicCancel(m *wire.BasicCancel) error {
	b := ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := ch.consumers[m.ConsumerTag]; c != nil {
		delete(ch.consumers, m.ConsumerTag)
		c.q.removeConsumer(c)
	}
	ch.reply(m.NoWait, &wire.BasicCancelOk{ConsumerTag: m.ConsumerTag})
	return nil
}

func (ch *channel) basicGet(m *wire.BasicGet) error {
	c, b := ch.conn, ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	name, err := ch.queueName(m.Queue)
	if err != nil {
		return err
	}
	if err := c.mayQueue(c.perms.Read, name); err != nil {
		return err
	}
	q, err := c.findQueue(name)
	if err != nil {
		return err
	}
	if !m.NoAck && len(ch.unacked.byTag) >= b.limits.Unacked {
		return hardErr(resourceError, "too many unacknowledged messages on one channel: the limit is %d", b.limits.Unacked)
	}
	q.used()
	q.dropExpired()
	if q.head == nil {
		ch.reply(false, &wire.BasicGetEmpty{})
		return nil
	}
	e := q.pop()
	q.delivered++
	tag := ch.track(q, nil, e, m.NoAck)
	c.out.push(item{channel: ch.id, msg: e.msg, method: &wire.BasicGetOk{
		DeliveryTag: tag, Redelivered: e.redelivered, Exchange: e.msg.exchange, RoutingKey: e.msg.key,
		MessageCount: uint32(q.ready),
	}})
	return nil
}

func (ch *channel) basicRecover(requeue, async bool) error {
	if !requeue {
		return hardErr(notImplemented, "requeue=false")
	}
	b := ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	ds := ch.unacked.takeAll()
	ch.reply(async, &wire.BasicRecoverOk{})
	ch.requeue(ds)
	ch.resume()
	return nil
}

// randomName makes a name nobody can guess.
func randomName(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}
