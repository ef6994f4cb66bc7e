package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/trove"
)

// Exchange is how a publishing names its exchange. It is declared once per
// session before the first publishing on it; the default exchange ("") is not.
type Exchange struct {
	Name    string
	Fanout  bool // the fanout exchange of a topic, Name; else a topic exchange
	Passive bool // only check that it is there
}

// Publishing is a message to publish.
type Publishing struct {
	Exchange        Exchange
	Key             string
	ContentType     string
	ContentEncoding string
	Body            []byte
	// Expiration is the message's time to live, in whole milliseconds; 0 is
	// for ever.
	Expiration time.Duration
	// Mandatory: a message that no queue takes is an error.
	Mandatory bool
}

// maxTracked is from how many mandatory messages on their way those are looked
// for that nobody waits for.
const maxTracked = 256

// Errors of publishing, for errors.Is. All are of KindUnavailable.
var (
	ErrUnroutable = errors.New("no queue takes the message")
	errLost       = errors.New("connection lost before the broker confirmed the message")
	errChannel    = errors.New("the broker closed the channel")
	errNacked     = errors.New("the broker refused the message")
	errNotYet     = errors.New("not connected yet")
)

// Publish publishes p and returns when the broker has confirmed it. It tries
// again until ctx ends, over any number of connections, so p may arrive more
// than once. What trying again cannot mend ends it: no right (KindForbidden),
// a message no queue takes (ErrUnroutable), an exchange of another form.
func (c *Conn) Publish(ctx context.Context, p Publishing) error {
	var last error
	alone := false
	for n := 1; ; n++ {
		s, err := c.Session(ctx)
		if err != nil {
			return err
		}
		sent, err := s.send(ctx, p, alone)
		if err == nil {
			err = sent.Wait(ctx)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			if b := s.blocked.Load(); b != nil {
				last = b
			}
			return trove.Errorf(trove.KindUnavailable, "the message bus did not confirm a message in time: %w", because(ctx.Err(), last))
		case !retriable(err):
			return refusal(err)
		}
		// The channel is shared: on one of its own the broker's answer is about
		// this message.
		alone = alone || errors.Is(err, errChannel)
		last = err
		if !pause(ctx, Retry{}.pause(n)) {
			return trove.Errorf(trove.KindUnavailable, "the message bus did not take a message in time: %w", last)
		}
	}
}

// because adds to err what came before it, if anything did.
func because(err, before error) error {
	if before == nil {
		return err
	}
	return fmt.Errorf("%w; before: %w", err, before)
}

func retriable(err error) bool {
	if errors.Is(err, errChannel) {
		return true // perhaps closed for another's message
	}
	if e, ok := errors.AsType[*amqp091.Error](err); ok {
		// An exchange that is not there may come; its owner may be starting.
		return e.Code == amqp091.NotFound || e.Code < amqp091.ContentTooLarge || e.Code >= amqp091.FrameError || e.Code == amqp091.ConnectionForced
	}
	return errors.Is(err, errLost) || errors.Is(err, errNacked)
}

func refusal(err error) error {
	if _, ok := errors.AsType[*trove.Error](err); ok {
		return err
	}
	kind := trove.KindUnavailable
	if e, ok := errors.AsType[*amqp091.Error](err); ok {
		switch e.Code {
		case amqp091.AccessRefused:
			kind = trove.KindForbidden
		case amqp091.NotFound:
		default:
			kind = trove.KindInternal
		}
	}
	return trove.Errorf(kind, "message bus: %w", err)
}

// Send publishes p once, on this session, and returns when it is written;
// Sent tells how it went on.
func (s *Session) Send(ctx context.Context, p Publishing) (*Sent, error) {
	sent, err := s.send(ctx, p, false)
	if err == nil || ctx.Err() != nil {
		return sent, err
	}
	return nil, refusal(err)
}

