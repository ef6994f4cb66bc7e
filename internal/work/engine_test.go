package work_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

func quick() work.Options {
	return work.Options{Poll: 50 * time.Millisecond, Retry: work.Backoff{First: time.Millisecond, Most: 10 * time.Millisecond},
		Log: slog.New(slog.DiscardHandler)}
}

// start runs an engine until the test ends or stop is called.
func start(t *testing.T, s work.Store, o work.Options, flows ...work.Registered) (e *work.Engine, stop func()) {
	t.Helper()
	e, err := work.New(s, o, flows...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return e, stop
}

func accept(t *testing.T, e *work.Engine, kind, subject, request string, state any) {
	t.Helper()
	if _, err := e.Accept(t.Context(), kind, subject, request, state); err != nil {
		t.Fatal(err)
	}
}

// operation waits until the newest operation on subject is as ok says.
func operation(t *testing.T, s *store.Store, subject string, ok func(trove.Operation) bool) trove.Operation {
	t.Helper()
	deadline := time.After(worktest.Patience)
	var last []trove.Operation
	for {
		ops, err := s.Operations(t.Context(), subject, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(ops) == 1 && ok(ops[0]) {
			return ops[0]
		}
		last = ops
		select {
		case <-deadline:
			t.Fatalf("the operation did not come so far: %+v", last)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func finished(o trove.Operation) bool { return o.State.Finished() }

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(worktest.Patience):
		t.Fatalf("waited in vain: %s", what)
	}
}

type counter struct {
	N      int
	Secret string
}

// step counts itself and goes on.
func step(name string) work.Step[counter] {
	return work.Step[counter]{Name: name, Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
		r.State.N++
		return work.Next()
	}}
}

func TestDone(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	seen := make(chan counter, 1)
	e, _ := start(t, s, quick(), work.Flow[counter]{Kind: "count", Steps: []work.Step[counter]{step("one"), step("two"),
		{Name: "three", Do: func(ctx context.Context, r *work.Run[counter]) work.Outcome {
			r.Report(ctx, "counting", &trove.Progress{Done: 1, Total: 2, Unit: "sheep"})
			seen <- *r.State
			if got := rpc.ContextFrom(ctx); got.RequestID != "req-1" || got.AuthToken != "" {
				t.Errorf("request context in a step: %+v", got)
			}
			return work.Next()
		}}}})
	ctx := rpc.WithContext(t.Context(), rpc.Context{RequestID: "req-1", AuthToken: "token"})
	if ok, err := e.Accept(ctx, "count", "i1", "m1", counter{Secret: "s3cret"}); !ok || err != nil {
		t.Fatalf("accepted: %v, %v", ok, err)
	}
	if ok, err := e.Accept(ctx, "count", "i1", "m1", counter{}); ok || err != nil {
		t.Fatalf("accepted twice: %v, %v", ok, err)
	}
	op := operation(t, s, "i1", finished)
	if op.State != trove.OperationDone || op.RequestID != "req-1" || op.Ended.IsZero() || len(op.Steps) != 3 {
		t.Errorf("operation: %+v", op)
	}
	if got := <-seen; got.N != 2 || got.Secret != "s3cret" {
		t.Errorf("state at the third step: %+v", got)
	}
	if st := op.Steps[2]; st.Name != "three" || st.State != trove.OperationDone || st.Message != "counting" ||
		st.Progress == nil || st.Progress.Unit != "sheep" || st.Ended.IsZero() {
		t.Errorf("third step: %+v", st)
	}
	events, err := s.Events(t.Context(), "i1", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ev := range events {
		got = append(got, ev.Step+":"+string(ev.State))
	}
	want := []string{":pending", ":running", "one:running", "one:done", "two:running", "two:done", "three:running", "three:running", "three:done", ":done"}
	if !slices.Equal(got, want) {
		t.Errorf("events: %v, want %v", got, want)
	}
	if later, err := s.Events(t.Context(), "i1", events[3].Sequence, 2); err != nil || len(later) != 2 || later[0] != events[4] {
		t.Errorf("events after the fourth: %+v, %v", later, err)
	}
}

func TestFailUndoesBackwards(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	var mu sync.Mutex
	var log []string
	note := func(what string) { mu.Lock(); defer mu.Unlock(); log = append(log, what) }
	makes := func(name string, undo func(tries int) work.Outcome) work.Step[counter] {
		tries := 0
		return work.Step[counter]{Name: name,
			Do: func(context.Context, *work.Run[counter]) work.Outcome { note(name); return work.Next() },
			Undo: func(context.Context, *work.Run[counter]) work.Outcome {
				tries++
				out := undo(tries)
				note("undo " + name)
				return out
			}}
	}
	once := func(int) work.Outcome { return work.Next() }
	e, _ := start(t, s, quick(), work.Flow[counter]{Kind: "make", Steps: []work.Step[counter]{
		makes("a", once), step("plain"),
		makes("b", func(tries int) work.Outcome {
			switch tries {
			case 1:
				return work.Nap(time.Millisecond)
			case 2:
				return work.Fail(errors.New("not now"))
			}
			return work.Next()
		}),
		{Name: "c", Do: func(context.Context, *work.Run[counter]) work.Outcome {
			return work.Fail(trove.Errorf(trove.KindOverLimit, "no room").WithAction("Make room."))
		}, Undo: func(context.Context, *work.Run[counter]) work.Outcome { note("undo c"); return work.Next() }},
		makes("never", once),
	}, Failed: func(_ context.Context, _ *work.Run[counter], f work.Failure) error {
		note("failed " + f.Step + " " + f.Cause)
		if slices.Index(log, "again") < 0 {
			note("again")
			return errors.New("tell me again")
		}
		return nil
	}})
	accept(t, e, "make", "i1", "m1", counter{})
	op := operation(t, s, "i1", finished)
	if op.State != trove.OperationFailed || op.Cause != "no room" || op.Action != "Make room." {
		t.Errorf("operation: %+v", op)
	}
	want := []string{"a", "b", "undo c", "undo b", "undo b", "undo b", "undo a", "failed c no room", "again", "failed c no room"}
	if !slices.Equal(log, want) {
		t.Errorf("what happened: %q, want %q", log, want)
	}
}

func TestUnavailableIsTriedAgainUntilTheTimeout(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	tries := 0
	e, _ := start(t, s, quick(),
		work.Flow[counter]{Kind: "soon", Steps: []work.Step[counter]{{Name: "flaky", Do: func(context.Context, *work.Run[counter]) work.Outcome {
			if tries++; tries < 5 {
				return work.Fail(trove.Errorf(trove.KindUnavailable, "away"))
			}
			return work.Done()
		}}, step("left out")}},
		work.Flow[counter]{Kind: "never", Timeout: 100 * time.Millisecond,
			Steps: []work.Step[counter]{{Name: "gone", Do: func(context.Context, *work.Run[counter]) work.Outcome {
				return work.Fail(trove.Errorf(trove.KindUnavailable, "away"))
			}}},
			Expired: func(_ context.Context, _ *work.Run[counter], step string, last error) error {
				return trove.Errorf(trove.KindInternal, "%s: broken hop, %w", step, last)
			}},
		work.Flow[counter]{Kind: "hangs", Timeout: 100 * time.Millisecond,
			Steps: []work.Step[counter]{{Name: "stuck", Do: func(ctx context.Context, _ *work.Run[counter]) work.Outcome {
				<-ctx.Done()
				return work.Fail(ctx.Err())
			}}}})
	accept(t, e, "soon", "i1", "m1", counter{})
	accept(t, e, "never", "i2", "m2", counter{})
	accept(t, e, "hangs", "i3", "m3", counter{})
	if op := operation(t, s, "i1", finished); op.State != trove.OperationDone || tries != 5 || len(op.Steps) != 1 {
		t.Errorf("after %d tries: %+v", tries, op)
	}
	if op := operation(t, s, "i2", finished); op.State != trove.OperationFailed || op.Cause != "gone: broken hop, away" {
		t.Errorf("timeout: %+v", op)
	}
	if op := operation(t, s, "i3", finished); op.State != trove.OperationFailed || !strings.HasPrefix(op.Cause, "stuck did not succeed within") {
		t.Errorf("a step that hangs: %+v", op)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	for _, tc := range []struct {
		name string
		do   func(ctx context.Context, began func()) work.Outcome
	}{
		{"while it naps", func(_ context.Context, began func()) work.Outcome { began(); return work.Nap(time.Hour) }},
		{"while it runs", func(ctx context.Context, began func()) work.Outcome {
			began()
			<-ctx.Done()
			return work.Fail(ctx.Err())
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			began := make(chan struct{})
			undone := make(chan struct{})
			e, _ := start(t, s, quick(), work.Flow[counter]{Kind: tc.name, Steps: []work.Step[counter]{{Name: "long",
				Do: func(ctx context.Context, _ *work.Run[counter]) work.Outcome {
					return tc.do(ctx, sync.OnceFunc(func() { close(began) }))
				},
				Undo: func(context.Context, *work.Run[counter]) work.Outcome { close(undone); return work.Next() }}}})
			accept(t, e, tc.name, tc.name, tc.name, counter{})
			wait(t, began, "the step began")
			if err := s.CancelWork(t.Context(), tc.name); err != nil {
				t.Fatal(err)
			}
			if op := operation(t, s, tc.name, finished); op.State != trove.OperationCancelled {
				t.Errorf("operation: %+v", op)
			}
			wait(t, undone, "the step was undone")
		})
	}
}

func TestWakeWhileTheStepRunsIsNotLost(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	running, woken := make(chan struct{}), make(chan struct{})
	runs := 0
	e, _ := start(t, s, quick(), work.Flow[counter]{Kind: "sleepy", Steps: []work.Step[counter]{{Name: "sleep",
		Do: func(context.Context, *work.Run[counter]) work.Outcome {
			if runs++; runs > 1 {
				return work.Next()
			}
			close(running)
			<-woken
			return work.Nap(time.Hour)
		}}}})
	accept(t, e, "sleepy", "i1", "m1", counter{})
	wait(t, running, "the step runs")
	if err := s.WakeWork(t.Context(), "i1"); err != nil {
		t.Fatal(err)
	}
	close(woken)
	operation(t, s, "i1", finished)
}

func TestPanicBecomesAFailure(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	runs := 0
	e, _ := start(t, s, quick(), work.Flow[counter]{Kind: "bug", Steps: []work.Step[counter]{{Name: "divide",
		Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
			if runs++; r.State.N != 0 {
				t.Error("the state of a run that panicked was kept")
			}
			r.State.N = 7
			panic("by zero")
		}}}})
	accept(t, e, "bug", "i1", "m1", counter{})
	op := operation(t, s, "i1", finished)
	if op.State != trove.OperationFailed || runs != 3 || !strings.Contains(op.Cause, "by zero") {
		t.Errorf("after %d runs: %+v", runs, op)
	}
}

func TestOneAtATimePerSubjectInOrder(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	var mu sync.Mutex
	now, most := map[string]int{}, 0
	var order []int
	e, _ := start(t, s, quick(), work.Flow[counter]{Kind: "busy", Steps: []work.Step[counter]{{Name: "in",
		Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
			mu.Lock()
			defer mu.Unlock()
			now[r.Subject()]++
			most = max(most, now[r.Subject()])
			if r.Subject() == "i1" {
				order = append(order, r.State.N)
			}
			return work.Next()
		}}, {Name: "nap", Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
		if r.State.Secret == "" {
			r.State.Secret = "napped"
			return work.Nap(5 * time.Millisecond)
		}
		return work.Next()
	}}, {Name: "out", Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
		mu.Lock()
		defer mu.Unlock()
		now[r.Subject()]--
		return work.Next()
	}}}})
	for i := range 5 {
		accept(t, e, "busy", "i1", "a"+string(rune('0'+i)), counter{N: i})
		accept(t, e, "busy", "i2", "b"+string(rune('0'+i)), counter{N: i})
	}
	for _, subject := range []string{"i1", "i2"} {
		deadline := time.After(worktest.Patience)
		for done := 0; done < 5; {
			ops, err := s.Operations(t.Context(), subject, 10)
			if err != nil {
				t.Fatal(err)
			}
			done = 0
			for _, o := range ops {
				if o.State == trove.OperationDone {
					done++
				}
			}
			select {
			case <-deadline:
				t.Fatalf("%d of 5 done", done)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if most != 1 {
		t.Errorf("%d pieces of work on one subject at once", most)
	}
	if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
		t.Errorf("ran in order %v", order)
	}
}

func TestStopGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	began := make(chan struct{})
	first := true
	flow := work.Flow[counter]{Kind: "long", Steps: []work.Step[counter]{{Name: "wait",
		Do: func(ctx context.Context, r *work.Run[counter]) work.Outcome {
			if !first {
				if r.Attempt() != 0 {
					t.Errorf("a stop counted as attempt %d", r.Attempt())
				}
				return work.Next()
			}
			first = false
			close(began)
			<-ctx.Done()
			return work.Fail(ctx.Err())
		}}}}
	o := quick()
	o.Lease = time.Hour
	e, stop := start(t, s, o, flow)
	accept(t, e, "long", "i1", "m1", counter{})
	wait(t, began, "the step began")
	stop()
	start(t, s, o, flow)
	if op := operation(t, s, "i1", finished); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
}

func TestAnotherProcessTakesOverWhenALeaseExpires(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	gate := worktest.NewGate(0)
	began := make(chan struct{})
	o := quick()
	o.Lease = 300 * time.Millisecond
	stuck := work.Flow[counter]{Kind: "k", Timeout: 200 * time.Millisecond, Steps: []work.Step[counter]{{Name: "wait",
		Do: func(ctx context.Context, _ *work.Run[counter]) work.Outcome {
			close(began)
			gate.Kill()
			<-ctx.Done()
			return work.Next()
		}}}}
	e, _ := start(t, gate.Store(s), o, stuck)
	accept(t, e, "k", "i1", "m1", counter{})
	wait(t, began, "the first process began")
	good := stuck
	good.Steps = []work.Step[counter]{{Name: "wait", Do: func(context.Context, *work.Run[counter]) work.Outcome { return work.Next() }}}
	start(t, s, o, good)
	if op := operation(t, s, "i1", finished); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
}

func TestKilledEverywhere(t *testing.T) { killed(t, worktest.Everywhere) }

// Another process is there all the time, and goes on.
func TestKilledBesideAnother(t *testing.T) { killed(t, worktest.Beside) }

func killed(t *testing.T, everywhere func(*testing.T, func(*testing.T) worktest.World)) {
	t.Parallel()
	o := quick()
	o.Lease = 500 * time.Millisecond
	for _, fails := range []bool{false, true} {
		t.Run(map[bool]string{false: "done", true: "failed"}[fails], func(t *testing.T) {
			everywhere(t, func(t *testing.T) worktest.World {
				s := worktest.Store(t)
				outside := &things{}
				return worktest.World{
					Engine: func(g *worktest.Gate) (*work.Engine, error) {
						make := func(name string) work.Step[counter] {
							return work.Step[counter]{Name: name,
								Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
									if err := g.Do("ensure "+name, func() error { return outside.ensure(name) }); err != nil {
										return work.Fail(err)
									}
									r.State.N++
									return work.Next()
								},
								Undo: func(context.Context, *work.Run[counter]) work.Outcome {
									if err := g.Do("remove "+name, func() error { return outside.remove(name) }); err != nil {
										return work.Retry(err)
									}
									return work.Next()
								}}
						}
						last := work.Step[counter]{Name: "last", Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
							if r.State.N != 2 {
								t.Errorf("N is %d at the last step", r.State.N)
							}
							if fails {
								return work.Fail(errors.New("no"))
							}
							return work.Next()
						}}
						return work.New(g.Store(s), o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{make("a"), make("b"), last}})
					},
					Begin: func(ctx context.Context, e *work.Engine) error {
						_, err := e.Accept(ctx, "k", "i1", "m1", counter{})
						return err
					},
					Ended: func(ctx context.Context) (bool, error) {
						ops, err := s.Operations(ctx, "i1", 1)
						return len(ops) == 1 && ops[0].State.Finished(), err
					},
					Result: func(ctx context.Context) (any, error) {
						ops, err := s.Operations(ctx, "i1", 10)
						if err != nil {
							return nil, err
						}
						var got []string
						for _, o := range ops {
							got = append(got, string(o.State)+" "+o.Cause)
						}
						return append(got, outside.list()...), nil
					},
				}
			})
		})
	}
}

