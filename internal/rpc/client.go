package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// defaultTimeout bounds a cast whose context has no deadline, and the wait for
// a broker that is away before a call gives up.
const (
	defaultTimeout = 60 * time.Second
	connectWait    = 5 * time.Second
	confirmWait    = 5 * time.Second // for the broker to say that it has a call
	replyPrefetch  = 64
)

// ClientOptions are how a client talks on a bus.
type ClientOptions struct {
	// Exchange is the option control_exchange.
	Exchange string
	// ReplyExchange is the topic exchange by which servers without a right on
	// the default exchange reply; empty is none. See ServerOptions.
	ReplyExchange string
	// Passive: declare nothing, only check that the exchange is there.
	Passive bool
	// MaxBody bounds a request and a reply, in bytes; 0 is wire.DefaultMaxBody.
	MaxBody int
	// Seal seals requests and opens their replies; nil leaves them in clear.
	Seal     Sealer
	Observer ClientObserver // nil: nobody
	Log      *slog.Logger
}

// Client sends requests over a connection and waits for their replies on a
// queue of its own, made with the first call. It is safe for concurrent use.
type Client struct {
	conn *amqp.Conn
	opt  ClientOptions
	log  *slog.Logger

	stop    context.CancelFunc
	stopped <-chan struct{}
	start   sync.Once
	begin   func() // starts to take replies
	running sync.WaitGroup

	mu      sync.Mutex
	road    *road         // nil while there is no reply queue
	changed chan struct{} // closed and replaced when road changes
	lastErr error
}

var _ Caller = (*Client)(nil)

// road is a reply queue on a session and the calls that wait on it.
type road struct {
	session *amqp.Session
	queue   string
	lost    chan struct{}
	mu      sync.Mutex
	waiting map[string]*pending // by message id
}

type pending struct {
	guest   string // the routing prefix a reply by topic exchange must have
	reply   chan wire.Reply
	partial *wire.Reply // payload of a reply in two parts
}

