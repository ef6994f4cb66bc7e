package guestlogin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/secret"
)

// patience is how long anything may take on a loaded machine.
const patience = 60 * time.Second

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// world is a broker with a control plane's connection and what keeps logins.
type world struct {
	t      *testing.T
	keeper guestlogin.Keeper
	bus    *guestlogin.Bus
	conn   *amqp.Conn
	// control is the control plane's login.
	control string
	// raw connects with a login and nothing of ours in between.
	raw func(c guestlogin.Credentials) (*amqp091.Connection, error)
	api *guestlogin.Management // nil for the embedded broker
	url string                 // of the management API
}

// eachBroker runs f against a RabbitMQ and against the embedded broker.
func eachBroker(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("rabbitmq", func(t *testing.T) { f(t, rabbitWorld(t)) })
	t.Run("embedded", func(t *testing.T) { f(t, embeddedWorld(t)) })
}

var testKey = bytes.Repeat([]byte{7}, 32)

var rabbit struct {
	sync.Mutex
	server *rabbittest.Server
}

// server is one RabbitMQ for all tests of the package, on its first use.
func server(t *testing.T) *rabbittest.Server {
	t.Helper()
	rabbittest.Require(t)
	rabbit.Lock()
	defer rabbit.Unlock()
	if rabbit.server == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		s, err := rabbittest.Run(ctx, rabbitDir, rabbittest.Options{Management: true, VirtualHosts: []string{"other/+ host"}})
		if err != nil {
			t.Fatal(err)
		}
		rabbit.server = s
	}
	return rabbit.server
}

func management(t *testing.T, s *rabbittest.Server, vhost string) *guestlogin.Management {
	t.Helper()
	api, err := guestlogin.NewManagement(guestlogin.ManagementConfig{URLs: []string{s.ManagementURL()},
		User: rabbittest.AdminName, Password: secret.New(rabbittest.AdminPassword), VirtualHost: vhost, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	return api
}

func rabbitWorld(t *testing.T) *world {
	t.Helper()
	s := server(t)
	api := management(t, s, "/")
	p, err := guestlogin.NewPasswords(testKey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := guestlogin.NewRabbitMQ(api, p, guestlogin.Place{Exchange: "trove"}, s.URL())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, keeper: k, control: rabbittest.AdminName, api: api, url: s.ManagementURL()}
	w.raw = func(c guestlogin.Credentials) (*amqp091.Connection, error) {
		return amqp091.DialConfig(s.URLFor(c.Login, c.Password.Reveal()), amqp091.Config{Dial: amqp091.DefaultDial(30 * time.Second), Vhost: "/"})
	}
	w.connect(s.URL())
	return w
}

func embeddedWorld(t *testing.T) *world {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "bus.sock")
	l := guestlogin.New(testKey, guestlogin.Place{Exchange: "trove"}, socket)
	b := broker.New(broker.Options{Auth: l, Logger: quiet})
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serving := make(chan error, 1)
	go func() { serving <- b.Serve(context.Background(), listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = b.Shutdown(ctx)
		if err := <-serving; err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	})
	w := &world{t: t, keeper: l, control: guestlogin.ControlPlane}
	w.raw = func(c guestlogin.Credentials) (*amqp091.Connection, error) {
		return amqp091.DialConfig("amqp://localhost/", amqp091.Config{
			SASL: []amqp091.Authentication{&amqp091.PlainAuth{Username: c.Login, Password: c.Password.Reveal()}}, Vhost: "/",
			Heartbeat: 10 * time.Second, Dial: func(string, string) (net.Conn, error) { return net.DialTimeout("unix", socket, 30*time.Second) }})
	}
	w.connect(l.URL(guestlogin.ControlPlane).Reveal())
	w.bus = guestlogin.NewBus(l, guestlogin.NewTopology(w.conn, "trove", true), func(login string) { b.CloseConnections(login) })
	return w
}

// connect connects the control plane.
func (w *world) connect(url string) {
	w.t.Helper()
	conn, err := amqp.New(amqp.Config{URL: url, Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.closing(conn.Close)
	w.conn = conn
	w.bus = guestlogin.On(w.keeper, guestlogin.NewTopology(conn, "trove", true))
}

func (w *world) closing(f func(context.Context) error) {
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f(ctx); err != nil {
			w.t.Error(err)
		}
	})
}

// guest makes an instance's queues and login.
func (w *world) guest(id string, generation int) guestlogin.Credentials {
	w.t.Helper()
	if _, err := w.bus.EnsureGuest(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	c, err := w.keeper.Ensure(w.t.Context(), id, generation)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.bus.RemoveGuest(ctx, id, generation); err != nil {
			w.t.Error(err)
		}
	})
	return c
}

func (w *world) dial(c guestlogin.Credentials) *amqp091.Connection {
	w.t.Helper()
	conn, err := w.raw(c)
	if err != nil {
		w.t.Fatalf("login %s: %v", c.Login, err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refused waits until a login is refused, as it must be soon.
func (w *world) refused(c guestlogin.Credentials) {
	w.t.Helper()
	conn, err := w.raw(c)
	if err == nil {
		conn.Close()
		w.t.Errorf("the login %s is let in", c.Login)
		return
	}
	var e *amqp091.Error
	if !errors.As(err, &e) || e.Code != amqp091.AccessRefused {
		w.t.Errorf("the login %s is refused otherwise: %v", c.Login, err)
	}
}

// server starts an RPC server of the control plane.
func (w *world) server(h rpc.Handler, o rpc.ServerOptions) {
	w.t.Helper()
	o.Exchange, o.Log = "trove", quiet
	s := rpc.NewServer(w.conn, h, o)
	w.closing(s.Close)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// at is the address of a URL with a login.
func at(base, user, password string) string {
	u, _ := url.Parse(base)
	u.User = url.UserPassword(user, password)
	return u.String()
}

const adminName = rabbittest.AdminName

var adminPassword = secret.New(rabbittest.AdminPassword)
