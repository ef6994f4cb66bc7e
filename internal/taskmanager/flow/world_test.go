package flow_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

const tenant = "tenant-1"

// world is all that outlives a process: the store, a cloud, a bus and agents.
type world struct {
	t     *testing.T
	store *store.Store
	lease time.Duration // of engines; 0 as it is by default
	// place is the cloud of a process; nil: fakeCloud.
	place func(g *worktest.Gate) cloud.Cloud

	mu      sync.Mutex
	things  map[string]bool // "server i1", "queue i1"…
	made    map[string]int  // how often each was made
	files   map[string]map[string][]byte
	agents  map[string]*agent
	faults  map[string]*fault // by name of call
	calls   []string
	console string
	// status is what servers have; mute agents do not take prepare.
	status string
	mute   bool
	// unprepared agents take new credentials, but not prepare.
	unprepared bool
	// forget loses a prepare after the agent said that it began.
	forget bool
	// ends is the status an agent reports after prepare, and why.
	ends trove.ServiceStatus
	why  string
	// shared: all agents have the operator's login.
	shared bool
	// ahead is how far the engine's clock jumps when prepare is cast.
	ahead time.Duration
	clock time.Duration

	machines map[string]*machine
	cloudFaults
	// view is what the cloud shows beside what it has, presence what the bus does.
	view     func(*cloud.View)
	presence guest.Presence
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.clock)
}

// agent is what a guest remembers.
type agent struct {
	prepared map[string]bool // unique ids handled
	// What it logs in with, and what it was told for each generation.
	generation int
	told       map[int]string
	users      []string
	stopped    bool
	mounted    bool
	size       int    // of its file system
	flavor     string // that the engine was last configured for
	refuses    string // the flavor that its engine cannot run with
	restarts   int
	restarted  map[string]bool // requests for a restart that it carried out
}

// fault makes the first so many calls fail, after they had their effect if late.
type fault struct {
	times int
	late  bool
	err   error
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: worktest.Store(t), things: map[string]bool{}, made: map[string]int{}, files: map[string]map[string][]byte{},
		agents: map[string]*agent{}, faults: map[string]*fault{}, machines: map[string]*machine{}, status: trove.ServerActive, ends: trove.ServiceHealthy}
	return w
}

// instance writes the row that the API writes.
func (w *world) instance(id string) {
	w.t.Helper()
	v, err := w.store.EnsureVersion(w.t.Context(), trove.DatastoreVersion{DatastoreName: "mariadb", Name: "10.11", Number: "10.11",
		Manager: "mariadb", Active: true}, true)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.CreateInstance(w.t.Context(), store.NewInstance{
		Instance: &trove.Instance{ID: id, Name: "name", TenantID: tenant, FlavorID: "1", VolumeSize: 2, Task: trove.TaskBuilding,
			Version: trove.DatastoreVersion{ID: v}},
		Cost:   trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2},
		Limits: trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: 51200, trove.ResourceVolumes: 20},
	}); err != nil {
		w.t.Fatal(err)
	}
}

func request(id string) taskmanager.CreateInstance {
	password := "r00t"
	return taskmanager.CreateInstance{InstanceID: id, Name: "name", Flavor: rpcapi.Flavor{ID: "1", RAM: 512}, DatastoreManager: "mariadb",
		Users: rpcapi.Users([]trove.User{{Name: "ann", Password: "s3cret"}}), DSVersion: "10.11", RootPassword: &password}
}

// do is one call: fails as told, else has its effect.
func (w *world) do(name string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, name)
	f := w.faults[name]
	if f != nil && f.times > 0 {
		f.times--
		if f.late {
			_ = effect()
		}
		return f.err
	}
	return effect()
}

func (w *world) ensure(what string) {
	if !w.things[what] {
		w.things[what] = true
		w.made[what]++
	}
}

func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.things))
}

