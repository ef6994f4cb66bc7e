package storetest

import (
	"testing"

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

	// Failed: all of it goes back, once.
	for range 2 {
		ok(t, f.EndChange(ctx, id, store.Change{Task: trove.TaskResizing, Uses: trove.QuotaDelta{trove.ResourceVolumes: 2},
			Fault: &trove.Fault{Message: "no room"}}))
		used("failed", all(1, 512, 2))
	}
	if i := f.get(t, id); i.Task != trove.TaskNone || i.VolumeSize != 2 || i.Fault == nil || i.Fault.Message != "no room" {
		t.Errorf("failed: %+v", i)
	}

	// Done.
	ok(t, begin(five, unlimited))
	size, flavor := 7, "2"
	for range 2 {
		ok(t, f.EndChange(ctx, id, store.Change{Task: trove.TaskResizing, VolumeSize: &size, Uses: trove.QuotaDelta{trove.ResourceVolumes: 7}}))
		used("done", all(1, 512, 7))
	}
	if i := f.get(t, id); i.Task != trove.TaskNone || i.VolumeSize != 7 || i.Fault != nil {
		t.Errorf("done: %+v", i)
	}

	// Less is given back at the end, and what another operation does stays.
	ok(t, begin(nil, unlimited))
	ok(t, f.BeginDelete(ctx, id, nil))
	access := &trove.Access{IsPublic: true, AllowedCIDRs: []string{"192.0.2.0/24"}}
	ok(t, f.EndChange(ctx, id, store.Change{Task: trove.TaskResizing, FlavorID: &flavor, Access: access, Uses: trove.QuotaDelta{trove.ResourceRAM: 256}}))
	used("smaller", all(1, 256, 7))
	i := f.get(t, id)
	if d := cmp.Diff(access, i.Access); i.Task != trove.TaskDeleting || i.FlavorID != "2" || d != "" {
		t.Errorf("smaller: %+v %s", i, d)
	}
	ok(t, f.FinishDelete(ctx, id))
	used("deleted", all(0, 0, 0))
	kind(t, f.EndChange(ctx, id, store.Change{Task: trove.TaskResizing}), trove.KindNotFound)

	// Deleted in the middle: what was charged goes back too.
	id = f.ready(t)
	ok(t, begin(five, unlimited))
	used("begun again", all(1, 512, 7))
	ok(t, f.BeginDelete(ctx, id, nil))
	ok(t, f.FinishDelete(ctx, id))
	used("deleted in the middle", all(0, 0, 0))
}
