// Package worktest kills flows everywhere and looks whether they end as if
// nothing had happened.
//
// A Gate stands for one process: every write to the store and every call to a
// collaborator passes it, and at a chosen passage the process dies. From then
// on nothing it tries has any effect, as with kill -9. Everywhere runs a flow
// once for every passage, kills it there, goes on with a new process on the
// same store, and compares the end with that of an uninterrupted run.
package worktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Patience is how long a test waits for what must happen.
const Patience = 60 * time.Second

// ErrDead is what a dead process gets from everything it tries. Its kind is
// KindConflict, so that the engine takes its lease as lost.
var ErrDead = trove.Errorf(trove.KindConflict, "this process is dead")

// Gate is the life of one process.
type Gate struct {
	mu    sync.Mutex
	kill  int
	n     int
	where string
	dead  chan struct{}
}

// NewGate makes a process that dies at its kill-th passage, never if 0.
func NewGate(kill int) *Gate { return &Gate{kill: kill, dead: make(chan struct{})} }

// Do passes before f and after it.
func (g *Gate) Do(name string, f func() error) error {
	if !g.pass("before " + name) {
		return ErrDead
	}
	err := f()
	if !g.pass("after " + name) {
		return ErrDead
	}
	return err
}

// Through is Gate.Do for a call with a result.
func Through[T any](g *Gate, name string, f func() (T, error)) (T, error) {
	var v T
	err := g.Do(name, func() (err error) {
		v, err = f()
		return err
	})
	if errors.Is(err, ErrDead) {
		var none T
		return none, err
	}
	return v, err
}

func (g *Gate) pass(where string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isDead() {
		return false
	}
	if g.n++; g.n == g.kill {
		g.where = where
		close(g.dead)
		return false
	}
	return true
}

// Kill ends the process now.
func (g *Gate) Kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isDead() {
		g.where = "by hand"
		close(g.dead)
	}
}

func (g *Gate) isDead() bool {
	select {
	case <-g.dead:
		return true
	default:
		return false
	}
}

// Alive fails with ErrDead if the process is dead; it is no passage. It guards
// calls that only read.
func (g *Gate) Alive() error {
	if g.isDead() {
		return ErrDead
	}
	return nil
}

// Store is s behind the gate.
func (g *Gate) Store(s work.Store) work.Store { return gated{s, g} }

type gated struct {
	s work.Store
	g *Gate
}

func (d gated) AcceptWork(ctx context.Context, w store.NewWork) (bool, error) {
	return Through(d.g, "AcceptWork", func() (bool, error) { return d.s.AcceptWork(ctx, w) })
}

// LeaseWork is a passage only when it leases something: looking in vain, which
// happens at any time, changes nothing.
func (d gated) LeaseWork(ctx context.Context, owner string, kinds []string, lease time.Duration) (*store.Work, error) {
	if err := d.g.Alive(); err != nil {
		return nil, err
	}
	w, err := d.s.LeaseWork(ctx, owner, kinds, lease)
	if w != nil && !d.g.pass("after LeaseWork") {
		return nil, ErrDead
	}
	return w, err
}

func (d gated) RenewWork(ctx context.Context, id, owner string, lease time.Duration) error {
	if err := d.g.Alive(); err != nil {
		return err
	}
	return d.s.RenewWork(ctx, id, owner, lease)
}

func (d gated) SaveWork(ctx context.Context, u store.WorkUpdate) (store.WorkSaved, error) {
	return Through(d.g, "SaveWork of "+u.Step, func() (store.WorkSaved, error) { return d.s.SaveWork(ctx, u) })
}

func (d gated) AddWorkEvent(ctx context.Context, e trove.OperationEvent) error {
	if err := d.g.Alive(); err != nil {
		return err
	}
	return d.s.AddWorkEvent(ctx, e)
}

func (d gated) WishedWork(ctx context.Context) ([]string, error) {
	if err := d.g.Alive(); err != nil {
		return nil, err
	}
	return d.s.WishedWork(ctx)
}

func (d gated) NextDueWork(ctx context.Context, kinds []string) (time.Duration, bool, error) {
	if err := d.g.Alive(); err != nil {
		return 0, false, err
	}
	return d.s.NextDueWork(ctx, kinds)
}

func (d gated) ReleaseWork(ctx context.Context) error { return d.s.ReleaseWork(ctx) }

func (d gated) WorkChanged() (<-chan struct{}, func()) { return d.s.WorkChanged() }

// World is one run of a flow.
type World struct {
	// Engine makes a process's engine, with everything behind the gate.
	Engine func(g *Gate) (*work.Engine, error)
	// Begin asks for the work, as a message that is delivered again would.
	Begin func(ctx context.Context, e *work.Engine) error
	// Ended reports whether all work is finished.
	Ended func(ctx context.Context) (bool, error)
	// Result describes the end, without what may differ between runs.
	Result func(ctx context.Context) (any, error)
}

