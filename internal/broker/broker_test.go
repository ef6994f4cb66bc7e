package broker_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/gotrove/gotrove/internal/broker"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logins is an Authenticator over a map: user to password and permissions.
type logins map[string]login

type login struct {
	password string
	perms    broker.Permissions
}

func (l logins) Login(user, password string) (broker.Permissions, error) {
	if u, ok := l[user]; ok && u.password == password {
		return u.perms, nil
	}
	return broker.Permissions{}, broker.ErrRefused
}

// start runs a broker for the test and returns its address.
func start(t testing.TB, opt broker.Options) (*broker.Broker, string) {
	t.Helper()
	if opt.Auth == nil {
		opt.Auth = logins{"guest": {"guest", broker.All()}}
	}
	opt.Logger = slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := broker.New(opt)
	done := make(chan error, 1)
	go func() { done <- b.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != broker.ErrClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
	return b, l.Addr().String()
}

func dial(t testing.TB, addr, user, password string) *amqp.Connection {
	t.Helper()
	c, err := amqp.DialConfig("amqp://"+user+":"+password+"@"+addr+"/", amqp.Config{Heartbeat: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestSmoke(t *testing.T) {
	b, addr := start(t, broker.Options{})
	c := dial(t, addr, "guest", "guest")
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("trove", "topic", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", false, false, false, false, amqp.Table{"x-expires": int32(60000)}); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("q", "a.*", "trove", false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	ds, err := ch.Consume("q", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conf, err := ch.PublishWithDeferredConfirmWithContext(ctx, "trove", "a.b", true, false, amqp.Publishing{
		Headers: amqp.Table{"k": "v"}, Body: make([]byte, 300_000), UserId: "guest", Expiration: "60000",
	})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := conf.WaitContext(ctx); !ok || err != nil {
		t.Fatal(ok, err)
	}
	select {
	case d := <-ds:
		if len(d.Body) != 300_000 || d.Headers["k"] != "v" {
			t.Fatal("delivered something else")
		}
		if err := d.Ack(false); err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("nothing delivered")
	}
	if qs := b.Queues(); len(qs) != 1 || qs[0].Consumers != 1 {
		t.Fatalf("queues: %+v", qs)
	}
}

// waitFor polls for a state that nothing signals.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
