package flow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// end is how a world ends, as far as it must not depend on crashes.
type end struct {
	Left       []string
	Made       map[string]int
	Users      []string
	Stopped    bool
	Restarts   int
	Operations []string
	Deleted    bool
	Task       trove.Task
	Service    trove.ServiceStatus
	Server     string
	Addresses  []trove.Address
	Compute    string
	Volume     string
	Fault      string
	Root       bool
	Quota      int
	// Generation is that of the agent's credentials, and Key what it was told
	// last.
	Generation int
	Told       string
	Key        string
	// What a change leaves: as the cloud, the agent and the row have it.
	Machine, Agent, Row string
	RAM, Volumes        int // of the quota
}

func (w *world) end(ctx context.Context) (e end, err error) {
	e = end{Left: w.left(), Made: w.made}
	ops, err := w.store.Operations(ctx, "i1", 10)
	if err != nil {
		return e, err
	}
	for _, o := range ops {
		e.Operations = append(e.Operations, o.Kind+" "+string(o.State)+" "+o.Cause)
	}
	if a := w.agents["i1"]; a != nil {
		e.Users, e.Stopped, e.Restarts = a.users, a.stopped, a.restarts
		e.Generation, e.Told = a.generation, a.told[a.generation]
		e.Agent = fmt.Sprintf("mounted %v, file system %d, flavor %s", a.mounted, a.size, a.flavor)
	}
	if m := w.machines["i1"]; m != nil {
		e.Machine = fmt.Sprintf("flavor %s %s, volume %d, detached %v, public %v, open to %v", m.flavor, m.resize, m.size, m.detached, m.public, m.rules)
	}
	quotas, err := w.store.Quotas(ctx, tenant, trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: 51200, trove.ResourceVolumes: 20})
	if err != nil {
		return e, err
	}
	for _, q := range quotas {
		switch q.Resource {
		case trove.ResourceInstances:
			e.Quota = q.InUse
		case trove.ResourceRAM:
			e.RAM = q.InUse
		case trove.ResourceVolumes:
			e.Volumes = q.InUse
		}
	}
	inst, err := w.store.Instance(ctx, "i1")
	if trove.IsKind(err, trove.KindNotFound) {
		e.Deleted = true
		return e, nil
	}
	if err != nil {
		return e, err
	}
	e.Task, e.Service, e.Server, e.Addresses = inst.Task, inst.Service, inst.Server.Status, inst.Server.Addresses
	e.Key = inst.EncryptedKey
	e.Row = fmt.Sprintf("flavor %s, volume %d, access %+v", inst.FlavorID, inst.VolumeSize, inst.Access)
	e.Compute, e.Volume = inst.ComputeID, inst.VolumeID
	if inst.Fault != nil {
		e.Fault = inst.Fault.Message
	}
	root, err := w.store.RootHistory(ctx, "i1")
	e.Root = root.IsEnabled()
	return e, err
}

// served makes the instance, with a process that nobody kills.
func (w *world) served() {
	w.t.Helper()
	w.built(flow.NewCreate(request("i1")))
}

func (w *world) built(create flow.Create) {
	w.t.Helper()
	e, err := w.engine(worktest.NewGate(0), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	defer func() { stop(); <-ended }()
	if err := accept(ctx, e, flow.KindCreate, "m1", create); err != nil {
		w.t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		w.t.Fatalf("operation: %+v", op)
	}
}

// ended reports whether so many operations have ended.
func (w *world) ended(n int) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		ops, err := w.store.Operations(ctx, "i1", 10)
		return len(ops) == n && !slices.ContainsFunc(ops, func(o trove.Operation) bool { return !o.State.Finished() }), err
	}
}

// rotated: the agent has the credentials of this generation, and no other login
// is left.
func rotated(e end, generation int) bool {
	login := guest.Login("i1", generation)
	var logins []string
	for _, l := range e.Left {
		if strings.HasPrefix(l, "login ") {
			logins = append(logins, l)
		}
	}
	return e.Generation == generation && slices.Equal(logins, []string{"login " + login}) &&
		e.Told == login+" password of "+login+" key of i1" && e.Key == "encrypted key of i1"
}

