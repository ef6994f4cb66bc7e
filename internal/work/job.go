package work

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// undoing is the name of the row's step while a failed or cancelled flow is
// taken back.
const undoing = "undo"

// maxPanics bounds the runs of a step that panics.
const maxPanics = 3

// envelope is the state column.
type envelope struct {
	Data json.RawMessage `json:"data"`
	// Made are the entered steps that have an undo, in order.
	Made []string `json:"made,omitempty"`
	// Entered is when the step began, by the database's clock in Unix
	// microseconds; 0 if the work began with it.
	Entered int64 `json:"entered,omitempty"`
	// Failure is set from the moment the flow is given up.
	Failure *Failure `json:"failure,omitempty"`
}

func (v *envelope) enter(d *definition, step string) {
	if d.undoes[step] && !slices.Contains(v.Made, step) {
		v.Made = append(v.Made, step)
	}
}

// job is a leased row.
type job struct {
	engine *Engine
	def    *definition
	log    *slog.Logger
	owner  string
	leased time.Time // by the monotonic clock, when row.Now was the database's

	row   store.Work
	env   envelope
	state any // *S
	// ending is how the operation ended, as the function that is called says.
	ending *store.Change

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the running step; nil between steps
	heeds  bool                    // the running step may be cancelled
	lost   bool
	expiry *time.Timer // ends the step before the lease ends
	gone   bool        // the row is out of our hands
}

// now is the database's clock.
func (j *job) now() time.Time { return j.row.Now.Add(j.engine.opts.Monotonic().Sub(j.leased)) }

// until says that the lease lasts for its time from asked on, when it was asked
// for. At its end another process may have the row, whether or not the store
// could be asked. The step ends a third before: what it has asked a cloud for is
// then done, or never, when the other one looks.
func (j *job) until(asked time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	lease := j.engine.opts.Lease
	left := time.Until(asked.Add(lease - lease/3))
	switch {
	case j.gone:
	case j.expiry == nil:
		j.expiry = time.AfterFunc(left, func() { j.interrupt(errLost, true) })
	default:
		j.expiry.Reset(left)
		j.lost = false
	}
}

// letGo ends the watch over the lease.
func (j *job) letGo() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gone = true
	j.expiry.Stop()
}

// interrupt ends the context of the running step: always if lost, otherwise
// only if the step may be cancelled.
func (j *job) interrupt(cause error, lost bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lost = j.lost || lost
	if j.cancel != nil && (lost || j.heeds) {
		j.cancel(cause)
	}
}

// work runs a leased row until it naps, ends, is lost or ctx is done.
func (e *Engine) work(ctx context.Context, j *job) {
	defer func() {
		j.letGo()
		e.mu.Lock()
		if e.running[j.row.ID] == j {
			delete(e.running, j.row.ID)
		}
		e.mu.Unlock()
	}()
	var rc rpc.Context
	if err := json.Unmarshal(j.row.RPCContext, &rc); err != nil {
		j.log.WarnContext(ctx, "the request context of a piece of work cannot be read", "error", err)
	}
	ctx = telemetry.With(rc.Logged(ctx), telemetry.InstanceID, j.row.Subject)
	if err := j.open(); err != nil {
		j.giveUp(trove.OperationFailed, err)
		if !j.save(ctx, update{}) {
			return
		}
	}
	for j.turn(ctx) {
	}
}

// open decodes the row's state.
func (j *job) open() error {
	if err := json.Unmarshal(j.row.State, &j.env); err != nil {
		return trove.Errorf(trove.KindInternal, "the state of this work cannot be read: %w", err)
	}
	return j.reset()
}

// reset makes the flow's state what was last saved.
func (j *job) reset() (err error) {
	if j.state, err = j.def.decode(j.env.Data); err != nil {
		return trove.Errorf(trove.KindInternal, "the state of this work cannot be read: %w", err)
	}
	return nil
}

