package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

func acceptWork(t *testing.T, s *Store, id, subject string) {
	t.Helper()
	if ok, err := s.AcceptWork(t.Context(), NewWork{ID: id, Kind: "k", Subject: subject, RequestID: "m-" + id,
		RPCContext: []byte(`{"request_id": "req"}`), Step: "one", State: []byte(`{}`)}); !ok || err != nil {
		t.Fatalf("accept %s: %v, %v", id, ok, err)
	}
}

func lease(t *testing.T, s *Store, owner string, d time.Duration) *Work {
	t.Helper()
	w, err := s.LeaseWork(t.Context(), owner, []string{"k"}, d)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAcceptWorkTakesTheMessageOutOfTheOutbox(t *testing.T) {
	s := open(t)
	row := OutboxRow{ID: "m-a", Topic: "taskmanager", Method: "k", Body: []byte("{}")}
	if err := s.InsertOutbox(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	acceptWork(t, s, "a", "i1")
	due, err := s.Outbox(t.Context(), 0, 10)
	if err != nil || len(due) != 0 {
		t.Errorf("in the outbox: %v, %v", due, err)
	}
	// The relay sent it once more before it saw that.
	if err := s.InsertOutbox(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	ok, err := s.AcceptWork(t.Context(), NewWork{ID: "b", Kind: "k", Subject: "i1", RequestID: "m-a", Step: "one", State: []byte(`{}`)})
	if ok || err != nil {
		t.Errorf("accepted twice: %v, %v", ok, err)
	}
	if due, _ := s.Outbox(t.Context(), 0, 10); len(due) != 0 {
		t.Errorf("in the outbox: %v", due)
	}
}

func TestLeaseIsFenced(t *testing.T) {
	s := open(t)
	acceptWork(t, s, "a", "i1")
	acceptWork(t, s, "b", "i1") // waits for a
	first := lease(t, s, "p/1", 50*time.Millisecond)
	if first == nil || first.ID != "a" {
		t.Fatalf("leased %+v", first)
	}
	if w := lease(t, s, "p/2", time.Hour); w != nil {
		t.Fatalf("leased twice: %+v", w)
	}
	if w, err := s.LeaseWork(t.Context(), "p/2", []string{"other"}, time.Hour); w != nil || err != nil {
		t.Fatalf("leased another kind: %+v, %v", w, err)
	}
	if err := s.RenewWork(t.Context(), "a", "p/1", 50*time.Millisecond); err != nil {
		t.Error(err)
	}
	var second *Work
	for deadline := time.Now().Add(time.Minute); second == nil && time.Now().Before(deadline); {
		second = lease(t, s, "p/3", time.Hour)
	}
	if second == nil || second.ID != "a" {
		t.Fatalf("after the lease expired: %+v", second)
	}
	if err := s.RenewWork(t.Context(), "a", "p/1", time.Hour); !trove.IsKind(err, trove.KindConflict) {
		t.Errorf("renewed a lost lease: %v", err)
	}
	if _, err := s.SaveWork(t.Context(), WorkUpdate{ID: "a", Owner: "p/1", Version: first.Version, Finished: trove.OperationDone,
		Events: []trove.OperationEvent{{OperationID: "a", InstanceID: "i1", Step: "stale"}}}); !trove.IsKind(err, trove.KindConflict) {
		t.Errorf("saved with a lost lease: %v", err)
	}
	if ev, _ := s.Events(t.Context(), "i1", 0, 100); len(ev) == 0 || ev[len(ev)-1].Step == "stale" {
		t.Errorf("events of a lost lease: %+v", ev)
	}
	if _, err := s.SaveWork(t.Context(), WorkUpdate{ID: "a", Owner: "p/3", Version: second.Version, Finished: trove.OperationDone}); err != nil {
		t.Fatal(err)
	}
	if w := lease(t, s, "p/4", time.Hour); w == nil || w.ID != "b" {
		t.Errorf("after a ended: %+v", w)
	}
}

func TestTimeWithoutAWorkerDoesNotCount(t *testing.T) {
	s := open(t)
	acceptWork(t, s, "a", "i1")
	w := lease(t, s, "p/1", time.Millisecond)
	deadline := w.Now.Add(time.Minute)
	if _, err := s.SaveWork(t.Context(), WorkUpdate{ID: "a", Owner: "p/1", Version: w.Version, Step: "one", State: []byte(`{}`),
		Deadline: deadline, Lease: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	// An hour in which nobody was there.
	back := func(ctx context.Context, tx *tx) error {
		_, err := tx.exec(ctx, "UPDATE work SET run_at = run_at - ?, lease_until = lease_until - ?", time.Hour.Microseconds(), time.Hour.Microseconds())
		return err
	}
	if err := s.tx(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	w = lease(t, s, "p/2", time.Minute)
	if w == nil || w.Deadline.Sub(deadline) < 59*time.Minute {
		t.Errorf("the deadline %s became %+v", deadline, w)
	}
}

func TestReleaseNextDueAndPrune(t *testing.T) {
	s := open(t)
	kinds := []string{"k"}
	if _, waiting, err := s.NextDueWork(t.Context(), kinds); waiting || err != nil {
		t.Errorf("nothing is there: %v, %v", waiting, err)
	}
	acceptWork(t, s, "a", "i1")
	if in, waiting, err := s.NextDueWork(t.Context(), kinds); in != 0 || !waiting || err != nil {
		t.Errorf("due now: %v, %v, %v", in, waiting, err)
	}
	lease(t, s, "p/1", time.Hour)
	if in, waiting, err := s.NextDueWork(t.Context(), kinds); in < 50*time.Minute || !waiting || err != nil {
		t.Errorf("due when the lease ends: %v, %v, %v", in, waiting, err)
	}
	if err := s.ReleaseWork(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := lease(t, s, "p/2", time.Hour)
	if w == nil {
		t.Fatal("a released row was not leased")
	}
	if err := s.CancelWork(t.Context(), "i1"); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.WishedWork(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("wished: %v, %v", ids, err)
	}
	saved, err := s.SaveWork(t.Context(), WorkUpdate{ID: "a", Owner: "p/2", Version: w.Version, SeenWakes: w.Wakes, Step: "two",
		State: []byte(`{}`), Release: true, RunIn: time.Hour})
	if err != nil || saved.Wish != WishCancel || saved.Wakes != w.Wakes+1 {
		t.Errorf("saved: %+v, %v", saved, err)
	}
	if w = lease(t, s, "p/3", time.Hour); w == nil || w.Step != "two" {
		t.Fatalf("a wake was lost: %+v", w)
	}
	if _, err := s.SaveWork(t.Context(), WorkUpdate{ID: "a", Owner: "p/3", Version: w.Version, State: []byte(`{}`), Finished: trove.OperationCancelled}); err != nil {
		t.Fatal(err)
	}
	if err := s.PruneWork(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if ops, err := s.Operations(t.Context(), "i1", 10); err != nil || len(ops) != 1 {
		t.Errorf("pruned too early: %v, %v", ops, err)
	}
	if err := s.PruneWork(t.Context(), -time.Hour); err != nil {
		t.Fatal(err)
	}
	ops, _ := s.Operations(t.Context(), "i1", 10)
	events, _ := s.Events(t.Context(), "i1", 0, 10)
	if len(ops) != 0 || len(events) != 0 {
		t.Errorf("not pruned: %v, %v", ops, events)
	}
}

func TestHistoryOfOneInstanceIsBounded(t *testing.T) {
	s := open(t)
	for n := range maxFinishedPerSubject + 5 {
		id := fmt.Sprintf("w%03d", n)
		acceptWork(t, s, id, "i1")
		w := lease(t, s, "p/"+id, time.Hour)
		if _, err := s.SaveWork(t.Context(), WorkUpdate{ID: id, Owner: "p/" + id, Version: w.Version, State: []byte(`{}`), Finished: trove.OperationDone}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PruneWork(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	ops, err := s.Operations(t.Context(), "i1", 1000)
	if err != nil || len(ops) != maxFinishedPerSubject || ops[0].ID != fmt.Sprintf("w%03d", maxFinishedPerSubject+4) {
		t.Errorf("%d operations, %v", len(ops), err)
	}
}

func TestStagesAreProgressOfTheRunningStep(t *testing.T) {
	s := open(t)
	if err := s.RecordStage(t.Context(), "i1", "nobody works", nil); err != nil {
		t.Fatal(err)
	}
	acceptWork(t, s, "a", "i1")
	lease(t, s, "p/1", time.Hour)
	for n := range maxStageEvents + 20 {
		if err := s.RecordStage(t.Context(), "i1", "copying", &trove.Progress{Done: int64(n), Total: 10, Unit: "B"}); err != nil {
			t.Fatal(err)
		}
	}
	ops, err := s.Operations(t.Context(), "i1", 1)
	if err != nil || len(ops) != 1 || len(ops[0].Steps) != 1 {
		t.Fatalf("operations: %+v, %v", ops, err)
	}
	if st := ops[0].Steps[0]; st.Name != "one" || st.State != trove.OperationRunning || st.Message != "copying" || st.Progress == nil {
		t.Errorf("step: %+v", st)
	}
	if ops[0].RequestID != "req" {
		t.Errorf("request id %q", ops[0].RequestID)
	}
	if events, err := s.Events(t.Context(), "i1", 0, 10000); err != nil || len(events) != maxStageEvents {
		t.Errorf("%d events, %v", len(events), err)
	}
}
