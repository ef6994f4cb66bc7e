package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

func ptr[T any](v T) *T { return &v }

// cast hands a cast to the agent as the bus does.
func (r *running) cast(m rpc.Message) error {
	r.t.Helper()
	_, err := r.Handler().Handle(r.t.Context(), incoming(r.t, m))
	return err
}

func incoming(t *testing.T, m rpc.Message) *rpc.Incoming {
	t.Helper()
	b, err := json.Marshal(m.Args)
	if err != nil {
		t.Fatal(err)
	}
	in := &rpc.Incoming{Method: m.Method, Version: m.Version, UniqueID: m.UniqueID}
	if err := json.Unmarshal(b, &in.Args); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestAgentRestartLeavesTheEngineAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		pid := w.engine()
		r.stop()
		w.with(func() { w.beats = nil })
		r = w.agent(t, file)
		r.until(trove.ServiceHealthy)
		w.with(func() {
			if w.pid != pid || w.starts != 1 || w.stops != 0 {
				t.Errorf("pid %d was %d, starts %d, stops %d", w.pid, pid, w.starts, w.stops)
			}
		})
		if diff := cmp.Diff([]string{"healthy"}, w.statuses()); diff != "" {
			t.Errorf("a healthy engine was reported otherwise: %s", diff)
		}
	})
}

func TestPowerCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		r.stop()
		w.end(runtime.State{ExitCode: -1})
		w.with(func() { w.beats = nil })
		r = w.agent(t, file)
		r.until(trove.ServiceHealthy)
		if diff := cmp.Diff([]string{"shutdown", "healthy"}, w.statuses()); diff != "" {
			t.Error(diff)
		}
		w.with(func() {
			if w.starts != 2 {
				t.Errorf("starts %d", w.starts)
			}
		})
	})
}

func TestEngineCrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, _ := w.prepared(t)
		w.with(func() { w.beats, w.crashNext = nil, 7 })
		began := time.Now()
		w.end(runtime.State{ExitCode: -1, Detail: "killed by signal 9"})
		r.until(trove.ServiceCrashed)
		if took := time.Since(began); took > time.Second {
			t.Errorf("told after %s", took)
		}
		r.until(trove.ServiceHealthy)
		w.with(func() {
			if w.starts != 9 || len(w.failures) != 1 || !strings.Contains(w.failures[0].message, "the port is taken") {
				t.Errorf("starts %d, failures %+v", w.starts, w.failures)
			}
		})
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("seven restarts within %s: no back-off", took)
		}
	})
}

func TestEngineDoesNotAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, _ := w.prepared(t)
		w.with(func() { w.hang = true })
		r.until(trove.ServiceUnknown)
		if ok, err := r.Ping(t.Context()); !ok || err != nil {
			t.Error("the agent does not answer either")
		}
		w.with(func() { w.hang = false })
		r.until(trove.ServiceHealthy)
		w.with(func() {
			if w.starts != 1 {
				t.Errorf("starts %d", w.starts)
			}
		})
	})
}

func TestRestartAndStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		pid := w.engine()
		if err := r.Restart(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.with(func() {
			if w.pid == pid || w.pid == 0 || w.stops != 1 {
				t.Errorf("pid %d was %d, stops %d", w.pid, pid, w.stops)
			}
		})
		if diff := cmp.Diff([]string{"new", "building", "healthy", "restarting", "healthy"}, w.statuses()); diff != "" {
			t.Error(diff)
		}
		if err := r.StopDB(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceShutdown)
		r.stop()
		r = w.agent(t, file)
		time.Sleep(5 * time.Minute) // the bubble's clock
		if w.engine() != 0 {
			t.Error("a stopped engine was started")
		}
		if err := r.CreateDatabases(t.Context(), nil); trove.KindOf(err) != trove.KindGuest {
			t.Errorf("database on a stopped engine: %v", err)
		}
		if err := r.Restart(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceHealthy)
	})
}

// TestRestartAskedTwice: who asks again for one restart, not having had the
// answer, gets it, also from the next agent; the engine is restarted once.
func TestRestartAskedTwice(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld()
				r, file := w.prepared(t)
				ask := func(id string) error {
					_, err := r.Handler().Handle(t.Context(), &rpc.Incoming{Method: "restart", Version: "1.0", Call: true, CallID: id, UniqueID: trove.NewID()})
					return err
				}
				stops := func() (n int) { w.with(func() { n = w.stops }); return n }
				if fails {
					w.with(func() { w.failAt["Start"] = fmt.Errorf("no library") })
				}
				first := ask("one")
				if (first != nil) != fails {
					t.Fatal(first)
				}
				w.with(func() { delete(w.failAt, "Start") })
				again := func() {
					t.Helper()
					before := stops()
					err := ask("one")
					if stops() != before {
						t.Error("it was restarted twice")
					}
					if fails && (trove.KindOf(err) != trove.KindGuest || err.Error() != first.Error()) || !fails && err != nil {
						t.Errorf("answered with %v, then with %v", first, err)
					}
				}
				again()
				r.stop()
				r = w.agent(t, file)
				r.until(trove.ServiceHealthy)
				again()
				before := stops()
				if err := ask("two"); err != nil || stops() != before+1 {
					t.Errorf("another request: %v", err)
				}
			})
		})
	}
}