// engine makes a process's engine.
func (w *world) engine(g *worktest.Gate, change func(*flow.Options)) (*work.Engine, error) {
	quiet := slog.New(slog.DiscardHandler)
	o := flow.Options{PollInterval: 5 * time.Millisecond, StopTimeout: time.Second, CauseGrace: 20 * time.Millisecond, Recast: 20 * time.Millisecond,
		ControlExchange: "trove", GuestConfig: []byte("[DEFAULT]\ntransport_url = wrong\n[gotrove]\nruntime = process\n"), Log: quiet}
	o.Keys = fakeKeys{w, g}
	if change != nil {
		change(&o)
	}
	var place cloud.Cloud = fakeCloud{w, g}
	if w.place != nil {
		place = w.place(g)
	}
	f := flow.New(gatedStore{w.store, g}, place, fakeGuest{w, g}, fakeGuest{w, g}, fakeBus{w, g}, o)
	return work.New(g.Store(w.store), work.Options{Poll: 50 * time.Millisecond, Lease: w.lease, Log: quiet, Monotonic: w.now,
		Retry: work.Backoff{First: time.Millisecond, Most: 10 * time.Millisecond}}, f.All()...)
}

// run starts an engine until the test ends.
func (w *world) run(change func(*flow.Options)) *work.Engine {
	w.t.Helper()
	e, err := w.engine(worktest.NewGate(0), change)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended })
	return e
}

