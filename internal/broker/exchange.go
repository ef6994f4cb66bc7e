package broker

import (
	"slices"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

const (
	kindDirect = "direct"
	kindTopic  = "topic"
	kindFanout = "fanout"
)

// exchange routes messages to queues. Broker.mu guards it.
type exchange struct {
	name       string
	kind       string
	durable    bool
	autoDelete bool
	internal   bool

	// byKey has the bindings whose key is compared as a whole (direct, topic
	// without wildcards) or not at all (fanout).
	byKey    map[string][]*queue
	patterns []pattern
	bindings int
}

func newExchange(name, kind string) *exchange {
	return &exchange{name: name, kind: kind, byKey: map[string][]*queue{}}
}

// binding is one way from an exchange to a queue.
type binding struct {
	x   *exchange
	q   *queue
	key string
}

// bind adds a binding; false if it was there.
func (b *Broker) bind(x *exchange, q *queue, key string) bool {
	bd := binding{x, q, key}
	if _, ok := q.bindings[bd]; ok {
		return false
	}
	if q.bindings == nil {
		q.bindings = map[binding]struct{}{}
	}
	q.bindings[bd] = struct{}{}
	x.bindings++
	b.bindings++
	if x.kind == kindTopic && wild(key) {
		x.patterns = append(x.patterns, pattern{topicWords(key), q, key})
	} else {
		x.byKey[key] = append(x.byKey[key], q)
	}
	return true
}

// unbind removes a binding, and the exchange with its last one if it is
// auto-delete.
func (b *Broker) unbind(bd binding) {
	if _, ok := bd.q.bindings[bd]; !ok {
		return
	}
	delete(bd.q.bindings, bd)
	x := bd.x
	x.bindings--
	b.bindings--
	if x.kind == kindTopic && wild(bd.key) {
		x.patterns = slices.DeleteFunc(x.patterns, func(p pattern) bool { return p.q == bd.q && p.key == bd.key })
	} else {
		qs := slices.DeleteFunc(x.byKey[bd.key], func(q *queue) bool { return q == bd.q })
		if len(qs) == 0 {
			delete(x.byKey, bd.key)
		} else {
			x.byKey[bd.key] = qs
		}
	}
	if x.autoDelete && x.bindings == 0 {
		delete(b.exchanges, x.name)
	}
}

// route appends the queues a message goes to, each once. x nil is the default
// exchange.
func (b *Broker) route(x *exchange, key string, to []*queue) []*queue {
	if x == nil {
		if q := b.queues[key]; q != nil {
			to = append(to, q)
		}
		return to
	}
	b.routing++ // marks the queues found, so that none is found twice
	add := func(q *queue) {
		if q.routed != b.routing {
			q.routed = b.routing
			to = append(to, q)
		}
	}
	if x.kind == kindFanout {
		for _, qs := range x.byKey {
			for _, q := range qs {
				add(q)
			}
		}
		return to
	}
	for _, q := range x.byKey[key] {
		add(q)
	}
	if len(x.patterns) > 0 {
		words := topicWords(key)
		for _, p := range x.patterns {
			if p.q.routed != b.routing && matchTopic(p.words, words) {
				add(p.q)
			}
		}
	}
	return to
}

func (ch *channel) exchangeDeclare(m *wire.ExchangeDeclare) error {
	c, b := ch.conn, ch.conn.b
	name := stripCRLF(m.Exchange)
	if !m.Passive {
		switch m.Type {
		case kindDirect, kindTopic, kindFanout:
		case "headers":
			return hardErr(notImplemented, "exchange type 'headers'")
		default:
			return hardErr(commandInvalid, "unknown exchange type '%s'", m.Type)
		}
	}
	if err := notDefaultExchange(name); err != nil {
		return err
	}
	if !m.Passive {
		if err := c.mayExchange(c.perms.Configure, name); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.exchanges[name]
	switch {
	case m.Passive && x == nil:
		return noExchange(name)
	case m.Passive:
	case x != nil:
		if err := equivalent("exchange", name, "type", m.Type, x.kind); err != nil {
			return err
		}
		if err := equivalent("exchange", name, "durable", m.Durable, x.durable); err != nil {
			return err
		}
		if err := equivalent("exchange", name, "auto_delete", m.AutoDelete, x.autoDelete); err != nil {
			return err
		}
		if err := equivalent("exchange", name, "internal", m.Internal, x.internal); err != nil {
			return err
		}
	case isReserved(name):
		return softErr(accessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", name)
	case m.Internal:
		return hardErr(notImplemented, "internal exchanges")
	case m.Arguments["alternate-exchange"] != nil:
		return hardErr(notImplemented, "alternate exchanges")
	case len(b.exchanges) >= b.limits.Exchanges:
		return hardErr(resourceError, "too many exchanges: the limit is %d", b.limits.Exchanges)
	default:
		x = newExchange(name, m.Type)
		x.durable, x.autoDelete = m.Durable, m.AutoDelete
		b.exchanges[name] = x
	}
	ch.reply(m.NoWait, &wire.ExchangeDeclareOk{})
	return nil
}

func (ch *channel) exchangeDelete(m *wire.ExchangeDelete) error {
	c, b := ch.conn, ch.conn.b
	name := stripCRLF(m.Exchange)
	if err := notDefaultExchange(name); err != nil {
		return err
	}
	if isReserved(name) {
		return softErr(accessRefused, "deletion of system exchange '%s' in vhost '/' not allowed", name)
	}
	if err := c.mayExchange(c.perms.Configure, name); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.exchanges[name]; x != nil {
		if m.IfUnused && x.bindings > 0 {
			return softErr(preconditionFailed, "exchange '%s' in vhost '/' in use", name)
		}
		for _, q := range b.queues {
			for bd := range q.bindings {
				if bd.x == x {
					b.unbind(bd)
				}
			}
		}
		delete(b.exchanges, name)
	}
	ch.reply(m.NoWait, &wire.ExchangeDeleteOk{})
	return nil
}

func notDefaultExchange(name string) error {
	if name == "" {
		return softErr(accessRefused, "operation not permitted on the default exchange")
	}
	return nil
}

func noExchange(name string) error {
	return softErr(notFound, "no exchange '%s' in vhost '/'", name)
}

// equivalent compares one property of a declaration with what exists.
func equivalent[T comparable](kind, name, property string, got, have T) error {
	if got != have {
		return softErr(preconditionFailed, "inequivalent arg '%s' for %s '%s' in vhost '/': received '%v' but current is '%v'",
			property, kind, name, got, have)
	}
	return nil
}
