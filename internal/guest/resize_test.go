package guest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// configuring is an engine that tells when its configuration was written:
// whether the engine ran then.
type configuring struct {
	fakeEngine
	written *[]bool
}

func (c configuring) Initialise(ctx context.Context) error {
	*c.written = append(*c.written, c.engine() != 0)
	return c.fakeEngine.Initialise(ctx)
}

type otherVolume struct {
	calls []string
	err   error
}

func (v *otherVolume) Ensure(context.Context) error {
	v.calls = append(v.calls, "ensure")
	return v.err
}
func (v *otherVolume) Unmount(context.Context) error {
	v.calls = append(v.calls, "unmount")
	return v.err
}
func (v *otherVolume) Grow(context.Context) error { v.calls = append(v.calls, "grow"); return v.err }

func ask(t *testing.T, r *running, method, id, args string) error {
	t.Helper()
	in := &rpc.Incoming{Method: method, Version: "1.1", Call: true, CallID: id, UniqueID: trove.NewID()}
	if err := json.Unmarshal([]byte(args), &in.Args); err != nil {
		t.Fatal(err)
	}
	_, err := r.Handler().Handle(t.Context(), in)
	return err
}

// A server of another size: the engine is stopped, its configuration is made
// anew, and only then it starts; asked again it is not started again. The
// arguments are those of a task manager in Python.
func TestStartDB(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		var written []bool
		change := func(c *Config) { c.Engine = configuring{fakeEngine{w}, &written} }
		r, file := w.prepared(t, change)
		if err := ask(t, r, "stop_db", "", `{}`); err != nil {
			t.Fatal(err)
		}
		r.stop()
		r = w.agent(t, file, change)
		r.until(trove.ServiceShutdown)
		written = nil
		const args = `{"config_contents": "[mysqld]\nuser = x\n", "ds_version": "10.11"}`
		for range 2 {
			if err := ask(t, r, "start_db_with_conf_changes", "one", args); err != nil {
				t.Fatal(err)
			}
		}
		r.until(trove.ServiceHealthy)
		if d := cmp.Diff([]bool{false}, written); d != "" || w.engine() == 0 {
			t.Errorf("the engine runs: %v; its configuration was written while it ran: %s", w.engine() != 0, d)
		}
		pid := w.engine()
		if err := ask(t, r, "reset_configuration", "", `{"configuration": {"config_contents": ""}}`); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]bool{false, true}, written); d != "" || w.engine() != pid {
			t.Errorf("reset_configuration: %s", d)
		}
		// A server that was started again has perhaps another size: the first start
		// of a new agent asks.
		if err := ask(t, r, "stop_db", "", `{}`); err != nil {
			t.Fatal(err)
		}
		r.stop()
		written = nil
		r = w.agent(t, file, change)
		for range 2 {
			if err := ask(t, r, "restart", trove.NewID(), `{}`); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff([]bool{false}, written); d != "" {
			t.Errorf("a new agent's first start: %s", d)
		}
		pid, written = w.engine(), []bool{false, true}
		// Another one starts it anew.
		if err := ask(t, r, "start_db_with_conf_changes", "two", args); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]bool{false, true, false}, written); d != "" || w.engine() == pid {
			t.Errorf("a second one: %s", d)
		}
	})
}

func TestVolumeOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, v := newWorld(), &otherVolume{}
		r, _ := w.prepared(t, func(c *Config) { c.Volume = v })
		v.calls = nil
		const device = `{"device_path": "/dev/vdb", "mount_point": "/var/lib/mysql"}`
		if err := ask(t, r, "unmount_volume", "", device); !trove.IsKind(err, trove.KindUnprocessable) || len(v.calls) != 0 {
			t.Errorf("unmounted while the engine runs: %v, %v", err, v.calls)
		}
		if err := ask(t, r, "stop_db", "", `{}`); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"unmount_volume", "resize_fs", "mount_volume"} {
			if err := ask(t, r, method, "", `{"device_path": "/dev/vdb", "mount_point": "/var/lib/mysql", "online": false}`); err != nil {
				t.Errorf("%s: %v", method, err)
			}
		}
		if d := cmp.Diff([]string{"unmount", "grow", "ensure"}, v.calls); d != "" {
			t.Error(d)
		}
		v.err = errors.New("no such device")
		if err := ask(t, r, "resize_fs", "", device); err == nil {
			t.Error("a failure was not told")
		}
	})
}

// An engine that is being started while the volume is asked for keeps it.
func TestVolumeOfAnEngineThatStarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, v := newWorld(), &otherVolume{}
		hold := holding{fakeEngine{w}, make(chan chan struct{}, 9)}
		r, _ := w.prepared(t, func(c *Config) { c.Volume, c.Engine = v, hold })
		if err := ask(t, r, "stop_db", "", `{}`); err != nil {
			t.Fatal(err)
		}
		v.calls = nil
		release := make(chan struct{})
		hold.next <- release
		started, unmounted := make(chan error, 1), make(chan error, 1)
		go func() {
			started <- ask(t, r, "start_db_with_conf_changes", "one", `{"config_contents": "", "ds_version": "1"}`)
		}()
		synctest.Wait()
		go func() {
			unmounted <- ask(t, r, "unmount_volume", "", `{"device_path": "/dev/vdb", "mount_point": "/x"}`)
		}()
		synctest.Wait()
		close(release)
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		if err := <-unmounted; !trove.IsKind(err, trove.KindUnprocessable) || slices.Contains(v.calls, "unmount") {
			t.Errorf("unmounted from an engine that started: %v, %v", err, v.calls)
		}
	})
}

// holding waits before it makes a configuration, if it is told what for.
type holding struct {
	fakeEngine
	next chan chan struct{}
}

func (h holding) Initialise(ctx context.Context) error {
	select {
	case release := <-h.next:
		<-release
	default:
	}
	return h.fakeEngine.Initialise(ctx)
}

// A directory has a quota, which is looked at again.
func TestQuotaGrows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		quota := int64(1 << 30)
		r, _ := w.prepared(t, func(c *Config) {
			c.VolumeSize, c.Quota = quota, func() (int64, error) { return quota, nil }
		})
		total := func() float64 {
			s, err := r.FilesystemStats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.Total
		}
		if total() != 1 {
			t.Errorf("total is %v", total())
		}
		quota = 3 << 30
		for _, method := range []string{"unmount_volume", "mount_volume"} {
			if err := r.withVolume(t.Context(), method, guestapi.Device{}, nil); err != nil {
				t.Error(err)
			}
		}
		if err := ask(t, r, "resize_fs", "", `{"device_path": null, "mount_point": null, "online": true}`); err != nil {
			t.Fatal(err)
		}
		if total() != 3 {
			t.Errorf("total is %v", total())
		}
	})
}
