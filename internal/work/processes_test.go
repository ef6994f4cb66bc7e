package work_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

var servers = map[dbtest.Engine]*dbtest.Shared{
	dbtest.MariaDB: {Engine: dbtest.MariaDB}, dbtest.PostgreSQL: {Engine: dbtest.PostgreSQL},
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range servers {
		s.Stop()
	}
	os.Exit(code)
}

// opener opens a database as another process does each time, with a clock of
// its own.
type opener func(clock func() time.Time) *store.Store

// onEach runs f on a database of each engine.
func onEach(t *testing.T, f func(t *testing.T, open opener)) {
	t.Helper()
	run := func(name string, config func(t *testing.T) store.Config) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(t)
			migrated := false
			f(t, func(clock func() time.Time) *store.Store {
				c.Clock = clock
				s, err := store.Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				if !migrated {
					if err := s.Migrate(t.Context()); err != nil {
						t.Fatal(err)
					}
					migrated = true
				}
				return s
			})
		})
	}
	run("SQLite", func(t *testing.T) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "db")} })
	for e, server := range servers {
		run(string(e), func(t *testing.T) store.Config {
			return store.Config{URL: secret.New(server.Get(t).Database(t))}
		})
	}
}

// Two processes share work: each piece is done once, and none is alone with it.
func TestEnginesShareWork(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open opener) {
		const subjects, each = 12, 3
		var mu sync.Mutex
		ran := map[string]int{}    // by step of a piece of work
		now := map[string]string{} // who is at a subject
		by := map[string]int{}
		process := func(name string) *work.Engine {
			at := func(step string) work.Step[counter] {
				return work.Step[counter]{Name: step, Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
					mu.Lock()
					if other := now[r.Subject()]; other != "" {
						t.Errorf("%s and %s are at %s", name, other, r.Subject())
					}
					now[r.Subject()] = name
					ran[r.ID()+step]++
					by[name]++
					mu.Unlock()
					r.State.N++
					mu.Lock()
					delete(now, r.Subject())
					mu.Unlock()
					if step == "nap" && r.State.Secret == "" {
						r.State.Secret = "napped"
						return work.Nap(time.Millisecond)
					}
					return work.Next()
				}}
			}
			o := quick()
			o.Workers = 4
			e, _ := start(t, open(nil), o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{at("one"), at("nap"), at("two")}})
			return e
		}
		a, b := process("a"), process("b")
		s := open(nil)
		for i := range each {
			for n := range subjects {
				e := a
				if (i+n)%2 > 0 {
					e = b
				}
				accept(t, e, "k", fmt.Sprint("i", n), fmt.Sprint("m", i, "-", n), counter{})
			}
		}
		deadline := time.After(worktest.Patience)
		for n := range subjects {
			for done := 0; done < each; {
				ops, err := s.Operations(t.Context(), fmt.Sprint("i", n), 10)
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
					t.Fatalf("%d of %d done", done, each)
				case <-time.After(5 * time.Millisecond):
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for step, n := range ran {
			if want := 1; n != want && !(n == 2 && step[len(step)-3:] == "nap") {
				t.Errorf("%s ran %d times", step, n)
			}
		}
		if len(ran) != 3*subjects*each || by["a"] == 0 || by["b"] == 0 {
			t.Errorf("%d steps ran; who did how many: %v", len(ran), by)
		}
	})
}

// deaf is the store of a process that gets one lease and cannot renew it.
type deaf struct {
	work.Store
	mu     sync.Mutex
	leased bool
}

func (d *deaf) LeaseWork(ctx context.Context, owner string, kinds []string, lease time.Duration) (*store.Work, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leased {
		return nil, nil
	}
	w, err := d.Store.LeaseWork(ctx, owner, kinds, lease)
	d.leased = w != nil
	return w, err
}

func (d *deaf) RenewWork(ctx context.Context, _, _ string, _ time.Duration) error {
	<-ctx.Done()
	return trove.Errorf(trove.KindUnavailable, "the database does not answer")
}

