package outbox

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
)

// Store is what the relay needs of the store. Times in it are the database's.
type Store interface {
	// ServeOutbox says that owner publishes what this process writes.
	ServeOutbox(owner string) (written <-chan struct{}, stop func())
	ReadyTopics(ctx context.Context, owner string, limit int) ([]string, error)
	ClaimOutbox(ctx context.Context, owner, topic string, limit int, hold time.Duration) ([]store.OutboxRow, error)
	SettleOutbox(ctx context.Context, owner string, rows ...store.Sent) error
	RepeatOutbox(ctx context.Context, ago time.Duration) error
	ExpireOutbox(ctx context.Context) ([]store.OutboxRow, error)
	RejectOutbox(ctx context.Context, id string, r store.Rejection) (bool, error)
}

const (
	// page is how many rows of a topic are claimed at a time.
	page = 32
	// publishers is how many topics are served at once. It is more than are
	// ever likely to hang.
	publishers = 64
	// castTimeout bounds one attempt to publish.
	castTimeout = 3 * time.Second
	// hold is how long rows are claimed: a process killed with them costs them
	// so long. Half of it is more than castTimeout.
	hold = 8 * time.Second
	// firstRepeat doubles with each attempt up to maxRepeat: when a row is
	// published again that nobody has acknowledged.
	firstRepeat = 5 * time.Second
	maxRepeat   = 60 * time.Second
	// firstRetry doubles up to maxRetry: when publishing is tried again after
	// it, or the database, failed.
	firstRetry = 250 * time.Millisecond
	maxRetry   = 10 * time.Second
	// look is how often rows are looked for that are due again, or whose writer
	// was killed.
	look = time.Second
	// settleTimeout bounds writing down what was published, also at the end.
	settleTimeout = 5 * time.Second
	// fresh is what was published so short ago that a new connection is no
	// reason to publish it again: by another process that was back sooner, most
	// likely. If it is lost nevertheless, its own next turn is not far.
	fresh = 5 * time.Second
)

// Options of a Relay. The zero value is good.
type Options struct {
	// MixedTaskManagers says that task managers of the original are on the bus
	// too, which take messages and tell nobody: rows for task managers go when
	// the broker has confirmed them.
	MixedTaskManagers bool
	// Connected gives a signal after each login to the broker
	// (amqp.Conn.Connected), which may have been away and have forgotten what it
	// had; nil: see Kick.
	Connected <-chan struct{}
	// Observer is told of each attempt; nil: nobody.
	Observer Observer
	Log      *slog.Logger
}

// Observer is told what became of messages. It must not wait.
type Observer interface {
	// OutboxSent: published, repeated, failed, expired or damaged.
	OutboxSent(outcome string)
}

type noObserver struct{}

func (noObserver) OutboxSent(string) {}

// Relay publishes what is in the outbox. Each process that writes to it runs
// one, and any number of processes may: a row is claimed before it is published,
// by whoever wrote it or, when that process is gone, by any other.
type Relay struct {
	store  Store
	caller rpc.Caller
	opts   Options
	owner  string
	log    *slog.Logger
	kick   chan struct{}

	mu     sync.Mutex
	repeat time.Time // rows last published before are to be published again
}

// NewRelay makes a relay.
func NewRelay(s Store, c rpc.Caller, o Options) *Relay {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	return &Relay{store: s, caller: c, opts: o, owner: rand.Text(), log: o.Log, kick: make(chan struct{}, 1)}
}

