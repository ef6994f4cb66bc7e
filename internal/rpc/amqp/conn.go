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
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

const (
	defaultHeartbeat = 60 * time.Second
	dialTimeout      = 10 * time.Second
	frameSize        = 131072
	firstPause       = 200 * time.Millisecond
	closeTimeout     = 5 * time.Second
	maxPause         = 10 * time.Second
	// unacknowledged is how long the kernel waits for the other end to
	// acknowledge what was sent: oslo.messaging's, for a network that is cut.
	unacknowledged = 18 * time.Second
)

// Config says where the broker is and how to talk to it.
type Config struct {
	// URL is a transport URL; see parseURL's forms:
	// rabbit://user:password@host:port[,…]/vhost and
	// rabbit+unix://user:password@/vhost?socket=/path.
	URL string
	// Name shows in the broker's list of connections; empty is the program's.
	Name string
	// Login method: AMQPLAIN (the default), PLAIN, or EXTERNAL, which is the
	// client's certificate.
	LoginMethod string
	// TLS is how to trust a broker and to be trusted; nil is the system's trust
	// and no certificate.
	TLS *tls.Config
	// UseTLS asks for TLS whatever the URL says, which asks for it too as amqps
	// or with ssl=true.
	UseTLS bool
	// Heartbeat is after how long a silent broker counts as dead, give or take
	// half of it; 0 is a minute. The broker's own value applies if it is lower.
	Heartbeat time.Duration
	// Shuffle tries several hosts in another order each time around.
	Shuffle bool
	// Declare is the form of exchanges and queues.
	Declare Declarations
	Retry   Retry
	Log     *slog.Logger
}

// Retry says how long to pause before another attempt to connect or publish.
// Half of each pause is random, so that clients do not come back all at once.
type Retry struct {
	First time.Duration // the first pause; 0 is 200 ms
	Step  time.Duration // by which it grows each time; 0 doubles it
	Max   time.Duration // 0 is 10 s
	// Lost is the pause after a connection is lost, 0 is First, and Splay at
	// most is added to it at random.
	Lost, Splay time.Duration
}

// Conn is a connection that is made again when it is lost. It is safe for
// concurrent use and may serve any number of clients and servers.
type Conn struct {
	cfg    Config
	target target
	log    *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	session  *Session
	lastErr  error
	changed  chan struct{} // closed and replaced when session changes
	watchers []chan struct{}
	closed   bool
	logins   uint64
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
	case "AMQPLAIN", "PLAIN", external:
	default:
		return nil, trove.Errorf(trove.KindBadRequest, "login method %q: want AMQPLAIN, PLAIN or EXTERNAL", cfg.LoginMethod)
	}
	cfg.Heartbeat = cmp.Or(max(0, cfg.Heartbeat), defaultHeartbeat)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Name == "" {
		cfg.Name = filepath.Base(os.Args[0])
	}
	cfg.Name += ":" + strconv.Itoa(os.Getpid()) + ":" + rand.Text()
	ctx, cancel := context.WithCancel(context.Background())
	t.tls = t.tls || cfg.UseTLS
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
	hosts := slices.Clone(c.target.endpoints)
	for next, failures := 0, 0; ; next++ {
		if next == len(hosts) {
			next = 0
			if c.cfg.Shuffle {
				shuffle(hosts)
			}
		}
		e := hosts[next]
		s, err := c.connect(ctx, e)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if failures < len(hosts) {
				c.log.WarnContext(ctx, "message bus: cannot connect, trying on", "broker", e.String(), "error", err)
			}
			c.set(nil, err, false)
			failures++
			// All hosts are tried before the pause.
			if failures%len(hosts) == 0 && !pause(ctx, c.cfg.Retry.pause(failures/len(hosts))) {
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
			if !pause(ctx, c.cfg.Retry.afterLoss()) {
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
	if s != nil {
		c.logins++
		for _, w := range c.watchers {
			signal(w)
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one that is not yet taken tells as much
	}
}

// Connected gives a channel of the caller's own that gets a signal after each
// login, the one in use included. A broker that was away may have forgotten
// what it had confirmed: whoever keeps a record of that sends it again.
func (c *Conn) Connected() <-chan struct{} {
	w := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = append(c.watchers, w)
	if c.session != nil {
		signal(w)
	}
	return w
}

// State is what Conn.State tells.
type State struct {
	Connected bool
	Blocked   bool   // the broker takes no messages
	Logins    uint64 // since New; the first is no reconnect
}

// State tells how the connection is now.
func (c *Conn) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{Logins: c.logins}
	if c.session != nil && !c.session.ended() {
		s.Connected, s.Blocked = true, c.session.blocked.Load() != nil
	}
	return s
}

// Check tells, without waiting, whether messages can be published now. If not,
// the error, of KindUnavailable, says whether there is no connection, and why,
// or the broker takes no messages, and why.
func (c *Conn) Check() error {
	c.mu.Lock()
	s, lastErr := c.session, c.lastErr
	c.mu.Unlock()
	if s == nil || s.ended() {
		return trove.Errorf(trove.KindUnavailable, "no connection to the message bus: %w", cmp.Or(lastErr, errNotYet))
	}
	if b := s.blocked.Load(); b != nil {
		return trove.Errorf(trove.KindUnavailable, "%w", b)
	}
	return nil
}

func (c *Conn) connect(ctx context.Context, e endpoint) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	socket, err := (&net.Dialer{Control: giveUpOnSilence}).DialContext(ctx, e.network, e.address)
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
		Heartbeat:  c.cfg.Heartbeat,
		FrameSize:  frameSize,
		Locale:     "en_US",
		Properties: amqp091.Table{"product": "gotrove", "connection_name": c.cfg.Name},
	})
	if err != nil || !unwatch() {
		_ = socket.Close()
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, &unopened{e, err}
	}
	login := e.login
	if c.cfg.LoginMethod == external {
		login = "" // the broker takes it from the certificate
	}
	return newSession(c, conn, socket, login), nil
}

// giveUpOnSilence ends a TCP connection whose other end does not acknowledge
// what was sent; the heartbeat would find out later.
func giveUpOnSilence(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	outer := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	})
	return errors.Join(outer, err)
}

const external = "EXTERNAL"

func authentication(method string, e endpoint) amqp091.Authentication {
	switch method {
	case "PLAIN":
		return &amqp091.PlainAuth{Username: e.login, Password: e.password}
	case external:
		return &amqp091.ExternalAuth{}
	default:
		return &amqp091.AMQPlainAuth{Username: e.login, Password: e.password}
	}
}

// pause is that after n failures in a row, at least 1.
func (r Retry) pause(n int) time.Duration {
	d, limit := cmp.Or(r.First, firstPause), cmp.Or(r.Max, maxPause)
	switch {
	case r.Step > 0:
		d += time.Duration(min(n-1, 1000)) * r.Step
	case n < 20:
		d <<= n - 1
	default:
		d = limit
	}
	return partlyRandom(min(d, limit))
}

func (r Retry) afterLoss() time.Duration {
	return partlyRandom(cmp.Or(r.Lost, r.First, firstPause)) + mathrand.N(r.Splay+1)
}

func partlyRandom(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }

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
