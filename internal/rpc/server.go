package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	minPrefetch         = 16
	maxPrefetch         = 65535
	defaultRequeueDelay = 2 * time.Second
)

// ServerOptions are what a server listens on and how.
type ServerOptions struct {
	Exchange string // option control_exchange
	Topic    string
	// Server names this one among the servers of the topic: it has the queue
	// <Topic>.<Server> too.
	Server string
	// Fanout: listen to fanouts of the topic.
	Fanout bool
	// Workers is how many requests are handled at once; 1 (also for 0) is one
	// after the other in the order of their arrival.
	Workers int
	// Prefetch bounds the requests the broker hands out before the first of
	// them is acknowledged; 0 is twice Workers, at least 16.
	Prefetch int
	// Passive: a server without the right to declare. Its queues are declared
	// by others (DeclareQueues); it checks that the exchange is there.
	Passive bool
	// ReplyExchange: reply by this topic exchange with the routing key
	// <ReplyPrefix>.<reply queue>, not directly to the caller's queue.
	ReplyExchange string
	ReplyPrefix   string
	// ReplyTimeout is how long a reply is tried whose queue is not there, for
	// its owner may be coming back; 0 is a minute.
	ReplyTimeout time.Duration
	// ReplyConn is the connection to reply on; nil is the server's own. A broker
	// short of memory stops reading a connection that publishes: on one of its
	// own a server still acknowledges what it has done.
	ReplyConn *amqp.Conn
	// Ping answers the method oslo_rpc_server_ping.
	Ping bool
	// RequeueDelay is how long, within jitter, a cast waits that is to be
	// delivered again; 0 is 2 s.
	RequeueDelay time.Duration
	// Repeats: a cast that was handled before is handed over again. For a
	// handler that knows its own repeats and must tell so once more.
	Repeats bool
	// MaxBody bounds a request, in bytes; 0 is wire.DefaultMaxBody.
	MaxBody int
	// Open opens requests and seals their replies; nil takes them as they come.
	Open     Opener
	Observer ServerObserver // nil: nobody
	Log      *slog.Logger
}

// job is a request and when it came.
type job struct {
	amqp091.Delivery
	came time.Time
	acks *acks
}

// Server hands the requests of a topic to a Handler.
//
// A request that is not understood is rejected and logged. A call is
// acknowledged before it is handled: at most once. A cast is acknowledged when
// it has been handled: at least once, so that it must have come before to be
// dropped as a duplicate. A cast handled for more than half an hour comes again
// from a RabbitMQ of default settings; it is then not run twice at once.
type Server struct {
	conn    *amqp.Conn
	handler Handler
	opt     ServerOptions
	log     *slog.Logger
	seen    *seen
	replies *replier

	// The workers outlive connections: one that is lost must not make all wait
	// for the longest request that runs.
	jobs    chan job
	workers sync.WaitGroup
	delayed sync.WaitGroup // casts that wait to be given back
	settled sync.Once

	stop    context.CancelFunc // no new requests
	abort   context.CancelFunc // ends those that run
	done    chan struct{}
	ready   chan struct{}
	isReady sync.Once
	lastErr atomic.Pointer[error] // why it last was not listening
	offset  atomic.Int64          // the next message of a stream of fanouts
}

// NewServer starts a server on conn, which the caller keeps and closes after
// it. It waits for the broker in the background; see Ready.
func NewServer(conn *amqp.Conn, h Handler, opt ServerOptions) *Server {
	opt.Workers = max(1, opt.Workers)
	if opt.Prefetch <= 0 {
		opt.Prefetch = max(minPrefetch, 2*opt.Workers)
	}
	opt.Prefetch = min(opt.Prefetch, maxPrefetch)
	if opt.RequeueDelay <= 0 {
		opt.RequeueDelay = defaultRequeueDelay
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Observer == nil {
		opt.Observer = noObserver{}
	}
	listen, stop := context.WithCancel(context.Background())
	work, abort := context.WithCancel(context.Background())
	s := &Server{
		conn: conn, handler: h, opt: opt, log: opt.Log.With("topic", opt.Topic), seen: newSeen(seenIDs),
		jobs: make(chan job),
		stop: stop, abort: abort, done: make(chan struct{}), ready: make(chan struct{}),
	}
	s.replies = newReplier(conn, opt, s.log)
	for range opt.Workers {
		s.workers.Go(func() {
			for j := range s.jobs {
				s.take(listen, work, j, time.Since(j.came))
			}
		})
	}
	go func() {
		defer close(s.done)
		defer abort()
		defer s.settle()
		retry(listen, func() error { return s.serve(listen) },
			func(err error) {
				s.lastErr.Store(&err)
				s.log.WarnContext(listen, "rpc: not listening, trying on", "error", err, "action", trove.ActionOf(err))
			})
	}()
	return s
}

// settle waits, when nothing more is fed, for all that runs to end.
func (s *Server) settle() {
	s.settled.Do(func() { close(s.jobs) })
	s.workers.Wait()
	s.delayed.Wait()
	s.replies.finish()
}

// Ready waits until the server listens for the first time.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.done:
		return trove.Errorf(trove.KindUnavailable, "the server of %s is closed", s.opt.Topic)
	case <-ctx.Done():
		if err := s.conn.Ready(ctx); err != nil {
			return err
		}
		err := ctx.Err()
		if last := s.lastErr.Load(); last != nil {
			err = *last
		}
		return trove.Errorf(trove.KindUnavailable, "the server of %s is not listening: %w", s.opt.Topic, err)
	}
}

