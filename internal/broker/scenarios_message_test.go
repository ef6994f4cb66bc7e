package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func publishScenario(e *env) {
	send := func(ch *amqp.Channel, x string, immediate bool, p amqp.Publishing) func() error {
		return func() error { return ch.PublishWithContext(e.wait(), x, "publish.q", false, immediate, p) }
	}
	ch := e.ch()
	e.lost("no exchange", ch, send(ch, "publish.none", false, amqp.Publishing{}))
	ch = e.ch()
	e.lost("immediate", ch, send(ch, "", true, amqp.Publishing{}))
	for _, exp := range []string{"soon", "-1", "1.5", "99999999999999", " 5", ""} {
		ch = e.ch()
		if exp == "" {
			continue // the client leaves an empty one out
		}
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		e.must(send(ch, "", false, amqp.Publishing{Expiration: exp})())
		var err error
		select {
		case a := <-closed:
			err = a
		case <-e.wait().Done():
			err = errors.New("accepted")
		}
		e.tryCode("expiration '"+exp+"'", err)
	}
	ch = e.ch()
	e.queue(ch, "publish.q")
	e.publish(ch, "", "publish.q", amqp.Publishing{
		Headers:     amqp.Table{"n": int32(1), "t": amqp.Table{"x": "y"}, "b": true, "v": nil, "a": []any{int64(1), "two"}},
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 2, Priority: 3, CorrelationId: "c",
		ReplyTo: "r", MessageId: "m", Timestamp: time.Unix(1, 0), Type: "t", AppId: "a", Body: []byte("whole"),
	})
	d, _, err := ch.Get("publish.q", true)
	e.must(err)
	e.note("%v %s %s %d %d %s %s %s %d %s %s %s", d.Headers, d.ContentType, d.ContentEncoding, d.DeliveryMode, d.Priority,
		d.CorrelationId, d.ReplyTo, d.MessageId, d.Timestamp.Unix(), d.Type, d.AppId, d.Body)
	for _, n := range []int{0, 1, 131072 - 8, 131072, 5 << 20} {
		e.publish(ch, "", "publish.q", amqp.Publishing{Body: []byte(strings.Repeat("x", n))})
		d, _, err := ch.Get("publish.q", true)
		e.must(err)
		e.note("body of %d: %d", n, len(d.Body))
	}
}

func mandatory(e *env) {
	ch := e.ch()
	e.queue(ch, "mand.q")
	e.must(ch.Confirm(false))
	returns := ch.NotifyReturn(make(chan amqp.Return, 4))
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 4))
	for _, key := range []string{"mand.none", "mand.q", "mand.none"} {
		e.must(ch.PublishWithContext(e.wait(), "", key, true, false, amqp.Publishing{Body: []byte(key), ContentType: "text/plain"}))
	}
	e.must(ch.PublishWithContext(e.wait(), "amq.topic", "nobody", false, false, amqp.Publishing{}))
	acks := map[uint64]bool{}
	for range 4 {
		select {
		case c := <-confirms:
			acks[c.DeliveryTag] = c.Ack
		case <-e.wait().Done():
			e.Fatal("not confirmed")
		}
	}
	e.note("acks: %v", acks)
	for range 2 {
		select {
		case r := <-returns:
			e.note("returned: %d %s exchange=%q key=%s type=%s %s", r.ReplyCode, r.ReplyText, r.Exchange, r.RoutingKey, r.ContentType, r.Body)
		default:
			e.note("not returned before its confirm")
		}
	}
	e.note("more returned: %d", len(returns))
}

func userID(e *env) {
	ch := e.ch()
	e.queue(ch, "uid.q")
	e.publish(ch, "", "uid.q", amqp.Publishing{UserId: "admin", Body: []byte("x")})
	d, _, err := ch.Get("uid.q", true)
	e.must(err)
	e.note("own: %s", d.UserId)
	e.lost("of another", ch, func() error {
		return ch.PublishWithContext(e.wait(), "", "uid.q", false, false, amqp.Publishing{UserId: "nobody"})
	})
}