func (s *Session) send(ctx context.Context, p Publishing, alone bool) (*Sent, error) {
	if b := s.blocked.Load(); b != nil {
		// Written now it would stay in the socket, and arrive when its
		// sender has long given up.
		select {
		case <-b.over:
		case <-s.done:
			return nil, errLost
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", b, ctx.Err())
		}
	}
	r := &request{p: p, alone: alone, answer: make(chan answer, 1)}
	select {
	case s.requests <- r:
	case <-s.done:
		return nil, errLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-r.answer:
		return a.sent, a.err
	case <-s.done:
		return nil, errLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Sent is a published message of which the broker's word is awaited.
type Sent struct {
	link     *link
	confirm  *amqp091.DeferredConfirmation
	inflight *inflight
}

// Done is closed when the broker has confirmed or refused the message or the
// channel is lost: then Err tells which.
func (s *Sent) Done() <-chan struct{} { return s.confirm.Done() }

// Wait waits for Done and returns Err, or ctx's error.
func (s *Sent) Wait(ctx context.Context) error {
	select {
	case <-s.Done():
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Err is nil for a confirmed message; to be called after Done.
func (s *Sent) Err() error {
	if !s.confirm.Acked() {
		if !s.link.ch.IsClosed() {
			return errNacked
		}
		<-s.link.ended
		if s.link.err == nil || s.link.session.conn.IsClosed() {
			return errLost
		}
		return fmt.Errorf("%w: %w", errChannel, s.link.err)
	}
	if s.inflight != nil && s.link.returned(s.inflight) {
		return ErrUnroutable
	}
	return nil
}

type request struct {
	p      Publishing
	alone  bool
	answer chan answer // room for one
}

type answer struct {
	sent *Sent
	err  error
}

// publisher is the one goroutine that writes messages of a session, so that
// its callers can give up waiting while a write hangs.
type publisher struct {
	s        *Session
	shared   *link
	declared map[Exchange]bool
}

func newPublisher(s *Session) *publisher {
	return &publisher{s: s, declared: map[Exchange]bool{}}
}

func (p *publisher) run() {
	for {
		select {
		case r := <-p.s.requests:
			p.serve(r)
		case <-p.s.done:
			return
		}
	}
}

func (p *publisher) serve(r *request) {
	if r.alone {
		// Perhaps it failed because someone deleted the exchange.
		delete(p.declared, r.p.Exchange)
	}
	if err := p.declare(r.p.Exchange); err != nil {
		r.answer <- answer{err: err}
		return
	}
	if r.alone {
		p.s.running.Go(func() { p.serveAlone(r) })
		return
	}
	if p.shared == nil || p.shared.ch.IsClosed() {
		l, err := openLink(p.s)
		if err != nil {
			r.answer <- answer{err: err}
			return
		}
		p.shared = l
	}
	sent, err := p.shared.publish(r.p)
	r.answer <- answer{sent, err}
}

func (p *publisher) serveAlone(r *request) {
	l, err := openLink(p.s)
	if err != nil {
		r.answer <- answer{err: err}
		return
	}
	sent, err := l.publish(r.p)
	if err == nil {
		select {
		case <-sent.Done():
			// A refusal is the answer, and known to be to this message.
			if errors.Is(sent.Err(), errChannel) {
				sent, err = nil, l.err
			}
		case <-p.s.done:
		}
	}
	r.answer <- answer{sent, err}
	defer p.s.guard()()
	_ = l.ch.Close()
}

func (p *publisher) declare(e Exchange) error {
	if e.Name == "" || p.declared[e] {
		return nil
	}
	err := p.s.Do(func(ch *amqp091.Channel) error {
		switch {
		case e.Passive:
			return PassiveExchange(ch, e.Name)
		case e.Fanout:
			return p.s.config.FanoutExchange(ch, e.Name)
		default:
			return p.s.config.Exchange(ch, e.Name)
		}
	})
	if err == nil {
		p.declared[e] = true
	}
	return err
}

// link is a channel in confirm mode.
type link struct {
	session *Session
	ch      *amqp091.Channel
	sync    chan chan struct{} // see returned
	ended   chan struct{}      // closed when the channel is
	err     *amqp091.Error     // the broker's reason, readable after ended

	mu        sync.Mutex
	mandatory []*inflight // not yet confirmed, for which a return may come
}

// inflight is a mandatory message on its way. A returned message does not say
// which publishing it was, but its content does: each has an id of its own.
type inflight struct {
	exchange, key string
	body          []byte
	confirm       *amqp091.DeferredConfirmation
	returned      bool
}

// done is nil, and never ready, before the message is written.
func (m *inflight) done() <-chan struct{} {
	if m.confirm == nil {
		return nil
	}
	return m.confirm.Done()
}

func openLink(s *Session) (*link, error) {
	l := &link{session: s, sync: make(chan chan struct{}), ended: make(chan struct{})}
	var err error
	l.ch, err = s.Channel(func(ch *amqp091.Channel) error { return ch.Confirm(false) })
	if err != nil {
		return nil, err
	}
	closed := l.ch.NotifyClose(make(chan *amqp091.Error, 1))
	returns := l.ch.NotifyReturn(make(chan amqp091.Return))
	s.running.Go(func() { l.collect(closed, returns) })
	return l, nil
}

func (l *link) collect(closed chan *amqp091.Error, returns chan amqp091.Return) {
	defer close(l.ended)
	for closed != nil || returns != nil {
		select {
		case err, ok := <-closed:
			if err != nil {
				l.err = err
			}
			if !ok {
				closed = nil
			}
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			l.mark(r)
		case reached := <-l.sync:
			close(reached)
		}
	}
}

func (l *link) mark(r amqp091.Return) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.mandatory {
		if !m.returned && m.exchange == r.Exchange && m.key == r.RoutingKey && bytes.Equal(m.body, r.Body) {
			m.returned = true
			return
		}
	}
}

// returned tells whether the broker gave m back; to be called when m is
// confirmed. A return comes before the confirm, but to another goroutine, which
// is first waited for.
func (l *link) returned(m *inflight) bool {
	l.settle()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mandatory = slices.DeleteFunc(l.mandatory, func(o *inflight) bool { return o == m })
	return m.returned
}

// settle waits until every return that came so far is marked.
func (l *link) settle() {
	reached := make(chan struct{})
	select {
	case l.sync <- reached:
		<-reached
	case <-l.ended:
	}
}

// track remembers a mandatory message, and forgets those that were confirmed
// when nobody waited any more.
func (l *link) track(m *inflight) {
	l.mu.Lock()
	full := len(l.mandatory) >= maxTracked
	l.mu.Unlock()
	if full {
		l.settle()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if full {
		l.mandatory = slices.DeleteFunc(l.mandatory, func(o *inflight) bool {
			select {
			case <-o.done():
				return true
			default:
				return false
			}
		})
	}
	l.mandatory = append(l.mandatory, m)
}

func (l *link) publish(p Publishing) (*Sent, error) {
	msg := amqp091.Publishing{
		// oslo.messaging always has the table, empty.
		Headers:         amqp091.Table{},
		ContentType:     p.ContentType,
		ContentEncoding: p.ContentEncoding,
		DeliveryMode:    amqp091.Persistent,
		UserId:          l.session.login,
		Body:            p.Body,
	}
	if p.Expiration > 0 {
		msg.Expiration = strconv.FormatInt(max(1, p.Expiration.Milliseconds()), 10)
	}
	exchange := p.Exchange.Name
	if p.Exchange.Fanout {
		exchange = FanoutName(exchange)
	}
	sent := &Sent{link: l}
	if p.Mandatory {
		sent.inflight = &inflight{exchange: exchange, key: p.Key, body: p.Body}
		l.track(sent.inflight)
	}
	var err error
	sent.confirm, err = l.ch.PublishWithDeferredConfirm(exchange, p.Key, p.Mandatory, false, msg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	if sent.inflight != nil {
		l.mu.Lock()
		sent.inflight.confirm = sent.confirm
		l.mu.Unlock()
	}
	return sent, nil
}
