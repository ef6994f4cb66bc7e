package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/trove"
)

// world is what outlives an agent: the engine's data, its process, and what
// the conductor was told. It can be told to kill the agent at a call.
type world struct {
	mu sync.Mutex

	// The kill: after so many calls the agent is dead. A dead agent's calls
	// neither do nor return anything useful.
	killAt, calls int
	killAfter     bool // the call's effect is done, its result is lost
	dead          bool
	kill          func()

	initialised bool
	overrides   map[string]any
	startedOK   bool
	databases   map[string]bool
	users       map[string]trove.User
	root        bool
	rootPass    string
	tidied      bool // Prepared was called
	unsought    int  // starts that looked for no engine

	pid     int // of the running engine, 0: none
	nextPID int
	ended   map[int]chan struct{}
	exits   map[int]runtime.State
	starts  int
	stops   int

	hang      bool // the engine runs and does not answer
	failAt    map[string]error
	crashNext int // so many starts end at once

	beats    []conductor.Heartbeat
	failures []failure
	roots    int
	refuse   bool          // the broker is away
	slow     time.Duration // until the broker confirms
	told     chan struct{} // closed and replaced with each heartbeat
}

type failure struct {
	n       conductor.FailureNotification
	message string
	details []string
}

var errKilled = errors.New("the agent was killed")

func newWorld() *world {
	return &world{killAt: -1, databases: map[string]bool{}, users: map[string]trove.User{}, nextPID: 100,
		ended: map[int]chan struct{}{}, exits: map[int]runtime.State{}, failAt: map[string]error{}, told: make(chan struct{})}
}

// do makes one call of the agent into the world.
func (w *world) do(ctx context.Context, name string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n := w.calls
	w.calls++
	die := func() error {
		w.dead = true
		w.kill()
		return errKilled
	}
	if n == w.killAt && !w.killAfter {
		return die()
	}
	if err := w.failAt[name]; err != nil {
		return err
	}
	err := effect()
	if n == w.killAt {
		return die()
	}
	return err
}

// with looks at the world, or changes it, while the agent does not.
func (w *world) with(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) engine() (pid int) {
	w.with(func() { pid = w.pid })
	return pid
}

func (w *world) failed() (f []failure) {
	w.with(func() { f = slices.Clone(w.failures) })
	return f
}

// end ends the engine's process, as seen from outside.
func (w *world) end(st runtime.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(st)
}

func (w *world) endLocked(st runtime.State) {
	if w.pid == 0 {
		return
	}
	w.exits[w.pid] = st
	close(w.ended[w.pid])
	w.pid = 0
}

// facts is the state that must be the same however often the agent died.
func (w *world) facts() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	users := slices.Sorted(maps.Keys(w.users))
	return fmt.Sprintln(w.initialised, w.overrides, w.startedOK, slices.Sorted(maps.Keys(w.databases)), users,
		w.root, w.rootPass, w.tidied, w.pid != 0, w.starts)
}

type fakeEngine struct{ *world }

