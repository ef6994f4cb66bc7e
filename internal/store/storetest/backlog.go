package storetest

import (
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func testBacklog(t *testing.T, f *fixture) {
	ctx := deadline(t)
	empty, err := f.Backlog(ctx, time.Minute)
	ok(t, err)
	if empty.Outbox != 0 || empty.OutboxOldest != 0 || empty.Live != 0 || empty.Silent != 0 || empty.WorkOverdue != 0 || empty.Work[trove.OperationPending] != 0 {
		t.Errorf("of nothing: %+v", empty)
	}
	building, up := f.draft(), f.draft()
	up.Task = trove.TaskNone
	f.create(t, building)
	id := f.create(t, up)
	gone := f.create(t, f.draft())
	ok(t, f.FinishDelete(ctx, gone))
	_, err = f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 1000))
	ok(t, err)
	ok(t, f.InsertOutbox(ctx, store.OutboxRow{ID: "m1", Topic: "taskmanager", Method: "restart", Subject: id, Body: []byte("{}")},
		store.OutboxRow{ID: "m2", Topic: "taskmanager", Method: "restart", Subject: id, Body: []byte("{}")}))
	for _, request := range []string{"r1", "r2"} {
		_, err = f.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: "k", Subject: id, RequestID: request, RPCContext: []byte("{}"), Step: "s", State: []byte("{}")})
		ok(t, err)
	}
	w, err := f.LeaseWork(ctx, "owner", []string{"k"}, time.Minute)
	ok(t, err)
	if w == nil {
		t.Fatal("nothing was due")
	}
	b, err := f.Backlog(ctx, time.Hour)
	ok(t, err)
	if b.Outbox != 2 || b.OutboxOldest <= 0 || b.Work[trove.OperationPending] != 1 || b.Work[trove.OperationRunning] != 1 ||
		b.WorkOverdue <= 0 || b.Live != 1 || b.Silent != 0 || b.SilentLongest > time.Minute {
		t.Errorf("%+v", b)
	}
	if n, err := f.UnfinishedWork(ctx); err != nil || n != 2 {
		t.Errorf("%d pieces of work are unfinished, %v, not 2", n, err)
	}
	// As if it had been silent since before it was made.
	if b, err = f.Backlog(ctx, -time.Hour); err != nil || b.Silent != 1 {
		t.Errorf("silent: %+v, %v", b, err)
	}
}