func TestExit(t *testing.T) {
	for _, stop := range []bool{false, true} {
		t.Run(fmt.Sprint(stop), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld()
				r, file := w.prepared(t, func(c *Config) { c.StopEngineOnExit = stop })
				w.with(func() { w.slow = time.Second }) // the last word is waited for
				r.stop()
				if runs := w.engine() != 0; runs == stop {
					t.Errorf("engine runs: %t", runs)
				}
				if s := w.statuses(); stop && s[len(s)-1] != "shutdown" {
					t.Errorf("statuses %v", s)
				}
				w.agent(t, file).until(trove.ServiceHealthy)
			})
		})
	}
}

func TestHeartbeatInterval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.prepared(t)
		w.with(func() { w.beats = nil })
		time.Sleep(time.Minute) // the bubble's clock
		synctest.Wait()
		w.with(func() {
			if n := len(w.beats); n < 5 || n > 7 {
				t.Errorf("%d heartbeats in a minute", n)
			}
		})
	})
}

func TestHeartbeatsWithoutBroker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.refuse = true
		r := w.agent(t, filepath.Join(t.TempDir(), "state.json"))
		if err := r.cast(prepareMessage("m1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute) // the bubble's clock
		w.with(func() { w.refuse = false })
		r.until(trove.ServiceHealthy)
		if diff := cmp.Diff([]string{"new", "building", "healthy"}, w.statuses()); diff != "" {
			t.Error(diff)
		}
	})
}

func (w *world) done() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, b := range w.beats {
		out = append(out, b.Payload.Done...)
	}
	return out
}

func TestRepeatedCast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		m := guestapi.CreateDatabasesMessage("i1", []trove.Database{{Name: "new"}})
		m.UniqueID = "c1"
		for range 2 {
			if err := r.cast(m); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if diff := cmp.Diff([]string{"m1", "c1", "c1"}, w.done()); diff != "" {
			t.Error(diff)
		}
		w.with(func() { delete(w.databases, "new") })
		r.stop()
		r = w.agent(t, file)
		if err := r.cast(m); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if strings.Contains(w.facts(), "new") {
			t.Error("a repeat was done again after a restart of the agent")
		}
		if d := w.done(); len(d) != 4 {
			t.Errorf("done %v", d)
		}
	})
}

func TestFailedCast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, _ := w.prepared(t)
		w.with(func() {
			w.failAt["CreateUser"] = trove.Errorf(trove.KindBadRequest, "the password 'hunter2' is too short")
		})
		m := guestapi.CreateUsersMessage("i1", []trove.User{{Name: "u", Password: "hunter2"}})
		m.UniqueID = "c1"
		ctx := rpc.WithContext(t.Context(), rpc.Context{RequestID: "req-1"})
		if _, err := r.Handler().Handle(ctx, incoming(t, m)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		failures := w.failed()
		if len(failures) != 1 {
			t.Fatalf("failures %v", failures)
		}
		f := failures[0]
		if f.message != "the password '***' is too short" || f.n.RequestID != "req-1" ||
			f.n.Class != "trove.common.notification.DBaaSUserCreate" || strings.Contains(strings.Join(f.details, ""), "hunter2") {
			t.Errorf("%+v", f)
		}
		if d := w.done(); !slices.Contains(d, "c1") {
			t.Errorf("a failed cast is not done: %v", d)
		}
	})
}

// TestCastWhileEngineIsDown: what was accepted is done when the engine is back.
func TestCastWhileEngineIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, _ := w.prepared(t)
		w.with(func() { w.crashNext = 3 })
		w.end(runtime.State{ExitCode: 1})
		m := guestapi.CreateDatabasesMessage("i1", []trove.Database{{Name: "late"}})
		m.UniqueID = "c1"
		if err := r.cast(m); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(w.facts(), "late") || len(w.failed()) != 0 {
			t.Errorf("facts %s, failures %v", w.facts(), w.failed())
		}
	})
}

func TestPage(t *testing.T) {
	t.Parallel()
	items := []string{"b", "a", "d", "c"}
	for _, c := range []struct {
		name string
		list guestapi.List
		want []string
		next *string
	}{
		{"all", guestapi.List{}, []string{"a", "b", "c", "d"}, nil},
		{"limit zero is all", guestapi.List{Limit: ptr(0)}, []string{"a", "b", "c", "d"}, nil},
		{"first", guestapi.List{Limit: ptr(2)}, []string{"a", "b"}, ptr("b")},
		{"next is the last", guestapi.List{Limit: ptr(2), Marker: ptr("b")}, []string{"c", "d"}, nil},
		{"include marker", guestapi.List{Limit: ptr(2), Marker: ptr("b"), IncludeMarker: true}, []string{"b", "c"}, ptr("c")},
		{"marker not there", guestapi.List{Marker: ptr("bb")}, []string{"c", "d"}, nil},
		{"marker at the end", guestapi.List{Marker: ptr("d")}, []string{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, next := page(items, c.list, func(s string) string { return s })
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.next, next); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStateOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"another": `{"version":1,"instance_id":"i2"}`,
		"newer":   `{"version":9,"instance_id":"i1"}`,
		"torn":    `{"version":1,"ins`,
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{InstanceID: "i1", StateFile: file}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	u := newUsage(dir, gib, nil)
	s, err := u.stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s.Total != 1 || s.Used != 0.01 && s.Used != 0 || s.Free > gib-3<<20 || s.TotalBlocks*s.BlockSize != gib {
		t.Errorf("%+v", s)
	}
	u = newUsage(dir, 1<<20, nil)
	if s, err = u.stats(context.Background()); err != nil || s.Free != 0 {
		t.Errorf("over quota: %+v %v", s, err)
	}
	u = newUsage(filepath.Join(dir, "gone"), gib, nil)
	if _, err = u.stats(context.Background()); err == nil {
		t.Error("no error for a volume that is not there")
	}
}