func (e fakeEngine) Manager() string { return "fake" }
func (e fakeEngine) Initialise(ctx context.Context) error {
	return e.do(ctx, "Initialise", func() error { e.initialised = true; return nil })
}
func (e fakeEngine) Initialised() (done bool, err error) {
	e.with(func() { done = e.initialised })
	return done, nil
}
func (e fakeEngine) Configure(ctx context.Context, o map[string]any) error {
	return e.do(ctx, "Configure", func() error { e.overrides = o; return nil })
}
func (e fakeEngine) Command() (runtime.Spec, error) {
	return runtime.Spec{Name: "fake", StopSignal: syscall.SIGTERM}, nil
}
func (e fakeEngine) Ready(ctx context.Context) error {
	e.mu.Lock()
	hang := e.hang
	e.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pid == 0 || e.dead {
		return errors.New("connection refused")
	}
	return nil
}
func (e fakeEngine) Started(ctx context.Context) error {
	return e.do(ctx, "Started", func() error { e.startedOK = true; return nil })
}
func (e fakeEngine) LogTail() string { return "the log's end" }
func (e fakeEngine) Close() error    { return nil }
func (e fakeEngine) Databases(ctx context.Context) (out []trove.Database, err error) {
	err = e.do(ctx, "Databases", func() error {
		for n := range e.databases {
			out = append(out, trove.Database{Name: n})
		}
		return nil
	})
	return out, err
}
func (e fakeEngine) CreateDatabase(ctx context.Context, d trove.Database) error {
	return e.do(ctx, "CreateDatabase", func() error {
		if e.pid == 0 {
			return errors.New("connection refused")
		}
		e.databases[d.Name] = true
		return nil
	})
}
func (e fakeEngine) DropDatabase(ctx context.Context, name string) error {
	return e.do(ctx, "DropDatabase", func() error { delete(e.databases, name); return nil })
}
func (e fakeEngine) Users(ctx context.Context) (out []trove.User, err error) {
	err = e.do(ctx, "Users", func() error { out = slices.Collect(maps.Values(e.users)); return nil })
	return out, err
}
func (e fakeEngine) User(ctx context.Context, name, host string) (u trove.User, err error) {
	err = e.do(ctx, "User", func() error {
		var ok bool
		if u, ok = e.users[name]; !ok {
			return trove.Errorf(trove.KindNotFound, "no user %s@%s", name, host)
		}
		return nil
	})
	return u, err
}
func (e fakeEngine) Prepared(ctx context.Context) error {
	return e.do(ctx, "Prepared", func() error { e.tidied = true; return nil })
}
func (e fakeEngine) CreateUser(ctx context.Context, u trove.User) error {
	return e.do(ctx, "CreateUser", func() error { e.users[u.Name] = u; return nil })
}
func (e fakeEngine) AlterUser(ctx context.Context, name, _ string, _ trove.UserAttributes) error {
	return e.do(ctx, "AlterUser", func() error { return nil })
}
func (e fakeEngine) DropUser(ctx context.Context, name, _ string) error {
	return e.do(ctx, "DropUser", func() error { delete(e.users, name); return nil })
}
func (e fakeEngine) Grant(ctx context.Context, _, _ string, _ []string) error {
	return e.do(ctx, "Grant", func() error { return nil })
}
func (e fakeEngine) Revoke(ctx context.Context, _, _, _ string) error {
	return e.do(ctx, "Revoke", func() error { return nil })
}
func (e fakeEngine) EnableRoot(ctx context.Context, password string) (trove.User, error) {
	err := e.do(ctx, "EnableRoot", func() error { e.root, e.rootPass = true, password; return nil })
	return trove.User{Name: "root", Host: "%"}, err
}
func (e fakeEngine) DisableRoot(ctx context.Context) error {
	return e.do(ctx, "DisableRoot", func() error { e.root = false; return nil })
}
func (e fakeEngine) RootEnabled(context.Context) (on bool, err error) {
	e.with(func() { on = e.root })
	return on, nil
}

type fakeRuntime struct{ *world }

func (r fakeRuntime) Fetch(_ context.Context, report func(runtime.Progress)) error {
	report(runtime.Progress{Message: "Pulling an image.", Done: 1, Total: 2, Unit: "bytes"})
	return nil
}

