package work

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Store is what the engine needs of the store.
type Store interface {
	// AcceptWork writes a row, unless its request id is there already: false.
	AcceptWork(ctx context.Context, w store.NewWork) (bool, error)
	// LeaseWork gives a due row of one of kinds to owner; nil if none is due.
	LeaseWork(ctx context.Context, owner string, kinds []string, lease time.Duration) (*store.Work, error)
	// RenewWork extends a lease; KindConflict if it was lost.
	RenewWork(ctx context.Context, id, owner string, lease time.Duration) error
	// SaveWork writes the end of a step; KindConflict if the lease was lost.
	SaveWork(ctx context.Context, u store.WorkUpdate) (store.WorkSaved, error)
	// AddWorkEvent appends one event.
	AddWorkEvent(ctx context.Context, e trove.OperationEvent) error
	// WishedWork gives the ids of leased rows that someone wishes to end.
	WishedWork(ctx context.Context) ([]string, error)
	// NextDueWork tells how long until LeaseWork may find a row; false if there
	// is none to wait for.
	NextDueWork(ctx context.Context, kinds []string) (time.Duration, bool, error)
	// ReleaseWork ends every lease, whoever holds it.
	ReleaseWork(ctx context.Context) error
	// WorkChanged hints that a row changed in this process; stop ends it.
	WorkChanged() (hints <-chan struct{}, stop func())
}

// Options are the engine's bounds. A zero field has the default told beside it.
type Options struct {
	Process string        // names this process in leases; default is random
	Workers int           // pieces of work at once; 16
	Lease   time.Duration // 15 s; renewed every fifth of it. So long a killed process costs its work
	Poll    time.Duration // how late a change by another process may be seen; 400 ms
	Attempt time.Duration // the longest one run of a step may take; 15 min
	Retry   Backoff       // 200 ms to 15 s
	Undo    time.Duration // how long the undo of one step is tried; 10 min
	Grace   time.Duration // how long Run waits for steps to end when it stops; 10 s
	// Monotonic measures how long things take, whatever the clock on the wall
	// does meanwhile; time.Now, whose times can.
	Monotonic func() time.Time
	Log       *slog.Logger // slog.Default()
	Observer  Observer     // nil: nobody
}

// Observer is told of what was written down. It must not wait.
type Observer interface {
	// StepRan: a step ran once and ended as outcome says: next, done, nap, retry,
	// fail, panic, or lost, stopped or cancelled if it was interrupted.
	StepRan(kind, step, outcome string)
	// StepEnded: a step is over (done, failed or cancelled), so long after it began.
	StepEnded(kind, step, outcome string, took time.Duration)
	// WorkEnded: a piece of work is over, so long after it was accepted.
	WorkEnded(kind, outcome string, took time.Duration)
}

type noObserver struct{}

func (noObserver) StepRan(string, string, string)                  {}
func (noObserver) StepEnded(string, string, string, time.Duration) {}
func (noObserver) WorkEnded(string, string, time.Duration)         {}

// Backoff is a pause that doubles from First to Most, jittered by a quarter.
type Backoff struct{ First, Most time.Duration }

func (b Backoff) pause(attempt int) time.Duration {
	d := b.First
	for range min(attempt, 32) {
		if d *= 2; d >= b.Most {
			d = b.Most
			break
		}
	}
	return jitter(d)
}

// jitter gives d changed by up to a quarter.
func jitter(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d - d/4 + mathrand.N(d/2)
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Lease, 15*time.Second)
	def(&o.Poll, 400*time.Millisecond)
	def(&o.Attempt, 15*time.Minute)
	def(&o.Retry.First, 200*time.Millisecond)
	def(&o.Retry.Most, 15*time.Second)
	def(&o.Undo, 10*time.Minute)
	def(&o.Grace, 10*time.Second)
	if o.Workers <= 0 {
		o.Workers = 16
	}
	if o.Process == "" {
		o.Process = rand.Text()
	}
	if o.Monotonic == nil {
		o.Monotonic = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	return o
}