func expiration(e *env) {
	ch := e.ch()
	e.queue(ch, "ttl.q")
	exp := func(ms, body string) { e.publish(ch, "", "ttl.q", amqp.Publishing{Expiration: ms, Body: []byte(body)}) }
	exp("0", "at once")
	e.get("0 without a consumer", ch, "ttl.q")
	count := func() int {
		q, err := ch.QueueDeclarePassive("ttl.q", false, false, false, false, nil)
		e.must(err)
		return q.Messages
	}
	exp("100", "short")
	e.eventually("expires unasked", func() bool { return count() == 0 })
	exp("600000", "long")
	e.get("not yet", ch, "ttl.q")
	ds := e.consume(ch, "ttl.q", "c")
	exp("0", "to who waits")
	d := e.next("0 with a consumer", ds)
	e.note("expiration is passed on: %s", d.Expiration)
	e.must(d.Ack(false))
	exp("50", "held")
	d = e.next("delivered in time", ds)
	e.must(ch.Cancel("c", false))
	timer := time.NewTimer(200 * time.Millisecond) // until its time is over while we hold it
	<-timer.C
	e.must(d.Nack(false, true))
	e.eventually("requeued after its time it goes", func() bool { return count() == 0 })
	e.get("nothing", ch, "ttl.q")
}

func requeueScenario(e *env) {
	ch := e.ch()
	e.queue(ch, "rq.q")
	e.text(ch, "rq.q", "1", "2", "3", "4", "5", "6")
	c := e.ch()
	e.must(c.Qos(4, 0, false))
	ds := e.consume(c, "rq.q", "")
	var held []amqp.Delivery
	for range 4 {
		held = append(held, e.next("first", ds))
	}
	e.must(held[2].Ack(false))
	e.next("room for one", ds)
	e.must(held[1].Reject(false))
	e.next("room for another", ds)
	e.must(c.Close())
	for range 5 {
		e.get("after close", ch, "rq.q")
	}

	e.text(ch, "rq.q", "a", "b", "c", "d")
	var got []amqp.Delivery
	for range 3 {
		d, _, err := ch.Get("rq.q", false)
		e.must(err)
		got = append(got, d)
	}
	e.must(got[1].Nack(true, true))
	for range 3 {
		e.get("after nack multiple", ch, "rq.q")
	}
	e.must(got[2].Nack(false, true))
	e.get("last", ch, "rq.q")

	e.text(ch, "rq.q", "r", "s")
	r := e.ch()
	ds = e.consume(r, "rq.q", "")
	e.next("before recover", ds)
	e.next("before recover", ds)
	e.must(r.Recover(true)) //lint:ignore SA1019 what is deprecated is still in the protocol
	e.next("recovered", ds)
	e.next("recovered", ds)
}

func prefetch(e *env) {
	ch := e.ch()
	e.queue(ch, "pf.q")
	e.text(ch, "pf.q", "1", "2", "3", "4", "5", "6", "7", "8")
	c := e.ch()
	e.must(c.Qos(2, 0, false))
	a := e.consume(c, "pf.q", "a")
	one := e.next("a", a)
	two := e.next("a", a)
	e.idle("a is full", c, a)
	b := e.consume(c, "pf.q", "b")
	e.next("b has its own", b)
	e.next("b has its own", b)
	e.must(two.Ack(true))
	e.next("a after multiple", a)
	e.next("a after multiple", a)
	_ = one
	e.must(c.Close())

	c = e.ch()
	e.must(c.Qos(3, 0, true))
	a = e.consume(c, "pf.q", "a")
	first := e.next("global", a)
	e.next("global", a)
	e.next("global", a)
	b = e.consume(c, "pf.q", "b")
	e.idle("global is shared", c, b)
	e.idle("global is shared", c, a)
	e.must(first.Ack(false))
	select {
	case d := <-a:
		e.note("one more: %s", d.Body)
	case d := <-b:
		e.note("one more: %s", d.Body)
	case <-e.wait().Done():
		e.Fatal("no more after an ack")
	}
	e.tryCode("prefetch size", e.ch().Qos(1, 1, false))
}