// operation waits until the newest operation on an instance has ended.
func (w *world) operation(id string) trove.Operation {
	w.t.Helper()
	deadline := time.After(worktest.Patience)
	for {
		ops, err := w.store.Operations(w.t.Context(), id, 1)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(ops) == 1 && ops[0].State.Finished() {
			return ops[0]
		}
		select {
		case <-deadline:
			w.t.Fatalf("the operation did not end: %+v", ops)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (w *world) get(id string) *trove.Instance {
	w.t.Helper()
	inst, err := w.store.Instance(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return inst
}

// called waits until a call was made so many times.
func (w *world) called(name string, times int) {
	w.t.Helper()
	deadline := time.Now().Add(worktest.Patience)
	for n := 0; n < times; {
		w.mu.Lock()
		n = 0
		for _, c := range w.calls {
			if c == name {
				n++
			}
		}
		w.mu.Unlock()
		if time.Now().After(deadline) {
			w.t.Fatalf("%s was called %d times, not %d", name, n, times)
		}
		<-time.After(2 * time.Millisecond)
	}
}

type fakeBus struct {
	w *world
	g *worktest.Gate
}

func (b fakeBus) EnsureGuest(_ context.Context, id string) (url string, err error) {
	err = b.g.Do("EnsureGuest", func() error {
		return b.w.do("EnsureGuest", func() error {
			b.w.ensure("queue " + id)
			if !b.w.shared {
				b.w.ensure("login " + guest.Login(id, 0))
			}
			return nil
		})
	})
	if b.w.shared {
		return "", err
	}
	return "rabbit://guest-" + id + ":pa%24s$word@unix/", err
}

func (b fakeBus) RemoveGuest(_ context.Context, id string, last int) error {
	return b.g.Do("RemoveGuest", func() error {
		return b.w.do("RemoveGuest", func() error {
			delete(b.w.things, "queue "+id)
			for g := range last + 1 {
				delete(b.w.things, "login "+guest.Login(id, g))
			}
			return nil
		})
	})
}

func (b fakeBus) Seen(context.Context, string, int) (guest.Presence, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.calls = append(b.w.calls, "Seen")
	return b.w.presence, b.g.Alive()
}

func (b fakeBus) PerGuest() bool { return !b.w.shared }

func (b fakeBus) EnsureLogin(_ context.Context, id string, generation int) (login, password string, err error) {
	login = guest.Login(id, generation)
	return login, "password of " + login, b.g.Do("EnsureLogin", func() error {
		return b.w.do("EnsureLogin", func() error { b.w.ensure("login " + login); return nil })
	})
}

// RemoveLogins must not take away what the agent still needs.
func (b fakeBus) RemoveLogins(_ context.Context, id string, before int) error {
	return b.g.Do("RemoveLogins", func() error {
		return b.w.do("RemoveLogins", func() error {
			for g := range before {
				delete(b.w.things, "login "+guest.Login(id, g))
			}
			if a := b.w.agents[id]; a != nil && a.generation < before {
				b.w.t.Errorf("the login of generation %d was removed while the agent uses it", a.generation)
			}
			return nil
		})
	})
}

// fakeKeys are keys as anybody can read them.
type fakeKeys struct {
	w *world
	g *worktest.Gate
}

func (k fakeKeys) NewKey(_ context.Context, id string) (encrypted string, err error) {
	return "encrypted key of " + id, k.g.Alive()
}

func (k fakeKeys) OpenKey(_ context.Context, _, encrypted string) (string, error) {
	return strings.TrimPrefix(encrypted, "encrypted "), k.g.Alive()
}

type fakeGuest struct {
	w *world
	g *worktest.Gate
}

// Cast is prepare: the agent carries it out and its heartbeats arrive.
func (f fakeGuest) Cast(ctx context.Context, m rpc.Message) error {
	if m.Method == "rotate_credentials" {
		return f.rotate(ctx, m)
	}
	return f.g.Do("prepare", func() error {
		id, ok := strings.CutPrefix(m.Topic, "guestagent.")
		if !ok || m.Method != "prepare" {
			return fmt.Errorf("cast %s to %s", m.Method, m.Topic)
		}
		var heartbeat, lost bool
		err := f.w.do("prepare", func() error {
			f.w.clock += f.w.ahead
			a := f.w.agents[id]
			if a == nil || f.w.mute || f.w.unprepared || a.prepared[m.UniqueID] {
				return nil
			}
			if f.w.things["login "+guest.Login(id, 0)] {
				return fmt.Errorf("prepare was cast while the first login is still there")
			}
			if heartbeat, lost = true, f.w.forget; lost {
				return nil
			}
			a.prepared[m.UniqueID] = true
			for _, u := range m.Args["users"].([]rpcapi.User) {
				a.users = append(a.users, u.Name+":"+*u.Password)
			}
			return nil
		})
		if lost {
			f.w.heartbeat(id, trove.ServiceBuilding)
		} else if heartbeat {
			// Not the sending process's: it arrives even if that is dead.
			if f.w.why != "" && f.w.ends == trove.ServiceFailed {
				if err := f.w.store.SetFault(ctx, id, trove.Fault{Message: f.w.why}); err != nil {
					f.w.t.Error(err)
				}
			}
			f.w.heartbeat(id, f.w.ends)
		}
		return err
	})
}

// rotate: the agent takes what is newer than what it has, and its next message
// arrives at the conductor.
func (f fakeGuest) rotate(ctx context.Context, m rpc.Message) error {
	return f.g.Do("rotate", func() error {
		id := strings.TrimPrefix(m.Topic, "guestagent.")
		var uses int
		err := f.w.do("rotate", func() error {
			if f.w.mute {
				f.w.clock += f.w.ahead
			}
			a := f.w.agents[id]
			generation := m.Args["generation"].(int)
			if a == nil || f.w.mute {
				return nil
			}
			what := fmt.Sprint(m.Args["login"], " ", m.Args["password"], " ", m.Args["rpc_encr_key"])
			if a.told[generation] == "" {
				a.told[generation] = what
			}
			if a.told[generation] != what {
				return fmt.Errorf("for generation %d the agent was told %q and %q", generation, a.told[generation], what)
			}
			if !f.w.things["login "+guest.Login(id, generation)] {
				return fmt.Errorf("the agent was told a login that is not there")
			}
			a.generation = max(a.generation, generation)
			uses = a.generation
			return nil
		})
		if uses > 0 {
			if err := f.w.store.ConfirmRotation(context.WithoutCancel(ctx), id, uses); err != nil {
				f.w.t.Error(err)
			}
		}
		return err
	})
}

func (w *world) heartbeat(id string, st trove.ServiceStatus) {
	if _, err := w.store.Heartbeat(context.Background(), id, store.Beat{Status: &st}); err != nil && !trove.IsKind(err, trove.KindNotFound) {
		w.t.Error(err)
	}
}

func (f fakeGuest) Restart(_ context.Context, id, requestID string) error {
	return f.g.Do("Restart", func() error {
		err := f.w.do("Restart", func() error {
			a := f.w.agents[id]
			if !a.restarted[requestID] {
				a.restarts++
			}
			if a.restarted == nil {
				a.restarted = map[string]bool{}
			}
			a.restarted[requestID], a.stopped = true, false
			return nil
		})
		if err == nil {
			f.w.heartbeat(id, trove.ServiceHealthy)
		}
		return err
	})
}

func (f fakeGuest) StopDB(_ context.Context, id string) error {
	return f.ask("StopDB", id, func(a *agent, _ *machine) error { a.stopped = true; return nil })
}

// ask is a call of an agent that is there.
func (f fakeGuest) ask(name, id string, effect func(*agent, *machine) error) error {
	return f.g.Do(name, func() error {
		return f.w.do(name, func() error {
			a := f.w.agents[id]
			if a == nil {
				return trove.Errorf(trove.KindGuestTimeout, "no answer")
			}
			return effect(a, f.w.machine(id))
		})
	})
}

// StartDB starts the engine with what the server has now.
func (f fakeGuest) StartDB(_ context.Context, id, requestID string, _ guest.NewMemory) error {
	err := f.ask("StartDB", id, func(a *agent, m *machine) error {
		if !a.mounted {
			return trove.Errorf(trove.KindGuest, "nothing is mounted")
		}
		if a.refuses != "" && a.refuses == m.flavor {
			return trove.Errorf(trove.KindGuest, "cannot allocate memory")
		}
		if !a.restarted[requestID] {
			a.restarts++
		}
		if a.restarted == nil {
			a.restarted = map[string]bool{}
		}
		a.restarted[requestID], a.stopped, a.flavor = true, false, m.flavor
		return nil
	})
	if err == nil {
		f.w.heartbeat(id, trove.ServiceHealthy)
	}
	return err
}

func (f fakeGuest) MountVolume(_ context.Context, id string, d guest.Device) error {
	return f.ask("MountVolume", id, func(a *agent, m *machine) error {
		if m.detached || !strings.HasPrefix(d.DevicePath, "/dev/") || d.MountPoint != "/var/lib/mysql" {
			return fmt.Errorf("no device %+v", d)
		}
		a.mounted = true
		return nil
	})
}

func (f fakeGuest) UnmountVolume(_ context.Context, id string, _ guest.Device) error {
	return f.ask("UnmountVolume", id, func(a *agent, _ *machine) error {
		if !a.stopped {
			return trove.Errorf(trove.KindConflict, "in use")
		}
		a.mounted = false
		return nil
	})
}

func (f fakeGuest) ResizeFS(_ context.Context, id string, d guest.Device) error {
	return f.ask("ResizeFS", id, func(a *agent, m *machine) error {
		if m.detached || d.Online != a.mounted {
			return fmt.Errorf("device %+v, mounted %v, detached %v", d, a.mounted, m.detached)
		}
		a.size = m.size
		return nil
	})
}

func (f fakeGuest) Ping(context.Context, string) error {
	return f.w.do("Ping", func() error {
		if f.w.mute {
			return trove.Errorf(trove.KindGuestTimeout, "no answer")
		}
		return nil
	})
}

// gatedStore is the store of one process; what it writes are passages.
type gatedStore struct {
	s *store.Store
	g *worktest.Gate
}

func (d gatedStore) Instance(ctx context.Context, id string) (*trove.Instance, error) {
	if err := d.g.Alive(); err != nil {
		return nil, err
	}
	return d.s.Instance(ctx, id)
}

func (d gatedStore) SetTask(ctx context.Context, id string, task trove.Task) error {
	return d.g.Do("SetTask", func() error { return d.s.SetTask(ctx, id, task) })
}

func (d gatedStore) SetServiceStatus(ctx context.Context, id string, st trove.ServiceStatus) error {
	return d.g.Do("SetServiceStatus", func() error { return d.s.SetServiceStatus(ctx, id, st) })
}

func (d gatedStore) SetResources(ctx context.Context, id string, r store.Resources) error {
	return d.g.Do("SetResources", func() error { return d.s.SetResources(ctx, id, r) })
}

func (d gatedStore) SetFault(ctx context.Context, id string, f trove.Fault) error {
	return d.g.Do("SetFault", func() error { return d.s.SetFault(ctx, id, f) })
}

func (d gatedStore) SetRoot(ctx context.Context, id, user string, enabled bool) error {
	return d.g.Do("SetRoot", func() error { return d.s.SetRoot(ctx, id, user, enabled) })
}

func (d gatedStore) Observe(ctx context.Context, seen map[string]trove.ServerObservation) error {
	return d.g.Do("Observe", func() error { return d.s.Observe(ctx, seen) })
}

func (d gatedStore) GuestCredentials(ctx context.Context, id string) (store.GuestCredentials, error) {
	if err := d.g.Alive(); err != nil {
		return store.GuestCredentials{}, err
	}
	return d.s.GuestCredentials(ctx, id)
}

func (d gatedStore) BeginRotation(ctx context.Context, id, key string) (store.GuestCredentials, error) {
	return worktest.Through(d.g, "BeginRotation", func() (store.GuestCredentials, error) { return d.s.BeginRotation(ctx, id, key) })
}

func (d gatedStore) FinishDelete(ctx context.Context, id string) error {
	return d.g.Do("FinishDelete", func() error { return d.s.FinishDelete(ctx, id) })
}