// A process that is held up loses its lease: its step is told, another process
// goes on, and what the first one saves later is refused.
func TestLostLease(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open opener) {
		began, told, go2, late := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
		s := &deaf{Store: open(nil)}
		o := quick()
		o.Lease = time.Second
		first, _ := start(t, s, o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{{Name: "only",
			Do: func(ctx context.Context, r *work.Run[counter]) work.Outcome {
				close(began)
				<-ctx.Done()
				close(told)
				<-go2 // the other one is at it
				r.State.Secret = "first"
				defer close(late)
				return work.Done()
			}}}})
		accept(t, first, "k", "i1", "m1", counter{})
		wait(t, began, "the step began")
		leased := time.Now()
		wait(t, told, "the step was told")
		if took := time.Since(leased); took > 20*time.Second {
			t.Errorf("it was told after %s", took)
		}
		end := make(chan struct{})
		start(t, open(nil), o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{{Name: "only",
			Do: func(context.Context, *work.Run[counter]) work.Outcome {
				close(go2)
				<-end
				return work.Fail(trove.Errorf(trove.KindInternal, "the second one's end"))
			}}}})
		wait(t, late, "the first one ended late")
		close(end)
		if op := operation(t, open(nil), "i1", finished); op.State != trove.OperationFailed || op.Cause != "the second one's end" {
			t.Errorf("operation: %+v", op)
		}
	})
}

// A process whose clock jumps does nothing else than one whose clock is right.
func TestClockJump(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open opener) {
		for _, jump := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
			var mu sync.Mutex
			by := time.Duration(0)
			clock := func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return time.Now().Add(by)
			}
			name := fmt.Sprint("jump", jump)
			runs := 0
			flow := work.Flow[counter]{Kind: "k" + name, Timeout: 2 * time.Minute, Steps: []work.Step[counter]{{Name: "wait",
				Do: func(_ context.Context, r *work.Run[counter]) work.Outcome {
					mu.Lock()
					by = jump
					mu.Unlock()
					if runs++; runs < 4 {
						return work.Nap(10 * time.Millisecond)
					}
					if d := time.Since(r.Now()).Abs(); d > 30*time.Second {
						t.Errorf("%s: a step's now is %s off", name, d)
					}
					return work.Next()
				}}}}
			o := quick()
			o.Lease = 30 * time.Second
			e, stop := start(t, open(clock), o, flow)
			accept(t, e, flow.Kind, name, name, counter{})
			op := operation(t, open(nil), name, finished)
			if op.State != trove.OperationDone || runs != 4 || time.Since(op.Started).Abs() > time.Minute || time.Since(op.Ended).Abs() > time.Minute {
				t.Errorf("%s: after %d runs: %+v", name, runs, op)
			}
			stop()
		}
	})
}

// soon is what half a second is on a machine that is busy with other tests.
const soon = 5 * time.Second

// What another process writes wakes a step, or ends it, without a hint.
func TestOtherProcessWakes(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open opener) {
		o := quick()
		o.Poll = 0 // as it is by default
		napping, longStep := make(chan struct{}, 1), make(chan struct{})
		woken := false
		e, _ := start(t, open(nil), o,
			work.Flow[counter]{Kind: "sleepy", Steps: []work.Step[counter]{{Name: "sleep", Do: func(context.Context, *work.Run[counter]) work.Outcome {
				if woken {
					return work.Next()
				}
				woken = true
				napping <- struct{}{}
				return work.Nap(time.Hour)
			}}}},
			work.Flow[counter]{Kind: "long", Steps: []work.Step[counter]{{Name: "wait", Do: func(ctx context.Context, _ *work.Run[counter]) work.Outcome {
				close(longStep)
				<-ctx.Done()
				return work.Fail(ctx.Err())
			}}}})
		conductor := open(nil)
		accept(t, e, "sleepy", "i1", "m1", counter{})
		wait(t, napping, "the step naps")
		began := time.Now()
		if err := conductor.WakeWork(t.Context(), "i1"); err != nil {
			t.Fatal(err)
		}
		operation(t, conductor, "i1", finished)
		if took := time.Since(began); took > soon {
			t.Errorf("the wake took %s", took)
		}
		accept(t, e, "long", "i2", "m2", counter{})
		wait(t, longStep, "the step runs")
		began = time.Now()
		if err := conductor.CancelWork(t.Context(), "i2"); err != nil {
			t.Fatal(err)
		}
		operation(t, conductor, "i2", finished)
		if took := time.Since(began); took > soon {
			t.Errorf("the cancellation took %s", took)
		}
	})
}

// An idle engine asks one thing about three times a second.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	o := quick()
	o.Poll = 0
	_, stop := start(t, s, o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{step("one")}})
	before := s.Stats().Statements
	t2 := time.NewTimer(3 * time.Second)
	<-t2.C
	stop()
	if n := s.Stats().Statements - before; n == 0 || n > 16 {
		t.Errorf("%d statements in 3 s", n)
	}
}