func settleScenario(e *env) {
	ch := e.ch()
	e.queue(ch, "set.q")
	e.text(ch, "set.q", "1", "2", "3", "4")
	c := e.ch()
	e.lost("unknown tag", c, func() error { return c.Ack(1, false) })
	c = e.ch()
	e.lost("unknown tag, multiple", c, func() error { return c.Ack(7, true) })
	c = e.ch()
	e.lost("unknown tag, reject", c, func() error { return c.Reject(7, true) })
	c = e.ch()
	e.must(c.Ack(0, true))
	ds := e.consume(c, "set.q", "")
	for range 4 {
		e.next("delivered", ds)
	}
	e.must(c.Ack(2, true))
	e.lost("twice", c, func() error { return c.Ack(2, false) })
	e.get("the rest is back", ch, "set.q")
	e.get("the rest is back", ch, "set.q")
	e.get("and no more", ch, "set.q")
}

func consumeScenario(e *env) {
	ch := e.ch()
	e.queue(ch, "con.q")
	_, err := e.ch().Consume("con.none", "", false, false, false, false, nil)
	e.try("no queue", err)
	_, _, err = e.ch().Get("con.none", false)
	e.try("get, no queue", err)
	a := e.consume(ch, "con.q", "a")
	b := e.consume(ch, "con.q", "b")
	for _, body := range []string{"1", "2", "3", "4"} {
		e.text(ch, "con.q", body)
	}
	e.next("a", a)
	e.next("b", b)
	e.next("a", a)
	e.next("b", b)
	_, err = e.ch().Consume("con.q", "x", false, true, false, false, nil)
	e.try("exclusive beside others", err)
	e.try("cancel unknown", e.ch().Cancel("nobody", false))
	e.must(ch.Cancel("a", false))
	e.must(ch.Cancel("b", false))
	e.must(ch.Ack(4, true))
	x, err := ch.Consume("con.q", "x", true, true, false, false, nil)
	e.must(err)
	_, err = e.ch().Consume("con.q", "y", false, false, false, false, nil)
	e.try("beside an exclusive", err)
	e.text(ch, "con.q", "5")
	d := e.next("without acks", x)
	e.lost("ack of no-ack", ch, func() error { return d.Ack(false) })
	e.get("gone", e.ch(), "con.q")
}

func cancelNotify(e *env) {
	ch := e.ch()
	e.queue(ch, "cn.q")
	c := e.ch()
	cancelled := c.NotifyCancel(make(chan string, 1))
	ds := e.consume(c, "cn.q", "tag")
	e.text(ch, "cn.q", "held")
	d := e.next("before", ds)
	_, err := ch.QueueDelete("cn.q", false, false, false)
	e.must(err)
	select {
	case tag := <-cancelled:
		e.note("cancelled: %s", tag)
	case <-e.wait().Done():
		e.Fatal("not cancelled")
	}
	e.must(d.Ack(false))
	e.queue(c, "cn.after") // the channel lives
	e.note("channel closed: %v", c.IsClosed())
}

func permissionsScenario(e *env) {
	admin := e.ch()
	for _, q := range []string{"conf.q", "wr.q", "rd.q", "both.q", "none.q"} {
		e.queue(admin, q)
	}
	for _, x := range []string{"conf.x", "wr.x", "rd.x", "both.x", "none.x"} {
		e.must(admin.ExchangeDeclare(x, "topic", false, false, false, false, nil))
	}
	c := e.connect("limited")
	ch := func() *amqp.Channel { return e.channelOf(c) }
	declare := func(q string) {
		_, err := ch().QueueDeclare(q, false, false, false, false, nil)
		e.try("declare "+q, err)
	}
	declare("conf.q")
	declare("conf.new")
	declare("rd.q")
	declare("")
	_, err := ch().QueueDeclarePassive("none.q", false, false, false, false, nil)
	e.try("passive queue", err)
	e.try("passive exchange", ch().ExchangeDeclarePassive("none.x", "topic", false, false, false, false, nil))
	e.try("declare conf.x", ch().ExchangeDeclare("conf.x", "topic", false, false, false, false, nil))
	e.try("declare none.x", ch().ExchangeDeclare("none.x", "topic", false, false, false, false, nil))
	e.try("delete exchange none.x", ch().ExchangeDelete("none.x", false, false))
	e.try("delete exchange none.missing", ch().ExchangeDelete("none.missing", false, false))
	_, err = ch().QueueDelete("rd.q", false, false, false)
	e.try("delete rd.q", err)
	_, err = ch().QueueDelete("conf.new", false, false, false)
	e.try("delete conf.new", err)
	for _, b := range [][2]string{{"wr.q", "rd.x"}, {"rd.q", "rd.x"}, {"wr.q", "wr.x"}, {"both.q", "both.x"}, {"none.q", "none.x"}, {"none.missing", "rd.missing"}, {"wr.missing", "rd.missing"}} {
		e.try("bind "+b[0]+" to "+b[1], ch().QueueBind(b[0], "k", b[1], false, nil))
		e.try("unbind "+b[0]+" from "+b[1], ch().QueueUnbind(b[0], "k", b[1], nil))
	}
	for _, q := range []string{"rd.q", "wr.q", "both.q", "none.missing"} {
		_, err := ch().QueuePurge(q, false)
		e.try("purge "+q, err)
		_, _, err = ch().Get(q, true)
		e.try("get "+q, err)
		_, err = ch().Consume(q, "", true, false, false, false, nil)
		e.try("consume "+q, err)
	}
	for _, x := range []string{"rd.x", "none.missing", "wr.missing", ""} {
		p := ch()
		e.lost("publish to '"+x+"'", p, func() error {
			return p.PublishWithContext(e.wait(), x, "both.q", false, false, amqp.Publishing{})
		})
	}
	e.publish(ch(), "wr.x", "k", amqp.Publishing{})
	e.note("publish to wr.x: ok")
}