// turn does one thing and saves it; false when the row is out of our hands.
func (j *job) turn(ctx context.Context) bool {
	switch {
	case ctx.Err() != nil:
		return j.save(ctx, update{release: true})
	case j.env.Failure != nil && len(j.env.Made) > 0:
		return j.undo(ctx)
	case j.env.Failure != nil:
		return j.conclude(ctx)
	case j.row.Wish == store.WishCancel && !j.def.keepsOn:
		cancelled := j.event(j.row.Step, trove.OperationCancelled)
		j.giveUp(trove.OperationCancelled, trove.Errorf(trove.KindConflict, "cancelled"))
		return j.save(ctx, update{enters: true, events: append([]trove.OperationEvent{cancelled}, j.beginUndo()...)})
	case !j.def.has(j.row.Step):
		return j.fail(ctx, trove.Errorf(trove.KindInternal, "this version of the program has no step %q of %s", j.row.Step, j.row.Kind))
	}
	step := j.row.Step
	if j.row.Deadline.IsZero() && j.def.timeout > 0 {
		j.row.Deadline = j.now().Add(j.def.timeout)
	}
	out, interrupted := j.call(ctx, true, func(ctx context.Context) Outcome { return j.def.do(ctx, j, step) })
	j.ran(ctx, step, out, interrupted)
	switch {
	case interrupted == errLost:
		j.log.WarnContext(ctx, "lost a lease while a step ran", "step", step)
		return false
	case out.verb == verbNext || out.verb == verbDone:
		return j.advance(ctx, out)
	case ctx.Err() != nil: // stopped in the middle: not the step's fault
		return j.save(ctx, update{release: true})
	case interrupted == errCancelled:
		j.row.Wish = store.WishCancel
		return true
	case out.verb == verbFail:
		return j.fail(ctx, out.err)
	case out.verb == verbPanic && j.row.Attempt+1 >= maxPanics:
		return j.fail(ctx, out.err)
	case !j.row.Deadline.IsZero() && !j.now().Before(j.row.Deadline):
		cause, _ := j.call(ctx, false, func(ctx context.Context) Outcome {
			return Outcome{err: j.def.expired(ctx, j, step, out.err)}
		})
		return j.fail(ctx, cause.err)
	}
	return j.pause(ctx, step, out)
}

// advance enters the next step, or ends the work.
func (j *job) advance(ctx context.Context, out Outcome) bool {
	done := j.event(j.row.Step, trove.OperationDone)
	rest := j.def.after(j.row.Step)
	j.row.Attempt = 0
	if out.verb == verbDone || len(rest) == 0 {
		return j.save(ctx, update{finished: trove.OperationDone, change: j.ending,
			events: []trove.OperationEvent{done, j.event("", trove.OperationDone)}})
	}
	j.row.Step = rest[0]
	j.env.enter(j.def, rest[0])
	return j.save(ctx, update{enters: true, change: j.ending, events: []trove.OperationEvent{done, j.event(rest[0], trove.OperationRunning)}})
}

// pause releases the row until the step is due again. A pause too short to be
// worth it still goes over the row, so that a wish is seen.
func (j *job) pause(ctx context.Context, step string, out Outcome) bool {
	u := update{release: true, in: out.nap}
	if out.verb == verbNap {
		j.row.Attempt = 0
	} else {
		u.in = j.engine.opts.Retry.pause(j.row.Attempt)
		j.row.Attempt++
		j.log.WarnContext(ctx, "a step is tried again", "step", step, "attempt", j.row.Attempt, "in", u.in, "error", out.err)
		if j.row.Attempt&(j.row.Attempt-1) == 0 { // 1, 2, 4…: a long outage does not fill the history
			e := j.event(step, trove.OperationRunning)
			e.Message = fmt.Sprintf("trying again (%d): %s", j.row.Attempt, out.err)
			u.events = append(u.events, e)
		}
	}
	if !j.row.Deadline.IsZero() {
		u.in = min(u.in, max(0, j.row.Deadline.Sub(j.now())))
	}
	return j.save(ctx, u)
}

// fail gives the flow up because of err.
func (j *job) fail(ctx context.Context, err error) bool {
	if err == nil {
		err = trove.Errorf(trove.KindInternal, "failed without a cause")
	}
	j.log.ErrorContext(ctx, "a step failed", "step", j.row.Step, "error", err)
	e := j.event(j.row.Step, trove.OperationFailed)
	e.Cause, e.Action = err.Error(), trove.ActionOf(err)
	j.giveUp(trove.OperationFailed, err)
	return j.save(ctx, update{enters: true, events: append([]trove.OperationEvent{e}, j.beginUndo()...)})
}

// beginUndo is the event that says that something will be undone, if so.
func (j *job) beginUndo() []trove.OperationEvent {
	if len(j.env.Made) == 0 {
		return nil
	}
	return []trove.OperationEvent{j.event(undoing, trove.OperationRunning)}
}

func (j *job) giveUp(state trove.OperationState, err error) {
	j.env.Failure = &Failure{State: state, Step: j.row.Step, Cause: err.Error(), Action: trove.ActionOf(err)}
	j.row.Step, j.row.Attempt = undoing, 0
	j.row.Deadline = j.now().Add(j.engine.opts.Undo)
}

