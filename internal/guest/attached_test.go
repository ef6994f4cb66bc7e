package guest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/guest/bootlog"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// fakeVolume is mounted until its machine is started again.
type fakeVolume struct {
	*world
	mounted *bool
	missing *bool
}

func (v fakeVolume) Ensure(ctx context.Context) error {
	return v.do(ctx, "Ensure", func() error {
		if *v.missing {
			return trove.Errorf(trove.KindNotFound, "no such disk")
		}
		*v.mounted = true
		return nil
	})
}
func (v fakeVolume) Unmount(context.Context) error { *v.mounted = false; return nil }
func (v fakeVolume) Grow(context.Context) error    { return nil }

// needsVolume is an engine and a runtime that must not be touched without it.
type needsVolume struct {
	fakeEngine
	t *testing.T
	v fakeVolume
}

func (e needsVolume) Initialise(ctx context.Context) error {
	if !*e.v.mounted {
		e.t.Error("a data directory is made where no volume is")
	}
	return e.fakeEngine.Initialise(ctx)
}

func (e needsVolume) Command() (runtime.Spec, error) {
	if !*e.v.mounted {
		e.t.Error("the engine is started where no volume is")
	}
	return e.fakeEngine.Command()
}

func TestNothingIsDoneWithoutTheVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		v := fakeVolume{w, new(bool), new(bool)}
		console := filepath.Join(t.TempDir(), "console")
		if err := os.WriteFile(console, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		attached := func(c *Config) {
			c.Volume, c.Engine, c.Boot = v, needsVolume{fakeEngine{w}, t, v}, bootlog.New(console)
		}
		*v.missing = true
		file := filepath.Join(t.TempDir(), "state.json")
		r := w.agent(t, file, attached)
		if err := r.cast(prepareMessage("m1")); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceFailed)
		if f := w.failed(); len(f) != 1 || !strings.Contains(f[0].message, "no such disk") {
			t.Errorf("failures: %+v", f)
		}
		told(t, console, guestapi.BootReady, true)

		*v.missing = false
		if err := r.cast(prepareMessage("m2")); err != nil {
			t.Fatal(err)
		}
		r.until(trove.ServiceHealthy)
		synctest.Wait()
		told(t, console, guestapi.BootReady, false)
		r.stop()

		// The machine is started again: everything that ran is gone.
		w.end(runtime.State{ExitCode: -1})
		*v.mounted = false
		w.with(func() { w.beats = nil })
		r = w.agent(t, file, attached)
		r.until(trove.ServiceHealthy)
		if w.engine() == 0 || !*v.mounted {
			t.Errorf("engine %d, mounted %v", w.engine(), *v.mounted)
		}
		// "shutdown" may be over before anybody looks: it is looked for in the end.
		if diff := cmp.Diff([]string{"shutdown", "healthy"}, w.statuses()); diff != "" {
			t.Error(diff)
		}
	})
}

// told looks at the last line on the console.
func told(t *testing.T, console string, stage guestapi.BootStage, failed bool) {
	t.Helper()
	text, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	lines := guestapi.ParseBoot(string(text))
	if len(lines) == 0 || lines[len(lines)-1].Stage != stage || lines[len(lines)-1].Failed != failed {
		t.Errorf("the console says %q", text)
	}
}
