// Package amqp keeps one connection to an AMQP 0-9-1 broker alive and
// publishes on it with the broker's confirm.
//
// A Conn has one supervisor that connects, and connects again, with a growing,
// jittered pause. What a user of it set up on a connection (channels, queues,
// consumers) is lost with it; the user sees the Session end, takes the next one
// and declares anew. The client library's own recovery is off.
//
// The package knows how oslo.messaging declares things, so that all agree; it
// does not know what is in a message.
package amqp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/trove"
)

const (
	heartbeat      = 60 * time.Second
	dialTimeout    = 10 * time.Second
	frameSize      = 131072
	firstPause     = 200 * time.Millisecond
	closeTimeout   = 5 * time.Second
	defaultMaxWait = 10 * time.Second
)

// Config says where the broker is and how to talk to it.
type Config struct {
	// URL is a transport URL; see parseURL's forms:
	// rabbit://user:password@host:port[,…]/vhost and
	// rabbit+unix://user:password@/vhost?socket=/path.
	URL string
	// Name shows in the broker's list of connections; empty is the program's.
	Name string
	// Login method: AMQPLAIN (the default) or PLAIN.
	LoginMethod string
	// TLS is used with an amqps URL or ssl=true; nil is the system's trust.
	TLS *tls.Config
	// Declare is the form of exchanges and queues.
	Declare Declarations
	// MaxPause bounds the pause between attempts to connect; 0 is 10 s.
	MaxPause time.Duration
	Log      *slog.Logger
}

// Conn is a connection that is made again when it is lost. It is safe for
// concurrent use and may serve any number of clients and servers.
type Conn struct {
	cfg    Config
	target target
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	session *Session
	lastErr error
	changed chan struct{} // closed and replaced when session changes
	closed  bool
}

// New checks cfg and starts to connect. It does not wait for the broker.
func New(cfg Config) (*Conn, error) {
	t, err := parseURL(cfg.URL)
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%w", err)
	}
	if err := cfg.Declare.validate(); err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%w", err)
	}
	switch cfg.LoginMethod {
	case "":
		cfg.LoginMethod = "AMQPLAIN"
	case "AMQPLAIN", "PLAIN":
	default:
		return nil, trove.Errorf(trove.KindBadRequest, "login method %q: want AMQPLAIN or PLAIN", cfg.LoginMethod)
	}
	if cfg.MaxPause <= 0 {
		cfg.MaxPause = defaultMaxWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(os.Args[0])
	}
	cfg.Name += ":" + strconv.Itoa(os.Getpid()) + ":" + rand.Text()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Conn{cfg: cfg, target: t, log: cfg.Log, stop: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	go c.supervise(ctx)
	return c, nil
}

// Declare is the form of exchanges and queues on this bus.
func (c *Conn) Declare() Declarations { return c.cfg.Declare }

// Login is the name this end logs in with. With several hosts in the URL it is
// that of the session in use.
func (c *Conn) Login() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		return c.session.login
	}
	return c.target.endpoints[0].login
}

// Ready waits until there is a connection. At ctx's end the error has
// KindUnavailable and tells why the last attempt failed.
func (c *Conn) Ready(ctx context.Context) error {
	_, err := c.Session(ctx)
	return err
}

// Session gives the connection in use, waiting for one until ctx ends, which is
// KindUnavailable, as is a closed Conn.
func (c *Conn) Session(ctx context.Context) (*Session, error) {
	for {
		c.mu.Lock()
		s, changed, closed, lastErr := c.session, c.changed, c.closed, c.lastErr
		c.mu.Unlock()
		switch {
		case closed:
			return nil, trove.Errorf(trove.KindUnavailable, "message bus: %w", amqp091.ErrClosed)
		case s != nil && !s.ended():
			return s, nil
		}
		// One that has ended is about to be replaced.
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, trove.Errorf(trove.KindUnavailable, "no connection to the message bus: %w", because(ctx.Err(), lastErr))
		}
	}
}

// Close ends the connection and waits, at most until ctx ends, for what it
// started. Users should have ended before.
func (c *Conn) Close(ctx context.Context) error {
	c.stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Conn) supervise(ctx context.Context) {
	defer close(c.done)
	defer c.set(nil, nil, true)
	var failures int
	for next := 0; ; next++ {
		e := c.target.endpoints[next%len(c.target.endpoints)]
		s, err := c.connect(ctx, e)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if failures == 0 {
				c.log.WarnContext(ctx, "message bus: cannot connect, trying on", "broker", e.String(), "error", err)
			}
			c.set(nil, err, false)
			failures++
			if !pause(ctx, backoff(failures, c.cfg.MaxPause)) {
				return
			}
			continue
		}
		c.log.InfoContext(ctx, "message bus: connected", "broker", e.String())
		failures = 0
		c.set(s, nil, false)
		select {
		case <-s.done:
			c.log.WarnContext(ctx, "message bus: connection lost", "broker", e.String(), "error", s.err)
			c.set(nil, s.err, false)
			s.close()
			failures = 1
			if !pause(ctx, backoff(1, c.cfg.MaxPause)) {
				return
			}
		case <-ctx.Done():
			s.close()
			return
		}
	}
}

func (c *Conn) set(s *Session, err error, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.closed = s, closed
	if err != nil {
		c.lastErr = err
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Conn) connect(ctx context.Context, e endpoint) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, e.network, e.address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	// The library takes it off when the handshake is done.
	if err := socket.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	unwatch := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	if c.target.tls {
		cfg := c.cfg.TLS.Clone()
		if cfg == nil {
			cfg = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if cfg.ServerName == "" {
			cfg.ServerName = e.serverName
		}
		socket = tls.Client(socket, cfg)
	}
	conn, err := amqp091.Open(socket, amqp091.Config{
		SASL:       []amqp091.Authentication{authentication(c.cfg.LoginMethod, e)},
		Vhost:      c.target.vhost,
		Heartbeat:  heartbeat,
		FrameSize:  frameSize,
		Locale:     "en_US",
		Properties: amqp091.Table{"product": "gotrove", "connection_name": c.cfg.Name},
	})
	if err != nil || !unwatch() {
		_ = socket.Close()
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w", e, err)
	}
	return newSession(c, conn, socket, e.login), nil
}

func authentication(method string, e endpoint) amqp091.Authentication {
	if method == "PLAIN" {
		return &amqp091.PlainAuth{Username: e.login, Password: e.password}
	}
	return &amqp091.AMQPlainAuth{Username: e.login, Password: e.password}
}

// backoff is the pause before attempt n+1: it doubles up to limit, and half of
// it is random so that clients do not come back all at once.
func backoff(n int, limit time.Duration) time.Duration {
	d := limit
	if n < 20 {
		d = min(limit, firstPause<<(n-1))
	}
	return d/2 + mathrand.N(d/2+1)
}

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
