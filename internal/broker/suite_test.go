package broker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

var update = flag.Bool("update", false, "write the golden transcripts from what RabbitMQ does")

// The suite plays scenarios against our broker and against RabbitMQ and notes
// what the client sees. The golden transcripts in testdata/suite are written
// from RabbitMQ (go test -run Suite -update); both must reproduce them.

// suiteLogin is a login both brokers know.
type suiteLogin struct {
	configure, write, read string
	topicWrite             map[string]string
}

var suiteLogins = map[string]suiteLogin{
	"admin":   {".*", ".*", ".*", nil},
	"nobody":  {"", "", "", nil},
	"limited": {"^conf", "^(wr|both)", "^(rd|both)", nil},
	"agent":   {"", "^bus$", "^agent\\.1$", map[string]string{"bus": `^1\.reply_[0-9a-f]+$`}},
}

func suitePassword(user string) string { return user + "-password" }

// ours starts our broker with the logins of the suite.
func ours(t *testing.T) string {
	all := logins{}
	for name, l := range suiteLogins {
		p := broker.Permissions{
			Configure: regexp.MustCompile(l.configure), Write: regexp.MustCompile(l.write), Read: regexp.MustCompile(l.read),
		}
		for x, re := range l.topicWrite {
			if p.TopicWrite == nil {
				p.TopicWrite = map[string]*regexp.Regexp{}
			}
			p.TopicWrite[x] = regexp.MustCompile(re)
		}
		all[name] = login{suitePassword(name), p}
	}
	_, addr := start(t, broker.Options{Auth: all})
	return addr
}

func rabbit(t *testing.T) string {
	var ls []rabbittest.Login
	for name, l := range suiteLogins {
		ls = append(ls, rabbittest.Login{
			Name: name, Password: suitePassword(name), Configure: l.configure, Write: l.write, Read: l.read, Topics: l.topicWrite,
		})
	}
	return rabbittest.Start(t, ls...).Addr()
}

func TestSuite(t *testing.T) {
	t.Run("ours", func(t *testing.T) { playAll(t, ours(t), false) })
	t.Run("rabbitmq", func(t *testing.T) { playAll(t, rabbit(t), *update) })
	if *update {
		t.Run("ours again", func(t *testing.T) { playAll(t, ours(t), false) })
	}
}

func playAll(t *testing.T, addr string, write bool) {
	for name, play := range scenarios {
		t.Run(name, func(t *testing.T) {
			e := &env{T: t, addr: addr}
			play(e)
			got := strings.Join(e.notes, "\n") + "\n"
			golden := filepath.Join("testdata", "suite", name+".golden")
			if write {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil && !*update {
				t.Fatal(err)
			}
			if got != string(want) && !*update {
				t.Errorf("differs from %s:\n%s", golden, diff(string(want), got))
			}
		})
	}
}

// diff shows the lines that differ.
func diff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var x, y string
		if i < len(w) {
			x = w[i]
		}
		if i < len(g) {
			y = g[i]
		}
		if x != y {
			fmt.Fprintf(&b, "line %d\n  want %s\n  got  %s\n", i+1, x, y)
		}
	}
	return b.String()
}

// env is one scenario under way.
type env struct {
	*testing.T
	addr  string
	notes []string
	admin *amqp.Connection
}

func (e *env) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

var random = regexp.MustCompile(`amq\.(gen|ctag)-[A-Za-z0-9_-]+`)

// describe is an error as the transcript has it.
func describe(err error) string {
	if err == nil {
		return "ok"
	}
	if a, ok := errors.AsType[*amqp.Error](err); ok {
		return random.ReplaceAllString(fmt.Sprintf("%d %s", a.Code, a.Reason), "amq.$1-RANDOM")
	}
	return err.Error()
}

func (e *env) try(what string, err error) { e.note("%s: %s", what, describe(err)) }

// tryCode notes the code alone, where the text is not worth copying.
func (e *env) tryCode(what string, err error) {
	if a, ok := errors.AsType[*amqp.Error](err); ok {
		e.note("%s: %d", what, a.Code)
		return
	}
	e.try(what, err)
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) dialAs(user, password, vhost string) (*amqp.Connection, error) {
	// The default dialer's deadline is the handshake's, short on a busy machine.
	return amqp.DialConfig("amqp://"+e.addr, amqp.Config{
		SASL:  []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: password}},
		Vhost: vhost, Heartbeat: patience,
		Dial: func(network, addr string) (net.Conn, error) {
			c, err := net.DialTimeout(network, addr, patience)
			if err == nil {
				err = c.SetDeadline(time.Now().Add(2 * patience))
			}
			return c, err
		},
	})
}

