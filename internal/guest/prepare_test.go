package guest

import (
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

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

func request() guestapi.Prepare {
	return guestapi.Prepare{
		Databases:    []rpcapi.Database{{Name: "d1"}, {Name: "d2"}},
		Users:        []rpcapi.User{{Name: "u1", Password: ptr("s3cret-u1"), Host: "%"}, {Name: "u2", Password: ptr("s3cret-u2"), Host: "%"}},
		RootPassword: ptr("s3cret-root"),
		Overrides:    map[string]any{"a": 1.0},
	}
}

func prepareMessage(id string) rpc.Message {
	m := guestapi.PrepareMessage("i1", request())
	m.UniqueID = id
	return m
}

func (w *world) prepared(t *testing.T, change ...func(*Config)) (*running, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "state.json")
	r := w.agent(t, file, change...)
	if err := r.cast(prepareMessage("m1")); err != nil {
		t.Fatal(err)
	}
	r.until(trove.ServiceHealthy)
	synctest.Wait()
	return r, file
}

func TestPrepare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r, file := w.prepared(t)
		want := "true map[a:1] true [d1 d2] [u1 u2] true s3cret-root true true 1\n"
		if got := w.facts(); got != want {
			t.Errorf("prepared: %s\nwant %s", got, want)
		}
		w.with(func() {
			if w.unsought != 1 {
				t.Errorf("%d starts of an engine that looked for none, want the first", w.unsought)
			}
		})
		if diff := cmp.Diff([]string{"new", "building", "healthy"}, w.statuses()); diff != "" {
			t.Error(diff)
		}
		var stages []string
		w.with(func() {
			for i, b := range w.beats {
				if s := b.Payload.Stage; s != nil {
					stages = append(stages, s.Name)
				}
				if i > 0 && *b.Sent <= *w.beats[i-1].Sent {
					t.Errorf("heartbeat %d is not newer than the one before", i)
				}
			}
		})
		if diff := cmp.Diff([]string{"accepted", "check", "initialise", "image", "configure", "start", "ready", "accounts", "databases", "users", "root"}, stages); diff != "" {
			t.Error(diff)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "s3cret") {
			t.Error("the state keeps passwords after prepare")
		}
		if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
			t.Errorf("state has mode %o", info.Mode().Perm())
		}

		// Another prepare changes nothing.
		if err := r.cast(prepareMessage("m2")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.facts(); got != want {
			t.Errorf("prepared twice: %s", got)
		}
	})
}

// TestPrepareKilled kills the agent before and after each of its calls and
// lets a new one go on with the state as it was on disk.
func TestPrepareKilled(t *testing.T) {
	var calls int
	var want string
	t.Run("whole", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.prepared(t)
			want = w.facts()
			w.with(func() { calls = w.calls })
		})
	})
	if calls < 12 {
		t.Fatalf("only %d calls seen", calls)
	}
	for n := range calls {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d_after_%t", n, after), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld()
					w.killAt, w.killAfter = n, after
					dir := t.TempDir()
					file, copied := filepath.Join(dir, "state.json"), filepath.Join(dir, "then.json")
					r := w.agent(t, file)
					kill := w.kill
					w.kill = func() { // what is on disk now is all that is left
						b, err := os.ReadFile(file)
						if err != nil {
							t.Error(err)
						}
						if err := os.WriteFile(copied, b, 0o600); err != nil {
							t.Error(err)
						}
						kill()
					}
					if err := r.cast(prepareMessage("m1")); err != nil {
						t.Fatal(err)
					}
					r.stopped(t)
					w.with(func() { w.killAt, w.beats = -1, nil })
					next := w.agent(t, copied)
					next.until(trove.ServiceHealthy)
					if got := w.facts(); got != want {
						t.Errorf("got  %s\nwant %s", got, want)
					}
					if s := w.statuses(); slices.Contains(s, trove.ServiceFailed.Description) || len(w.failed()) > 0 {
						t.Errorf("resumed with statuses %v, failures %v", s, w.failed())
					}
				})
			})
		}
	}
}

// stopped waits until the agent was killed.
func (r *running) stopped(t *testing.T) {
	t.Helper()
	for range 1000 {
		synctest.Wait()
		r.w.mu.Lock()
		dead := r.w.dead
		r.w.mu.Unlock()
		if dead {
			r.stop()
			return
		}
		time.Sleep(100 * time.Millisecond) // the bubble's clock
	}
	t.Fatal("the agent was not killed")
}

func TestPrepareFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.failAt["CreateUser"] = fmt.Errorf("near 's3cret-u1': syntax error")
		file := filepath.Join(t.TempDir(), "state.json")
		r := w.agent(t, file)
		if err := r.cast(prepareMessage("m1")); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceFailed)
		failures := w.failed()
		if len(failures) != 1 {
			t.Fatalf("failures: %v", failures)
		}
		f := failures[0]
		if !strings.Contains(f.message, "users") || strings.Contains(f.message, "s3cret") || !slices.Contains(f.details, "the log's end") {
			t.Errorf("failure: %+v", f)
		}
		r.stop()

		// It stays failed over a restart, and can be asked for again.
		w.with(func() { delete(w.failAt, "CreateUser") })
		r = w.agent(t, file)
		if err := r.cast(prepareMessage("m2")); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceHealthy)
	})
}

func TestPrepareOfWhatWeCannotDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		r := w.agent(t, filepath.Join(t.TempDir(), "state.json"))
		p := request()
		p.BackupInfo = json.RawMessage(`{"id":"b1"}`)
		if err := r.cast(guestapi.PrepareMessage("i1", p)); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceFailed)
		if len(w.failed()) != 1 || strings.HasPrefix(w.facts(), "true") {
			t.Errorf("failures %v, facts %s", w.failed(), w.facts())
		}
	})
}

func TestStopWhilePreparing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.hang = true
		r := w.agent(t, filepath.Join(t.TempDir(), "state.json"))
		if err := r.cast(prepareMessage("m1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := r.StopDB(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceFailed)
		if w.engine() != 0 || len(w.failed()) != 0 {
			t.Errorf("engine runs: %d, failures %v", w.engine(), w.failed())
		}
	})
}