// Kick has every row published again now that was last published before a time
// and that nobody has acknowledged: by one process, however many ask for it. It is for
// who knows that the broker has forgotten what it had.
func (r *Relay) Kick(before time.Time) {
	r.mu.Lock()
	if before.After(r.repeat) {
		r.repeat = before
	}
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// result is how serving a topic ended.
type result struct {
	topic  string
	more   bool // there may be more of it
	failed bool
	again  time.Duration // in which time this process tries again, if it failed
}

// trouble is what this process had with a topic. It rests for longer than the rows
// do: a process whose connection is in order has its turn in between.
type trouble struct {
	failures int // in a row
	rest     time.Time
}

// forget is when trouble with a topic that does not come up any more is forgotten.
const forget = 2 * maxRetry

// Run publishes rows until ctx ends, gives back what it has claimed, and returns
// nil. Rows of one topic about one instance are published first in the order
// they were written: while one cannot be, those after it wait. Topics do not
// wait for one another.
func (r *Relay) Run(ctx context.Context) error {
	written, stop := r.store.ServeOutbox(r.owner)
	defer stop()
	busy := map[string]bool{} // topics being served; true: there is more
	troubled := map[string]trouble{}
	ended := make(chan result, publishers)
	away := 0
	for ctx.Err() == nil {
		topics, err := r.ready(ctx)
		wait := look - look/8 + mathrand.N(look/4)
		if err != nil {
			r.failed(ctx, "reading the outbox", err)
			wait, away = backOff(firstRetry, maxRetry, away), away+1
		} else {
			away = 0
		}
		for _, topic := range topics {
			if _, is := busy[topic]; is {
				busy[topic] = true
			} else if was := troubled[topic]; len(busy) < publishers && !time.Now().Before(was.rest) {
				busy[topic] = false
				go func() { ended <- r.serve(ctx, topic, was.failures) }()
			}
		}
		next := time.Now().Add(wait)
		for again := false; !again; {
			t := time.NewTimer(time.Until(next))
			again = true
			select {
			case <-ctx.Done():
			case <-t.C:
			case <-written:
			case <-r.kick:
			case <-r.opts.Connected:
				clear(troubled)
				r.Kick(time.Now().Add(-fresh))
			case e := <-ended:
				again = (busy[e.topic] || e.more) && !e.failed || len(busy) == publishers
				delete(busy, e.topic)
				if !e.failed {
					delete(troubled, e.topic)
					break
				}
				now := time.Now()
				maps.DeleteFunc(troubled, func(_ string, was trouble) bool { return now.Sub(was.rest) > forget })
				was := trouble{troubled[e.topic].failures + 1, now.Add(e.again)}
				if was.failures > 1 {
					was.rest = now.Add(max(e.again, 2*look))
				}
				troubled[e.topic] = was
				if was.rest.Before(next) {
					next = was.rest
				}
			}
			t.Stop()
		}
	}
	for range len(busy) {
		<-ended
	}
	return nil
}

// ready gives the topics that can be served, in no order, so that relays that
// look at the same time do not all try the same.
func (r *Relay) ready(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	before := r.repeat
	r.repeat = time.Time{}
	r.mu.Unlock()
	if !before.IsZero() {
		if err := r.store.RepeatOutbox(ctx, time.Since(before)); err != nil {
			r.Kick(before)
			return nil, err
		}
	}
	topics, err := r.store.ReadyTopics(ctx, r.owner, 2*publishers)
	mathrand.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
	return topics, err
}

// serve publishes what is ready of a topic, at most a page of it, up to the first
// failure; failures have been before.
func (r *Relay) serve(ctx context.Context, topic string, failures int) result {
	retry := backOff(firstRetry, maxRetry, failures)
	failed := result{topic: topic, failed: true, again: retry}
	began := time.Now()
	rows, err := r.store.ClaimOutbox(ctx, r.owner, topic, page, hold)
	if err != nil {
		r.failed(ctx, "claiming messages", err, "topic", topic)
		return failed
	}
	if slices.ContainsFunc(rows, func(row store.OutboxRow) bool { return row.Past }) {
		if err := r.expire(ctx); err != nil {
			r.failed(ctx, "giving messages up", err, "topic", topic)
			return failed
		}
	}
	var done []store.Sent
	broken := false
	for _, row := range rows {
		switch {
		case row.Past:
		case broken:
			done = append(done, store.Sent{ID: row.ID, Again: min(retry, look)})
		case ctx.Err() != nil || time.Since(began) > row.Left-castTimeout:
			done = append(done, store.Sent{ID: row.ID}) // claimed no longer than it takes to publish
		default:
			sent, err := r.publish(ctx, row)
			if err != nil && ctx.Err() == nil {
				r.failed(ctx, "publishing a message", err, attrs(row)...)
				broken, sent.Again = true, min(retry, look)
			}
			done = append(done, sent)
		}
	}
	if len(done) > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if err := r.store.SettleOutbox(ctx, r.owner, done...); err != nil {
			r.failed(ctx, "recording what was published", err, "topic", topic)
			return failed
		}
	}
	if broken {
		return failed
	}
	return result{topic: topic, more: len(rows) == page}
}

// expire gives up what is past its deadline.
func (r *Relay) expire(ctx context.Context) error {
	rows, err := r.store.ExpireOutbox(ctx)
	for _, row := range rows {
		r.opts.Observer.OutboxSent("expired")
		r.log.WarnContext(ctx, "a message was given up: nobody acknowledged it in time", attrs(row)...)
	}
	return err
}

// publish sends one row. A crash after it, before that is recorded, repeats the
// message.
func (r *Relay) publish(ctx context.Context, row store.OutboxRow) (store.Sent, error) {
	m, rc, err := message(row)
	if err != nil {
		// It will never be readable: it must keep neither its topic waiting nor
		// whatever looks after its instance.
		r.opts.Observer.OutboxSent("damaged")
		r.log.ErrorContext(ctx, "a message cannot be read and is given up", append(attrs(row), "error", err)...)
		_, err = r.store.RejectOutbox(ctx, row.ID, store.Rejection{Cause: "The request " + row.Method + " was damaged before it could be sent.",
			Action: "Ask for it again; a lost creation can only be deleted."})
		return store.Sent{ID: row.ID}, err
	}
	gone := r.opts.MixedTaskManagers && row.InstanceID == ""
	// A confirm says nothing where no queue was there to take the message.
	m.Mandatory = m.Mandatory || gone
	m.Made, m.Kept = row.Created, !gone
	ctx, cancel := context.WithTimeout(rc.Logged(ctx), castTimeout)
	defer cancel()
	if err := r.caller.Cast(ctx, m); err != nil {
		r.opts.Observer.OutboxSent("failed")
		return store.Sent{ID: row.ID}, err
	}
	if row.Attempts == 0 {
		r.opts.Observer.OutboxSent("published")
	} else {
		r.opts.Observer.OutboxSent("repeated")
	}
	r.log.DebugContext(ctx, "a message was published", attrs(row)...)
	return store.Sent{ID: row.ID, Published: true, Gone: gone, Again: backOff(firstRepeat, maxRepeat, row.Attempts)}, nil
}

// failed logs what did not work, unless it is because the relay stops.
func (r *Relay) failed(ctx context.Context, what string, err error, args ...any) {
	if ctx.Err() == nil {
		r.log.WarnContext(ctx, what+" failed; it is tried again", append(args, "error", err)...)
	}
}

// attrs are what may be logged of a row: never its body.
func attrs(row store.OutboxRow) []any {
	return []any{"message_id", row.ID, "topic", row.Topic, "method", row.Method, "instance_id", row.Subject, "attempts", row.Attempts}
}

// backOff is first doubled n times, at most most, give or take a fifth.
func backOff(first, most time.Duration, n int) time.Duration {
	d := min(first<<min(n, 16), most)
	return d - d/5 + mathrand.N(2*d/5)
}