// connect opens a connection that ends with the scenario.
func (e *env) connect(user string) *amqp.Connection {
	e.Helper()
	c, err := e.dialAs(user, suitePassword(user), "/")
	e.must(err)
	e.Cleanup(func() { _ = c.Close() })
	return c
}

// channelOf opens a channel.
func (e *env) channelOf(c *amqp.Connection) *amqp.Channel {
	e.Helper()
	ch, err := c.Channel()
	e.must(err)
	return ch
}

// ch opens a channel of the administrator, on a new connection if an error
// closed the last.
func (e *env) ch() *amqp.Channel {
	e.Helper()
	if e.admin == nil || e.admin.IsClosed() {
		e.admin = e.connect("admin")
	}
	return e.channelOf(e.admin)
}

// queue declares a plain queue for the scenario.
func (e *env) queue(ch *amqp.Channel, name string) {
	e.Helper()
	_, err := ch.QueueDeclare(name, false, false, false, false, nil)
	e.must(err)
}

func (e *env) wait() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	e.Cleanup(cancel)
	return ctx
}

// publish publishes and waits until the broker confirmed; ch is put into
// confirm mode.
func (e *env) publish(ch *amqp.Channel, exchange, key string, p amqp.Publishing) {
	e.Helper()
	e.must(ch.Confirm(false))
	ctx := e.wait()
	conf, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, false, false, p)
	e.must(err)
	ok, err := conf.WaitContext(ctx)
	e.must(err)
	if !ok {
		e.Fatal("publish was not acknowledged")
	}
}

func (e *env) text(ch *amqp.Channel, queue string, bodies ...string) {
	e.Helper()
	for _, b := range bodies {
		e.publish(ch, "", queue, amqp.Publishing{Body: []byte(b)})
	}
}

// lost waits for the error that closes ch.
func (e *env) lost(what string, ch *amqp.Channel, act func() error) {
	e.Helper()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	e.must(act())
	select {
	case err := <-closed:
		e.try(what, err)
	case <-e.wait().Done():
		e.Fatalf("%s: channel was not closed", what)
	}
}

// next notes one delivery.
func (e *env) next(what string, ds <-chan amqp.Delivery) amqp.Delivery {
	e.Helper()
	select {
	case d, ok := <-ds:
		if !ok {
			e.note("%s: end", what)
			return d
		}
		again := ""
		if d.Redelivered {
			again = " again"
		}
		e.note("%s: %s%s", what, d.Body, again)
		return d
	case <-e.wait().Done():
		e.Fatalf("%s: nothing was delivered", what)
		return amqp.Delivery{}
	}
}

// idle notes that nothing is delivered: whatever the broker has sent is read
// when a later method of the same channel was answered.
func (e *env) idle(what string, ch *amqp.Channel, ds <-chan amqp.Delivery) {
	e.Helper()
	name := fmt.Sprintf("idle.%d", time.Now().UnixNano())
	e.queue(ch, name)
	_, err := ch.QueueDelete(name, false, false, false)
	e.must(err)
	select {
	case d := <-ds:
		e.note("%s: %s", what, d.Body)
	default:
		e.note("%s: nothing", what)
	}
}

func (e *env) consume(ch *amqp.Channel, queue, tag string) <-chan amqp.Delivery {
	e.Helper()
	ds, err := ch.Consume(queue, tag, false, false, false, false, nil)
	e.must(err)
	return ds
}

// get notes what basic.get gives, acknowledged.
func (e *env) get(what string, ch *amqp.Channel, queue string) {
	e.Helper()
	d, ok, err := ch.Get(queue, true)
	switch {
	case err != nil:
		e.try(what, err)
	case !ok:
		e.note("%s: empty", what)
	default:
		e.note("%s: %s redelivered=%v left=%d", what, d.Body, d.Redelivered, d.MessageCount)
	}
}

// eventually waits for a state of the broker that nothing signals.
func (e *env) eventually(what string, ok func() bool) {
	e.Helper()
	waitFor(e.T, what, ok)
	e.note("%s: yes", what)
}

// exists asks on a channel of its own, which a 404 closes.
func (e *env) exists(queue string) bool {
	e.Helper()
	ch := e.ch()
	defer ch.Close()
	_, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
	return err == nil
}
