package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// An operation that needs more is charged when it begins, all or nothing, and
// what it did not need is given back when it ends, once.
func testChange(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.ready(t)
	used := func(what string, want trove.QuotaDelta) {
		t.Helper()
		if d := cmp.Diff(want, f.used(t)); d != "" {
			t.Errorf("%s: in use: %s", what, d)
		}
	}
	all := func(instances, ram, volumes int) trove.QuotaDelta {
		return trove.QuotaDelta{trove.ResourceInstances: instances, trove.ResourceRAM: ram, trove.ResourceVolumes: volumes, trove.ResourceBackups: 0}
	}
	begin := func(cost, limits trove.QuotaDelta) error {
		return f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskResizing, Outbox: []store.OutboxRow{row("resize_volume")},
			Growth: store.Growth{Cost: cost, Limits: limits, Uses: trove.QuotaDelta{trove.ResourceRAM: 512}}})
	}
	five := trove.QuotaDelta{trove.ResourceVolumes: 5}
	kind(t, begin(five, trove.QuotaDelta{trove.ResourceVolumes: 6}), trove.KindOverLimit)
	used("refused", all(1, 512, 2))
	if n := len(f.outbox(t)); n != 0 || f.get(t, id).Task != trove.TaskNone {
		t.Errorf("what was refused left %d messages and the task %#x", n, int(f.get(t, id).Task))
	}
	errs := together(4, func(int) error { return begin(five, unlimited) })
	if good, _ := count(t, errs, trove.KindUnprocessable); good != 1 {
		t.Errorf("%d operations began, want 1", good)
	}
	used("begun", all(1, 512, 7))

	// end ends an operation together with the work that did it: somebody who tries
	// to end it again, when the next one has begun, changes nothing.
	end := func(c store.Change, next func()) {
		t.Helper()
		w := store.NewWork{ID: trove.NewID(), Kind: "change-" + trove.NewID(), Subject: id, RequestID: trove.NewID(), Step: "finish", State: []byte("{}")}
		if accepted, err := f.AcceptWork(ctx, w); !accepted || err != nil {
			t.Fatalf("accepted: %t, %v", accepted, err)
		}
		leased, err := f.LeaseWork(ctx, "owner", []string{w.Kind}, time.Minute)
		if leased == nil || err != nil {
			t.Fatalf("leased: %v, %v", leased, err)
		}
		u := store.WorkUpdate{ID: w.ID, Owner: "owner", Version: leased.Version, SeenWakes: leased.Wakes, Step: "finish", State: []byte("{}"),
			Finished: trove.OperationDone, Change: &c, Events: []trove.OperationEvent{{OperationID: w.ID, InstanceID: id, Kind: w.Kind, State: trove.OperationDone}}}
		_, err = f.SaveWork(ctx, u)
		ok(t, err)
		next()
		_, err = f.SaveWork(ctx, u)
		kind(t, err, trove.KindConflict)
	}
	none := func() {}

	// Failed: all of it goes back, once, and what the next one is charged stays.
	end(store.Change{Task: trove.TaskResizing, Uses: trove.QuotaDelta{trove.ResourceVolumes: 2}, Fault: &trove.Fault{Message: "no room"}}, func() {
		used("failed", all(1, 512, 2))
		if i := f.get(t, id); i.Task != trove.TaskNone || i.VolumeSize != 2 || i.Fault == nil || i.Fault.Message != "no room" {
			t.Errorf("failed: %+v", i)
		}
		ok(t, begin(five, unlimited))
	})
	used("begun after the failure", all(1, 512, 7))
	if i := f.get(t, id); i.Task != trove.TaskResizing {
		t.Errorf("begun after the failure: %+v", i)
	}

	// Done.
	size, flavor := 7, "2"
	end(store.Change{Task: trove.TaskResizing, VolumeSize: &size, Uses: trove.QuotaDelta{trove.ResourceVolumes: 7}}, none)
	used("done", all(1, 512, 7))
	if i := f.get(t, id); i.Task != trove.TaskNone || i.VolumeSize != 7 || i.Fault != nil {
		t.Errorf("done: %+v", i)
	}

	// Less is given back at the end, and what another operation does stays.
	ok(t, begin(nil, unlimited))
	ok(t, f.BeginDelete(ctx, id, nil))
	access := &trove.Access{IsPublic: true, AllowedCIDRs: []string{"192.0.2.0/24"}}
	end(store.Change{Task: trove.TaskResizing, FlavorID: &flavor, Access: access, Uses: trove.QuotaDelta{trove.ResourceRAM: 256}}, none)
	used("smaller", all(1, 256, 7))
	i := f.get(t, id)
	if d := cmp.Diff(access, i.Access); i.Task != trove.TaskDeleting || i.FlavorID != "2" || d != "" {
		t.Errorf("smaller: %+v %s", i, d)
	}
	ok(t, f.FinishDelete(ctx, id))
	used("deleted", all(0, 0, 0))
	end(store.Change{Task: trove.TaskResizing, VolumeSize: &size}, none) // of who came too late
	used("ended after the deletion", all(0, 0, 0))

	// Rejected or lost before anything was done: what was charged goes back at once.
	id = f.ready(t)
	ok(t, f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskResizing, Outbox: []store.OutboxRow{{ID: "too-new", Topic: "taskmanager", Method: "resize", Body: []byte("{}")}},
		Growth: store.Growth{Cost: trove.QuotaDelta{trove.ResourceRAM: 512, trove.ResourceVolumes: 5}, Limits: unlimited}}))
	used("begun", all(1, 1024, 7))
	if done, err := f.RejectOutbox(ctx, "too-new", store.Rejection{Cause: "not understood", Uses: trove.QuotaDelta{trove.ResourceRAM: 512}}); !done || err != nil {
		t.Errorf("rejecting: %t, %v", done, err)
	}
	used("rejected", all(1, 512, 2))
	ok(t, f.BeginTask(ctx, id, store.TaskChange{Task: trove.TaskResizing, Growth: store.Growth{Cost: five, Limits: unlimited}}))
	used("begun", all(1, 512, 7))
	if done, err := f.Unstick(ctx, store.Stuck{ID: id, Task: trove.TaskResizing}, trove.TaskNone, trove.Fault{Message: "lost"}); !done || err != nil {
		t.Errorf("unsticking: %t, %v", done, err)
	}
	used("lost", all(1, 512, 2))
	ok(t, f.BeginDelete(ctx, id, nil))
	ok(t, f.FinishDelete(ctx, id))
	used("deleted", all(0, 0, 0))

	// Deleted in the middle: what was charged goes back too.
	id = f.ready(t)
	ok(t, begin(five, unlimited))
	used("begun again", all(1, 512, 7))
	ok(t, f.BeginDelete(ctx, id, nil))
	ok(t, f.FinishDelete(ctx, id))
	used("deleted in the middle", all(0, 0, 0))
}
