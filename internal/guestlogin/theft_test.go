package guestlogin_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

var rabbitDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "guestlogin")
	if err != nil {
		panic(err)
	}
	rabbitDir = dir
	code := m.Run()
	if rabbit.server != nil {
		rabbit.server.Stop()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// message is a request as a thief writes it.
func message(method string, args map[string]any) amqp091.Publishing {
	raw := map[string]json.RawMessage{}
	for k, v := range args {
		raw[k], _ = json.Marshal(v)
	}
	body, err := wire.EncodeRequest(wire.Request{Method: method, Version: "1.0", Args: raw, UniqueID: trove.NewID()})
	if err != nil {
		panic(err)
	}
	return amqp091.Publishing{ContentType: wire.ContentType, ContentEncoding: wire.ContentEncoding, Body: body, Headers: amqp091.Table{}}
}

// TestStolenLogin tries everything that a thief of ann's login could want.
func TestStolenLogin(t *testing.T) {
	eachBroker(t, func(t *testing.T, w *world) {
		stolen := w.guest(ann, 0)
		w.guest(bob, 0)
		bobs, anns := guest.Queues(bob)[0], guest.Queues(ann)[0]

		// What must stay as it is: queues with one message each.
		control := w.dial(w.controlPlane())
		setup, err := control.Channel()
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"taskmanager", "victim_fanout_1"} {
			if _, err := setup.QueueDeclare(q, false, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := setup.ExchangeDeclare("victim_fanout", "fanout", false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		for q, x := range map[string]string{"taskmanager": "trove", "victim_fanout_1": "victim_fanout"} {
			if err := setup.QueueBind(q, q, x, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		victims := []string{"taskmanager", "victim_fanout_1", bobs}
		for _, q := range victims {
			if err := setup.PublishWithContext(t.Context(), "", q, true, false, message("mine", nil)); err != nil {
				t.Fatal(err)
			}
		}

		thief := w.dial(stolen)
		evil := message("delete_instance", map[string]any{"instance_id": bob})
		publish := func(exchange, key string) func(ch *amqp091.Channel) error {
			return func(ch *amqp091.Channel) error {
				return ch.PublishWithContext(t.Context(), exchange, key, false, false, evil)
			}
		}
		for what, attack := range map[string]func(ch *amqp091.Channel) error{
			"consume another guest's queue": func(ch *amqp091.Channel) error {
				_, err := ch.Consume(bobs, "", false, false, false, false, nil)
				return err
			},
			"get from another guest's queue": func(ch *amqp091.Channel) error {
				_, _, err := ch.Get(bobs, true)
				return err
			},
			"consume the task manager's queue": func(ch *amqp091.Channel) error {
				_, err := ch.Consume("taskmanager", "", true, false, false, false, nil)
				return err
			},
			"publish to another guest by the default exchange":    publish("", bobs),
			"publish to the task manager by the default exchange": publish("", "taskmanager"),
			"publish to its own queue by the default exchange":    publish("", anns),
			"answer directly":                         publish("", "amq.rabbitmq.reply-to.abc"),
			"publish to another guest":                publish("trove", bobs),
			"publish to its own queue":                publish("trove", anns),
			"cast to the task manager":                publish("trove", "taskmanager"),
			"cast to one task manager":                publish("trove", "taskmanager.host"),
			"a key that only begins right":            publish("trove", "trove-conductor.host"),
			"a key with a newline at its end":         publish("trove", "trove-conductor\n"),
			"publish to a fanout":                     publish("victim_fanout", ""),
			"publish to a predefined exchange":        publish("amq.topic", "taskmanager"),
			"publish a trace":                         publish("amq.rabbitmq.trace", "publish.trove"),
			"answer in place of another guest":        publish("trove_reply", bob+".reply_0123456789abcdef"),
			"answer to what is no queue of replies":   publish("trove_reply", ann+".taskmanager"),
			"answer to several by a key with a point": publish("trove_reply", ann+".reply_0.x"),
			"speak with another guest's user_id": func(ch *amqp091.Channel) error {
				m := message("heartbeat", nil)
				m.UserId = guestlogin.Name(bob)
				return ch.PublishWithContext(t.Context(), "trove", "trove-conductor", false, false, m)
			},
			"speak with the control plane's user_id": func(ch *amqp091.Channel) error {
				m := message("heartbeat", nil)
				m.UserId = w.control
				return ch.PublishWithContext(t.Context(), "trove", "trove-conductor", false, false, m)
			},
			"publish in a transaction": func(ch *amqp091.Channel) error {
				if err := ch.Tx(); err != nil {
					return err
				}
				if err := ch.PublishWithContext(t.Context(), "trove", "taskmanager", false, false, evil); err != nil {
					return err
				}
				return ch.TxCommit()
			},
			"declare a queue": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare("thief", false, false, false, false, nil)
				return err
			},
			"declare a queue that the broker names": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare("", false, true, true, false, nil)
				return err
			},
			"declare its own queue with a dead letter exchange": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDeclare(anns, false, false, false, false, amqp091.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": bobs})
				return err
			},
			"declare an exchange": func(ch *amqp091.Channel) error {
				return ch.ExchangeDeclare("thief", "fanout", false, false, false, false, nil)
			},
			"declare an exchange with an alternate": func(ch *amqp091.Channel) error {
				return ch.ExchangeDeclare("trove", "topic", false, false, false, false, amqp091.Table{"alternate-exchange": "victim_fanout"})
			},
			"bind its queue to the task manager's key": func(ch *amqp091.Channel) error {
				return ch.QueueBind(anns, "taskmanager", "trove", false, nil)
			},
			"bind its queue to everything": func(ch *amqp091.Channel) error {
				return ch.QueueBind(anns, "#", "trove", false, nil)
			},
			"bind its queue to replies": func(ch *amqp091.Channel) error {
				return ch.QueueBind(anns, "#", "trove_reply", false, nil)
			},
			"bind its queue to a fanout": func(ch *amqp091.Channel) error {
				return ch.QueueBind(anns, "", "victim_fanout", false, nil)
			},
			"bind its queue to the trace": func(ch *amqp091.Channel) error {
				return ch.QueueBind(anns, "#", "amq.rabbitmq.trace", false, nil)
			},
			"bind another's queue": func(ch *amqp091.Channel) error {
				return ch.QueueBind(bobs, "trove-conductor", "trove", false, nil)
			},
			"unbind another's queue": func(ch *amqp091.Channel) error {
				return ch.QueueUnbind(bobs, bobs, "trove", nil)
			},
			"bind an exchange": func(ch *amqp091.Channel) error {
				return ch.ExchangeBind("trove_reply", "#", "trove", false, nil)
			},
			"delete another's queue": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDelete(bobs, false, false, false)
				return err
			},
			"delete its own queue": func(ch *amqp091.Channel) error {
				_, err := ch.QueueDelete(anns, false, false, false)
				return err
			},
			"purge another's queue": func(ch *amqp091.Channel) error {
				_, err := ch.QueuePurge(bobs, false)
				return err
			},
			"delete the control exchange": func(ch *amqp091.Channel) error {
				return ch.ExchangeDelete("trove", false, false)
			},
		} {
			if err := w.attempt(thief, stolen, attack); err == nil {
				t.Errorf("a stolen login can: %s", what)
			} else if e, ok := errors.AsType[*amqp091.Error](err); !ok || !slices.Contains([]int{amqp091.AccessRefused, amqp091.PreconditionFailed, amqp091.NotImplemented}, e.Code) {
				t.Errorf("%s: refused otherwise than expected: %v", what, err)
			}
		}
		// What docs/operator/guest-logins.md says it still can.
		err = w.attempt(thief, stolen, func(ch *amqp091.Channel) error {
			if _, err := ch.QueueDeclarePassive(bobs, false, false, false, false, nil); err != nil {
				return err
			}
			_, err := ch.QueuePurge(anns, false)
			return err
		})
		if w.api != nil && err != nil {
			t.Errorf("counting another's messages and emptying its own queue: %v", err)
		}
		for _, q := range victims {
			left, err := setup.QueueDeclarePassive(q, false, false, false, false, nil)
			if err != nil || left.Messages != 1 {
				t.Errorf("queue %s: %d messages, error %v", q, left.Messages, err)
			}
			if _, err := setup.QueuePurge(q, false); err != nil {
				t.Error(err)
			}
		}
		if own, err := setup.QueueDeclarePassive(anns, false, false, false, false, nil); err != nil || own.Messages != 0 {
			t.Errorf("the thief's own queue: %d messages, error %v", own.Messages, err)
		}
		for _, q := range []string{"taskmanager", "victim_fanout_1"} {
			if _, err := setup.QueueDelete(q, false, false, false); err != nil {
				t.Error(err)
			}
		}
	})
}

// attempt tries an attack on a channel of its own and gives the broker's error,
// nil if there was none. Publishing is confirmed, so that a refusal has come.
func (w *world) attempt(thief *amqp091.Connection, c guestlogin.Credentials, attack func(*amqp091.Channel) error) error {
	w.t.Helper()
	if thief.IsClosed() { // by an attack before, of which the broker thinks worse
		thief = w.dial(c)
	}
	ch, err := thief.Channel()
	if err != nil {
		w.t.Fatal(err)
	}
	defer ch.Close()
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	if err = attack(ch); err == nil {
		// An answer to this one comes after any refusal of what was published.
		err = ch.Qos(1, 0, false)
	}
	if errors.Is(err, amqp091.ErrClosed) {
		err = next(w.t, closed)
	}
	return err
}

func (w *world) controlPlane() guestlogin.Credentials {
	if l, ok := w.keeper.(*guestlogin.Logins); ok {
		c := guestlogin.Credentials{Login: guestlogin.ControlPlane}
		p, _ := guestlogin.NewPasswords(testKey)
		c.Password, c.TransportURL = p.Of(c.Login), l.URL(c.Login)
		return c
	}
	return guestlogin.Credentials{Login: adminName, Password: adminPassword}
}

// TestSpeakingAsAnother: what a thief may publish is believed by nobody.
func TestSpeakingAsAnother(t *testing.T) {
	eachBroker(t, func(t *testing.T, w *world) {
		stolen := w.guest(ann, 1)
		w.guest(bob, 0)
		w.guest(carol, 0)
		thief := w.dial(stolen)
		ch, err := thief.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		send := func(exchange, key string, m amqp091.Publishing) {
			t.Helper()
			c, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, key, false, false, m)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if ok, err := c.WaitContext(ctx); !ok || err != nil {
				t.Fatalf("%s %s: confirmed %v, %v", exchange, key, ok, err)
			}
		}

		// The conductor hears who the broker says it was.
		heard := make(chan string, 16)
		w.server(rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			id, limited := guestlogin.Senders(w.control)(in.Sender)
			heard <- in.Method + " " + id + " " + map[bool]string{true: "limited", false: "any"}[limited]
			return nil, nil
		}), rpc.ServerOptions{Topic: conductor.Topic})
		own := message("named", map[string]any{"instance_id": bob})
		own.UserId = stolen.Login
		send("trove", conductor.Topic, own)
		send("trove", conductor.Topic, message("unnamed", map[string]any{"instance_id": bob}))
		for _, want := range []string{"named " + ann + " limited", "unnamed  limited"} {
			if got := next(t, heard); got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
		}

		// RabbitMQ before 3.13 routes by the header CC without looking at topic
		// permissions. Servers that take from the control plane only must not
		// be reached.
		reached, arrived := make(chan string, 16), make(chan string, 16)
		only := guest.FromControlPlane(rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			reached <- in.Method
			return nil, nil
		}), false, quiet)
		watched := rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
			arrived <- in.Method + " of " + in.Sender
			return only.Handle(ctx, in)
		})
		w.server(watched, rpc.ServerOptions{Topic: "taskmanager"})
		w.server(watched, rpc.ServerOptions{Topic: guest.Topic(carol), Server: carol})
		for _, user := range []string{"", stolen.Login} {
			m := message("delete_instance", map[string]any{"instance_id": bob})
			m.UserId = user
			m.Headers = amqp091.Table{"CC": []any{"taskmanager", guest.Topic(carol)}, "BCC": []any{"taskmanager", guest.Topic(carol)}}
			send("trove", conductor.Topic, m)
			if got := next(t, heard); !strings.HasPrefix(got, "delete_instance") {
				t.Errorf("heard %q", got)
			}
		}

		// A call to bob, answered by the thief under all names he can use.
		client := rpc.NewClient(w.conn, rpc.ClientOptions{Exchange: "trove", ReplyExchange: guestlogin.ReplyExchange("trove"), Log: quiet})
		w.closing(client.Close)
		asked := make(chan struct{})
		forge := make(chan struct{})
		w.server(rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
			close(asked)
			select {
			case <-forge:
			case <-ctx.Done():
			}
			return "from bob", nil
		}), rpc.ServerOptions{Topic: "guestagent." + bob, Server: bob, ReplyExchange: guestlogin.ReplyExchange("trove"), ReplyPrefix: bob})
		spy := w.spy(guest.Topic(bob))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var answer string
		var calling sync.WaitGroup
		calling.Go(func() {
			if err := client.Call(ctx, rpc.Message{Topic: guest.Topic(bob), Method: "ping", Version: "1.0"}, &answer); err != nil {
				t.Error(err)
			}
		})
		request := next(t, spy) // the thief knows the ids: the worst case
		forged, err := wire.EncodeReply(wire.Reply{MsgID: request.MsgID, UniqueID: trove.NewID(), Ending: true, Result: json.RawMessage(`"from the thief"`)})
		if err != nil {
			t.Fatal(err)
		}
		reply := amqp091.Publishing{ContentType: wire.ContentType, ContentEncoding: wire.ContentEncoding, Body: forged, Headers: amqp091.Table{}}
		send("trove_reply", ann+"."+request.ReplyQueue, reply)
		reply.Headers = amqp091.Table{"CC": []any{bob + "." + request.ReplyQueue}}
		send("trove_reply", ann+"."+request.ReplyQueue, reply)
		close(forge)
		calling.Wait()
		if answer != "from bob" {
			t.Errorf("the answer is %q", answer)
		}

		// Ours does reach both.
		for _, topic := range []string{"taskmanager", guest.Topic(carol)} {
			if err := client.Cast(ctx, rpc.Message{Topic: topic, Method: "ours", Version: "1.0"}); err != nil {
				t.Fatal(err)
			}
			if got := next(t, reached); got != "ours" {
				t.Errorf("%s was reached by %q", topic, got)
			}
		}
		next(t, asked)
		for len(arrived) > 0 {
			t.Logf("arrived, and went no further unless it is ours: %s", <-arrived)
		}
	})
}