func accept(ctx context.Context, e *work.Engine, kind, request string, state any) error {
	_, err := e.Accept(ctx, kind, "i1", request, state)
	return err
}

// TestKilledEverywhere kills each flow after steps and around calls outside: all
// of them if worktest.AllPassages says so.
func TestKilledEverywhere(t *testing.T) { killed(t, 0, everyNth(3)) }

func everyNth(n int) func(*testing.T, func(*testing.T) worktest.World) {
	return func(t *testing.T, makeWorld func(*testing.T) worktest.World) {
		t.Helper()
		worktest.EveryNth(t, n, makeWorld)
	}
}

// Another process is there all the time and goes on when the lease has ended.
func TestKilledBesideAnother(t *testing.T) { killed(t, 500*time.Millisecond, worktest.Beside) }

// killCase is a flow to be killed.
type killCase struct {
	set   func(w *world)
	begin func(ctx context.Context, w *world, e *work.Engine) error
	works int
	check func(t *testing.T, e end)
	// forget drops what may differ.
	forget func(e end) end
}

func killed(t *testing.T, lease time.Duration, everywhere func(*testing.T, func(*testing.T) worktest.World)) {
	t.Parallel()
	create := func(ctx context.Context, e *work.Engine) error {
		return accept(ctx, e, flow.KindCreate, "m1", flow.NewCreate(request("i1")))
	}
	killedIn(t, lease, everywhere, map[string]killCase{
		"create": {
			begin: func(ctx context.Context, _ *world, e *work.Engine) error { return create(ctx, e) },
			check: func(t *testing.T, e end) {
				if e.Task != trove.TaskNone || e.Service != trove.ServiceHealthy || e.Server != trove.ServerActive ||
					!slices.Equal(e.Users, []string{"ann:s3cret"}) || !e.Root || len(e.Addresses) != 1 ||
					e.Compute != "s-i1" || e.Volume != "v-i1" || len(e.Left) != 6 || e.Quota != 1 || !rotated(e, 1) {
					t.Errorf("the end of a creation: %+v", e)
				}
			}},
		"create that fails in the guest": {
			set: func(w *world) { w.ends, w.why = trove.ServiceFailed, "no space left on the volume" },
			begin: func(ctx context.Context, _ *world, e *work.Engine) error {
				return create(ctx, e)
			},
			check: func(t *testing.T, e end) {
				if e.Task != trove.TaskErrorTimeoutGuest || len(e.Left) != 0 || !strings.Contains(e.Fault, "no space left") || e.Quota != 1 || e.Compute != "" {
					t.Errorf("the end of a creation that failed: %+v", e)
				}
			}},
		"create that fails in the cloud": {
			set: func(w *world) { w.faults["EnsureServer"] = &fault{times: 99, late: true, err: errors.New("no host")} },
			begin: func(ctx context.Context, _ *world, e *work.Engine) error {
				return create(ctx, e)
			},
			check: func(t *testing.T, e end) {
				if e.Task != trove.TaskErrorServer || len(e.Left) != 0 || e.Fault != "No server: no host" {
					t.Errorf("the end of a creation that failed: %+v", e)
				}
			}},
		"delete": {
			works: 2,
			set:   func(w *world) { w.served() },
			begin: func(ctx context.Context, w *world, e *work.Engine) error {
				return accept(ctx, e, flow.KindDelete, "m2", flow.Delete{})
			},
			check: func(t *testing.T, e end) {
				if !e.Deleted || len(e.Left) != 0 || e.Quota != 0 {
					t.Errorf("the end of a deletion: %+v", e)
				}
			}},
		"delete during build": {
			works: 2,
			begin: func(ctx context.Context, w *world, e *work.Engine) error {
				if err := create(ctx, e); err != nil {
					return err
				}
				if err := w.store.BeginDelete(ctx, "i1", nil); err != nil && !trove.IsKind(err, trove.KindNotFound) {
					return err
				}
				return accept(ctx, e, flow.KindDelete, "m2", flow.Delete{})
			},
			check: func(t *testing.T, e end) {
				if !e.Deleted || len(e.Left) != 0 || e.Quota != 0 {
					t.Errorf("the end of a deletion: %+v", e)
				}
			},
			// How far the creation came is a matter of time.
			forget: func(e end) end { e.Made, e.Operations = nil, nil; return e }},
		"create with the operator's login": {
			set:   func(w *world) { w.shared = true },
			begin: func(ctx context.Context, _ *world, e *work.Engine) error { return create(ctx, e) },
			check: func(t *testing.T, e end) {
				if e.Service != trove.ServiceHealthy || len(e.Left) != 5 || e.Generation != 0 || e.Key != "" {
					t.Errorf("the end of a creation: %+v", e)
				}
			}},
		"rotate": {
			works: 2,
			set:   func(w *world) { w.served() },
			begin: func(ctx context.Context, w *world, e *work.Engine) error {
				return accept(ctx, e, flow.KindRotate, "m2", flow.Rotate{})
			},
			check: func(t *testing.T, e end) {
				if !rotated(e, 2) || e.Service != trove.ServiceHealthy || len(e.Left) != 6 {
					t.Errorf("the end of a rotation: %+v", e)
				}
			}},
		"restart": {
			works: 2,
			set:   func(w *world) { w.served() },
			begin: func(ctx context.Context, w *world, e *work.Engine) error {
				return accept(ctx, e, flow.KindRestart, "m2", flow.Restart{})
			},
			check: func(t *testing.T, e end) {
				if e.Restarts != 1 || e.Task != trove.TaskNone || e.Service != trove.ServiceHealthy || len(e.Left) != 6 {
					t.Errorf("the end of a restart: %+v", e)
				}
			}},
	})
}