// Close takes no more requests and waits until those that run have ended and
// are answered. When ctx ends it cancels them and returns its error.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.abort()
	return ctx.Err()
}

// serve listens on one session until it is lost or listen ends.
func (s *Server) serve(listen context.Context) error {
	session, err := s.conn.Session(listen)
	if err != nil {
		return err
	}
	l := &listener{Server: s, session: session}
	if err := l.open(); err != nil {
		return err
	}
	s.isReady.Do(func() { close(s.ready) })
	s.log.DebugContext(listen, "rpc: listening")
	return l.run(listen)
}

// listener is a server on one channel.
type listener struct {
	*Server
	session *amqp.Session
	ch      *amqp091.Channel
	acks    *acks
	fanout  string // the queue of fanouts, if any
	tags    []string
	sources []<-chan amqp091.Delivery
}

// offsetHeader is the place of a message in a stream.
const offsetHeader = "x-stream-offset"

func (l *listener) open() error {
	o, declare := l.opt, l.conn.Declare()
	queues := []string{o.Topic}
	if o.Server != "" {
		queues = append(queues, o.Topic+"."+o.Server)
	}
	var err error
	l.ch, err = l.session.Topology(func(ch *amqp091.Channel) (err error) {
		l.tags, l.sources = nil, nil
		if err := ch.Qos(o.Prefetch, 0, false); err != nil {
			return err
		}
		if o.Passive {
			if err := amqp.PassiveExchange(ch, o.Exchange); err != nil {
				return err
			}
		} else if err := declareQueues(ch, declare, o.Exchange, queues); err != nil {
			return err
		}
		for _, q := range queues {
			if err := l.consume(ch, q, declare.ConsumerArguments()); err != nil {
				return err
			}
		}
		if !o.Fanout {
			return nil
		}
		if l.fanout, err = declare.FanoutQueue(ch, o.Topic); err != nil {
			return err
		}
		arguments := declare.ConsumerArguments()
		if declare.StreamFanout {
			arguments[offsetHeader] = "last"
			if next := l.offset.Load(); next > 0 {
				arguments[offsetHeader] = next
			}
		}
		return l.consume(ch, l.fanout, arguments)
	})
	return err
}

func (l *listener) consume(ch *amqp091.Channel, queue string, arguments amqp091.Table) error {
	tag := newID()
	d, err := ch.Consume(queue, tag, false, false, false, false, arguments)
	if err == nil {
		l.tags, l.sources = append(l.tags, tag), append(l.sources, d)
	}
	return err
}

func (l *listener) run(ctx context.Context) error {
	listen, stop := context.WithCancel(ctx)
	defer stop()
	l.acks = newAcks(l.ch, l.log)
	told, last := context.WithCancel(context.Background())
	defer last()
	var telling sync.WaitGroup
	telling.Go(func() { l.acks.run(told) })
	var feeders sync.WaitGroup
	for _, source := range l.sources {
		feeders.Go(func() {
			// One that ends, by a cancel of the broker or with the
			// channel, ends all: they are set up anew together.
			defer stop()
			l.feed(listen, source)
		})
	}
	<-listen.Done()
	lost := l.ch.IsClosed()
	if !lost {
		l.cancel()
	}
	feeders.Wait()
	if ctx.Err() != nil {
		// What runs is acknowledged on this channel before it goes.
		l.settle()
	}
	last()
	telling.Wait()
	if lost {
		return errors.New("the channel is lost")
	}
	l.acks.flush()
	// What was fetched and not acknowledged goes back with the channel.
	return l.session.Bounded(l.ch.Close)
}

