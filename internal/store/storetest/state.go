package storetest

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func testQuotaConcurrent(t *testing.T, f *fixture) {
	ctx := deadline(t)
	limits := trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: -1, trove.ResourceVolumes: 40}
	errs := together(30, func(int) error {
		return f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: limits, Outbox: []store.OutboxRow{row("create_instance")}})
	})
	if good, refused := count(t, errs, trove.KindOverLimit); good != 10 || refused != 20 {
		t.Errorf("%d accepted, %d refused; want 10 and 20", good, refused)
	}
	want := trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: 5120, trove.ResourceVolumes: 20, trove.ResourceBackups: 0}
	if d := cmp.Diff(want, f.used(t)); d != "" {
		t.Error(d)
	}
	live, err := f.LiveInstances(ctx)
	ok(t, err)
	if n := len(f.outbox(t)); len(live) != 10 || n != 10 {
		t.Errorf("%d instances and %d messages, want 10", len(live), n)
	}
	// All given back, however often at once.
	errs = together(30, func(i int) error { return f.FinishDelete(ctx, live[i%10].ID) })
	count(t, errs, trove.KindInternal)
	for r, n := range f.used(t) {
		if n != 0 {
			t.Errorf("%s: %d in use after everything was deleted", r, n)
		}
	}
}

func testQuotaMessage(t *testing.T, f *fixture) {
	ctx := deadline(t)
	limits := trove.QuotaDelta{trove.ResourceInstances: 5, trove.ResourceRAM: 1000, trove.ResourceVolumes: 3}
	ok(t, f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: limits}))
	err := f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: limits})
	kind(t, err, trove.KindOverLimit)
	for _, part := range []string{"ram (requested 512, used 512, limit 1000)", "volumes (requested 2, used 2, limit 3)"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not tell %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "instances") {
		t.Errorf("%q names a resource that suffices", err)
	}
	if d := cmp.Diff(trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2, trove.ResourceBackups: 0}, f.used(t)); d != "" {
		t.Error(d)
	}
}

func testQuotaLimits(t *testing.T, f *fixture) {
	ctx := deadline(t)
	defaults := trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: -1, trove.ResourceVolumes: 40, trove.ResourceBackups: 50}
	limits := func() map[trove.Resource]int {
		qs, err := f.Quotas(ctx, tenant, defaults)
		ok(t, err)
		m := map[trove.Resource]int{}
		for _, q := range qs {
			m[q.Resource] = q.Limit
		}
		return m
	}
	if d := cmp.Diff(map[trove.Resource]int(defaults), limits()); d != "" {
		t.Error(d)
	}
	ok(t, f.SetQuotas(ctx, tenant, map[trove.Resource]int{trove.ResourceInstances: 0, trove.ResourceVolumes: -1}))
	ok(t, f.SetQuotas(ctx, tenant, map[trove.Resource]int{trove.ResourceInstances: 1}))
	kind(t, f.SetQuotas(ctx, tenant, map[trove.Resource]int{trove.ResourceInstances: 7, "cows": 1}), trove.KindNotFound)
	kind(t, f.SetQuotas(ctx, tenant, map[trove.Resource]int{trove.ResourceInstances: 7, trove.ResourceRAM: -2}), trove.KindBadRequest)
	want := map[trove.Resource]int{trove.ResourceInstances: 1, trove.ResourceRAM: -1, trove.ResourceVolumes: -1, trove.ResourceBackups: 50}
	if d := cmp.Diff(want, limits()); d != "" {
		t.Error(d)
	}
	ok(t, f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: defaults}))
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: defaults}), trove.KindOverLimit)
	// A limit below the use refuses more and nothing else.
	ok(t, f.SetQuotas(ctx, tenant, map[trove.Resource]int{trove.ResourceInstances: 0}))
	if n := f.used(t)[trove.ResourceInstances]; n != 1 {
		t.Errorf("%d in use, want 1", n)
	}
}

