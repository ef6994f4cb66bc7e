package broker

import (
	"slices"
	"time"
)

// message is one published message, shared by all queues it went to. It never
// changes after it was published.
type message struct {
	exchange, key string
	props         []byte
	body          []byte
	ttl           time.Duration // -1: none
}

// messageOverhead is what a message costs beside its bytes, in the bounds.
const messageOverhead = 256

func (m *message) size() int64 {
	return int64(len(m.body)+len(m.props)+len(m.key)) + messageOverhead
}

// entry is a message in one queue: ready, in the list, or unacked.
type entry struct {
	msg         *message
	seq         uint64 // place in the queue, kept over a requeue
	expires     time.Time
	redelivered bool
	next        *entry
}

func (e *entry) expired(now time.Time) bool { return !e.expires.IsZero() && !now.Before(e.expires) }

// queue holds messages and gives them to consumers. Broker.mu guards it.
type queue struct {
	b          *Broker
	name       string
	durable    bool
	autoDelete bool
	owner      *conn         // exclusive to it; nil: not exclusive
	expires    time.Duration // deleted after so long without use; 0: never
	expiresArg any           // as it was declared

	head, tail *entry // ready, in order of seq
	ready      int
	unacked    int
	bytes      int64 // ready and unacked
	seq        uint64

	consumers []*consumer
	next      int // whose turn it is
	bindings  map[binding]struct{}
	routed    uint64

	headTimer *time.Timer // message at the head expires
	idleTimer *time.Timer // the queue itself expires
	usedAt    time.Time
	deleted   bool

	published, delivered, refused, expired uint64
}

// full reports whether one more message of this size would break a bound.
func (q *queue) full(size int64) bool {
	l := &q.b.limits
	return q.ready+q.unacked >= l.QueueMessages || q.bytes+size > l.QueueBytes || q.b.bytes+size > l.TotalBytes
}

// publish puts a message into the queue; false if the queue is full.
func (q *queue) publish(m *message) bool {
	size := m.size()
	if q.full(size) {
		if q.refused++; q.refused == 1 {
			q.b.log.Warn("queue is full, messages are refused", "queue", q.name, "messages", q.ready+q.unacked, "bytes", q.bytes)
		}
		return false
	}
	q.published++
	q.seq++
	e := &entry{msg: m, seq: q.seq}
	if m.ttl >= 0 {
		e.expires = time.Now().Add(m.ttl)
	}
	q.bytes += size
	q.b.bytes += size
	if q.ready == 0 {
		// A message that may not wait (TTL 0) still goes to who waits for it.
		if c := q.nextConsumer(); c != nil {
			q.deliver(c, e)
			return true
		}
	}
	if q.tail == nil {
		q.head = e
	} else {
		q.tail.next = e
	}
	q.tail = e
	q.ready++
	q.dispatch()
	return true
}

// pop takes the head off the ready list.
func (q *queue) pop() *entry {
	e := q.head
	q.head, e.next = e.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.ready--
	return e
}

// forget drops an entry for good.
func (q *queue) forget(e *entry) {
	size := e.msg.size()
	q.bytes -= size
	q.b.bytes -= size
}

// dropExpired removes expired messages from the head and sets the timer for
// the next one. As in RabbitMQ a message behind one that lives longer waits for
// its turn.
func (q *queue) dropExpired() {
	if q.head == nil || q.head.expires.IsZero() {
		return
	}
	now := time.Now()
	for q.head != nil && q.head.expired(now) {
		q.forget(q.pop())
		q.expired++
	}
	if q.head == nil || q.head.expires.IsZero() {
		return
	}
	wait := q.head.expires.Sub(now)
	if q.headTimer == nil {
		q.headTimer = time.AfterFunc(wait, func() {
			q.b.mu.Lock()
			defer q.b.mu.Unlock()
			if !q.deleted {
				q.dropExpired()
			}
		})
	} else {
		q.headTimer.Reset(wait)
	}
}

// nextConsumer returns the consumer whose turn it is among those that can
// take a message, nil if none can.
func (q *queue) nextConsumer() *consumer {
	for range q.consumers {
		if q.next >= len(q.consumers) {
			q.next = 0
		}
		c := q.consumers[q.next]
		q.next++
		if c.canTake() {
			return c
		}
	}
	return nil
}

// dispatch gives ready messages to consumers while both are there.
func (q *queue) dispatch() {
	for q.dropExpired(); q.head != nil; q.dropExpired() {
		c := q.nextConsumer()
		if c == nil {
			return
		}
		q.deliver(c, q.pop())
	}
}

// deliver hands e, which is not in the ready list, to c.
func (q *queue) deliver(c *consumer, e *entry) {
	q.delivered++
	tag := c.ch.track(q, c, e, c.noAck)
	c.ch.conn.sendDelivery(c, tag, e)
}

// requeue puts entries back at their places.
func (q *queue) requeue(es []*entry) {
	q.unacked -= len(es)
	if q.deleted {
		return
	}
	slices.SortFunc(es, func(a, b *entry) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	at := &q.head
	for _, e := range es {
		e.redelivered = true
		for *at != nil && (*at).seq < e.seq {
			at = &(*at).next
		}
		e.next = *at
		*at = e
		if e.next == nil {
			q.tail = e
		}
		at = &e.next
	}
	q.ready += len(es)
	q.dispatch()
}

// settle ends an unacked entry for good.
func (q *queue) settle(e *entry) {
	q.unacked--
	if !q.deleted {
		q.forget(e)
	}
}

// purge drops the ready messages and returns their number.
func (q *queue) purge() int {
	n := q.ready
	for q.head != nil {
		q.forget(q.pop())
	}
	return n
}

// used renews the lease of a queue that expires when nobody uses it.
func (q *queue) used() {
	if q.expires == 0 {
		return
	}
	if len(q.consumers) > 0 {
		if q.idleTimer != nil {
			q.idleTimer.Stop()
		}
		return
	}
	q.usedAt = time.Now()
	if q.idleTimer == nil {
		q.idleTimer = time.AfterFunc(q.expires, q.expireIdle)
	} else {
		q.idleTimer.Reset(q.expires)
	}
}

func (q *queue) expireIdle() {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	// The timer may have fired just when the lease was renewed.
	if !q.deleted && len(q.consumers) == 0 && time.Since(q.usedAt) >= q.expires {
		q.b.deleteQueue(q)
	}
}

// removeConsumer takes c off, and with the last one an auto-delete queue.
func (q *queue) removeConsumer(c *consumer) {
	i := slices.Index(q.consumers, c)
	if i < 0 {
		return
	}
	q.consumers = slices.Delete(q.consumers, i, i+1)
	if i < q.next {
		q.next--
	}
	if len(q.consumers) == 0 && !q.deleted {
		if q.autoDelete {
			q.b.deleteQueue(q)
			return
		}
		q.used()
	}
}

// deleteQueue removes q with its bindings and messages and tells consumers.
func (b *Broker) deleteQueue(q *queue) {
	if q.deleted {
		return
	}
	q.deleted = true
	delete(b.queues, q.name)
	for bd := range q.bindings {
		b.unbind(bd)
	}
	for _, t := range []*time.Timer{q.headTimer, q.idleTimer} {
		if t != nil {
			t.Stop()
		}
	}
	b.bytes -= q.bytes
	q.bytes, q.head, q.tail, q.ready = 0, nil, nil, 0
	for _, c := range q.consumers {
		c.ch.consumerLost(c)
	}
	q.consumers = nil
	if q.owner != nil {
		delete(q.owner.exclusive, q)
	}
}
