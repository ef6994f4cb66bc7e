package guest

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/guest"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// admitWait bounds the wait for a broker's word about new credentials;
	// RabbitMQ takes three seconds to refuse.
	admitWait = 30 * time.Second
	// tryAgain is how long after a refusal new credentials are tried again.
	tryAgain = 20 * time.Second
	// lateKey is how long the key before still opens what was sealed with it:
	// longer than the control plane uses one without looking.
	lateKey = 5 * time.Minute
)

// link is the agent's place on the bus under one pair of login and key.
type link struct {
	used   guestapi.Credentials
	conn   *amqp.Conn
	client *rpc.Client
	keys   *keyring.Agent
	server *rpc.Server // nil until it serves

	// asked are the ids of the request that brought used, and heard is whether the
	// conductor has had a message by this link. The first one is what confirms the
	// rotation, whichever it is, so it never goes without ids.
	asked rpc.Context
	heard atomic.Bool
}

// named is ctx for a message by this link.
func (l *link) named(ctx context.Context) context.Context {
	if !l.heard.Load() && rpc.ContextFrom(ctx).RequestID == "" {
		return rpc.WithContext(ctx, l.asked)
	}
	return ctx
}

// bus keeps the agent on the message bus under the credentials that count, and
// moves it to new ones: the new connection serves before the old one ends. It
// implements guest.Conductor by whichever link is in use.
type bus struct {
	c     *config
	creds *guest.Credentials
	log   *slog.Logger

	mu  sync.Mutex
	now *link
	// ending are links that were left and finish what they began.
	ending sync.WaitGroup
}

// openBus connects, or begins to.
func openBus(c *config, creds *guest.Credentials, log *slog.Logger) (*bus, error) {
	b := &bus{c: c, creds: creds, log: log}
	current, previous := creds.Get()
	l, err := b.open(current, previous, creds.Late())
	b.now = l
	if err == nil && creds.Late() != nil {
		b.forgetLater(l)
	}
	return b, err
}

// forgetLater drops the key before that of l when nobody can be using it.
func (b *bus) forgetLater(l *link) {
	time.AfterFunc(lateKey, func() {
		if err := errors.Join(l.keys.Set(b.key(l.used)), b.creds.ForgetLate(l.used.Generation)); err != nil {
			b.log.Error("the key before cannot be forgotten", "error", err)
		}
	})
}

// open makes a link; others are pairs whose keys may still be in use, or nil.
func (b *bus) open(used guestapi.Credentials, others ...*guestapi.Credentials) (*link, error) {
	url, key := b.c.TransportURL, b.key(used)
	if used.Generation > 0 {
		var err error
		if url, err = amqp.WithLogin(url.Reveal(), used.Login, used.Password); err != nil {
			return nil, err
		}
	}
	all := []secret.String{key}
	for _, other := range others {
		if other != nil {
			all = append(all, b.key(*other))
		}
	}
	keys, err := keyring.NewAgent(b.c.GuestID, all...)
	if err != nil {
		return nil, err
	}
	options := b.c.Rabbit
	config, err := options.Config(url.Reveal())
	if err != nil {
		return nil, err
	}
	config.Name, config.Log = "trove-guestagent", b.log
	if strings.HasPrefix(url.Reveal(), "rabbit+unix:") {
		config.Retry = amqp.Retry{} // a broker of this machine is soon back
	}
	conn, err := amqp.New(config)
	if err != nil {
		return nil, err
	}
	return &link{used: used, conn: conn, keys: keys,
		client: rpc.NewClient(conn, rpc.ClientOptions{Exchange: b.c.ControlExchange, Passive: true, Seal: keys, Log: b.log})}, nil
}

// key is the one that goes with a login. Where messages are not sealed there is
// none.
func (b *bus) key(of guestapi.Credentials) secret.String {
	if of.Generation == 0 {
		return b.c.RPCKey
	}
	return secret.New(of.Key)
}

// serve takes requests on l.
func (b *bus) serve(l *link, agent *guest.Agent) {
	h := agent.Handler()
	if b.c.ReplyBy != "" { // guests have logins of their own, so the sender proves something
		h = guestapi.FromControlPlane(h, false, b.log)
	}
	l.server = rpc.NewServer(l.conn, h, rpc.ServerOptions{Exchange: b.c.ControlExchange,
		Topic: guestapi.Topic(b.c.GuestID), Server: b.c.GuestID, Passive: true, Workers: workers,
		ReplyExchange: b.c.ReplyBy, ReplyPrefix: b.c.GuestID, Repeats: true, Open: l.keys, Log: b.log})
}