// Engine runs work. One Engine per process is enough; many processes may share
// a store.
type Engine struct {
	store Store
	opts  Options
	flows map[string]*definition
	kinds []string

	mu      sync.Mutex
	leases  int64
	running map[string]*job // by id of the row
}

// New makes an engine of flows. It does nothing until Run.
func New(s Store, o Options, flows ...Registered) (*Engine, error) {
	e := &Engine{store: s, opts: o.withDefaults(), flows: map[string]*definition{}, running: map[string]*job{}}
	for _, f := range flows {
		d, err := f.definition()
		if err != nil {
			return nil, err
		}
		if e.flows[d.kind] != nil {
			return nil, fmt.Errorf("work: two flows of kind %s", d.kind)
		}
		e.flows[d.kind] = d
		e.kinds = append(e.kinds, d.kind)
	}
	return e, nil
}

// Accept writes down a piece of work: when it returns nil, the work will be
// done, whatever happens to this process. requestID is unique to the request
// that asks for it; false tells that it was accepted before. state is the
// flow's S. The request context in ctx is kept, without its token.
func (e *Engine) Accept(ctx context.Context, kind, subject, requestID string, state any) (bool, error) {
	d := e.flows[kind]
	if d == nil || !d.accepts(state) {
		return false, trove.Errorf(trove.KindInternal, "no flow %s of %T", kind, state)
	}
	data, err := json.Marshal(state)
	if err != nil {
		return false, trove.Errorf(trove.KindInternal, "state of %s: %w", kind, err)
	}
	env := envelope{Data: data}
	env.enter(d, d.steps[0])
	raw, err := json.Marshal(env)
	if err != nil {
		return false, trove.Errorf(trove.KindInternal, "state of %s: %w", kind, err)
	}
	rc := rpc.ContextFrom(ctx)
	rc.AuthToken, rc.ServiceCatalog = "", nil // nobody needs them later: not kept
	rcRaw, err := json.Marshal(rc)
	if err != nil {
		return false, trove.Errorf(trove.KindInternal, "context of %s: %w", kind, err)
	}
	return e.store.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: kind, Subject: subject, RequestID: requestID,
		RPCContext: rcRaw, Step: d.steps[0], State: raw})
}

// ReleaseAll ends all leases, so that work goes on at once that a process which
// was killed held. Only a process that knows that no other one uses the store
// may call it, before Run.
func (e *Engine) ReleaseAll(ctx context.Context) error { return e.store.ReleaseWork(ctx) }

// Run works until ctx is done. Then running steps are told by their context,
// and what they finish in time is saved; every lease is given back, so that the
// next process goes on at once.
func (e *Engine) Run(ctx context.Context) error {
	hints, stop := e.store.WorkChanged()
	defer stop()
	var workers sync.WaitGroup
	tending := make(chan struct{})
	tendCtx, endTending := context.WithCancel(context.WithoutCancel(ctx))
	defer func() { endTending(); <-tending }()
	go func() { defer close(tending); e.tend(tendCtx) }()

	free := make(chan struct{}, e.opts.Workers) // a worker has ended
	busy, missed := 0, 0
	due := true // there may be something to lease
	for ctx.Err() == nil {
		for due && busy < e.opts.Workers && ctx.Err() == nil {
			j := e.lease(ctx)
			if j == nil {
				missed++
				break
			}
			missed = 0
			busy++
			workers.Go(func() {
				e.work(ctx, j)
				free <- struct{}{}
			})
		}
		pause := jitter(e.opts.Poll * 4 / 5) // never more than Poll
		due = false
		if busy < e.opts.Workers {
			if in := e.untilDue(ctx); in < pause {
				// What is due and was not to be had is looked for less and less.
				pause, due = min(pause, max(in, time.Millisecond<<min(missed, 10))), true
			}
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-free:
			busy--
			due, missed = true, 0
		case <-hints:
			due, missed = true, 0
			e.heedWishes(ctx)
		case <-wait.C:
			e.heedWishes(ctx)
		}
		wait.Stop()
		for drained := false; !drained; {
			select {
			case <-free:
				busy--
				due = true
			default:
				drained = true
			}
		}
	}
	ended := make(chan struct{})
	go func() { workers.Wait(); close(ended) }()
	grace := time.NewTimer(e.opts.Grace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
		e.opts.Log.WarnContext(ctx, "steps did not end in time; their leases will expire", "grace", e.opts.Grace)
	}
	return nil
}

