package taskmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpc"
	rpctm "github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

var quiet = slog.New(slog.DiscardHandler)

func engine(t *testing.T, s *store.Store) *work.Engine {
	t.Helper()
	e, err := work.New(s, work.Options{Log: quiet}, flow.New(s, nil, nil, nil, nil, flow.Options{}).All()...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// instance writes a row and sets what the API does not.
func instance(t *testing.T, s *store.Store, id string, task trove.Task, server string) {
	t.Helper()
	if err := s.CreateInstance(t.Context(), store.NewInstance{
		Instance: &trove.Instance{ID: id, Name: id, TenantID: "p", FlavorID: "1", Task: task}, Limits: trove.QuotaDelta{}}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetResources(t.Context(), id, store.Resources{ComputeID: &server}); err != nil {
		t.Fatal(err)
	}
}

func TestMessagesBecomeWork(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	h := taskmanager.NewServer(engine(t, s), s, quiet).Handler()
	send := func(method, unique string, args map[string]any) error {
		in := &rpc.Incoming{Method: method, Version: "1.0", UniqueID: unique, Args: map[string]json.RawMessage{}}
		for k, v := range args {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			in.Args[k] = b
		}
		_, err := h.Handle(t.Context(), in)
		return err
	}
	for _, m := range []struct {
		method, unique string
		args           map[string]any
	}{
		{"create_instance", "m1", map[string]any{"instance_id": "i1", "name": "n"}},
		{"create_instance", "m1", map[string]any{"instance_id": "i1", "name": "n"}},
		{"restart", "m2", map[string]any{"instance_id": "i1"}},
		{"delete_instance", "m3", map[string]any{"instance_id": "i1"}},
		{"create_instance", "m4", map[string]any{"instance_id": []string{"i2", "i3"}, "name": []string{"a", "b"}}},
	} {
		if err := send(m.method, m.unique, m.args); err != nil {
			t.Errorf("%s: %v", m.method, err)
		}
	}
	for id, want := range map[string][]string{"i1": {"delete_instance", "restart", "create_instance"}, "i2": {"create_instance"}, "i3": {"create_instance"}} {
		ops, err := s.Operations(t.Context(), id, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range ops {
			got = append(got, o.Kind)
		}
		if !slices.Equal(got, want) {
			t.Errorf("work on %s: %v, want %v", id, got, want)
		}
	}
	if err := send("restart", "", map[string]any{"instance_id": "i1"}); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("without a unique id: %v", err)
	}
}

// TestKeptMessages: one that its sender keeps is carried out as long as that keeps
// it, however late it comes, and never again, also when nothing remembers the work.
func TestKeptMessages(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	instance(t, s, "i1", trove.TaskNone, "s")
	h := func() rpc.Handler { return taskmanager.NewServer(engine(t, s), s, quiet).Handler() } // after a restart
	send := func(id string, kept bool) {
		t.Helper()
		in := &rpc.Incoming{Method: "restart", Version: "1.0", UniqueID: id, Kept: kept, Sealed: true,
			Made: time.Now().Add(-1000 * time.Hour), Args: map[string]json.RawMessage{"instance_id": json.RawMessage(`"i1"`)}}
		if _, err := h().Handle(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	work := func(want int) {
		t.Helper()
		if ops, err := s.Operations(t.Context(), "i1", 100); err != nil || len(ops) != want {
			t.Errorf("%d pieces of work, want %d, %v", len(ops), want, err)
		}
	}
	if err := s.InsertOutbox(t.Context(), store.OutboxRow{ID: "m1", Topic: rpctm.Topic, Method: "restart", Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	send("m2", true)
	work(0)
	send("m1", true)
	work(1)
	send("m1", true)
	send("m2", true)
	work(1)
	// A relay beside task managers of the original keeps nothing, nor does one of
	// an earlier version say so.
	send("m3", false)
	work(2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	in := &rpc.Incoming{Method: "restart", Version: "1.0", UniqueID: "m1", Kept: true}
	if _, err := h().Handle(t.Context(), in); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("while the database is away: %v", err)
	}
}

// TestRejects: what can never be carried out ends, what another task manager or
// another time may do comes again.
func TestRejects(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	e, away, sick := engine(t, s), broken{trove.Errorf(trove.KindUnavailable, "away")}, broken{errors.New("a fault in the program")}
	for _, c := range []struct {
		name, method, version, args string
		to                          taskmanager.Acceptor
		at, after                   bool // it is rejected at once, after a while
	}{
		{"wrong arguments", "create_instance", "1.0", `{"instance_id": {"is": "no text"}}`, e, true, true},
		{"no instance", "restart", "1.0", `{}`, e, true, true},
		{"unknown method", "dance", "1.0", `{"instance_id": "i"}`, e, false, true},
		{"newer version", "restart", "1.9", `{"instance_id": "i"}`, e, false, true},
		{"other fault", "restart", "1.0", `{"instance_id": "i"}`, sick, false, true},
		{"store away", "restart", "1.0", `{"instance_id": "i"}`, away, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := trove.NewID()
			row := store.OutboxRow{ID: trove.NewID(), Topic: rpctm.Topic, Method: c.method, Body: []byte("{}")}
			if err := s.CreateInstance(t.Context(), store.NewInstance{Instance: &trove.Instance{ID: id, Name: "n", TenantID: "p", FlavorID: "1", Task: trove.TaskBuilding},
				Limits: trove.QuotaDelta{}, Outbox: []store.OutboxRow{row}}); err != nil {
				t.Fatal(err)
			}
			in := &rpc.Incoming{Method: c.method, Version: c.version, UniqueID: row.ID}
			if err := json.Unmarshal([]byte(c.args), &in.Args); err != nil {
				t.Fatal(err)
			}
			look := func(when string, r taskmanager.Messages, rejected bool) {
				t.Helper()
				if _, err := taskmanager.NewServer(c.to, r, quiet).Handler().Handle(t.Context(), in); err == nil {
					t.Errorf("%s: no error", when)
				}
				i, err := s.Instance(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if got := i.Task == trove.TaskErrorServer && i.Fault != nil; got != rejected {
					t.Errorf("%s: task %#x, fault %+v", when, i.Task, i.Fault)
				}
				rows, err := s.Outbox(t.Context(), 0, 100)
				if err != nil {
					t.Fatal(err)
				}
				if left := slices.ContainsFunc(rows, func(r store.OutboxRow) bool { return r.ID == row.ID }); left == rejected {
					t.Errorf("%s: the message is left: %t", when, left)
				}
			}
			look("at once", s, c.at)
			look("later", later{s}, c.after)
		})
	}
}

// broken accepts nothing.
type broken struct{ err error }

func (b broken) Accept(context.Context, string, string, string, any) (bool, error) {
	return false, b.err
}

type servers struct {
	all map[string]cloud.Server
	err error
}

func (s servers) Servers(context.Context) (map[string]cloud.Server, error) { return s.all, s.err }

func TestObserver(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	instance(t, s, "fine", trove.TaskNone, "s1")
	instance(t, s, "gone", trove.TaskNone, "s2")
	instance(t, s, "building", trove.TaskBuilding, "s3")
	address := []trove.Address{{Address: "127.20.0.1", Type: trove.AddressPrivate, Network: "local"}}
	seen := servers{all: map[string]cloud.Server{"fine": {Status: trove.ServerActive, Addresses: address}, "stranger": {Status: trove.ServerActive}}}
	if err := taskmanager.NewObserver(s, seen, 0, quiet).Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"fine": trove.ServerActive, "gone": trove.ServerShutdown, "building": ""} {
		i, err := s.Instance(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if i.Server.Status != want {
			t.Errorf("%s: server %q, want %q", id, i.Server.Status, want)
		}
	}
	if i, _ := s.Instance(t.Context(), "fine"); !slices.Equal(i.Server.Addresses, address) || i.Server.SeenAt.IsZero() {
		t.Errorf("seen: %+v", i.Server)
	}
	away := errors.New("the cloud is away")
	if err := taskmanager.NewObserver(s, servers{err: away}, 0, quiet).Look(t.Context()); !errors.Is(err, away) {
		t.Errorf("with the cloud away: %v", err)
	}
	if i, _ := s.Instance(t.Context(), "fine"); i.Server.Status != trove.ServerActive {
		t.Errorf("a cloud that is away changed what was seen: %+v", i.Server)
	}
}

func TestSweeper(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	e := engine(t, s)
	tasks := map[string]trove.Task{"building": trove.TaskBuilding, "rebooting": trove.TaskRebooting, "deleting": trove.TaskDeleting,
		"idle": trove.TaskNone, "worked on": trove.TaskBuilding, "on its way": trove.TaskBuilding}
	for id, task := range tasks {
		instance(t, s, id, task, "")
	}
	if _, err := e.Accept(t.Context(), flow.KindRestart, "worked on", "m1", flow.Restart{}); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertOutbox(t.Context(), store.OutboxRow{ID: "m2", Topic: "taskmanager", Method: "create_instance", Subject: "on its way", Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	sweep := func(w *taskmanager.Sweeper) map[string]trove.Task {
		t.Helper()
		if err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := map[string]trove.Task{}
		for id := range tasks {
			i, err := s.Instance(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			got[id] = i.Task
		}
		return got
	}
	young := taskmanager.NewSweeper(s, e, none, time.Hour, quiet)
	sweep(young)
	if got := sweep(young); got["building"] != trove.TaskBuilding {
		t.Errorf("swept within the grace: %v", got)
	}
	w := taskmanager.NewSweeper(later{s}, e, none, 0, quiet)
	for name, waiting := range map[string]taskmanager.Waiting{
		"a message waits in the broker": func(context.Context) (int, error) { return 1, nil },
		"the broker is away":            func(context.Context) (int, error) { return 0, errors.New("away") },
	} {
		unsure := taskmanager.NewSweeper(later{s}, e, waiting, 0, quiet)
		for range 3 {
			_ = unsure.Sweep(t.Context())
		}
		if i, err := s.Instance(t.Context(), "building"); err != nil || i.Task != trove.TaskBuilding {
			t.Errorf("swept while %s: %v, %v", name, i, err)
		}
	}
	if got := sweep(w); got["building"] != trove.TaskBuilding {
		t.Errorf("swept at first sight: %v", got)
	}
	got := sweep(w)
	for id, want := range map[string]trove.Task{"building": trove.TaskErrorServer, "rebooting": trove.TaskNone, "deleting": trove.TaskDeleting,
		"idle": trove.TaskNone, "worked on": trove.TaskBuilding, "on its way": trove.TaskBuilding} {
		if got[id] != want {
			t.Errorf("%s: task %#x, want %#x", id, got[id], want)
		}
	}
	i, err := s.Instance(t.Context(), "building")
	if err != nil || i.Fault == nil {
		t.Errorf("a lost creation has no fault: %+v, %v", i, err)
	}
	ops, err := s.Operations(t.Context(), "deleting", 10)
	if err != nil || len(ops) != 1 || ops[0].Kind != flow.KindDelete {
		t.Errorf("a lost deletion was not begun anew: %+v, %v", ops, err)
	}
}

// none is a broker in which nothing waits.
func none(context.Context) (int, error) { return 0, nil }

// later is the store an hour later.
type later struct{ *store.Store }

func (l later) StuckInstances(ctx context.Context, _ time.Duration) ([]store.Stuck, error) {
	return l.Store.StuckInstances(ctx, -time.Hour)
}

func (l later) RejectOutbox(ctx context.Context, id string, r store.Rejection) (bool, error) {
	r.After -= time.Hour
	return l.Store.RejectOutbox(ctx, id, r)
}

// What a resize was charged goes back when no task manager can carry it out.
func TestRejectedResizeGivesBack(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	id, limits := trove.NewID(), trove.QuotaDelta{trove.ResourceRAM: 4096}
	if err := s.CreateInstance(t.Context(), store.NewInstance{Instance: &trove.Instance{ID: id, Name: "n", TenantID: "p", FlavorID: "1", Task: trove.TaskBuilding},
		Cost: trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512}, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.SetTask(t.Context(), id, trove.TaskNone), s.SetServiceStatus(t.Context(), id, trove.ServiceHealthy),
		s.Observe(t.Context(), map[string]trove.ServerObservation{id: {Status: trove.ServerActive}}),
		s.BeginTask(t.Context(), id, store.TaskChange{Task: trove.TaskResizing, Outbox: []store.OutboxRow{{ID: "m1", Topic: rpctm.Topic, Method: "resize_flavor", Body: []byte("{}")}},
			Growth: store.Growth{Cost: trove.QuotaDelta{trove.ResourceRAM: 512}, Limits: limits}})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	used := func(want int) {
		t.Helper()
		quotas, err := s.Quotas(t.Context(), "p", limits)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range quotas {
			if q.Resource == trove.ResourceRAM && q.InUse != want {
				t.Errorf("%d MiB are in use, want %d", q.InUse, want)
			}
		}
	}
	used(1024)
	in := &rpc.Incoming{Method: "resize_flavor", Version: "1.0", UniqueID: "m1", Args: map[string]json.RawMessage{
		"instance_id": json.RawMessage(`{"is": "no text"}`), "old_flavor": json.RawMessage(`{"id": "1", "ram": 512}`)}}
	if _, err := taskmanager.NewServer(engine(t, s), s, quiet).Handler().Handle(t.Context(), in); err == nil {
		t.Error("it was taken")
	}
	if i, err := s.Instance(t.Context(), id); err != nil || i.Task != trove.TaskNone || i.Fault == nil {
		t.Errorf("the instance: %+v, %v", i, err)
	}
	used(512)
}