// NewClient makes a client on conn, which the caller keeps and closes after it.
func NewClient(conn *amqp.Conn, opt ClientOptions) *Client {
	c := &Client{conn: conn, opt: opt, log: opt.Log, changed: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.opt.Observer == nil {
		c.opt.Observer = noObserver{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop, c.stopped = cancel, ctx.Done()
	c.begin = func() { c.running.Go(func() { c.takeReplies(ctx) }) }
	return c
}

// Close ends the client: calls that wait fail with KindUnavailable, and the
// reply queue is deleted.
func (c *Client) Close(ctx context.Context) error {
	c.start.Do(func() {}) // no reply queue from now on
	c.stop()
	return wait(ctx, &c.running)
}

// Cast implements Caller. Without a deadline in ctx it tries for a minute.
func (c *Client) Cast(ctx context.Context, m Message) error {
	began := time.Now()
	err := c.cast(ctx, m)
	c.opt.Observer.RPCCast(m.Method, outcomeOf(err), time.Since(began))
	return err
}

func (c *Client) cast(ctx context.Context, m Message) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	r, err := requestOf(m, ContextFrom(ctx))
	if err != nil {
		return trove.Errorf(trove.KindInternal, "%s: %w", m.Method, err)
	}
	if _, err := c.seal(ctx, m, &r); err != nil {
		return err
	}
	p, err := c.publishing(m, r)
	if err != nil {
		return err
	}
	return c.conn.Publish(ctx, p)
}

// Call implements Caller.
func (c *Client) Call(ctx context.Context, m Message, result any) error {
	began := time.Now()
	err := c.call(ctx, m, result)
	c.opt.Observer.RPCCalled(m.Method, outcomeOf(err), time.Since(began))
	return err
}

func (c *Client) call(ctx context.Context, m Message, result any) error {
	deadline, ok := ctx.Deadline()
	switch {
	case !ok:
		return trove.Errorf(trove.KindInternal, "call of %s: the context has no deadline", m.Method)
	case m.Fanout:
		return trove.Errorf(trove.KindInternal, "call of %s: a fanout has no reply", m.Method)
	}
	road, err := c.replyRoad(ctx)
	if err != nil {
		return err
	}
	r, err := requestOf(m, ContextFrom(ctx))
	if err != nil {
		return trove.Errorf(trove.KindInternal, "%s: %w", m.Method, err)
	}
	r.MsgID, r.ReplyQueue = cmp.Or(m.CallID, newID()), road.queue
	open, err := c.seal(ctx, m, &r)
	if err != nil {
		return err
	}
	p, err := c.publishing(m, r)
	if err != nil {
		return err
	}
	p.Expiration = max(time.Millisecond, time.Until(deadline))
	wait := road.enter(r.MsgID, m.Topic)
	defer road.leave(r.MsgID)
	sent, err := road.session.Send(ctx, p)
	if err != nil {
		return unsent(ctx, m, err)
	}
	confirmed := sent.Done()
	silent := time.NewTimer(confirmWait)
	defer silent.Stop()
	for {
		select {
		case reply := <-wait.reply:
			return decodeResult(m, open, reply, result)
		case <-confirmed:
			if err := sent.Err(); err != nil {
				return unsent(ctx, m, err)
			}
			confirmed = nil
		case <-silent.C:
			// A broker that hangs is noticed by its heartbeat only after minutes.
			if confirmed != nil {
				return unsent(ctx, m, fmt.Errorf("no confirm within %s", confirmWait))
			}
		case <-road.lost:
			return trove.Errorf(trove.KindUnavailable, "call of %s: connection to the message bus lost", m.Method)
		case <-ctx.Done():
			if confirmed != nil {
				return unsent(ctx, m, ctx.Err())
			}
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return trove.Errorf(trove.KindGuestTimeout, "no answer to %s from %s in time: %w", m.Method, m.Topic, ctx.Err())
		}
	}
}

// unsent is the error of a call that the broker did not take.
func unsent(ctx context.Context, m Message, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if _, ok := errors.AsType[*trove.Error](err); ok {
		return err
	}
	return trove.Errorf(trove.KindUnavailable, "call of %s: the message bus did not take it: %w", m.Method, err)
}

func decodeResult(m Message, open ReplyCodec, reply wire.Reply, result any) error {
	if open != nil {
		if err := open(&reply); err != nil {
			return fmt.Errorf("the reply of %s to %s cannot be believed: %w", m.Topic, m.Method, err)
		}
	}
	if reply.Failure != nil {
		return remoteError(reply.Failure)
	}
	if result == nil || len(reply.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(reply.Result, result); err != nil {
		return trove.Errorf(trove.KindInternal, "result of %s: %w", m.Method, err)
	}
	return nil
}

func (c *Client) publishing(m Message, r wire.Request) (amqp.Publishing, error) {
	body, err := wire.EncodeRequest(r)
	if err != nil {
		return amqp.Publishing{}, trove.Errorf(trove.KindInternal, "%s: %w", m.Method, err)
	}
	if limit := cmp.Or(max(0, c.opt.MaxBody), wire.DefaultMaxBody); len(body) > limit {
		return amqp.Publishing{}, trove.Errorf(trove.KindBadRequest, "%s: a message of %d bytes, at most %d", m.Method, len(body), limit)
	}
	p := amqp.Publishing{
		Exchange:    amqp.Exchange{Name: c.opt.Exchange, Passive: c.opt.Passive},
		Key:         m.Topic,
		ContentType: wire.ContentType, ContentEncoding: wire.ContentEncoding,
		Body:      body,
		Mandatory: m.Mandatory,
	}
	switch {
	case m.Fanout:
		p.Exchange, p.Key = amqp.Exchange{Name: m.Topic, Fanout: true}, ""
	case m.Server != "":
		p.Key += "." + m.Server
	}
	return p, nil
}

// replyRoad gives the reply queue in use, and waits for one for a short while.
func (c *Client) replyRoad(ctx context.Context) (*road, error) {
	c.start.Do(c.begin)
	timer := time.NewTimer(connectWait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		r, changed, lastErr := c.road, c.changed, c.lastErr
		c.mu.Unlock()
		if r != nil {
			return r, nil
		}
		select {
		case <-changed:
			continue
		case <-c.stopped:
			lastErr = errors.New("the client is closed")
		case <-timer.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
		}
		if lastErr == nil {
			lastErr = errors.New("not connected")
		}
		return nil, trove.Errorf(trove.KindUnavailable, "message bus: %w", lastErr)
	}
}

func (c *Client) setRoad(r *road, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.road, c.lastErr = r, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// takeReplies keeps a reply queue for as long as the client lives. Each
// session gets one of a new name: replies to calls of an old one have nobody
// waiting.
func (c *Client) takeReplies(ctx context.Context) {
	retry(ctx, func() error {
		s, err := c.conn.Session(ctx)
		if err != nil {
			return err
		}
		err = c.takeRepliesOn(ctx, s)
		c.setRoad(nil, err)
		return err
	}, func(err error) { c.log.WarnContext(ctx, "rpc: no reply queue, trying on", "error", err) })
}

func (c *Client) takeRepliesOn(ctx context.Context, s *amqp.Session) error {
	r := &road{session: s, lost: make(chan struct{}), waiting: map[string]*pending{}}
	var deliveries <-chan amqp091.Delivery
	declare := c.conn.Declare()
	ch, err := s.Topology(func(ch *amqp091.Channel) (err error) {
		if err := ch.Qos(replyPrefetch, 0, false); err != nil {
			return err
		}
		if r.queue, err = declare.ReplyQueue(ch); err != nil {
			return err
		}
		if c.opt.ReplyExchange != "" {
			if err := declare.Exchange(ch, c.opt.ReplyExchange); err != nil {
				return err
			}
			if err := ch.QueueBind(r.queue, "*."+r.queue, c.opt.ReplyExchange, false, nil); err != nil {
				return err
			}
		}
		deliveries, err = ch.Consume(r.queue, "", false, false, false, false, declare.ConsumerArguments())
		return err
	})
	if err != nil {
		return err
	}
	defer close(r.lost)
	c.setRoad(r, nil)
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.Join(errors.New("reply queue lost"), s.Bounded(ch.Close))
			}
			r.deliver(ctx, c, d)
			if err := d.Ack(false); err != nil {
				return err
			}
		case <-ctx.Done():
			// The queue goes first: what still arrives has nobody to take it.
			return s.Bounded(func() error {
				if !declare.Transient() {
					return ch.Close()
				}
				_, err := ch.QueueDelete(r.queue, false, false, false)
				return errors.Join(err, ch.Close())
			})
		}
	}
}

func (r *road) enter(id, topic string) *pending {
	_, guest, _ := strings.Cut(topic, ".")
	p := &pending{guest: guest, reply: make(chan wire.Reply, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[id] = p
	return p
}

func (r *road) leave(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

// deliver gives a reply to the call that waits for it.
func (r *road) deliver(ctx context.Context, c *Client, d amqp091.Delivery) {
	body, err := bodyOf(d, c.opt.MaxBody)
	var reply wire.Reply
	if err == nil {
		reply, err = wire.DecodeReply(body, c.opt.MaxBody)
	}
	if err != nil {
		c.log.WarnContext(ctx, "rpc: reply dropped", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.waiting[reply.MsgID]
	if p == nil {
		c.log.DebugContext(ctx, "rpc: reply to a call that nobody waits for", "msg_id", reply.MsgID)
		return
	}
	// By topic exchange anyone may reply who may write there; the broker
	// pins the key to the sender's own id, so the key tells who it is.
	if d.Exchange != "" && (p.guest == "" || d.RoutingKey != p.guest+"."+r.queue) {
		c.log.WarnContext(ctx, "rpc: reply dropped: it is not from the one called", "msg_id", reply.MsgID, "routing_key", d.RoutingKey)
		return
	}
	if !reply.Ending {
		if len(reply.Result) > 0 || reply.Failure != nil {
			p.partial = &reply
		}
		return
	}
	if p.partial != nil && len(reply.Result) == 0 && reply.Failure == nil {
		reply = *p.partial
	}
	delete(r.waiting, reply.MsgID)
	p.reply <- reply // has room: only the one that ends gets here
}