func testCreateAtomic(t *testing.T, f *fixture) {
	ctx := deadline(t)
	twice := row("create_instance")
	i := f.draft()
	err := f.CreateInstance(ctx, store.NewInstance{Instance: i, Cost: cost, Limits: unlimited, Outbox: []store.OutboxRow{twice, twice}})
	kind(t, err, trove.KindConflict)
	_, err = f.Instance(ctx, i.ID)
	kind(t, err, trove.KindNotFound)
	i.Version.ID = trove.NewID()
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: i, Cost: cost, Limits: unlimited}), trove.KindBadRequest)
	i = f.draft()
	i.ReplicaOf = trove.NewID()
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: i, Cost: cost, Limits: unlimited}), trove.KindNotFound)
	if n := f.used(t)[trove.ResourceInstances]; n != 0 || len(f.outbox(t)) != 0 {
		t.Errorf("%d instances in use, %d messages; want none", n, len(f.outbox(t)))
	}
}

func testBeginTask(t *testing.T, f *fixture) {
	ctx := deadline(t)
	id := f.ready(t)
	errs := together(8, func(int) error {
		return f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskRebooting, Service: &trove.ServiceRestarting, Outbox: []store.OutboxRow{row("restart")}})
	})
	if good, _ := count(t, errs, trove.KindUnprocessable); good != 1 {
		t.Errorf("%d operations began, want 1", good)
	}
	i := f.get(t, id)
	if i.Task != trove.TaskRebooting || i.Service != trove.ServiceRestarting {
		t.Errorf("task %#x, service %v", int(i.Task), i.Service)
	}
	rows := f.outbox(t)
	if len(rows) != 1 || rows[0].Subject != id || rows[0].Method != "restart" {
		t.Errorf("messages are %+v", rows)
	}
	kind(t, f.BeginTask(ctx, trove.NewID(), store.TaskChange{Task: trove.TaskRebooting}), trove.KindNotFound)
}

func testNotActionable(t *testing.T, f *fixture) {
	for name, change := range map[string]func(ctx context.Context, id string) error{
		"no server": func(ctx context.Context, id string) error {
			return f.Observe(ctx, map[string]trove.ServerObservation{id: {Status: trove.ServerShutoff}})
		},
		"task":    func(ctx context.Context, id string) error { return f.SetTask(ctx, id, trove.TaskResizing) },
		"service": func(ctx context.Context, id string) error { return f.SetServiceStatus(ctx, id, trove.ServiceFailed) },
	} {
		ctx, id := deadline(t), f.ready(t)
		ok(t, change(ctx, id))
		err := f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskRebooting, Outbox: []store.OutboxRow{row("restart")}})
		if !trove.IsKind(err, trove.KindUnprocessable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(f.outbox(t)); n != 0 {
		t.Errorf("%d messages, want none", n)
	}
	ctx, id := deadline(t), f.ready(t)
	ok(t, f.SetTask(ctx, id, trove.TaskRestartRequired))
	ok(t, f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskRebooting}))
}

func testDeletingStays(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft())
	ok(t, f.BeginDelete(ctx, id, nil))
	kind(t, f.SetTask(ctx, id, trove.TaskNone), trove.KindUnprocessable)
	kind(t, f.SetTask(ctx, id, trove.TaskErrorServer), trove.KindUnprocessable)
	ok(t, f.SetTask(ctx, id, trove.TaskDeleting))
	kind(t, f.SetTask(ctx, trove.NewID(), trove.TaskNone), trove.KindNotFound)
	if i := f.get(t, id); i.Task != trove.TaskDeleting {
		t.Errorf("task %#x", int(i.Task))
	}
	replica := f.draft()
	replica.ReplicaOf = id
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: replica, Limits: unlimited}), trove.KindUnprocessable)
}