func (b *bus) current() *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// run serves the agent until ctx ends.
func (b *bus) run(ctx context.Context, agent *guest.Agent) {
	first := b.current()
	b.serve(first, agent)
	admitted := make(chan error, 1)
	if _, previous := b.creds.Get(); previous != nil {
		b.ending.Go(func() { admitted <- first.conn.Admitted(ctx) })
	}
	retry := time.NewTimer(tryAgain)
	defer retry.Stop()
	asked := ctx // with the ids of who asked for new credentials last
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-admitted:
			switch {
			case err == nil:
				agent.Announce(ctx)
			case trove.IsKind(err, trove.KindUnauthorized) && b.current() == first:
				b.goBack(ctx, agent)
				retry.Reset(tryAgain/2 + rand.N(tryAgain))
			}
			continue
		case who := <-b.creds.Changed():
			asked = who.Logged(ctx)
		case <-retry.C:
		}
		if !b.move(asked, agent) {
			retry.Reset(tryAgain/2 + rand.N(tryAgain))
		}
	}
}

// goBack uses the credentials before while the new ones, which were never used,
// are refused: the agent died between writing them down and using them, and the
// login is not there.
func (b *bus) goBack(ctx context.Context, agent *guest.Agent) {
	refused, previous := b.creds.Get()
	if previous == nil {
		return
	}
	b.log.WarnContext(ctx, "the new login is refused: going on with the one before", "login", refused.Login)
	before, err := b.open(*previous, &refused)
	if err != nil {
		b.log.ErrorContext(ctx, "the credentials before cannot be used", "error", err)
		return
	}
	b.serve(before, agent)
	b.use(ctx, before)
}

// move goes over to the newest credentials; false if they were refused and are
// to be tried again.
func (b *bus) move(ctx context.Context, agent *guest.Agent) bool {
	newest, previous := b.creds.Get()
	if newest.Generation <= b.current().used.Generation {
		agent.Announce(ctx) // whoever asked has not heard yet
		return true
	}
	next, err := b.open(newest, previous)
	if err != nil {
		b.log.ErrorContext(ctx, "the new credentials cannot be used", "error", err)
		return true // no time makes them better
	}
	limited, cancel := context.WithTimeout(ctx, admitWait)
	defer cancel()
	if err := next.conn.Admitted(limited); err != nil {
		b.log.WarnContext(ctx, "the new login is not let in: going on with the one before", "login", newest.Login, "error", err)
		b.leave(ctx, next)
		return false
	}
	next.asked = rpc.ContextFrom(ctx)
	b.serve(next, agent)
	b.use(ctx, next)
	b.log.InfoContext(ctx, "new credentials are in use", "login", newest.Login)
	agent.Announce(ctx)
	return true
}

// use makes l the link in use and leaves the one before.
func (b *bus) use(ctx context.Context, l *link) {
	b.mu.Lock()
	before := b.now
	b.now = l
	b.mu.Unlock()
	b.ending.Go(func() { b.leave(ctx, before) })
}

// leave ends a link: what it serves is finished.
func (b *bus) leave(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	if err := l.close(ctx); err != nil {
		b.log.DebugContext(ctx, "a connection that is not needed any more did not end well", "error", err)
	}
}

func (l *link) close(ctx context.Context) error {
	var err error
	if l.server != nil {
		err = l.server.Close(ctx)
	}
	return errors.Join(err, l.client.Close(ctx), l.conn.Close(ctx))
}

// close ends all links.
func (b *bus) close(ctx context.Context) error {
	err := b.current().close(ctx)
	b.ending.Wait() // each within closeWait
	return err
}

// tell gives what f says to the conductor, on the link in use.
func (b *bus) tell(ctx context.Context, f func(ctx context.Context, c *conductor.Client) error) error {
	l := b.current()
	if err := f(l.named(ctx), conductor.NewClient(l.client, b.c.ConductorQueue)); err != nil {
		return err
	}
	l.heard.Store(true)
	if l.used.Generation == 0 {
		return nil
	}
	first, err := b.creds.Used(l.used.Generation)
	if err != nil {
		b.log.WarnContext(ctx, "the credentials before cannot be forgotten", "error", err)
	}
	if first {
		b.forgetLater(l)
	}
	return nil
}

// Heartbeat implements guest.Conductor.
func (b *bus) Heartbeat(ctx context.Context, h conductor.Heartbeat) error {
	return b.tell(ctx, func(ctx context.Context, c *conductor.Client) error { return c.Heartbeat(ctx, h) })
}

// ReportRoot implements guest.Conductor.
func (b *bus) ReportRoot(ctx context.Context, instanceID string) error {
	return b.tell(ctx, func(ctx context.Context, c *conductor.Client) error { return c.ReportRoot(ctx, instanceID) })
}

// NotifyFailure implements guest.Conductor.
func (b *bus) NotifyFailure(ctx context.Context, n conductor.FailureNotification, message string, exception []string) error {
	return b.tell(ctx, func(ctx context.Context, c *conductor.Client) error {
		return c.NotifyFailure(ctx, n, message, exception)
	})
}
