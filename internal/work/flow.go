package work

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Flow is a kind of work: steps over a state S, which is kept as JSON between
// them. Neither a name of a step nor a JSON name of S may change while rows of
// the kind are unfinished.
type Flow[S any] struct {
	Kind  string
	Steps []Step[S]
	// Timeout is how long the steps may take together, not counting the time
	// in which no process worked on them; 0 is no limit. When it has passed,
	// the flow fails at its next Nap or Retry.
	Timeout time.Duration
	// Expired, if set, makes the cause of a failure by Timeout, from looking at
	// everything that could be the reason; last is the step's last error or nil.
	Expired func(ctx context.Context, r *Run[S], step string, last error) error
	// Failed, if set, is told of a failure or cancellation after everything was
	// undone, until it returns nil. It must be safe to be told twice.
	Failed func(ctx context.Context, r *Run[S], f Failure) error
	// KeepsOn is a flow that cannot be cancelled.
	KeepsOn bool
}

// Step is one step of a flow.
type Step[S any] struct {
	Name string
	Do   func(ctx context.Context, r *Run[S]) Outcome
	// Undo takes away what Do may have made. It runs when the step was entered,
	// whether or not Do came to anything: Next means it is gone, Nap asks again,
	// and an error is tried again.
	Undo func(ctx context.Context, r *Run[S]) Outcome
}

// Failure is why a piece of work ended without being done.
type Failure struct {
	State  trove.OperationState `json:"state"` // failed or cancelled
	Step   string               `json:"step"`
	Cause  string               `json:"cause"`
	Action string               `json:"action,omitempty"`
	// Left names steps whose undo was given up: what they made may still be there.
	Left []string `json:"left,omitempty"`
}

// Run is one piece of work as its steps see it.
type Run[S any] struct {
	// State is saved whenever a step ends, together with its outcome.
	State *S
	job   *job
}

// ID is the id of the piece of work, the same in every process that runs it.
func (r *Run[S]) ID() string { return r.job.row.ID }

// Subject is the id of what is worked on.
func (r *Run[S]) Subject() string { return r.job.row.Subject }

// Attempt is how many times in a row the step has failed, 0 at first.
func (r *Run[S]) Attempt() int { return r.job.row.Attempt }

// Now is the database's clock: what is kept in the state and compared by the next
// run, which may be in another process whose clock is wrong, is a time of it.
func (r *Run[S]) Now() time.Time { return r.job.now() }

// Elapsed is the time since the work was accepted.
func (r *Run[S]) Elapsed() time.Duration { return r.job.now().Sub(r.job.row.Created) }

// EndWith has c recorded as how the operation on the subject ended, in the
// transaction that ends this step; in Failed, in the one that ends the work. So it
// happens once, whoever dies where: done again later it would undo what the next
// operation has begun. A step that is to run again records nothing.
func (r *Run[S]) EndWith(c store.Change) { r.job.ending = &c }

// Report tells people what the step is doing; progress may be nil. A report
// that cannot be written is logged and forgotten.
func (r *Run[S]) Report(ctx context.Context, message string, progress *trove.Progress) {
	r.job.report(ctx, message, progress)
}

type verb uint8

const (
	verbNext verb = iota
	verbDone
	verbNap
	verbRetry
	verbFail
	verbPanic
)

// Outcome is what comes after a step.
type Outcome struct {
	verb verb
	nap  time.Duration
	err  error
}

// Next goes on with the step that follows; after the last one the work is done.
func Next() Outcome { return Outcome{verb: verbNext} }

// Done ends the work successfully, whatever steps are left.
func Done() Outcome { return Outcome{verb: verbDone} }

// Nap runs the step again after d, or earlier if the subject is woken.
func Nap(d time.Duration) Outcome { return Outcome{verb: verbNap, nap: d} }

// Retry runs the step again after a growing, jittered pause, until the flow's
// timeout.
func Retry(err error) Outcome { return Outcome{verb: verbRetry, err: err} }

// Fail ends the work: what was made is undone. An error of KindUnavailable is
// worth another try and is treated as Retry.
func Fail(err error) Outcome {
	if trove.IsKind(err, trove.KindUnavailable) {
		return Retry(err)
	}
	return Outcome{verb: verbFail, err: err}
}

// Registered is a Flow of any state, as New takes it.
type Registered interface{ definition() (*definition, error) }

// definition is a flow without its type parameter.
type definition struct {
	kind    string
	timeout time.Duration
	keepsOn bool
	steps   []string
	undoes  map[string]bool
	decode  func(raw json.RawMessage) (any, error)
	accepts func(state any) bool
	do      func(ctx context.Context, j *job, step string) Outcome
	undo    func(ctx context.Context, j *job, step string) Outcome
	expired func(ctx context.Context, j *job, step string, last error) error
	failed  func(ctx context.Context, j *job, f Failure) error
}

func (d *definition) has(step string) bool { return d.after(step) != nil }

// after gives the steps that follow step, not nil if there is such a step.
func (d *definition) after(step string) []string {
	for i, s := range d.steps {
		if s == step {
			return append([]string{}, d.steps[i+1:]...)
		}
	}
	return nil
}

func (f Flow[S]) definition() (*definition, error) {
	if f.Kind == "" || len(f.Steps) == 0 {
		return nil, fmt.Errorf("work: a flow needs a kind and a step")
	}
	d := &definition{kind: f.Kind, timeout: f.Timeout, keepsOn: f.KeepsOn, undoes: map[string]bool{}}
	byName := map[string]Step[S]{}
	for _, s := range f.Steps {
		if _, twice := byName[s.Name]; twice || s.Name == "" || s.Name == undoing || s.Do == nil {
			return nil, fmt.Errorf("work: flow %s: bad step %q", f.Kind, s.Name)
		}
		byName[s.Name] = s
		d.steps = append(d.steps, s.Name)
		d.undoes[s.Name] = s.Undo != nil
	}
	run := func(j *job) *Run[S] { return &Run[S]{State: j.state.(*S), job: j} }
	d.decode = func(raw json.RawMessage) (any, error) {
		s := new(S)
		return s, json.Unmarshal(raw, s)
	}
	d.accepts = func(state any) bool { _, ok := state.(S); return ok }
	d.do = func(ctx context.Context, j *job, step string) Outcome { return byName[step].Do(ctx, run(j)) }
	d.undo = func(ctx context.Context, j *job, step string) Outcome { return byName[step].Undo(ctx, run(j)) }
	d.expired = func(ctx context.Context, j *job, step string, last error) error {
		if f.Expired != nil {
			return f.Expired(ctx, run(j), step, last)
		}
		if last != nil {
			return trove.Errorf(trove.KindInternal, "%s did not succeed within %s: %w", step, f.Timeout, last)
		}
		return trove.Errorf(trove.KindInternal, "%s did not finish within %s", step, f.Timeout)
	}
	d.failed = func(ctx context.Context, j *job, fail Failure) error {
		if f.Failed == nil {
			return nil
		}
		return f.Failed(ctx, run(j), fail)
	}
	return d, nil
}