// feed hands deliveries to the workers; the broker's prefetch bounds what waits.
func (l *listener) feed(listen context.Context, source <-chan amqp091.Delivery) {
	for {
		select {
		case d, ok := <-source:
			if !ok {
				return
			}
			came := time.Now()
			if at, ok := d.Headers[offsetHeader].(int64); ok {
				l.offset.Store(at + 1)
			}
			d.Acknowledger = l.acks
			l.acks.add(d.DeliveryTag)
			select {
			case l.jobs <- job{d, came, l.acks}:
			case <-listen.Done():
				return
			}
		case <-listen.Done():
			return
		}
	}
}

// cancel ends the consumers and removes the queue of fanouts.
func (l *listener) cancel() {
	err := l.session.Bounded(func() error {
		for _, tag := range l.tags {
			if err := l.ch.Cancel(tag, false); err != nil {
				return err
			}
		}
		if declare := l.conn.Declare(); l.fanout != "" && declare.Transient() && !declare.StreamFanout {
			_, err := l.ch.QueueDelete(l.fanout, false, false, false)
			return err
		}
		return nil
	})
	if err != nil {
		l.log.Debug("rpc: consumers not cancelled", "error", err)
	}
}

// DeclareQueues declares and binds to exchange, each by its name, the queues
// of a server that may not do so itself.
func DeclareQueues(ctx context.Context, conn *amqp.Conn, exchange string, queues ...string) error {
	return onSession(ctx, conn, func(ch *amqp091.Channel) error {
		return declareQueues(ch, conn.Declare(), exchange, queues)
	})
}

// DeleteQueues deletes queues with all that is in them. One that is not there
// is no error.
func DeleteQueues(ctx context.Context, conn *amqp.Conn, queues ...string) error {
	return onSession(ctx, conn, func(ch *amqp091.Channel) error {
		for _, q := range queues {
			if _, err := ch.QueueDelete(q, false, false, false); err != nil {
				return err
			}
		}
		return nil
	})
}

// Mismatches tells which of an exchange and queues are there in another form
// than we would declare them: each error is an *amqp.Mismatch, or what kept us
// from finding out. It makes none that is not there.
func Mismatches(ctx context.Context, conn *amqp.Conn, exchange string, queues ...string) []error {
	declare := conn.Declare()
	var found []error
	check := func(passive, active func(*amqp091.Channel) error) {
		err := onSession(ctx, conn, passive)
		if e, ok := errors.AsType[*amqp091.Error](err); ok && e.Code == amqp091.NotFound {
			return
		}
		if err == nil {
			err = onSession(ctx, conn, active)
		}
		if err != nil {
			found = append(found, err)
		}
	}
	check(func(ch *amqp091.Channel) error { return amqp.PassiveExchange(ch, exchange) },
		func(ch *amqp091.Channel) error { return declare.Exchange(ch, exchange) })
	for _, q := range queues {
		check(func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclarePassive(q, false, false, false, false, nil)
			return err
		}, func(ch *amqp091.Channel) error { return declare.OnlyQueue(ch, q) })
	}
	return found
}

func declareQueues(ch *amqp091.Channel, declare amqp.Declarations, exchange string, queues []string) error {
	if err := declare.Exchange(ch, exchange); err != nil {
		return err
	}
	for _, q := range queues {
		if err := declare.Queue(ch, q, exchange); err != nil {
			return err
		}
	}
	return nil
}

// onSession runs f on a channel of the session in use, once.
func onSession(ctx context.Context, conn *amqp.Conn, f func(*amqp091.Channel) error) error {
	s, err := conn.Session(ctx)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() { result <- s.DoTopology(f) }() // ends with the session's own bound
	select {
	case err = <-result:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if _, ok := errors.AsType[*trove.Error](err); err != nil && !ok {
		return trove.Errorf(trove.KindUnavailable, "message bus: %w", err)
	}
	return err
}

// decode gives the request in d.
func (s *Server) decode(d amqp091.Delivery) (wire.Request, error) {
	if d.ContentType != wire.ContentType {
		return wire.Request{}, errors.New("content type is not " + wire.ContentType)
	}
	body, err := bodyOf(d, s.opt.MaxBody)
	if err != nil {
		return wire.Request{}, err
	}
	return wire.DecodeRequest(body, s.opt.MaxBody)
}

// bodyOf gives the body of d, decompressed if its sender compressed it.
func bodyOf(d amqp091.Delivery, limit int) ([]byte, error) {
	how, _ := d.Headers[wire.CompressionHeader].(string)
	return wire.Decompress(how, d.Body, limit)
}
