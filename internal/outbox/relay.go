package outbox

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
)

// Store is what the relay needs of the store.
type Store interface {
	DueOutbox(ctx context.Context, asOf time.Time, after int64, limit int) ([]store.OutboxRow, error)
	NextOutbox(ctx context.Context) (time.Time, error)
	Published(ctx context.Context, id string, next time.Time) error
	ExpireOutbox(ctx context.Context) ([]store.OutboxRow, error)
	OutboxChanged() (changed <-chan struct{}, cancel func())
}

const (
	// page is how many rows are read at a time.
	page = 64
	// publishers is how many topics are served at once.
	publishers = 8
	// castTimeout bounds one attempt to publish.
	castTimeout = 10 * time.Second
	// firstRepeat doubles with each attempt up to maxRepeat: when a row is
	// published again that nobody has acknowledged.
	firstRepeat = 5 * time.Second
	maxRepeat   = 60 * time.Second
	// firstRetry doubles up to maxRetry: when publishing is tried again after
	// it, or the database, failed.
	firstRetry = 250 * time.Millisecond
	maxRetry   = 10 * time.Second
	// look is how often rows are looked for that another process wrote.
	look = 2 * time.Second
)

// Relay publishes what is in the outbox. One relay at a time may serve a
// database; a second one would publish rows twice, which receivers bear, but
// could break the order within a topic.
type Relay struct {
	store  Store
	caller rpc.Caller
	log    *slog.Logger
	clock  func() time.Time
	kick   chan struct{}
}

// NewRelay makes a relay. clock is time.Now if nil; it must be the store's.
func NewRelay(s Store, c rpc.Caller, log *slog.Logger, clock func() time.Time) *Relay {
	if clock == nil {
		clock = time.Now
	}
	return &Relay{store: s, caller: c, log: log, clock: clock, kick: make(chan struct{}, 1)}
}

// Kick makes the relay publish every row now, acknowledged ones excepted, also
// those that are waiting for their next turn: to be called when the connection
// to the broker is back, which may have forgotten what it had.
func (r *Relay) Kick() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run publishes rows until ctx ends, then returns nil. Within a topic rows are
// published first in the order they were written: while one cannot be, those
// after it wait. Topics do not wait for one another.
func (r *Relay) Run(ctx context.Context) error {
	changed, cancel := r.store.OutboxChanged()
	defer cancel()
	all := false
	failures := 0
	for ctx.Err() == nil {
		ok := r.round(ctx, all)
		wait := look
		if ok {
			failures = 0
			if next, err := r.store.NextOutbox(ctx); err == nil && !next.IsZero() {
				wait = min(wait, max(0, next.Sub(r.clock())))
			}
		} else {
			wait = backOff(firstRetry, maxRetry, failures)
			failures++
		}
		// Never a tight loop, even on rows that are always due.
		t := time.NewTimer(max(wait, 10*time.Millisecond))
		all = false
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changed:
		case <-r.kick:
			all = true
		}
		t.Stop()
	}
	return nil
}

// round gives up what is past its deadline and publishes what is due, or all.
// It reports whether nothing failed.
func (r *Relay) round(ctx context.Context, all bool) bool {
	expired, err := r.store.ExpireOutbox(ctx)
	if err != nil {
		r.failed(ctx, "giving messages up", err)
		return false
	}
	for _, row := range expired {
		r.log.WarnContext(ctx, "a message was given up: nobody acknowledged it in time", attrs(row)...)
	}
	asOf := r.clock()
	if all {
		asOf = asOf.AddDate(100, 0, 0)
	}
	stuck := map[string]bool{} // topics that failed in this round
	for after := int64(0); ctx.Err() == nil; {
		rows, err := r.store.DueOutbox(ctx, asOf, after, page)
		if err != nil {
			r.failed(ctx, "reading the outbox", err)
			return false
		}
		if len(rows) == 0 {
			break
		}
		after = rows[len(rows)-1].Seq
		r.publishTopics(ctx, rows, stuck)
	}
	return len(stuck) == 0
}

// publishTopics publishes rows, topics side by side, each in order up to its
// first failure, which is added to stuck.
func (r *Relay) publishTopics(ctx context.Context, rows []store.OutboxRow, stuck map[string]bool) {
	var order []string
	byTopic := map[string][]store.OutboxRow{}
	for _, row := range rows {
		if stuck[row.Topic] {
			continue
		}
		if byTopic[row.Topic] == nil {
			order = append(order, row.Topic)
		}
		byTopic[row.Topic] = append(byTopic[row.Topic], row)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, publishers)
	for _, topic := range order {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, row := range byTopic[topic] {
				if err := r.publish(ctx, row); err != nil {
					r.failed(ctx, "publishing a message", err, attrs(row)...)
					mu.Lock()
					stuck[topic] = true
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
}

// publish sends one row and records that it did. A crash between the two
// repeats the message.
func (r *Relay) publish(ctx context.Context, row store.OutboxRow) error {
	m, rc, err := message(row)
	if err != nil {
		// It will never be readable: it must not keep its topic waiting. It
		// stays until its deadline for someone to look at.
		r.log.ErrorContext(ctx, "a message cannot be read", append(attrs(row), "error", err)...)
		return r.store.Published(ctx, row.ID, r.clock().Add(maxRepeat))
	}
	castCtx, cancel := context.WithTimeout(rpc.WithContext(ctx, rc), castTimeout)
	defer cancel()
	if err := r.caller.Cast(castCtx, m); err != nil {
		return err
	}
	return r.store.Published(ctx, row.ID, r.clock().Add(backOff(firstRepeat, maxRepeat, row.Attempts)))
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
	return d - d/5 + rand.N(2*d/5)
}