// undo takes back the newest of what was made.
func (j *job) undo(ctx context.Context) bool {
	step := j.env.Made[len(j.env.Made)-1]
	out, interrupted := Next(), error(nil)
	if j.def.undoes[step] && j.state != nil {
		out, interrupted = j.call(ctx, false, func(ctx context.Context) Outcome { return j.def.undo(ctx, j, step) })
		j.ran(ctx, undoing, out, interrupted)
	}
	late := !j.now().Before(j.row.Deadline)
	switch {
	case interrupted == errLost:
		return false
	case out.verb != verbNext && out.verb != verbDone && ctx.Err() != nil:
		return j.save(ctx, update{release: true})
	case out.verb != verbNext && out.verb != verbDone && !late:
		return j.pause(ctx, undoing, out)
	}
	e := j.event(undoing, trove.OperationRunning)
	if len(j.env.Made) == 1 {
		e.State = trove.OperationDone
	}
	e.Message = "undone: " + step
	if out.verb != verbNext && out.verb != verbDone {
		e.Message = fmt.Sprintf("gave up undoing %s", step)
		if out.err != nil {
			e.Cause = out.err.Error()
		}
		j.log.ErrorContext(ctx, "an undo was given up", "step", step, "error", out.err)
		j.env.Failure.Left = append(j.env.Failure.Left, step)
	}
	j.env.Made = j.env.Made[:len(j.env.Made)-1]
	j.row.Attempt = 0
	j.row.Deadline = j.now().Add(j.engine.opts.Undo)
	return j.save(ctx, update{events: []trove.OperationEvent{e}})
}

// conclude tells the flow of its failure and ends the work.
func (j *job) conclude(ctx context.Context) bool {
	f := *j.env.Failure
	var change *store.Change
	if j.state != nil {
		out, interrupted := j.call(ctx, false, func(ctx context.Context) Outcome {
			if err := j.def.failed(ctx, j, f); err != nil {
				return Retry(err)
			}
			return Next()
		})
		if interrupted == errLost {
			return false
		}
		if out.verb != verbNext {
			if ctx.Err() != nil {
				return j.save(ctx, update{release: true})
			}
			j.row.Deadline = time.Time{} // telling it is tried for ever
			return j.pause(ctx, undoing, out)
		}
		change = j.ending
	}
	e := j.event("", f.State)
	e.Cause, e.Action = f.Cause, f.Action
	return j.save(ctx, update{finished: f.State, change: change, cause: f.Cause, action: f.Action, events: []trove.OperationEvent{e}})
}

// call runs f under a context that ends at the step's bound, when the lease is
// lost, and, if heeds, when the work is cancelled; a panic of f becomes an
// outcome.
func (j *job) call(ctx context.Context, heeds bool, f func(context.Context) Outcome) (out Outcome, interrupted error) {
	bound := j.engine.opts.Attempt
	if heeds && !j.row.Deadline.IsZero() {
		// A step that began in time may find its own error; then it is cut off.
		bound = min(bound, max(time.Second, j.row.Deadline.Sub(j.now())))
	}
	j.ending = nil
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bounded, end := context.WithTimeout(ctx, bound)
	defer end()

	j.mu.Lock()
	j.cancel, j.heeds = cancel, heeds && !j.def.keepsOn
	if j.lost {
		cancel(errLost)
	}
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		j.cancel = nil
		lost := j.lost
		j.mu.Unlock()
		if cause := context.Cause(ctx); cause == errCancelled {
			interrupted = errCancelled
		}
		if lost {
			interrupted = errLost
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			j.log.ErrorContext(ctx, "a step panicked", "step", j.row.Step, "panic", p, "stack", string(debug.Stack()))
			out = Outcome{verb: verbPanic, err: trove.Errorf(trove.KindInternal, "%s failed in an unexpected way (%v)", j.row.Step, p)}
			if err := j.reset(); err != nil {
				out = Fail(err)
			}
		}
	}()
	out = f(bounded)
	if out.verb == verbFail && bounded.Err() != nil {
		out.verb = verbRetry // cut off by us: the error is not the step's
	}
	return out, nil
}

// update is what save writes beside the job's own fields.
type update struct {
	release  bool
	enters   bool // the row enters another step
	in       time.Duration
	finished trove.OperationState
	cause    string
	action   string
	change   *store.Change
	events   []trove.OperationEvent
}