// Everywhere runs worlds that makeWorld makes, each killed at another passage,
// and compares how they end with an uninterrupted one; with -short, at every
// fifth of them.
func Everywhere(t *testing.T, makeWorld func(t *testing.T) World) {
	t.Helper()
	EveryNth(t, 1, makeWorld)
}

// AllPassages is the environment variable that has EveryNth kill at every
// passage.
const AllPassages = "GOTROVE_ALL_PASSAGES"

// EveryNth is Everywhere for worlds that are slow or many: it kills at every n-th
// passage only, unless AllPassages is set. An odd n has kills both before and
// after calls.
func EveryNth(t *testing.T, n int, makeWorld func(t *testing.T) World) {
	t.Helper()
	gate := NewGate(0)
	want := run(t, makeWorld(t), gate)
	gate.mu.Lock()
	passages := gate.n
	gate.mu.Unlock()
	if passages < 3 {
		t.Fatalf("only %d passages: nothing is behind the gate", passages)
	}
	stride := n
	switch {
	case os.Getenv(AllPassages) != "":
		stride = 1
	case testing.Short():
		stride *= 5
	}
	for kill := 1; kill <= passages; kill += stride {
		t.Run(fmt.Sprintf("kill %d", kill), func(t *testing.T) {
			t.Parallel()
			gate := NewGate(kill)
			// The process that goes on dies once too, at another passage.
			got := run(t, makeWorld(t), gate, NewGate((kill*7)%passages+1), NewGate(0))
			gate.mu.Lock()
			defer gate.mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("killed %s: the end differs from an uninterrupted run (-want +got):\n%s", gate.where, diff)
			}
		})
	}
}

// besideKills is about how many kills Beside tries: each takes a lease's time.
const besideKills = 12

// Beside is Everywhere for two processes that are there all the time: one is
// killed at a passage, and the other goes on when the lease has ended. What
// the engines do is not the same in two runs, so passages are counted per run.
// Engines need short leases.
func Beside(t *testing.T, makeWorld func(t *testing.T) World) {
	t.Helper()
	gate := NewGate(0)
	want := run(t, makeWorld(t), gate)
	gate.mu.Lock()
	passages := gate.n
	gate.mu.Unlock()
	stride := max(1, passages/besideKills)
	if testing.Short() {
		stride *= 5
	}
	for kill := 1; kill <= passages; kill += stride {
		t.Run(fmt.Sprintf("kill %d", kill), func(t *testing.T) {
			t.Parallel()
			w := makeWorld(t)
			dies, lives := NewGate(kill), NewGate(0)
			other, err := w.Engine(lives)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			stopped := make(chan error, 1)
			go func() { stopped <- other.Run(ctx) }()
			defer func() {
				stop()
				if err := <-stopped; err != nil {
					t.Error(err)
				}
			}()
			if !begin(t, w, dies) { // it died before the work was accepted, or after
				if err := w.Begin(ctx, other); err != nil {
					t.Fatal(err)
				}
			}
			wait(t, w, nil)
			got, err := w.Result(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			dies.mu.Lock()
			defer dies.mu.Unlock()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("killed %s: the end differs from an uninterrupted run (-want +got):\n%s", dies.where, diff)
			}
		})
	}
}

// begin runs a process beside others until the test ends, and asks it for the
// work; false if it died meanwhile.
func begin(t *testing.T, w World, g *Gate) bool {
	t.Helper()
	e, err := w.Engine(g)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	err = w.Begin(ctx, e)
	if err != nil && !errors.Is(err, ErrDead) {
		t.Fatal(err)
	}
	return err == nil
}

// wait waits until all work has ended, true, or dead is closed.
func wait(t *testing.T, w World, dead <-chan struct{}) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	look := time.NewTicker(25 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			t.Fatalf("the work did not end within %s", Patience)
		case <-dead:
			return false
		case <-look.C:
			ended, err := w.Ended(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if ended {
				return true
			}
		}
	}
}

// run carries a world to its end through a process for each gate.
func run(t *testing.T, w World, gates ...*Gate) any {
	t.Helper()
	for _, g := range gates {
		if life(t, w, g) {
			break
		}
	}
	ended, err := w.Ended(t.Context())
	if err != nil || !ended {
		t.Fatalf("the work did not end: %v", err)
	}
	got, err := w.Result(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// life is one process, from its start until the work has ended (true) or it
// has died.
func life(t *testing.T, w World, g *Gate) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	e, err := w.Engine(g)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.ReleaseAll(ctx); err != nil {
		t.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- e.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	if err := w.Begin(ctx, e); err != nil && !errors.Is(err, ErrDead) {
		t.Fatal(err)
	}
	return wait(t, w, g.dead)
}

// template is an empty migrated database: migrating one for every run of a
// flow would take most of the time.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "worktest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	s, err := store.Open(context.Background(), store.Config{Path: path})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.Migrate(context.Background()), s.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// Store opens an empty store of the test's own.
func Store(t *testing.T) *store.Store {
	t.Helper()
	b, err := template()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
