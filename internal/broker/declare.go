package broker

import (
	"fmt"
	"math"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// queueName resolves the empty name to the queue last declared on the channel.
func (ch *channel) queueName(name string) (string, error) {
	if name = stripCRLF(name); name == "" {
		if name = ch.lastQueue; name == "" {
			return "", softErr(notFound, "no previously declared queue")
		}
	}
	return name, nil
}

// findQueue returns a queue this connection may use. b.mu is held.
func (c *conn) findQueue(name string) (*queue, error) {
	q := c.b.queues[name]
	if q == nil {
		return nil, softErr(notFound, "no queue '%s' in vhost '/'", name)
	}
	if q.owner != nil && q.owner != c {
		return nil, locked(name)
	}
	return q, nil
}

func locked(name string) error {
	return softErr(resourceLocked, "cannot obtain exclusive access to locked queue '%s' in vhost '/'. "+
		"It could be originally declared on another connection or the exclusive property value "+
		"does not match that of the original declaration.", name)
}

func (ch *channel) queueDeclare(m *wire.QueueDeclare) error {
	c, b := ch.conn, ch.conn.b
	name := stripCRLF(m.Queue)
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Passive {
		q, err := c.findQueue(name)
		if err != nil {
			return err
		}
		ch.declared(q, m.NoWait)
		return nil
	}
	if isReserved(name) {
		return softErr(accessRefused, "queue name '%s' contains reserved prefix 'amq.*'", name)
	}
	if name == "" {
		name = randomName("amq.gen-")
	}
	if err := c.mayQueue(c.perms.Configure, name); err != nil {
		return err
	}
	var owner *conn
	if m.Exclusive {
		owner = c
	}
	if q := b.queues[name]; q != nil {
		if q.owner != owner {
			return locked(name)
		}
		if err := equivalent("queue", name, "durable", m.Durable, q.durable); err != nil {
			return err
		}
		if err := equivalent("queue", name, "auto_delete", m.AutoDelete, q.autoDelete); err != nil {
			return err
		}
		if err := equivalentExpires(q, m.Arguments["x-expires"]); err != nil {
			return err
		}
		if _, err := checkArguments(name, m.Arguments); err != nil {
			return err
		}
		ch.declared(q, m.NoWait)
		return nil
	}
	q := &queue{b: b, name: name, durable: m.Durable, autoDelete: m.AutoDelete, owner: owner}
	var err error
	if q.expires, err = checkArguments(name, m.Arguments); err != nil {
		return err
	}
	q.expiresArg = m.Arguments["x-expires"]
	if len(b.queues) >= b.limits.Queues {
		return hardErr(resourceError, "too many queues: the limit is %d", b.limits.Queues)
	}
	b.queues[name] = q
	if owner != nil {
		owner.exclusive[q] = struct{}{}
	}
	ch.declared(q, m.NoWait)
	return nil
}

func (ch *channel) declared(q *queue, noWait bool) {
	q.used()
	q.dropExpired()
	ch.lastQueue = q.name
	ch.reply(noWait, &wire.QueueDeclareOk{
		Queue: q.name, MessageCount: uint32(q.ready), ConsumerCount: uint32(len(q.consumers)),
	})
}

// maxExpires bounds x-expires as RabbitMQ does, in ms.
const maxExpires = 1<<32 - 1

// checkArguments reads the arguments of a queue: the time it may be idle, 0
// for ever. Arguments that RabbitMQ knows and we do not have are refused,
// others mean nothing, as there.
func checkArguments(queue string, args wire.Table) (expires time.Duration, err error) {
	invalid := func(arg, why string) error {
		return softErr(preconditionFailed, "invalid arg '%s' for queue '%s' in vhost '/': %s", arg, queue, why)
	}
	for arg, v := range args {
		switch arg {
		case "x-expires":
			ms, ok := integer(v)
			switch {
			case !ok:
				return 0, invalid(arg, fmt.Sprintf(`"expected integer, got %s"`, amqpType(v)))
			case ms == 0:
				return 0, invalid(arg, "{value_zero,0}")
			case ms < 0:
				return 0, invalid(arg, fmt.Sprintf("{value_negative,%d}", ms))
			case ms > maxExpires:
				return 0, invalid(arg, fmt.Sprintf("{value_too_large,%d}", ms))
			}
			expires = time.Duration(ms) * time.Millisecond
		case "x-queue-type":
			switch v {
			case "classic":
			case "quorum", "stream":
				return 0, hardErr(notImplemented, "queues of type '%v'", v)
			default:
				return 0, invalid(arg, "unsupported queue type")
			}
		case "x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-max-length",
			"x-max-length-bytes", "x-max-priority", "x-overflow", "x-queue-mode", "x-single-active-consumer",
			"x-queue-master-locator", "x-delivery-limit", "x-max-age":
			return 0, hardErr(notImplemented, "queue argument '%s'", arg)
		}
	}
	return expires, nil
}

func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int8:
		return int64(v), true
	case uint8:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int64:
		return v, true
	}
	return math.MinInt64, false
}