// things is a world outside: at most one of each name.
type things struct {
	mu  sync.Mutex
	all []string
}

func (w *things) ensure(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.all, name) {
		w.all = append(w.all, name)
	}
	return nil
}

func (w *things) remove(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = slices.DeleteFunc(w.all, func(s string) bool { return s == name })
	return nil
}

func (w *things) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

// observed notes what an engine tells.
type observed struct {
	mu    sync.Mutex
	lines []string
	took  map[string]time.Duration
}

func (o *observed) note(took time.Duration, words ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line := strings.Join(words, " ")
	o.lines = append(o.lines, line)
	if o.took == nil {
		o.took = map[string]time.Duration{}
	}
	o.took[line] = took
}

func (o *observed) StepRan(kind, step, outcome string) { o.note(0, "ran", kind, step, outcome) }
func (o *observed) StepEnded(kind, step, outcome string, took time.Duration) {
	o.note(took, "step", kind, step, outcome)
}
func (o *observed) WorkEnded(kind, outcome string, took time.Duration) {
	o.note(took, "work", kind, outcome)
}

// Each step is told once, with its waits in its time.
func TestObserver(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	var notes observed
	options := quick()
	options.Observer = &notes
	naps := 0
	e, _ := start(t, s, options, work.Flow[struct{}]{Kind: "walk", Steps: []work.Step[struct{}]{
		{Name: "wait", Do: func(context.Context, *work.Run[struct{}]) work.Outcome {
			if naps++; naps < 3 {
				return work.Nap(20 * time.Millisecond)
			}
			return work.Next()
		}, Undo: func(context.Context, *work.Run[struct{}]) work.Outcome { return work.Next() }},
		{Name: "fall", Do: func(context.Context, *work.Run[struct{}]) work.Outcome {
			return work.Fail(errors.New("there is a hole"))
		}},
	}})
	accept(t, e, "walk", "i", "r", struct{}{})
	operation(t, s, "i", finished)
	want := []string{"ran walk wait nap", "ran walk wait nap", "ran walk wait next", "step walk wait done",
		"ran walk fall fail", "step walk fall failed", "ran walk undo next", "step walk undo done", "work walk failed"}
	deadline := time.After(worktest.Patience)
	for {
		notes.mu.Lock()
		told := slices.Clone(notes.lines)
		notes.mu.Unlock()
		if len(told) >= len(want) {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("told %q", told)
		case <-time.After(5 * time.Millisecond):
		}
	}
	notes.mu.Lock()
	defer notes.mu.Unlock()
	if !slices.Equal(notes.lines, want) {
		t.Errorf("told %q, want %q", notes.lines, want)
	}
	if a, b, all := notes.took["step walk wait done"], notes.took["step walk fall failed"], notes.took["work walk failed"]; a < 40*time.Millisecond || b <= 0 || b > all-a || all < a {
		t.Errorf("the steps took %s and %s, the work %s", a, b, all)
	}
}
