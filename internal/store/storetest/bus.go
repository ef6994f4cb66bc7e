package storetest

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func beat(s trove.ServiceStatus, sent float64) store.Beat { return store.Beat{Status: &s, Sent: &sent} }

func testHeartbeat(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft())
	for _, c := range []struct {
		name    string
		beat    store.Beat
		applied bool
		want    trove.ServiceStatus
	}{
		{"first", beat(trove.ServiceBuilding, 1000.5), true, trove.ServiceBuilding},
		{"newer", beat(trove.ServiceHealthy, 1000.500001), true, trove.ServiceHealthy},
		{"same time", beat(trove.ServiceCrashed, 1000.500001), false, trove.ServiceHealthy},
		{"older", beat(trove.ServiceCrashed, 999), false, trove.ServiceHealthy},
		{"without time", store.Beat{Status: &trove.ServiceShutdown}, true, trove.ServiceShutdown},
		{"without status", store.Beat{Sent: new(2000.0)}, true, trove.ServiceShutdown},
		{"older than that", beat(trove.ServiceHealthy, 1999), false, trove.ServiceShutdown},
		{"clock wrong", beat(trove.ServiceHealthy, 9e9), true, trove.ServiceHealthy},
		{"clock set back", beat(trove.ServiceCrashed, 2001), true, trove.ServiceCrashed},
		{"in order again", beat(trove.ServiceHealthy, 2000), false, trove.ServiceCrashed},
	} {
		applied, err := f.Heartbeat(ctx, id, c.beat)
		ok(t, err)
		if got := f.get(t, id).Service; applied != c.applied || got != c.want {
			t.Errorf("%s: applied %v, status %v; want %v, %v", c.name, applied, got, c.applied, c.want)
		}
	}
	_, err := f.Heartbeat(ctx, trove.NewID(), beat(trove.ServiceHealthy, 1))
	kind(t, err, trove.KindNotFound)
	ok(t, f.FinishDelete(ctx, id))
	_, err = f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 3000))
	kind(t, err, trove.KindNotFound)
}

func testHeartbeatConcurrent(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.create(t, f.draft())
	const n = 20
	order := rand.Perm(n)
	errs := together(n, func(i int) error {
		status := trove.ServiceRunning
		if order[i] == n-1 {
			status = trove.ServiceHealthy
		}
		_, err := f.Heartbeat(ctx, id, beat(status, float64(order[i])))
		return err
	})
	for _, err := range errs {
		ok(t, err)
	}
	if got := f.get(t, id).Service; got != trove.ServiceHealthy {
		t.Errorf("status %v is not of the newest beat", got)
	}
}

func testRestartRequired(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.ready(t)
	applied, err := f.Heartbeat(ctx, id, beat(trove.ServiceRestartRequired, 1))
	ok(t, err)
	if !applied {
		t.Error("restart required was not applied")
	}
	applied, err = f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 2))
	ok(t, err)
	if got := f.get(t, id).Service; applied || got != trove.ServiceRestartRequired {
		t.Errorf("applied %v, status %v", applied, got)
	}
	ok(t, f.SetServiceStatus(ctx, id, trove.ServiceRestarting))
	_, err = f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 3))
	ok(t, err)
	if got := f.get(t, id).Service; got != trove.ServiceHealthy {
		t.Errorf("status %v after the restart", got)
	}
}

