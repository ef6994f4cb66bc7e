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
	h := rpctm.Handler(taskmanager.NewServer(engine(t, s), quiet))
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
	young := taskmanager.NewSweeper(s, e, time.Hour, quiet)
	sweep(young)
	if got := sweep(young); got["building"] != trove.TaskBuilding {
		t.Errorf("swept within the grace: %v", got)
	}
	w := taskmanager.NewSweeper(later{s}, e, 0, quiet)
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

// later is the store an hour later.
type later struct{ *store.Store }

func (l later) StuckInstances(ctx context.Context, _ time.Duration) ([]store.Stuck, error) {
	return l.Store.StuckInstances(ctx, -time.Hour)
}