// spy shows the requests to a topic to someone who may read everything.
func (w *world) spy(topic string) <-chan wire.Request {
	w.t.Helper()
	conn := w.dial(w.controlPlane())
	ch, err := conn.Channel()
	if err != nil {
		w.t.Fatal(err)
	}
	q, err := ch.QueueDeclare("spy_"+trove.NewID(), false, true, true, false, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, topic, "trove", false, nil); err != nil {
		w.t.Fatal(err)
	}
	in, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	out := make(chan wire.Request, 16)
	go func() {
		defer close(out)
		for d := range in {
			if r, err := wire.DecodeRequest(d.Body, 0); err == nil {
				out <- r
			}
		}
	}()
	return out
}

func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// TestLoginGoesWithItsInstance: login, queues and open connections are gone
// after a removal, and older generations alone where only they are removed.
func TestLoginGoesWithItsInstance(t *testing.T) {
	eachBroker(t, func(t *testing.T, w *world) {
		first := w.guest(ann, 0)
		second := w.guest(ann, 1)
		if again := w.guest(ann, 1); again != second {
			t.Error("made again it is another")
		}
		if first.Password == second.Password || first.Login == second.Login {
			t.Error("a generation like the one before")
		}
		old, current := w.dial(first), w.dial(second)
		oldClosed := old.NotifyClose(make(chan *amqp091.Error, 1))
		closed := current.NotifyClose(make(chan *amqp091.Error, 1))
		if err := w.bus.RemoveLogins(t.Context(), ann, 1); err != nil {
			t.Fatal(err)
		}
		next(t, oldClosed)
		w.refused(first)
		if current.IsClosed() {
			t.Error("the connection of the login that stays was closed")
		}
		w.dial(second)
		for range 2 { // a second time is no error
			if err := w.bus.RemoveGuest(t.Context(), ann, 1); err != nil {
				t.Fatal(err)
			}
		}
		next(t, closed)
		w.refused(second)
		control, err := w.dial(w.controlPlane()).Channel()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := control.QueueDeclarePassive(guest.Queues(ann)[0], false, false, false, false, nil); err == nil {
			t.Errorf("the queue is still there: %+v", q)
		}
	})
}