// save writes the job; false when the row is out of our hands: released,
// finished or lost. It is not stopped by ctx's end, only by a time limit: what
// was done is worth recording.
func (j *job) save(ctx context.Context, u update) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), j.engine.opts.Lease)
	defer cancel()
	if j.state != nil {
		data, err := json.Marshal(j.state)
		if err != nil {
			j.log.ErrorContext(ctx, "the state of a piece of work cannot be written", "error", err)
			return false
		}
		j.env.Data = data
	}
	began := j.row.Created
	if j.env.Entered != 0 {
		began = time.UnixMicro(j.env.Entered)
	}
	now := j.now()
	if u.enters {
		j.env.Entered = now.UnixMicro()
	}
	raw, err := json.Marshal(j.env)
	if err != nil {
		j.log.ErrorContext(ctx, "the state of a piece of work cannot be written", "error", err)
		return false
	}
	if u.finished != "" {
		raw = []byte("{}") // it may hold secrets, and nobody reads it again
	}
	saved, asked, err := j.write(ctx, store.WorkUpdate{
		ID: j.row.ID, Owner: j.owner, Version: j.row.Version, SeenWakes: j.row.Wakes,
		Step: j.row.Step, State: raw, Attempt: j.row.Attempt, Deadline: j.row.Deadline,
		Release: u.release, RunIn: u.in, Lease: j.engine.opts.Lease,
		Finished: u.finished, Cause: u.cause, Action: u.action, Change: u.change, Events: u.events,
	})
	if err != nil {
		// Not saved: when the lease ends, the step runs again from what is there.
		j.log.WarnContext(ctx, "the end of a step was not saved", "step", j.row.Step, "error", err)
		return false
	}
	j.row.Version, j.row.Wakes, j.row.Wish = saved.Version, saved.Wakes, saved.Wish
	j.until(asked)
	for _, e := range u.events {
		j.tell(ctx, e, now.Sub(began), now.Sub(j.row.Created))
	}
	return !u.release && u.finished == ""
}

// tell tells of an event that ends something: a step, so long after it began, or
// the work, so long after it was accepted.
func (j *job) tell(ctx context.Context, e trove.OperationEvent, step, all time.Duration) {
	observer := j.engine.opts.Observer
	switch {
	case e.State == trove.OperationRunning:
	case e.Step != "":
		observer.StepEnded(e.Kind, e.Step, string(e.State), step)
		j.log.DebugContext(ctx, "a step ended", "step", e.Step, "outcome", e.State, "seconds", step.Seconds())
	default:
		observer.WorkEnded(e.Kind, string(e.State), all)
		j.log.InfoContext(ctx, "an operation ended", "outcome", e.State, "seconds", all.Round(time.Millisecond).Seconds())
	}
}

// ran tells how a run of a step ended.
func (j *job) ran(ctx context.Context, step string, out Outcome, interrupted error) {
	outcome := outcomes[out.verb]
	switch over := out.verb == verbNext || out.verb == verbDone; {
	case interrupted == errLost:
		outcome = "lost"
	case over:
	case ctx.Err() != nil:
		outcome = "stopped"
	case interrupted == errCancelled:
		outcome = "cancelled"
	}
	j.engine.opts.Observer.StepRan(j.row.Kind, step, outcome)
}

var outcomes = [...]string{verbNext: "next", verbDone: "done", verbNap: "nap", verbRetry: "retry", verbFail: "fail", verbPanic: "panic"}

// write saves u, again while the store is away, and tells when it asked for it.
func (j *job) write(ctx context.Context, u store.WorkUpdate) (saved store.WorkSaved, asked time.Time, err error) {
	for attempt := 0; ; attempt++ {
		asked = time.Now()
		saved, err = j.engine.store.SaveWork(ctx, u)
		if err == nil || trove.IsKind(err, trove.KindConflict) {
			return saved, asked, err
		}
		again := time.NewTimer(j.engine.opts.Retry.pause(attempt))
		select {
		case <-ctx.Done():
			again.Stop()
			return saved, asked, err
		case <-again.C:
		}
	}
}

func (j *job) event(step string, s trove.OperationState) trove.OperationEvent {
	return trove.OperationEvent{OperationID: j.row.ID, InstanceID: j.row.Subject, Kind: j.row.Kind, Step: step, State: s}
}

func (j *job) report(ctx context.Context, message string, p *trove.Progress) {
	e := j.event(j.row.Step, trove.OperationRunning)
	e.Message, e.Progress = message, p
	if err := j.engine.store.AddWorkEvent(ctx, e); err != nil && ctx.Err() == nil {
		j.log.WarnContext(ctx, "progress was not written", "error", err)
	}
}