func testBeginDelete(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft(), row("create_instance"))
	// Twice, at once, and again: one message.
	errs := together(4, func(int) error { return f.BeginDelete(ctx, id, []store.OutboxRow{row("delete_instance")}) })
	errs = append(errs, f.BeginDelete(ctx, id, []store.OutboxRow{row("delete_instance")}))
	for _, err := range errs {
		ok(t, err)
	}
	rows := f.outbox(t)
	if len(rows) != 2 || rows[0].Method != "create_instance" || rows[1].Method != "delete_instance" {
		t.Fatalf("messages are %+v", rows)
	}
	// The message is gone and nobody works on it: a new one.
	ok(t, f.DeleteOutbox(ctx, rows[1].ID))
	ok(t, f.BeginDelete(ctx, id, []store.OutboxRow{row("delete_instance")}))
	if n := len(f.outbox(t)); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	if n := f.used(t)[trove.ResourceInstances]; n != 1 {
		t.Errorf("%d in use before the end of the deletion, want 1", n)
	}
	kind(t, f.BeginDelete(ctx, trove.NewID(), nil), trove.KindNotFound)
}

func testDeleteReplicas(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.ready(t)
	replica := f.draft()
	replica.ReplicaOf = id
	f.create(t, replica)
	kind(t, f.BeginDelete(ctx, id, nil), trove.KindForbidden)
	if i := f.get(t, id); i.Task != trove.TaskNone {
		t.Errorf("task %#x after a refused deletion", int(i.Task))
	}
	ok(t, f.FinishDelete(ctx, replica.ID))
	ok(t, f.BeginDelete(ctx, id, nil))
}

func testFinishDelete(t *testing.T, f *fixture) {
	ctx, id, other := deadline(t), f.ready(t), f.ready(t)
	ok(t, f.SetFault(ctx, id, trove.Fault{Message: "m"}))
	guest := row("prepare")
	guest.InstanceID = id
	ok(t, f.InsertOutbox(ctx, guest, row("unrelated")))
	ok(t, f.BeginDelete(ctx, id, []store.OutboxRow{row("delete_instance")}))
	ok(t, f.FinishDelete(ctx, id))
	ok(t, f.FinishDelete(ctx, id))
	kind(t, f.FinishDelete(ctx, trove.NewID()), trove.KindNotFound)
	_, err := f.Instance(ctx, id)
	kind(t, err, trove.KindNotFound)
	if rows := f.outbox(t); len(rows) != 1 || rows[0].Method != "unrelated" {
		t.Errorf("messages are %+v", rows)
	}
	if d := cmp.Diff(trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2, trove.ResourceBackups: 0}, f.used(t)); d != "" {
		t.Error(d)
	}
	for what, err := range map[string]error{
		"rename": f.RenameInstance(ctx, id, "x"), "task": f.SetTask(ctx, id, trove.TaskNone),
		"service": f.SetServiceStatus(ctx, id, trove.ServiceHealthy), "delete": f.BeginDelete(ctx, id, nil),
		"fault": f.SetFault(ctx, id, trove.Fault{Message: "m"}), "reset": f.ResetStatus(ctx, id), "root": f.SetRoot(ctx, id, "root", true),
	} {
		if !trove.IsKind(err, trove.KindNotFound) {
			t.Errorf("%s of a deleted instance: %v", what, err)
		}
	}
	f.get(t, other)
}

func testResetStatus(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft())
	ok(t, f.BeginDelete(ctx, id, nil))
	ok(t, f.ResetStatus(ctx, id))
	if i := f.get(t, id); i.Task != trove.TaskNone || i.Service != trove.ServiceUnknown {
		t.Errorf("task %#x, service %v", int(i.Task), i.Service)
	}
	kind(t, f.ResetStatus(ctx, trove.NewID()), trove.KindNotFound)
}

func testFaults(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft())
	if f.get(t, id).Fault != nil {
		t.Error("a new instance has a fault")
	}
	for _, m := range []string{"one", "two"} {
		ok(t, f.SetFault(ctx, id, trove.Fault{Message: m, Details: "d " + m}))
		if got := f.get(t, id).Fault; got == nil || got.Message != m || got.Details != "d "+m {
			t.Errorf("fault is %+v", got)
		}
	}
}
