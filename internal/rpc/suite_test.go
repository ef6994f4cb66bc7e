package rpc_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gotrove/gotrove/internal/broker"
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

// endpoint is a broker under test: how to reach it as the control plane and as
// the guest.
type endpoint struct {
	url, guestURL string
	tcpURL        string // for Python, which knows no unix sockets
}

// eachBroker runs f against every broker the bus may run on.
func eachBroker(t *testing.T, f func(t *testing.T, b endpoint)) {
	t.Helper()
	t.Run("rabbitmq", func(t *testing.T) { f(t, rabbit.get(t)) })
	t.Run("embedded", func(t *testing.T) { f(t, embedded(t)) })
}

// logins of the embedded broker.
type logins struct{}

func (logins) Login(user, password string) (broker.Permissions, error) {
	switch {
	case user == rabbittest.AdminName && password == rabbittest.AdminPassword:
		return broker.All(), nil
	case user == guestLogin.Name && password == guestLogin.Password:
		topics := map[string]*regexp.Regexp{}
		for exchange, keys := range guestLogin.Topics {
			topics[exchange] = regexp.MustCompile(keys)
		}
		return broker.Permissions{
			Configure: regexp.MustCompile(guestLogin.Configure), Write: regexp.MustCompile(guestLogin.Write),
			Read: regexp.MustCompile(guestLogin.Read), TopicWrite: topics,
		}, nil
	}
	return broker.Permissions{}, broker.ErrRefused
}

// embedded is a broker of our own, reached by a unix socket where the client
// can.
func embedded(t testing.TB) endpoint {
	t.Helper()
	b := broker.New(broker.Options{Auth: logins{}, Logger: logOf(t)})
	socket := filepath.Join(socketDir(t), "s")
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	listen := func(network, address string) net.Addr {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		serving.Go(func() {
			if err := b.Serve(ctx, l); err != nil && !errors.Is(err, broker.ErrClosed) {
				t.Errorf("broker: %v", err)
			}
		})
		return l.Addr()
	}
	listen("unix", socket)
	tcp := listen("tcp", "127.0.0.1:0").String()
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("broker: %v", err)
		}
		serving.Wait()
	})
	unix := func(user, password string) string {
		return "rabbit+unix://" + url.UserPassword(user, password).String() + "@/?socket=" + url.QueryEscape(socket)
	}
	return endpoint{
		url:      unix(rabbittest.AdminName, rabbittest.AdminPassword),
		guestURL: unix(guestLogin.Name, guestLogin.Password),
		tcpURL:   "amqp://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + tcp + "/",
	}
}

// rabbit is one RabbitMQ for all tests of the package: it takes seconds to start.
var rabbit shared

type shared struct {
	once   sync.Once
	dir    string
	server *rabbittest.Server
	err    error
}

func (s *shared) get(t testing.TB) endpoint {
	t.Helper()
	rabbittest.Require(t)
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "gotrove-rabbit-"); s.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		s.server, s.err = rabbittest.Run(ctx, s.dir, rabbittest.Options{
			Logins: []rabbittest.Login{guestLogin}, VirtualHosts: virtualHosts(), Management: true,
		})
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return endpoint{s.server.URL(), s.server.URLFor(guestLogin.Name, guestLogin.Password), s.server.URL()}
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

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// closing closes c at the end of the test, in the reverse order of creation.
func closing(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func connect(t testing.TB, url string) *amqp.Conn {
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

func newClient(t testing.TB, c *amqp.Conn) *rpc.Client {
	t.Helper()
	cl := rpc.NewClient(c, rpc.ClientOptions{Exchange: exchange, ReplyExchange: replyExchange, Log: logOf(t)})
	closing(t, cl)
	return cl
}

func newServer(t testing.TB, c *amqp.Conn, h rpc.Handler, o rpc.ServerOptions) *rpc.Server {
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

func logOf(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// until gives up the test when what does not happen in time.
func until[T any](t testing.TB, c <-chan T, what string) T {
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
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gtr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
