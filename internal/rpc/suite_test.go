package rpc_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

const (
	exchange      = "trove"
	replyExchange = "trove_reply"
	guestID       = "8f5c3d9e-guest"
	patience      = 60 * time.Second
)

// guestLogin has the rights of a guest agent and no more.
var guestLogin = rabbittest.Login{
	Name: guestID, Password: "guest p@ss/%", Configure: "^$",
	Read:  "^guestagent\\." + guestID + "(\\." + guestID + ")?$",
	Write: "^(trove|trove_reply)$",
	Topics: map[string]string{
		exchange:      "^trove-conductor$",
		replyExchange: "^" + guestID + "\\.reply_[0-9a-f]+$",
	},
}

// broker is a broker under test: how to reach it as the control plane and as
// the guest.
type broker struct {
	url, guestURL string
	tcpURL        string // for Python, which knows no unix sockets
}

// eachBroker runs f against every broker the bus may run on.
func eachBroker(t *testing.T, f func(t *testing.T, b broker)) {
	t.Helper()
	t.Run("rabbitmq", func(t *testing.T) { f(t, rabbit.get(t)) })
}

// rabbit is one RabbitMQ for all tests of the package: it takes seconds to start.
var rabbit shared

type shared struct {
	once   sync.Once
	dir    string
	server *rabbittest.Server
	err    error
}

func (s *shared) get(t *testing.T) broker {
	t.Helper()
	rabbittest.Require(t)
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "gotrove-rabbit-"); s.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		s.server, s.err = rabbittest.Run(ctx, s.dir, guestLogin)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return broker{s.server.URL(), s.server.URLFor(guestLogin.Name, guestLogin.Password), s.server.URL()}
}

func (s *shared) stop() {
	if s.server != nil {
		s.server.Stop()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	rabbit.stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			slog.Error("goroutines left", "error", err)
			code = 1
		}
	}
	os.Exit(code)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// closing closes c at the end of the test, in the reverse order of creation.
func closing(t *testing.T, c interface{ Close(context.Context) error }) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func connect(t *testing.T, url string) *amqp.Conn {
	t.Helper()
	c, err := amqp.New(amqp.Config{URL: url, Name: t.Name(), Log: logOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	closing(t, c)
	if err := c.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func newClient(t *testing.T, c *amqp.Conn) *rpc.Client {
	t.Helper()
	cl := rpc.NewClient(c, rpc.ClientOptions{Exchange: exchange, ReplyExchange: replyExchange, Log: logOf(t)})
	closing(t, cl)
	return cl
}

func newServer(t *testing.T, c *amqp.Conn, h rpc.Handler, o rpc.ServerOptions) *rpc.Server {
	t.Helper()
	if o.Exchange == "" {
		o.Exchange = exchange
	}
	o.Log = logOf(t)
	s := rpc.NewServer(c, h, o)
	closing(t, s)
	if err := s.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func logOf(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// until gives up the test when what does not happen in time.
func until[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-within(t).Done():
		t.Fatal("in vain: " + what)
		panic("unreachable")
	}
}

// socketDir is a directory of a name short enough for a socket in it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gtr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
