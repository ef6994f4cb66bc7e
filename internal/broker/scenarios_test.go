package broker_test

import (
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var scenarios = map[string]func(e *env){
	"queue_declare":    queueDeclare,
	"exchange_declare": exchangeDeclare,
	"bind":             bindScenario,
	"login":            loginScenario,
	"exclusive":        exclusiveScenario,
	"auto_delete":      autoDelete,
	"delete":           deleteScenario,
	"publish":          publishScenario,
	"mandatory":        mandatory,
	"user_id":          userID,
	"expiration":       expiration,
	"x_expires":        xExpires,
	"requeue":          requeueScenario,
	"prefetch":         prefetch,
	"settle":           settleScenario,
	"consume":          consumeScenario,
	"cancel_notify":    cancelNotify,
	"permissions":      permissionsScenario,
	"topic_permission": topicPermission,
	"topic":            topicScenario,
}

func queueDeclare(e *env) {
	declare := func(what, name string, durable, autoDelete, exclusive bool, args amqp.Table) {
		q, err := e.ch().QueueDeclare(name, durable, autoDelete, exclusive, false, args)
		if err != nil {
			e.try(what, err)
			return
		}
		e.note("%s: messages=%d consumers=%d", what, q.Messages, q.Consumers)
	}
	declare("new", "declare.a", false, false, false, nil)
	e.text(e.ch(), "declare.a", "x", "y")
	declare("same", "declare.a", false, false, false, nil)
	declare("durable differs", "declare.a", true, false, false, nil)
	declare("auto-delete differs", "declare.a", false, true, false, nil)
	declare("exclusive differs", "declare.a", false, false, true, nil)
	declare("expires differs from none", "declare.a", false, false, false, amqp.Table{"x-expires": int32(60000)})
	declare("classic is the default", "declare.a", false, false, false, amqp.Table{"x-queue-type": "classic"})
	declare("unknown argument", "declare.a", false, false, false, amqp.Table{"x-gotrove": "1"})
	declare("ha-policy is ignored", "declare.ha", false, false, false, amqp.Table{"x-ha-policy": "all"})
	declare("ha-policy is not compared", "declare.ha", false, false, false, nil)

	declare("with expires", "declare.e", false, false, false, amqp.Table{"x-expires": int32(60000)})
	declare("same number of another width", "declare.e", false, false, false, amqp.Table{"x-expires": int64(60000)})
	declare("another number", "declare.e", false, false, false, amqp.Table{"x-expires": int32(60001)})
	declare("no expires", "declare.e", false, false, false, nil)
	for _, v := range []any{int32(0), int32(-1), "60000", int64(1) << 40} {
		declare(fmt.Sprintf("expires %T %v", v, v), "declare.f", false, false, false, amqp.Table{"x-expires": v})
	}
	declare("durable and all", "declare.d", true, true, false, amqp.Table{"x-expires": int32(60000)})
	declare("durable and all again", "declare.d", true, true, false, amqp.Table{"x-expires": int32(60000)})
	declare("reserved", "amq.mine", false, false, false, nil)

	q, err := e.ch().QueueDeclare("", false, false, true, false, nil)
	e.must(err)
	e.note("named by the broker: %s", random.ReplaceAllString(q.Name, "amq.$1-RANDOM"))
	_, err = e.ch().QueueDeclarePassive("declare.none", false, false, false, false, nil)
	e.try("passive, missing", err)
	q, err = e.ch().QueueDeclarePassive("declare.a", true, true, false, false, nil)
	e.try("passive, other flags", err)
	e.note("passive: messages=%d", q.Messages)
}

func exchangeDeclare(e *env) {
	declare := func(what, name, kind string, durable, autoDelete bool) {
		e.try(what, e.ch().ExchangeDeclare(name, kind, durable, autoDelete, false, false, nil))
	}
	declare("new", "x.a", "topic", false, false)
	declare("same", "x.a", "topic", false, false)
	declare("type differs", "x.a", "direct", false, false)
	declare("durable differs", "x.a", "topic", true, false)
	declare("auto-delete differs", "x.a", "topic", false, true)
	e.tryCode("unknown type", e.ch().ExchangeDeclare("x.b", "nonsense", false, false, false, false, nil))
	declare("default", "", "direct", true, false)
	declare("reserved", "amq.mine", "topic", false, false)
	declare("reserved but there", "amq.topic", "topic", true, false)
	declare("reserved, there, differs", "amq.topic", "topic", false, false)
	e.try("passive", e.ch().ExchangeDeclarePassive("x.a", "direct", true, true, false, false, nil))
	e.try("passive, missing", e.ch().ExchangeDeclarePassive("x.none", "topic", false, false, false, false, nil))
	e.try("passive, default", e.ch().ExchangeDeclarePassive("", "direct", false, false, false, false, nil))
	for _, name := range []string{"amq.direct", "amq.fanout", "amq.topic"} {
		e.try(name, e.ch().ExchangeDeclarePassive(name, "direct", false, false, false, false, nil))
	}
	e.try("delete amq.topic", e.ch().ExchangeDelete("amq.topic", false, false))
	e.try("delete default", e.ch().ExchangeDelete("", false, false))
	e.try("delete missing", e.ch().ExchangeDelete("x.none", false, false))
	e.queue(e.ch(), "x.q")
	e.must(e.ch().QueueBind("x.q", "k", "x.a", false, nil))
	e.try("delete, in use", e.ch().ExchangeDelete("x.a", true, false))
	e.try("delete", e.ch().ExchangeDelete("x.a", false, false))
	e.try("gone", e.ch().ExchangeDeclarePassive("x.a", "topic", false, false, false, false, nil))
}

func bindScenario(e *env) {
	e.queue(e.ch(), "bind.q")
	e.must(e.ch().ExchangeDeclare("bind.x", "direct", false, false, false, false, nil))
	bind := func(what, q, key, x string) { e.try(what, e.ch().QueueBind(q, key, x, false, nil)) }
	bind("new", "bind.q", "k", "bind.x")
	bind("again", "bind.q", "k", "bind.x")
	bind("no queue", "bind.none", "k", "bind.x")
	bind("no exchange", "bind.q", "k", "bind.none")
	bind("neither", "bind.none", "k", "bind.none.x")
	bind("default exchange", "bind.q", "k", "")
	bind("empty name, none declared", "", "k", "bind.x")
	ch := e.ch()
	e.queue(ch, "bind.last")
	e.try("the queue last declared", ch.QueueBind("", "", "bind.x", false, nil))
	e.publish(e.ch(), "bind.x", "bind.last", amqp.Publishing{Body: []byte("by its name")})
	e.get("bound with its name", ch, "")
	e.publish(e.ch(), "bind.x", "k", amqp.Publishing{Body: []byte("once")})
	e.get("bound twice", ch, "bind.q")
	e.get("bound twice", ch, "bind.q")
	unbind := func(what, q, key, x string) { e.try(what, e.ch().QueueUnbind(q, key, x, nil)) }
	unbind("unbind", "bind.q", "k", "bind.x")
	unbind("unbind again", "bind.q", "k", "bind.x")
	unbind("unbind, no queue", "bind.none", "k", "bind.x")
	unbind("unbind, no exchange", "bind.q", "k", "bind.none")
	unbind("unbind, default exchange", "bind.q", "k", "")
	e.publish(e.ch(), "bind.x", "k", amqp.Publishing{Body: []byte("nowhere")})
	e.get("unbound", ch, "bind.q")

	e.must(ch.ExchangeDeclare("bind.f", "fanout", false, false, false, false, nil))
	e.must(ch.QueueBind("bind.q", "a", "bind.f", false, nil))
	e.must(ch.QueueBind("bind.q", "b", "bind.f", false, nil))
	e.must(ch.QueueBind("bind.last", "", "bind.f", false, nil))
	e.publish(e.ch(), "bind.f", "whatever", amqp.Publishing{Body: []byte("all")})
	e.get("fanout", ch, "bind.q")
	e.get("fanout once", ch, "bind.q")
	e.get("fanout", ch, "bind.last")
}

func loginScenario(e *env) {
	for _, user := range []string{"admin", "unknown", ""} {
		_, err := e.dialAs(user, "wrong", "/")
		e.try("wrong password of "+user, err)
	}
	_, err := e.dialAs("admin", suitePassword("admin"), "nowhere")
	e.tryCode("unknown virtual host", err)
	c, err := e.dialAs("nobody", suitePassword("nobody"), "/")
	e.try("no rights", err)
	e.must(c.Close())
}

func exclusiveScenario(e *env) {
	owner, other := e.connect("admin"), e.connect("admin")
	_, err := e.channelOf(owner).QueueDeclare("excl.q", false, false, true, false, nil)
	e.must(err)
	_, err = e.channelOf(owner).QueueDeclare("excl.q", false, false, true, false, nil)
	e.try("owner again", err)
	_, err = e.channelOf(other).QueueDeclarePassive("excl.q", false, false, true, false, nil)
	e.try("passive", err)
	_, err = e.channelOf(other).QueueDeclare("excl.q", false, false, true, false, nil)
	e.try("declare", err)
	_, err = e.channelOf(other).Consume("excl.q", "", false, false, false, false, nil)
	e.try("consume", err)
	_, _, err = e.channelOf(other).Get("excl.q", true)
	e.try("get", err)
	_, err = e.channelOf(other).QueuePurge("excl.q", false)
	e.try("purge", err)
	_, err = e.channelOf(other).QueueDelete("excl.q", false, false, false)
	e.try("delete", err)
	e.try("bind", e.channelOf(other).QueueBind("excl.q", "k", "amq.direct", false, nil))
	e.text(e.channelOf(other), "excl.q", "anyone may send")
	e.get("owner", e.channelOf(owner), "excl.q")
	e.must(owner.Close())
	e.eventually("gone with its connection", func() bool { return !e.exists("excl.q") })
}

func autoDelete(e *env) {
	ch := e.ch()
	_, err := ch.QueueDeclare("auto.q", false, true, false, false, nil)
	e.must(err)
	e.note("without a consumer ever: %v", e.exists("auto.q"))
	e.consume(ch, "auto.q", "one")
	e.consume(ch, "auto.q", "two")
	e.must(ch.Cancel("one", false))
	e.note("with one left: %v", e.exists("auto.q"))
	e.must(ch.Cancel("two", false))
	e.eventually("gone with the last", func() bool { return !e.exists("auto.q") })

	_, err = ch.QueueDeclare("auto.c", false, true, false, false, nil)
	e.must(err)
	other := e.channelOf(e.connect("admin"))
	e.consume(other, "auto.c", "")
	e.must(other.Close())
	e.eventually("gone with the channel", func() bool { return !e.exists("auto.c") })

	hasExchange := func() bool {
		ch := e.ch()
		defer ch.Close()
		return ch.ExchangeDeclarePassive("auto.x", "fanout", false, false, false, false, nil) == nil
	}
	e.must(ch.ExchangeDeclare("auto.x", "fanout", false, true, false, false, nil))
	e.note("exchange without a binding ever: %v", hasExchange())
	e.queue(ch, "auto.a")
	e.queue(ch, "auto.b")
	e.must(ch.QueueBind("auto.a", "", "auto.x", false, nil))
	e.must(ch.QueueBind("auto.b", "", "auto.x", false, nil))
	e.must(ch.QueueUnbind("auto.a", "", "auto.x", nil))
	e.note("exchange with one left: %v", hasExchange())
	_, err = ch.QueueDelete("auto.b", false, false, false)
	e.must(err)
	e.eventually("exchange gone with the last queue", func() bool { return !hasExchange() })
}

func deleteScenario(e *env) {
	ch := e.ch()
	del := func(what, q string, ifUnused, ifEmpty bool) {
		n, err := e.ch().QueueDelete(q, ifUnused, ifEmpty, false)
		if err != nil {
			e.try(what, err)
			return
		}
		e.note("%s: %d", what, n)
	}
	del("missing", "delete.none", false, false)
	e.queue(ch, "delete.q")
	e.text(ch, "delete.q", "1", "2", "3")
	del("if empty", "delete.q", false, true)
	n, err := ch.QueuePurge("delete.q", false)
	e.must(err)
	e.note("purged %d", n)
	_, err = e.ch().QueuePurge("delete.none", false)
	e.try("purge missing", err)
	c := e.ch()
	e.consume(c, "delete.q", "")
	del("if unused", "delete.q", true, false)
	e.must(c.Close())
	e.text(ch, "delete.q", "4", "5")
	del("with messages", "delete.q", false, false)
	e.get("get after", ch, "delete.q")
}

func xExpires(e *env) {
	ch := e.ch()
	args := amqp.Table{"x-expires": int32(2000)}
	_, err := ch.QueueDeclare("xexp.idle", false, false, false, false, args)
	e.must(err)
	_, err = ch.QueueDeclare("xexp.used", false, false, false, false, args)
	e.must(err)
	ds := e.consume(ch, "xexp.used", "c")
	began := time.Now()
	// Watched without declaring it, which would renew its lease.
	e.must(ch.ExchangeDeclare("xexp.x", "fanout", false, true, false, false, nil))
	e.must(ch.QueueBind("xexp.idle", "", "xexp.x", false, nil))
	gone := func() bool {
		ch := e.ch()
		defer ch.Close()
		return ch.ExchangeDeclarePassive("xexp.x", "fanout", false, false, false, false, nil) != nil
	}
	e.eventually("unused goes", gone)
	if d := time.Since(began); d < 1900*time.Millisecond {
		e.Errorf("expired after %v, before its time", d)
	}
	e.text(ch, "xexp.used", "still there")
	e.next("consumed stays", ds)
	e.must(ch.ExchangeDeclare("xexp.x", "fanout", false, true, false, false, nil))
	e.must(ch.QueueBind("xexp.used", "", "xexp.x", false, nil))
	e.must(ch.Cancel("c", false))
	e.eventually("goes after its last consumer", gone)
}