// An agent's way to work, with exactly its rights.
func TestAgentWorksWithItsRights(t *testing.T) {
	eachBroker(t, func(t *testing.T, w *world) {
		c := w.guest(ann, 1)
		client := rpc.NewClient(w.conn, rpc.ClientOptions{Exchange: "trove", ReplyExchange: guestlogin.ReplyExchange("trove"), Log: quiet})
		w.closing(client.Close)
		heard := make(chan string, 1)
		w.server(rpc.HandlerFunc(func(_ context.Context, in *rpc.Incoming) (any, error) {
			heard <- in.Sender
			return nil, nil
		}), rpc.ServerOptions{Topic: conductor.Topic})

		conn, err := amqp.New(amqp.Config{URL: c.TransportURL.Reveal(), Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		w.closing(conn.Close)
		agent := rpc.NewServer(conn, rpc.HandlerFunc(func(context.Context, *rpc.Incoming) (any, error) { return true, nil }),
			rpc.ServerOptions{Exchange: "trove", Topic: guest.Topic(ann), Server: ann, Passive: true,
				ReplyExchange: guestlogin.ReplyExchange("trove"), ReplyPrefix: ann, Log: quiet})
		w.closing(agent.Close)
		out := rpc.NewClient(conn, rpc.ClientOptions{Exchange: "trove", Passive: true, Log: quiet})
		w.closing(out.Close)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		// Before it comes, and when it is there, both sides can be seen.
		seen := func(id string, want guest.Presence) {
			t.Helper()
			for {
				p, err := w.bus.Seen(ctx, id, 1)
				if err != nil {
					t.Fatal(err)
				}
				listens := p.Connections == nil || (*p.Connections > 0) == (want.Consumers > 0)
				p.Connections = nil
				if p == want && listens {
					return
				}
				select {
				case <-time.After(50 * time.Millisecond): // RabbitMQ counts connections a little later
				case <-ctx.Done():
					t.Fatalf("the bus shows %+v, want %+v", p, want)
				}
			}
		}
		seen(carol, guest.Presence{})
		if err := agent.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		seen(ann, guest.Presence{Queue: true, Consumers: 1})
		if err := guest.NewClient(client, patience, patience).Ping(ctx, ann); err != nil {
			t.Error(err)
		}
		if err := out.Cast(ctx, rpc.Message{Topic: conductor.Topic, Method: "heartbeat", Version: "1.0"}); err != nil {
			t.Error(err)
		}
		if got := next(t, heard); got != c.Login {
			t.Errorf("the conductor heard %q", got)
		}
	})
}

// A login of a guest's has no business in the management API, nor in another
// virtual host.
func TestStolenLoginElsewhere(t *testing.T) {
	w := rabbitWorld(t)
	c := w.guest(ann, 0)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at(w.url, c.Login, c.Password.Reveal())+"/api/overview", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("the management API answers a guest: %s", answer.Status)
	}
	conn, err := amqp091.DialConfig(server(t).URLFor(c.Login, c.Password.Reveal()), amqp091.Config{Vhost: "other/+ host", Dial: amqp091.DefaultDial(patience)})
	if err == nil {
		conn.Close()
		t.Error("a guest may connect to another virtual host")
	}
}

// TestFlood: a thief cannot use up the connections of a broker that all share.
func TestFlood(t *testing.T) {
	eachBroker(t, func(t *testing.T, w *world) {
		stolen := w.guest(ann, 0)
		const far = 300 // the embedded broker has a limit of its own
		var err error
		for n := 0; err == nil; n++ {
			if n == far {
				t.Fatalf("%d connections of one guest", n)
			}
			var c *amqp091.Connection
			if c, err = w.raw(stolen); err == nil {
				defer c.Close()
				// A connection that is opened counts: it has a channel.
				_, err = c.Channel()
			}
		}
		t.Log(err)
		w.dial(w.controlPlane())
	})
}
