// Package lease lets one process at a time do what any process of a role could:
// look at the cloud, search for what got stuck, forget what is old.
//
// Who works holds a lease in the store and renews it; when it is killed, another
// takes over within Takeover. The database's clock decides who holds a lease, and
// the monotonic clock how long this process may believe it: a process whose
// clock is wrong, or that was held up, stops before another begins, as far as
// its tasks heed their context. What must never be done twice needs a fence of
// its own. The package knows neither tasks nor database.
package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Store keeps leases.
type Store interface {
	// ClaimLease makes owner the holder of name for ttl from now, unless another is.
	ClaimLease(ctx context.Context, name, owner string, ttl time.Duration) (held bool, err error)
	// ReleaseLease gives name back, if owner holds it.
	ReleaseLease(ctx context.Context, name, owner string) error
}

const (
	ttl   = 8 * time.Second
	renew = ttl / 4
	// look is how often a process that waits looks whether the lease is free.
	look = 1500 * time.Millisecond
	// releaseTimeout bounds giving back what expires anyway.
	releaseTimeout = 2 * time.Second
)

// Takeover is the longest that nobody holds a lease whose holder was killed,
// while another process waits for it and the database answers.
const Takeover = 10 * time.Second

// Lease is this process's part in a lease.
type Lease struct {
	store Store
	name  string
	owner string
	log   *slog.Logger
}

// New makes a Lease of the name. It holds nothing until Run.
func New(s Store, name string, log *slog.Logger) *Lease {
	return &Lease{store: s, name: name, owner: rand.Text(), log: log.With("lease", name)}
}

var errLost = errors.New("the lease was lost")

// Run does tasks, side by side, whenever this process holds the lease, until
// ctx ends; then it gives the lease back at once. Tasks run until their context
// ends: they are begun anew when the lease comes back. An error of a task ends
// Run.
func (l *Lease) Run(ctx context.Context, tasks ...func(context.Context) error) error {
	away := false
	for ctx.Err() == nil {
		asked := time.Now()
		held, err := l.claim(ctx)
		if err != nil && ctx.Err() != nil {
			l.release(ctx) // given up half-way, the claim may count all the same
			break
		}
		if err != nil && !away {
			l.log.WarnContext(ctx, "nobody may know who holds a lease: the store does not answer", "error", err)
		}
		away = err != nil
		if held {
			if err := l.hold(ctx, asked, tasks); err != nil {
				return err
			}
		}
		wait := time.NewTimer(look - look/4 + mathrand.N(look/4))
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
	return nil
}

func (l *Lease) claim(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, renew)
	defer cancel()
	return l.store.ClaimLease(ctx, l.name, l.owner, ttl)
}

// hold does the tasks until ctx ends, the lease is lost or a task fails. It was
// claimed after asked.
func (l *Lease) hold(ctx context.Context, asked time.Time, tasks []func(context.Context) error) error {
	l.log.InfoContext(ctx, "this process has the lease")
	held, drop := context.WithCancelCause(ctx)
	defer drop(nil)
	expiry := time.AfterFunc(time.Until(asked.Add(ttl)), func() { drop(errLost) })
	defer expiry.Stop()
	var running sync.WaitGroup
	for _, task := range tasks {
		running.Go(func() {
			if err := once(held, task); err != nil && held.Err() == nil {
				drop(err)
			}
		})
	}
	tick := time.NewTicker(renew)
	defer tick.Stop()
	for held.Err() == nil {
		select {
		case <-held.Done():
		case <-tick.C:
			asked := time.Now()
			still, err := l.claim(held)
			switch {
			case err != nil: // until it expires
			case still:
				expiry.Reset(time.Until(asked.Add(ttl)))
			default:
				drop(errLost)
			}
		}
	}
	running.Wait()
	switch cause := context.Cause(held); {
	case cause == errLost:
		l.log.WarnContext(ctx, "this process has lost the lease")
		return nil
	case ctx.Err() == nil:
		l.release(ctx)
		return cause
	}
	l.release(ctx)
	return nil
}

func (l *Lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := l.store.ReleaseLease(ctx, l.name, l.owner); err != nil {
		l.log.WarnContext(ctx, "a lease was not given back: it will expire", "error", err)
	}
}

// once makes a panic of a task an error.
func once(ctx context.Context, task func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return task(ctx)
}
