package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// A group leaves behind what its beats would one after the other, and tells of
// each the same.
func testHeartbeats(t *testing.T, f *fixture) {
	ctx := deadline(t)
	statuses := []trove.ServiceStatus{trove.ServiceBuilding, trove.ServiceHealthy, trove.ServiceCrashed, trove.ServiceRestartRequired}
	const instances, beats = 8, 60
	type end struct {
		Service trove.ServiceStatus
		Outbox  bool
	}
	var ids [2][]string
	var rows [2][]store.OutboxRow
	for side := range ids {
		for range instances {
			id := f.create(t, f.draft())
			r := row("m")
			r.InstanceID, r.Subject = id, id
			ok(t, f.InsertOutbox(ctx, r))
			ids[side], rows[side] = append(ids[side], id), append(rows[side], r)
		}
		ok(t, f.FinishDelete(ctx, ids[side][0]))
		ids[side] = append(ids[side], trove.NewID(), "not\x00text", "") // and two that can be nobody's
	}
	for round := range 3 {
		var groups [2][]store.InstanceBeat
		for range beats {
			n := rand.IntN(len(ids[0]))
			b := store.Beat{Status: &statuses[rand.IntN(len(statuses)-min(1, n%3))]}
			if rand.IntN(5) > 0 {
				b.Sent = new(float64(round*beats + rand.IntN(beats)))
			}
			if rand.IntN(10) == 0 {
				b.Status = nil
			}
			done, about := rand.IntN(20) == 0, rand.IntN(instances)
			for side := range groups {
				b := b
				if done { // perhaps another's, which stays
					b.Done = []string{rows[side][about].ID, "nothing"}
				}
				groups[side] = append(groups[side], store.InstanceBeat{InstanceID: ids[side][n], Beat: b})
			}
		}
		got := f.Heartbeats(ctx, groups[0])
		for i, b := range groups[1] {
			applied, err := f.Heartbeat(ctx, b.InstanceID, b.Beat)
			if got[i].Applied != applied || (err == nil) != (got[i].Err == nil) || err != nil && trove.KindOf(err) != trove.KindOf(got[i].Err) {
				t.Errorf("round %d, beat %d: %+v; alone %v, %v", round, i, got[i], applied, err)
			}
		}
		var ends [2][]end
		left := f.outbox(t)
		for side := range ends {
			for i := 1; i < instances; i++ {
				r := rows[side][i].ID
				ends[side] = append(ends[side], end{f.get(t, ids[side][i]).Service,
					slices.ContainsFunc(left, func(o store.OutboxRow) bool { return o.ID == r })})
			}
		}
		if d := cmp.Diff(ends[1], ends[0]); d != "" {
			t.Errorf("round %d: one by one (-) and in a group (+): %s", round, d)
		}
	}
	if got := f.Heartbeats(ctx, nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// Groups about the same instances, in any order, do not lock each other out,
// and the newest beat of each is what stays.
func testHeartbeatsConcurrent(t *testing.T, f *fixture) {
	ctx := deadline(t)
	const instances, groups = 12, 8
	var ids []string
	for range instances {
		ids = append(ids, f.create(t, f.draft()))
	}
	errs := together(groups, func(g int) error {
		var beats []store.InstanceBeat
		for _, i := range rand.Perm(instances) {
			status := trove.ServiceRunning
			if g == (i % groups) {
				status = trove.ServiceHealthy
			}
			beats = append(beats, store.InstanceBeat{InstanceID: ids[i], Beat: beat(status, float64(1000+(g-i%groups+groups-1)%groups))})
		}
		for i, r := range f.Heartbeats(ctx, beats) {
			if r.Err != nil {
				return fmt.Errorf("beat %d: %w", i, r.Err)
			}
		}
		return nil
	})
	for _, err := range errs {
		ok(t, err)
	}
	for i, id := range ids {
		if got := f.get(t, id).Service; got != trove.ServiceHealthy {
			t.Errorf("instance %d is %v, not what its newest beat says", i, got)
		}
	}
}

// A change of status wakes the work on its instance, and only that.
func testHeartbeatsWake(t *testing.T, f *fixture) {
	ctx, ids := deadline(t), []string{f.ready(t), f.ready(t)}
	var beats []store.InstanceBeat
	for i, id := range ids {
		_, err := f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 1))
		ok(t, err)
		status := trove.ServiceHealthy
		if i == 1 {
			status = trove.ServiceCrashed
		}
		beats = append(beats, store.InstanceBeat{InstanceID: id, Beat: beat(status, 2)})
	}
	changed, cancel := f.WorkChanged()
	defer cancel()
	begin := func(id string) {
		accepted, err := f.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: "k", Subject: id, RequestID: trove.NewID(), Step: "s"})
		if ok(t, err); !accepted {
			t.Fatal("the work was not accepted")
		}
	}
	begin(ids[0])
	<-changed
	for _, r := range f.Heartbeats(ctx, beats) {
		ok(t, r.Err)
	}
	select {
	case <-changed:
		t.Error("the same status woke work")
	default: // it is told before the call returns
	}
	begin(ids[1])
	<-changed
	beats[1].Sent, beats[1].Status = new(3.0), &trove.ServiceHealthy
	for _, r := range f.Heartbeats(ctx, beats) {
		ok(t, r.Err)
	}
	select {
	case <-changed:
	default:
		t.Error("a change of status woke nothing")
	}
}