func testAcknowledge(t *testing.T, f *fixture) {
	ctx, id, other := deadline(t), f.ready(t), f.ready(t)
	var rows []store.OutboxRow
	for _, guest := range []string{id, id, other, ""} {
		r := row("m")
		r.InstanceID, r.Subject = guest, id
		rows = append(rows, r)
	}
	ok(t, f.InsertOutbox(ctx, rows...))
	// A guest acknowledges what was sent to it, and nothing of others, even in
	// a beat that is too old.
	_, err := f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, 5))
	ok(t, err)
	b := beat(trove.ServiceHealthy, 4)
	b.Done = []string{rows[0].ID, rows[2].ID, rows[3].ID, "nothing"}
	_, err = f.Heartbeat(ctx, id, b)
	ok(t, err)
	pending := func(want bool) {
		t.Helper()
		got, err := f.GuestPending(ctx, id)
		ok(t, err)
		if got != want {
			t.Errorf("messages for the guest are pending: %v", got)
		}
	}
	pending(true)
	var left []string
	for _, r := range f.outbox(t) {
		left = append(left, r.ID)
	}
	if d := cmp.Diff([]string{rows[1].ID, rows[2].ID, rows[3].ID}, left); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		id   string
		want bool
	}{{rows[0].ID, false}, {rows[1].ID, true}, {"", false}, {"nothing", false}} {
		if has, err := f.OutboxHas(ctx, c.id); has != c.want || err != nil {
			t.Errorf("the outbox has %q: %v, %v", c.id, has, err)
		}
	}
	// The beat that was too old is not the last one, and neither is one whose clock
	// was wrong.
	for _, want := range []time.Time{time.Unix(5, 0), {}} {
		if last, err := f.LastBeat(ctx, id); !last.Equal(want) || err != nil {
			t.Errorf("the last beat was sent %v, %v; want %v", last, err, want)
		}
		_, err = f.Heartbeat(ctx, id, beat(trove.ServiceHealthy, float64(time.Now().Add(time.Hour).Unix())))
		ok(t, err)
	}
	// What is for another guest, or for none, does not count.
	ok(t, f.DeleteOutbox(ctx, rows[1].ID))
	pending(false)
}

func testOutboxExpiry(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.ready(t)
	guest, other, fresh := row("prepare"), row("lost"), row("fresh")
	guest.InstanceID, guest.Deadline = id, time.Now().Add(-time.Second)
	other.Deadline = guest.Deadline
	fresh.GiveUpAfter = time.Hour
	ok(t, f.InsertOutbox(ctx, guest, other, fresh))
	rows, err := f.ExpireOutbox(ctx)
	ok(t, err)
	if len(rows) != 2 || rows[0].ID != guest.ID || rows[0].Body != nil {
		t.Errorf("expired rows are %+v", rows)
	}
	if got := f.get(t, id).Fault; got == nil || !strings.HasPrefix(got.Message, "The guest agent did not carry out prepare within ") {
		t.Errorf("fault is %+v", got)
	}
	left := f.outbox(t)
	if len(left) != 1 || left[0].ID != fresh.ID || left[0].Deadline.Sub(left[0].Created) != time.Hour {
		t.Errorf("left are %+v", left)
	}
	if rows, err = f.ExpireOutbox(ctx); err != nil || len(rows) != 0 {
		t.Errorf("again: %v, %v", rows, err)
	}
}

func testOutboxHints(t *testing.T, f *fixture) {
	ctx := deadline(t)
	one, cancelOne := f.OutboxChanged()
	two, cancelTwo := f.OutboxChanged()
	defer cancelTwo()
	for range 3 { // several are one
		ok(t, f.InsertOutbox(ctx, row("m")))
	}
	for _, c := range []<-chan struct{}{one, two} {
		select {
		case <-c:
		case <-ctx.Done():
			t.Fatal("no hint")
		}
		select {
		case <-c:
			t.Fatal("a second hint")
		default:
		}
	}
	cancelOne()
	// What is rolled back is no news.
	r := row("m")
	kind(t, f.InsertOutbox(ctx, r, r), trove.KindConflict)
	select {
	case <-two:
		t.Fatal("a hint of nothing")
	default:
	}
	ok(t, f.InsertOutbox(ctx, r))
	<-two
	select {
	case <-one:
		t.Fatal("a hint after the end of the subscription")
	default:
	}
}

func testCancelled(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Instance(ctx, trove.NewID())
	kind(t, err, trove.KindUnavailable)
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: f.draft(), Cost: cost, Limits: unlimited}), trove.KindUnavailable)
	if n := f.used(t)[trove.ResourceInstances]; n != 0 {
		t.Errorf("%d in use", n)
	}
}
