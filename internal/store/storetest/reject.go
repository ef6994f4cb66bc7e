package storetest

import (
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// A message that nobody can carry out ends with a fault, a failed operation and
// a task that is over; what is at work on the instance goes on.
func testReject(t *testing.T, f *fixture) {
	ctx := deadline(t)
	why := store.Rejection{Cause: "cannot be read", Action: "ask again"}
	reject := func(id string, r store.Rejection, want bool) {
		t.Helper()
		if done, err := f.RejectOutbox(ctx, id, r); done != want || err != nil {
			t.Errorf("rejecting %s: %t, %v", id, done, err)
		}
	}
	reject("unknown", why, false)
	for name, c := range map[string]struct {
		task, becomes trove.Task
		guest, busy   bool
	}{
		"creation":           {task: trove.TaskBuilding, becomes: trove.TaskErrorServer},
		"restart":            {task: trove.TaskRebooting, becomes: trove.TaskNone},
		"deletion":           {task: trove.TaskDeleting, becomes: trove.TaskDeleting},
		"of a guest":         {task: trove.TaskNone, becomes: trove.TaskNone, guest: true},
		"beside work":        {task: trove.TaskRebooting, becomes: trove.TaskRebooting, busy: true},
		"of a failed one":    {task: trove.TaskErrorVolume, becomes: trove.TaskErrorVolume},
		"of nothing at work": {task: trove.TaskNone, becomes: trove.TaskNone},
	} {
		r := row("m-" + name)
		i := f.draft()
		i.Task, r.Subject = c.task, i.ID
		if c.guest {
			r.InstanceID = i.ID
		}
		f.create(t, i, r)
		if c.busy {
			if _, err := f.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: "other", Subject: i.ID, RequestID: trove.NewID(), Step: "s", State: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
		}
		reject(r.ID, store.Rejection{Cause: why.Cause, After: time.Hour}, false) // too young
		if got := f.get(t, i.ID); got.Task != c.task || got.Fault != nil {
			t.Errorf("%s, too young: task %#x, fault %+v", name, got.Task, got.Fault)
		}
		reject(r.ID, why, true)
		reject(r.ID, why, false)
		got := f.get(t, i.ID)
		if got.Task != c.becomes || got.Fault == nil || got.Fault.Message != why.Cause || got.Fault.Details != why.Action {
			t.Errorf("%s: task %#x, fault %+v", name, got.Task, got.Fault)
		}
		ops, err := f.Operations(ctx, i.ID, 10)
		ok(t, err)
		var failed []trove.Operation
		for _, o := range ops {
			if o.Kind == r.Method {
				failed = append(failed, o)
			}
		}
		switch {
		case c.guest:
			if len(failed) != 0 {
				t.Errorf("%s: operations %+v", name, failed)
			}
			continue
		case len(failed) != 1 || failed[0].State != trove.OperationFailed || failed[0].Cause != why.Cause || failed[0].Action != why.Action || failed[0].Ended.IsZero():
			t.Errorf("%s: operations %+v", name, failed)
		}
		// A copy that was on its way begins nothing.
		first, err := f.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: r.Method, Subject: i.ID, RequestID: r.ID, Step: "s", State: []byte("{}")})
		if first || err != nil {
			t.Errorf("%s: a copy is taken: %t, %v", name, first, err)
		}
	}
	if left := f.outbox(t); len(left) != 0 {
		t.Errorf("left are %+v", left)
	}
}
