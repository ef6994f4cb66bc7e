package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned by Serve after Shutdown.
var ErrClosed = errors.New("broker is closed")

// Broker is the whole of it: exchanges, queues, connections. Its one mutex
// guards all routing state; nothing blocks while it is held, so a slow client
// never holds up another.
type Broker struct {
	opt    Options
	limits Limits
	log    *slog.Logger

	mu        sync.Mutex
	exchanges map[string]*exchange
	queues    map[string]*queue
	bindings  int
	bytes     int64
	routing   uint64
	routed    []*queue // scratch of the publish under way
	conns     map[*conn]struct{}
	perUser   map[string]int
	nextConn  uint64
	listeners map[net.Listener]struct{}
	closed    bool

	partial atomic.Int64   // bytes of messages being received
	running sync.WaitGroup // connections
}

// New makes a broker without listeners.
func New(opt Options) *Broker {
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	b := &Broker{
		opt: opt, limits: opt.Limits.withDefaults(), log: opt.Logger,
		exchanges: map[string]*exchange{}, queues: map[string]*queue{},
		conns: map[*conn]struct{}{}, perUser: map[string]int{},
		listeners: map[net.Listener]struct{}{},
	}
	for _, kind := range []string{kindDirect, kindTopic, kindFanout} {
		x := newExchange("amq."+kind, kind)
		x.durable = true
		b.exchanges[x.name] = x
	}
	return b
}

// Serve accepts connections on l, TCP or unix, until ctx ends or the broker is
// shut down, closes l and returns. It may be called for several listeners. Open
// connections stay until Shutdown. The error is nil when ctx ended, ErrClosed
// after Shutdown, or that of the listener.
func (b *Broker) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.listeners[l] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.listeners, l)
		b.mu.Unlock()
	}()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()

	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			b.accept(nc)
			continue
		case ctx.Err() != nil:
			return nil
		case b.isClosed():
			return ErrClosed
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of file descriptors, most likely: others will be closed.
		b.log.Warn("accept failed", "address", l.Addr().String(), "cause", err.Error())
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, time.Second)
	}
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *Broker) accept(nc net.Conn) {
	b.mu.Lock()
	if b.closed || len(b.conns) >= b.limits.Connections {
		closed := b.closed
		b.mu.Unlock()
		if !closed {
			b.log.Warn("connection refused: limit reached", "limit", b.limits.Connections)
		}
		_ = nc.Close()
		return
	}
	b.nextConn++
	c := newConn(b, nc, b.nextConn)
	b.conns[c] = struct{}{}
	b.running.Add(1)
	b.mu.Unlock()
	go func() {
		defer b.running.Done()
		defer func() {
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		}()
		c.serve()
	}()
}

// connected enters a logged in connection.
func (b *Broker) connected(c *conn) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.perUser[c.user]; n >= b.limits.ConnectionsPerUser {
		return hardErr(notAllowed, "access to vhost '/' refused for user '%s': connection limit (%d) is reached", c.user, n)
	}
	b.perUser[c.user]++
	c.opened = true
	return nil
}

// disconnected takes c off again. b.mu is held.
func (b *Broker) disconnected(c *conn) {
	if !c.opened {
		return
	}
	c.opened = false
	if b.perUser[c.user]--; b.perUser[c.user] == 0 {
		delete(b.perUser, c.user)
	}
}

// CloseConnections ends all connections of a login, also those still in their
// handshake, and returns their number. It does not wait. Take the login from
// the Authenticator first, or it comes back.
func (b *Broker) CloseConnections(user string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for c := range b.conns {
		if c.user == user {
			c.forceClose("login removed")
			n++
		}
	}
	return n
}

// Shutdown closes listeners and connections and waits for their end. When ctx
// ends first, connections are cut and its error is returned.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	for l := range b.listeners {
		_ = l.Close()
	}
	for c := range b.conns {
		c.forceClose("shutdown")
	}
	b.mu.Unlock()

	done := make(chan struct{})
	go func() {
		b.running.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("broker: connections cut at shutdown: %w", ctx.Err())
		b.mu.Lock()
		for c := range b.conns {
			_ = c.nc.Close()
		}
		b.mu.Unlock()
		<-done
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range b.queues {
		b.deleteQueue(q)
	}
	return err
}
