package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// hand hands the agent a request as the bus does, made at a time; zero: its seal
// does not tell.
func (r *running) hand(m rpc.Message, call bool, made time.Time) error {
	r.t.Helper()
	in := incoming(r.t, m)
	in.Call, in.Made = call, made
	_, err := r.Handler().Handle(r.t.Context(), in)
	return err
}

// at is the time n seconds after some point.
func at(n int) time.Time { return time.Unix(1_800_000_000+int64(n), 0) }

func TestLedger(t *testing.T) {
	t.Parallel()
	var l ledger
	l.adopt([]string{"before"})
	for n := range maxHandled - 1 {
		l = l.with(fmt.Sprint(n), at(10*n))
	}
	look := func(id string, made time.Time, want standing) {
		t.Helper()
		if got := l.of(id, made); got != want {
			t.Errorf("%s made %s: %d, want %d", id, made, got, want)
		}
	}
	look("before", time.Time{}, standingTaken)
	look("0", at(0), standingTaken)
	look("0", time.Time{}, standingTaken)
	look("late", at(-1000), standingNew) // nothing was dropped: it cannot have been taken
	// One out of order finds its place; what has no time goes first, and tells
	// nothing of what may come.
	l = l.with("late", at(-1000))
	look("before", time.Time{}, standingNew)
	look("later still", at(-2000), standingNew)
	// From now on something is dropped that has a time.
	l = l.with("newest", at(1_000_000))
	look("late", at(-1000), standingUnknown)
	look("of the same time", at(-1000), standingUnknown)
	look("later still", at(-2000), standingUnknown)
	look("by another clock", at(-999), standingNew)
	look("0", at(0), standingTaken)
	look("no time", time.Time{}, standingNew)
	if len(l.Taken) != maxHandled {
		t.Errorf("it holds %d", len(l.Taken))
	}
	b, err := json.Marshal(state{Casts: l})
	if err != nil || len(b) > 64<<10 {
		t.Errorf("the state takes %d bytes, %v", len(b), err)
	}
}

// What was taken once is not carried out again, however often the agent was
// restarted since; what nobody has taken is, however late it comes.
func TestRepeatsAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		before := 0
		w.with(func() { before = len(w.users) })
		users := func(want int) {
			t.Helper()
			w.with(func() {
				if got := len(w.users) - before; got != want {
					t.Errorf("%d users more, want %d", got, want)
				}
			})
		}
		create := func(name string) rpc.Message {
			m := guestapi.CreateUsersMessage("i1", []trove.User{{Name: name, Host: "%", Password: "secret"}})
			m.UniqueID = "create " + name
			return m
		}
		stop := rpc.Message{Method: "stop_db", Version: "1.1", Args: map[string]any{}, UniqueID: "stop"}
		if err := r.hand(create("ann"), false, at(100)); err != nil {
			t.Fatal(err)
		}
		if err := r.hand(stop, true, at(200)); err != nil {
			t.Fatal(err)
		}
		if err := r.Restart(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		users(1)
		for range 2 {
			if err := r.hand(stop, true, at(200)); !trove.IsKind(err, trove.KindConflict) {
				t.Errorf("a call that is repeated: %v", err)
			}
			if err := r.DeleteUser(t.Context(), "ann", "%"); err != nil {
				t.Fatal(err)
			}
			if err := r.hand(create("ann"), false, at(100)); err != nil {
				t.Errorf("a cast that is repeated: %v", err)
			}
			users(0)
			w.with(func() {
				if w.pid == 0 {
					t.Error("the engine was stopped by a repeat")
				}
			})
			r.stop()
			r = w.agent(t, file)
			r.until(trove.ServiceHealthy)
		}
		// After a long outage, out of order, and by a service whose clock is behind.
		if err := r.hand(create("ben"), false, at(-100_000)); err != nil {
			t.Fatal(err)
		}
		users(1)
		late := stop
		late.UniqueID = "another stop"
		if err := r.hand(late, true, at(200-600)); err != nil {
			t.Errorf("a call by a clock ten minutes behind: %v", err)
		}
		// What asks only may be asked again, and the original's calls tell no time.
		ping := rpc.Message{Method: "rpc_ping", Version: "1.0", Args: map[string]any{}, UniqueID: "ping"}
		for range 2 {
			if err := r.hand(ping, true, at(300)); err != nil {
				t.Error(err)
			}
			if err := r.hand(stop, true, time.Time{}); err != nil {
				t.Error(err)
			}
		}
	})
}

// A cast of which the agent cannot tell whether it was handled is neither done nor
// reported as done.
func TestCastOlderThanAllThatAreRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, _ := w.prepared(t)
		if err := r.state.update(func(s *state) {
			for n := range maxHandled + 1 {
				s.Casts = s.Casts.with(fmt.Sprint(n), at(n))
			}
		}); err != nil {
			t.Fatal(err)
		}
		m := guestapi.CreateUsersMessage("i1", []trove.User{{Name: "ann", Host: "%", Password: "secret"}})
		m.UniqueID = "0"
		if err := r.hand(m, false, at(0)); err != nil {
			t.Fatal(err)
		}
		r.pulse.mu.Lock()
		defer r.pulse.mu.Unlock()
		if _, made := w.users["ann"]; made || len(r.pulse.done) != 0 {
			t.Errorf("made: %v, reported %v", made, r.pulse.done)
		}
	})
}

// What an agent before this one wrote is taken over.
func TestStateOfAnEarlierAgent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.json")
	if err := os.WriteFile(path, []byte(`{"version": 1, "instance_id": "i1", "should_run": true, "handled": ["a", "b"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // read, written and read again
		f, err := openState(path, "i1")
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]standing{"a": standingTaken, "b": standingTaken, "c": standingNew} {
			if got := f.castKnown(id, at(0)); got != want {
				t.Errorf("%s: %d, want %d", id, got, want)
			}
		}
		if err := f.update(func(s *state) { s.ShouldRun = false }); err != nil {
			t.Fatal(err)
		}
	}
}