func topicPermission(e *env) {
	admin := e.ch()
	e.must(admin.ExchangeDeclare("bus", "topic", false, false, false, false, nil))
	e.queue(admin, "agent.1")
	e.must(admin.QueueBind("agent.1", "#", "bus", false, nil))
	c := e.connect("agent")
	ok := e.channelOf(c)
	e.publish(ok, "bus", "1.reply_ab12", amqp.Publishing{Body: []byte("mine"), UserId: "agent"})
	e.get("own key", ok, "agent.1")
	for _, key := range []string{"2.reply_ab12", "1.reply_xyz", "1.reply_ab.c", "", "x1.reply_ab"} {
		ch := e.channelOf(c)
		e.lost("key '"+key+"'", ch, func() error {
			return ch.PublishWithContext(e.wait(), "bus", key, false, false, amqp.Publishing{})
		})
	}
	e.try("passive", e.channelOf(c).ExchangeDeclarePassive("bus", "topic", false, false, false, false, nil))
	_, err := e.channelOf(c).QueueDeclare("reply_1", false, false, false, false, nil)
	e.try("declare", err)
	_, err = e.channelOf(c).Consume("agent.2", "", false, false, false, false, nil)
	e.try("another's queue", err)
	ch := e.channelOf(c)
	e.lost("default exchange", ch, func() error {
		return ch.PublishWithContext(e.wait(), "", "agent.1", false, false, amqp.Publishing{})
	})
}

func topicScenario(e *env) {
	patterns := []string{
		"", "#", "*", "a", "a.b", "a.*", "*.b", "a.#", "#.b", "#.#", "*.*", "*.#", "#.*", "a.#.b", "a.*.b", "#.a.#", "a..b",
		"*.*.#", "#.a.b", "a#", "*a", ".", "#.*.#.b.#", "a.#.#.c", "A",
	}
	keys := []string{
		"", "a", "b", "a.b", "b.a", "a.b.c", "a.a.b", "a.c.b", "a.x.y.b", "a..b", ".", "..", "a.", ".a", ".b", "a#", "*", "#",
		"a.*", "A", "a.b.a.b", "c.a.b.c", "a.x.y.c",
	}
	ch := e.ch()
	e.must(ch.ExchangeDeclare("topics", "topic", false, false, false, false, nil))
	for i, p := range patterns {
		q := fmt.Sprintf("topics.%d", i)
		e.queue(ch, q)
		e.must(ch.QueueBind(q, p, "topics", false, nil))
	}
	for _, k := range keys {
		e.publish(ch, "topics", k, amqp.Publishing{Body: []byte(k)})
	}
	for i, p := range patterns {
		var got []string
		for {
			d, ok, err := ch.Get(fmt.Sprintf("topics.%d", i), true)
			e.must(err)
			if !ok {
				break
			}
			got = append(got, string(d.Body))
		}
		e.note("%q: %q", p, got)
	}
}
