package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// hold is a claim that does not end during a test.
const hold = time.Hour

func (f *fixture) insert(t *testing.T, subject, topic string, names ...string) {
	t.Helper()
	for _, n := range names {
		ok(t, f.InsertOutbox(deadline(t), store.OutboxRow{ID: n, Topic: topic, Method: "m", Subject: subject, Body: []byte{0, 0xff}}))
	}
}

// claim claims and gives ids.
func (f *fixture) claim(t *testing.T, owner, topic string, limit int) (ids []string) {
	t.Helper()
	rows, err := f.ClaimOutbox(deadline(t), owner, topic, limit, hold)
	ok(t, err)
	for _, r := range rows {
		if r.Left < hold/2 || len(r.Body) != 2 || time.Since(r.Created).Abs() > time.Minute || r.Past {
			t.Errorf("row is %+v", r)
		}
		ids = append(ids, r.ID)
	}
	return ids
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (f *fixture) topics(t *testing.T, owner string) []string {
	t.Helper()
	topics, err := f.ReadyTopics(deadline(t), owner, 10)
	ok(t, err)
	return topics
}

func testOutboxOrder(t *testing.T, f *fixture) {
	ctx := deadline(t)
	f.insert(t, "i", "one", "a", "b", "c", "d")
	f.insert(t, "i", "two", "x")
	same(t, "topics", f.topics(t, "me"), "one", "two")
	same(t, "first", f.claim(t, "me", "one", 3), "a", "b", "c")
	same(t, "mine again", f.claim(t, "me", "one", 10), "a", "b", "c", "d")
	later := 10 * time.Minute
	ok(t, f.SettleOutbox(ctx, "me", store.Sent{ID: "a", Published: true, Again: later}, store.Sent{ID: "gone", Published: true},
		store.Sent{ID: "b", Gone: true}, store.Sent{ID: "c", Again: later}, store.Sent{ID: "d"}))
	same(t, "behind one that was not published", f.claim(t, "me", "one", 10))
	same(t, "topics", f.topics(t, "me"), "two")
	ok(t, f.DeleteOutbox(ctx, "c"))
	ok(t, f.DeleteOutbox(ctx, "c"))
	same(t, "behind one that was", f.claim(t, "me", "one", 10), "d")
	rows, err := f.Outbox(ctx, 0, 2)
	ok(t, err)
	if len(rows) != 2 || rows[0].ID != "a" || rows[0].Attempts != 1 || rows[1].Attempts != 0 {
		t.Errorf("rows are %+v", rows)
	}
	kind(t, f.InsertOutbox(ctx, store.OutboxRow{ID: strings.Repeat("x", 65), Topic: "t", Method: "m", Body: []byte("b")}), trove.KindBadRequest)
}

// Of two relays one gets a row, and the other nothing that would overtake it.
func testOutboxClaims(t *testing.T, f *fixture) {
	ctx := deadline(t)
	f.insert(t, "i", "t", "a", "b")
	f.insert(t, "j", "t", "x")
	same(t, "one", f.claim(t, "one", "t", 1), "a")
	same(t, "two gets nothing behind it", f.claim(t, "two", "t", 10), "x")
	ok(t, f.SettleOutbox(ctx, "two", store.Sent{ID: "a", Published: true})) // it is not two's
	same(t, "topics of three", f.topics(t, "three"))
	ok(t, f.SettleOutbox(ctx, "one", store.Sent{ID: "a", Published: true, Again: hold}))
	same(t, "topics of three", f.topics(t, "three"), "t")
	same(t, "three", f.claim(t, "three", "t", 10), "b")

	// Many at once: each row is one's, and each one's are in order.
	var want int
	for i := range 30 {
		f.insert(t, fmt.Sprint(i%3), "many", fmt.Sprintf("m%02d", i))
		want++
	}
	got := make([][]store.OutboxRow, 6)
	for _, err := range together(len(got), func(i int) (err error) {
		got[i], err = f.ClaimOutbox(ctx, fmt.Sprint("relay", i), "many", 4, hold)
		return err
	}) {
		ok(t, err)
	}
	owner := map[string]int{}
	holder := map[string]int{} // by subject
	for i, rows := range got {
		for _, r := range rows {
			if o, twice := owner[r.ID]; twice {
				t.Errorf("%s was claimed by %d and %d", r.ID, o, i)
			}
			owner[r.ID] = i
			if h, other := holder[r.Subject]; other && h != i {
				t.Errorf("messages about %s are with %d and %d at once", r.Subject, h, i)
			}
			holder[r.Subject] = i
		}
	}
	if len(owner) == 0 || len(owner) > want {
		t.Errorf("claimed are %v", owner)
	}
}

// What a process wrote is its own for a while, and then anybody's.
func testOutboxTakenOver(t *testing.T, f *fixture) {
	ctx := deadline(t)
	_, stop := f.ServeOutbox("dead")
	f.insert(t, "i", "t", "a")
	stop()
	f.insert(t, "i", "t", "b")
	same(t, "taken too early", f.claim(t, "heir", "t", 10))
	rows, err := f.ClaimOutbox(ctx, "dead", "t", 10, time.Millisecond)
	ok(t, err)
	if len(rows) != 2 || rows[0].Left < time.Second {
		t.Errorf("who wrote it has %+v", rows)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		if got := f.claim(t, "heir", "t", 10); len(got) > 0 {
			same(t, "heir", got, "a", "b")
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not taken over within %s", time.Since(began))
		}
	}
}

// A broker that forgets: every process asks, each row comes once.
func testOutboxRepeated(t *testing.T, f *fixture) {
	ctx := deadline(t)
	f.insert(t, "i", "t", "a", "b", "c")
	f.insert(t, "j", "t", "never published", "behind it")
	same(t, "all", f.claim(t, "one", "t", 10), "a", "b", "c", "never published", "behind it")
	ok(t, f.SettleOutbox(ctx, "one", store.Sent{ID: "a", Published: true, Again: hold}, store.Sent{ID: "b", Published: true, Again: hold},
		store.Sent{ID: "never published", Again: hold}))
	ok(t, f.RepeatOutbox(ctx, time.Minute))
	same(t, "published after the broker was lost", f.claim(t, "two", "t", 10))
	ok(t, f.RepeatOutbox(ctx, 0))
	ok(t, f.RepeatOutbox(ctx, 0))
	same(t, "repeated", f.claim(t, "two", "t", 10), "a", "b")
	ok(t, f.SettleOutbox(ctx, "two", store.Sent{ID: "a", Published: true, Again: hold}))
	ok(t, f.RepeatOutbox(ctx, 10*time.Second)) // a process that comes back later
	same(t, "repeated twice", f.claim(t, "three", "t", 10))
}

func testLeases(t *testing.T, f *fixture) {
	ctx := deadline(t)
	claim := func(name, owner string, ttl time.Duration, want bool) {
		t.Helper()
		held, err := f.ClaimLease(ctx, name, owner, ttl)
		ok(t, err)
		if held != want {
			t.Errorf("%s has %s: %v", owner, name, held)
		}
	}
	claim("sweep", "a", hold, true)
	claim("sweep", "b", hold, false)
	claim("other", "b", hold, true)
	ok(t, f.ReleaseLease(ctx, "sweep", "b")) // it is not b's
	claim("sweep", "b", hold, false)
	claim("sweep", "a", time.Millisecond, true)
	for held := false; !held; {
		var err error
		held, err = f.ClaimLease(ctx, "sweep", "b", hold)
		ok(t, err)
	}
	claim("sweep", "a", hold, false)
	ok(t, f.ReleaseLease(ctx, "sweep", "b"))
	claim("sweep", "a", hold, true)
	ok(t, f.ReleaseLease(ctx, "nothing", "a"))

	held := make([]bool, 8)
	for _, err := range together(len(held), func(i int) (err error) {
		held[i], err = f.ClaimLease(ctx, "new", fmt.Sprint(i), hold)
		return err
	}) {
		ok(t, err)
	}
	n := 0
	for _, h := range held {
		if h {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d hold a lease", n)
	}
}