// lease takes a due row, nil if there is none or the store is away.
func (e *Engine) lease(ctx context.Context) *job {
	e.mu.Lock()
	e.leases++
	owner := fmt.Sprintf("%s/%d", e.opts.Process, e.leases)
	e.mu.Unlock()
	asked := time.Now()
	// Our stop does not end it: a COMMIT that is given up half-way may count, and
	// nobody would give that lease back.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.opts.Lease/3)
	defer cancel()
	row, err := e.store.LeaseWork(whole, owner, e.kinds, e.opts.Lease)
	if err != nil {
		if ctx.Err() == nil {
			e.opts.Log.ErrorContext(ctx, "cannot look for work", "error", err)
		}
		return nil
	}
	if row == nil {
		return nil
	}
	j := &job{engine: e, def: e.flows[row.Kind], row: *row, owner: owner, leased: e.opts.Monotonic(),
		log: e.opts.Log.With("work", row.ID, "kind", row.Kind)}
	j.until(asked)
	e.mu.Lock()
	e.running[row.ID] = j
	e.mu.Unlock()
	return j
}

// untilDue is how long nothing is due as far as this process can know, for ever
// if nothing is waiting.
func (e *Engine) untilDue(ctx context.Context) time.Duration {
	d, ok, err := e.store.NextDueWork(ctx, e.kinds)
	if err != nil || !ok {
		return math.MaxInt64
	}
	return d
}

// renewals is how many leases are renewed at once.
const renewals = 4

// tend renews the leases of what is running, so often that two renewals may fail
// before a step is ended.
func (e *Engine) tend(ctx context.Context) {
	renew := time.NewTicker(e.opts.Lease / 5)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-renew.C:
		}
		var all sync.WaitGroup
		slots := make(chan struct{}, renewals)
		for _, j := range e.jobs() {
			slots <- struct{}{}
			all.Go(func() {
				e.renew(ctx, j)
				<-slots
			})
		}
		all.Wait()
	}
}

// renew extends a job's lease. One that cannot be extended ends by itself, before
// another process may have it.
func (e *Engine) renew(ctx context.Context, j *job) {
	ctx, cancel := context.WithTimeout(ctx, e.opts.Lease/5)
	defer cancel()
	asked := time.Now()
	err := e.store.RenewWork(ctx, j.row.ID, j.owner, e.opts.Lease)
	switch {
	case err == nil:
		j.until(asked)
	case trove.IsKind(err, trove.KindConflict):
		j.interrupt(errLost, true)
	default:
		j.log.WarnContext(ctx, "cannot renew a lease", "error", err)
	}
}

func (e *Engine) jobs() []*job {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*job, 0, len(e.running))
	for _, j := range e.running {
		all = append(all, j)
	}
	return all
}

// heedWishes interrupts the running steps of work that is to be cancelled.
func (e *Engine) heedWishes(ctx context.Context) {
	if len(e.jobs()) == 0 {
		return
	}
	ids, err := e.store.WishedWork(ctx)
	if err != nil {
		return // seen at the next hint, or when the step ends
	}
	for _, id := range ids {
		e.mu.Lock()
		j := e.running[id]
		e.mu.Unlock()
		if j != nil {
			j.interrupt(errCancelled, false)
		}
	}
}

var (
	errLost      = errors.New("the lease was lost")
	errCancelled = errors.New("cancelled")
)