// amqpType names a value's type as RabbitMQ's texts do.
func amqpType(v any) string {
	switch v.(type) {
	case nil:
		return "void"
	case bool:
		return "bool"
	case int8:
		return "byte"
	case uint8:
		return "unsignedbyte"
	case int16:
		return "short"
	case uint16:
		return "unsignedshort"
	case int32:
		return "signedint"
	case uint32:
		return "unsignedint"
	case int64:
		return "long"
	case float32:
		return "float"
	case float64:
		return "double"
	case wire.Decimal:
		return "decimal"
	case string:
		return "longstr"
	case []byte:
		return "binary"
	case wire.Timestamp:
		return "timestamp"
	case []any:
		return "array"
	}
	return "table"
}

// equivalentExpires compares x-expires by value: integers of any width are the
// same to RabbitMQ.
func equivalentExpires(q *queue, got any) error {
	describe := func(v any) string {
		if v == nil {
			return "none"
		}
		return fmt.Sprintf("the value '%v' of type '%s'", v, amqpType(v))
	}
	g, gotInt := integer(got)
	h, haveInt := integer(q.expiresArg)
	if gotInt == haveInt && g == h {
		return nil
	}
	if gotInt && haveInt {
		return equivalent("queue", q.name, "x-expires", g, h)
	}
	return softErr(preconditionFailed, "inequivalent arg 'x-expires' for queue '%s' in vhost '/': received %s but current is %s",
		q.name, describe(got), describe(q.expiresArg))
}

// bindTarget resolves what queue.bind and queue.unbind name, checks the rights
// and refuses what bindings cannot carry. b.mu is held.
func (ch *channel) bindTarget(queue, exchange, key string, args wire.Table) (binding, error) {
	c := ch.conn
	name, err := ch.queueName(queue)
	if err != nil {
		return binding{}, err
	}
	if queue == "" && key == "" {
		key = ch.lastQueue
	}
	if err := c.mayQueue(c.perms.Write, name); err != nil {
		return binding{}, err
	}
	if err := notDefaultExchange(exchange); err != nil {
		return binding{}, err
	}
	if err := c.mayExchange(c.perms.Read, exchange); err != nil {
		return binding{}, err
	}
	x := c.b.exchanges[exchange]
	if err := c.mayTopic(c.perms.TopicRead, x, key); err != nil {
		return binding{}, err
	}
	if len(args) > 0 {
		return binding{}, hardErr(notImplemented, "binding arguments")
	}
	if x == nil {
		return binding{}, noExchange(exchange)
	}
	q, err := c.findQueue(name)
	if err != nil {
		return binding{}, err
	}
	return binding{x, q, key}, nil
}

func (ch *channel) queueBind(m *wire.QueueBind) error {
	b := ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	bd, err := ch.bindTarget(m.Queue, stripCRLF(m.Exchange), m.RoutingKey, m.Arguments)
	if err != nil {
		return err
	}
	if b.bindings >= b.limits.Bindings {
		return hardErr(resourceError, "too many bindings: the limit is %d", b.limits.Bindings)
	}
	b.bind(bd.x, bd.q, bd.key)
	ch.reply(m.NoWait, &wire.QueueBindOk{})
	return nil
}

func (ch *channel) queueUnbind(m *wire.QueueUnbind) error {
	b := ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	bd, err := ch.bindTarget(m.Queue, stripCRLF(m.Exchange), m.RoutingKey, m.Arguments)
	if e := asException(err); e != nil && e.code == notFound {
		err = nil // nothing to undo
	} else if err == nil {
		b.unbind(bd)
	}
	if err != nil {
		return err
	}
	ch.reply(false, &wire.QueueUnbindOk{})
	return nil
}

func (ch *channel) queuePurge(m *wire.QueuePurge) error {
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
	ch.reply(m.NoWait, &wire.QueuePurgeOk{MessageCount: uint32(q.purge())})
	return nil
}

func (ch *channel) queueDelete(m *wire.QueueDelete) error {
	c, b := ch.conn, ch.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	name, err := ch.queueName(m.Queue)
	if err != nil {
		return err
	}
	if err := c.mayQueue(c.perms.Configure, name); err != nil {
		return err
	}
	n := 0
	if b.queues[name] != nil {
		q, err := c.findQueue(name)
		if err != nil {
			return err
		}
		q.dropExpired()
		switch {
		case m.IfUnused && len(q.consumers) > 0:
			return softErr(preconditionFailed, "queue '%s' in vhost '/' in use", name)
		case m.IfEmpty && q.ready > 0:
			return softErr(preconditionFailed, "queue '%s' in vhost '/' not empty", name)
		}
		n = q.ready
		b.deleteQueue(q)
	}
	ch.reply(m.NoWait, &wire.QueueDeleteOk{MessageCount: uint32(n)})
	return nil
}