func killedIn(t *testing.T, lease time.Duration, everywhere func(*testing.T, func(*testing.T) worktest.World), cases map[string]killCase) {
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, func(t *testing.T) worktest.World {
				w := newWorld(t)
				w.lease = lease
				w.instance("i1")
				if tc.set != nil {
					tc.set(w)
				}
				return worktest.World{
					Engine: func(g *worktest.Gate) (*work.Engine, error) { return w.engine(g, nil) },
					Begin:  func(ctx context.Context, e *work.Engine) error { return tc.begin(ctx, w, e) },
					Ended:  w.ended(max(1, tc.works)),
					Result: func(ctx context.Context) (any, error) {
						got, err := w.end(ctx)
						if err != nil {
							return nil, err
						}
						tc.check(t, got)
						if tc.forget != nil {
							got = tc.forget(got)
						}
						return got, nil
					},
				}
			})
		})
	}
}

func TestCreateTellsTheAgentWhoItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	e := w.run(nil)
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Fatalf("operation: %+v", op)
	}
	info, config := string(w.files["i1"][flow.GuestInfoPath]), string(w.files["i1"][flow.GuestConfigPath])
	if want := "[DEFAULT]\nguest_id = i1\ndatastore_manager = mariadb\ndatastore_version = 10.11\ntenant_id = tenant-1\n\n[gotrove]\nvolume_id = v-i1\n"; info != want {
		t.Errorf("guest_info.conf:\n%s\nwant\n%s", info, want)
	}
	if want := "[DEFAULT]\ntransport_url = wrong\n[gotrove]\nruntime = process\n\n[DEFAULT]\ntransport_url = rabbit://guest-i1:pa%24s$$word@unix/\ncontrol_exchange = trove\nconductor_queue = trove-conductor\n"; config != want {
		t.Errorf("trove-guestagent.conf:\n%s\nwant\n%s", config, want)
	}
}

// An agent is told what the operator wants of the user's port.
func TestCreateTellsTheAgentOfIsolation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	e := w.run(func(o *flow.Options) { o.Isolation = true })
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Fatalf("operation: %+v", op)
	}
	if info := string(w.files["i1"][flow.GuestInfoPath]); !strings.Contains(info, "\nnetwork_isolation = True\n") {
		t.Errorf("guest_info.conf:\n%s", info)
	}
}

func TestCreateSurvivesWhatPasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	away := trove.Errorf(trove.KindUnavailable, "away")
	for _, call := range []string{"EnsureSecurityGroup", "EnsurePorts", "EnsureVolume", "EnsureGuest", "EnsureServer", "EnsureLogin", "rotate", "RemoveLogins", "prepare"} {
		w.faults[call] = &fault{times: 3, late: true, err: away} // had its effect, and nobody heard
	}
	e := w.run(nil)
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Fatalf("operation: %+v", op)
	}
	for what, n := range w.made {
		if n != 1 {
			t.Errorf("%s was made %d times", what, n)
		}
	}
	if got := w.agents["i1"].users; len(got) != 1 {
		t.Errorf("prepare was carried out %d times", len(got))
	}
}

func TestPrepareIsCastAgainToASilentAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	w.unprepared = true
	e := w.run(nil)
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	w.called("prepare", 3)
	w.mu.Lock()
	w.unprepared = false
	w.mu.Unlock()
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
}

// A rotation that an agent did not hear of is given up with a cause, and the
// next one goes on with the same credentials.
func TestRotationOfASilentAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	w.served()
	w.mu.Lock()
	w.mute, w.ahead = true, time.Hour
	w.mu.Unlock()
	e := w.run(nil)
	if err := accept(t.Context(), e, flow.KindRotate, "m2", flow.Rotate{}); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationFailed || !strings.Contains(op.Cause, "both the old and the new ones are good") {
		t.Errorf("operation: %+v", op)
	}
	if inst := w.get("i1"); inst.Status() != trove.StatusActive {
		t.Errorf("the instance is %s after a rotation that came to nothing", inst.Status())
	}
	w.mu.Lock()
	w.mute, w.ahead = false, 0
	w.mu.Unlock()
	if err := accept(t.Context(), e, flow.KindRotate, "m3", flow.Rotate{}); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
	if got, err := w.end(t.Context()); err != nil || !rotated(got, 2) {
		t.Errorf("the end: %+v, %v", got, err)
	}
}

func TestPrepareIsCastAgainAtOnceByTheNextProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	w.forget = true // a broker that dies with its process
	change := func(o *flow.Options) { o.Recast = time.Hour }
	gate := worktest.NewGate(0)
	e, err := w.engine(gate, change)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	w.called("prepare", 1)
	gate.Kill()
	stop()
	<-ended
	w.mu.Lock()
	w.forget = false
	w.mu.Unlock()
	if err := w.run(change).ReleaseAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
}

// TestDeleteDuringBuild deletes at every stage of a creation that would not
// come to an end by itself.
func TestDeleteDuringBuild(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"EnsureSecurityGroup", "EnsurePorts", "EnsureVolume", "EnsureGuest", "EnsureServer", "EnsureLogin", "rotate", "RemoveLogins", "prepare", "waiting"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.instance("i1")
			w.unprepared = true
			w.faults[stage] = &fault{times: 1 << 30, late: true, err: trove.Errorf(trove.KindUnavailable, "away")}
			e := w.run(nil)
			if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
				t.Fatal(err)
			}
			reached := stage
			if stage == "waiting" {
				reached = "prepare"
			}
			w.called(reached, 1)
			if err := w.store.BeginDelete(t.Context(), "i1", []store.OutboxRow{{ID: "m2", Topic: "taskmanager", Method: flow.KindDelete, Body: []byte("{}")}}); err != nil {
				t.Fatal(err)
			}
			if err := accept(t.Context(), e, flow.KindDelete, "m2", flow.Delete{}); err != nil {
				t.Fatal(err)
			}
			if op := w.operation("i1"); op.State != trove.OperationDone || op.Kind != flow.KindDelete {
				t.Errorf("operation: %+v", op)
			}
			ops, err := w.store.Operations(t.Context(), "i1", 2)
			if err != nil || len(ops) != 2 || ops[1].State != trove.OperationCancelled {
				t.Errorf("the creation: %+v, %v", ops, err)
			}
			if _, err := w.store.Instance(t.Context(), "i1"); !trove.IsKind(err, trove.KindNotFound) {
				t.Errorf("after its deletion: %v", err)
			}
			if left := w.left(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestCreateAfterDeleteMakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	if err := w.store.BeginDelete(t.Context(), "i1", nil); err != nil {
		t.Fatal(err)
	}
	e := w.run(nil)
	for message, kind := range map[string]string{"m1": flow.KindCreate, "m2": flow.KindRestart} {
		state := any(flow.NewCreate(request("i1")))
		if kind == flow.KindRestart {
			state = flow.Restart{}
		}
		if err := accept(t.Context(), e, kind, message, state); err != nil {
			t.Fatal(err)
		}
	}
	w.operation("i1")
	if len(w.made) != 0 || w.get("i1").Task != trove.TaskDeleting {
		t.Errorf("made %v, task %v", w.made, w.get("i1").Task)
	}
}

func TestDeleteNeverGivesUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	e := w.run(nil)
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	w.operation("i1")
	for _, call := range []string{"DeleteServer", "DeletePorts", "DeleteVolume", "DeleteSecurityGroup", "RemoveGuest"} {
		w.faults[call] = &fault{times: 5, err: errors.New("the cloud refuses")}
	}
	w.faults["StopDB"] = &fault{times: 99, err: errors.New("the guest refuses")}
	if err := accept(t.Context(), e, flow.KindDelete, "m2", flow.Delete{}); err != nil {
		t.Fatal(err)
	}
	op := w.operation("i1")
	if op.State != trove.OperationDone || len(w.left()) != 0 {
		t.Errorf("operation: %+v, left: %v", op, w.left())
	}
	said := slices.ContainsFunc(op.Steps, func(s trove.OperationStep) bool { return strings.Contains(s.Message, "the cloud refuses") })
	if !said {
		t.Errorf("nobody was told why it took time: %+v", op.Steps)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault *fault
		state trove.OperationState
		cause string
	}{
		"done":           {nil, trove.OperationDone, ""},
		"broker away":    {&fault{times: 3, err: trove.Errorf(trove.KindUnavailable, "away")}, trove.OperationDone, ""},
		"guest refuses":  {&fault{times: 9, err: trove.Errorf(trove.KindGuest, "cannot bind")}, trove.OperationFailed, "cannot bind"},
		"guest silent":   {&fault{times: 9, err: trove.Errorf(trove.KindGuestTimeout, "no answer")}, trove.OperationFailed, "no answer"},
		"broker is away": {&fault{times: 1 << 30, err: trove.Errorf(trove.KindUnavailable, "away")}, trove.OperationFailed, "away"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.instance("i1")
			e := w.run(func(o *flow.Options) {
				if tc.fault != nil && tc.fault.times > 9 {
					o.RestartTimeout = 500 * time.Millisecond
				}
			})
			if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
				t.Fatal(err)
			}
			w.operation("i1")
			w.faults["Restart"] = tc.fault
			restarting := trove.ServiceRestarting
			if err := w.store.BeginTask(t.Context(), "i1", store.TaskChange{Task: trove.TaskRebooting, Service: &restarting}); err != nil {
				t.Fatal(err)
			}
			if err := accept(t.Context(), e, flow.KindRestart, "m2", flow.Restart{}); err != nil {
				t.Fatal(err)
			}
			op, inst := w.operation("i1"), w.get("i1")
			if op.State != tc.state || !strings.Contains(op.Cause, tc.cause) || inst.Task != trove.TaskNone {
				t.Errorf("operation %+v, task %v", op, inst.Task)
			}
			if failed := tc.state == trove.OperationFailed; failed != (inst.Fault != nil) {
				t.Errorf("fault: %+v", inst.Fault)
			}
		})
	}
}