func (r fakeRuntime) Start(ctx context.Context, s runtime.Spec) (h runtime.Handle, err error) {
	err = r.do(ctx, "Start", func() error {
		if s.New {
			r.unsought++
		}
		if r.pid == 0 || s.New {
			r.nextPID++
			r.pid = r.nextPID
			r.ended[r.pid] = make(chan struct{})
			r.starts++
		}
		h = runtime.Handle{Runtime: "fake", PID: r.pid}
		if r.crashNext > 0 {
			r.crashNext--
			r.endLocked(runtime.State{ExitCode: 1, Detail: "the port is taken"})
		}
		return nil
	})
	return h, err
}
func (r fakeRuntime) Find(ctx context.Context, _ runtime.Spec) (h runtime.Handle, ok bool, err error) {
	err = r.do(ctx, "Find", func() error { h, ok = runtime.Handle{Runtime: "fake", PID: r.pid}, r.pid != 0; return nil })
	return h, ok, err
}
func (r fakeRuntime) State(ctx context.Context, h runtime.Handle) (st runtime.State, err error) {
	err = r.do(ctx, "State", func() error {
		if st = r.exits[h.PID]; h.PID == r.pid {
			st = runtime.State{Running: true}
		}
		return nil
	})
	return st, err
}
func (r fakeRuntime) Wait(ctx context.Context, h runtime.Handle) (runtime.State, error) {
	r.mu.Lock()
	ended := r.ended[h.PID]
	r.mu.Unlock()
	select {
	case <-ctx.Done():
		return runtime.State{}, ctx.Err()
	case <-ended:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.exits[h.PID], nil
	}
}
func (r fakeRuntime) Stop(ctx context.Context, h runtime.Handle, _ os.Signal, _ time.Duration) error {
	return r.do(ctx, "Stop", func() error {
		if h.PID == r.pid {
			r.stops++
			r.endLocked(runtime.State{})
		}
		return nil
	})
}

type fakeConductor struct{ *world }

func (c fakeConductor) Heartbeat(ctx context.Context, h conductor.Heartbeat) error {
	c.mu.Lock()
	slow := c.slow
	c.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errKilled
	}
	if c.refuse {
		return trove.Errorf(trove.KindUnavailable, "no broker")
	}
	c.beats = append(c.beats, h)
	close(c.told)
	c.told = make(chan struct{})
	return nil
}
func (c fakeConductor) ReportRoot(ctx context.Context, _ string) error {
	return c.do(ctx, "ReportRoot", func() error { c.roots++; return nil })
}
func (c fakeConductor) NotifyFailure(_ context.Context, n conductor.FailureNotification, m string, d []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, failure{n, m, d})
	return nil
}

// running is an agent in Run.
type running struct {
	*Agent
	t    *testing.T
	w    *world
	stop func() // as SIGTERM does; returns when Run has
}

func (w *world) agent(t *testing.T, stateFile string, change ...func(*Config)) *running {
	t.Helper()
	cfg := Config{InstanceID: "i1", StateFile: stateFile, Version: "test", Engine: fakeEngine{w}, Runtime: fakeRuntime{w},
		Conductor: fakeConductor{w}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), VolumeDir: filepath.Dir(stateFile)}
	for _, c := range change {
		c(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.mu.Lock()
	w.dead, w.kill = false, cancel
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil && !errors.Is(err, errKilled) {
			t.Errorf("Run: %v", err)
		}
	}()
	r := &running{Agent: a, t: t, w: w}
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(r.stop)
	return r
}

// until waits for a heartbeat with this status as the last one.
func (r *running) until(s trove.ServiceStatus) {
	r.t.Helper()
	deadline := time.After(10 * time.Minute) // of the bubble's clock
	for {
		r.w.mu.Lock()
		told, last := r.w.told, ""
		for _, b := range r.w.beats {
			if b.Payload.ServiceStatus != "" {
				last = b.Payload.ServiceStatus
			}
		}
		r.w.mu.Unlock()
		if last == s.Description {
			return
		}
		select {
		case <-told:
		case <-deadline:
			r.t.Fatalf("status is %q, want %q", last, s.Description)
		}
	}
}

func (w *world) statuses() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, b := range w.beats {
		if s := b.Payload.ServiceStatus; s != "" && (len(out) == 0 || out[len(out)-1] != s) {
			out = append(out, s)
		}
	}
	return out
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, f)
}
