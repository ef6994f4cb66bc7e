package process_test

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
)

// TestNew: what is new is looked for by nobody but who started it.
func TestNew(t *testing.T) {
	s := runtime.Spec{InstanceID: "new-" + strconv.Itoa(os.Getpid()), Name: "sleep", Argv: []string{"sleep", "1000"}, Dir: "/", New: true}
	var first runtime.Handle
	for n := range 2 {
		r, err := process.New(process.Options{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := r.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Stop(context.WithoutCancel(t.Context()), h, syscall.SIGKILL, 0) })
		if again, err := r.Start(t.Context(), s); err != nil || n == 0 && again != h {
			t.Errorf("Start again gives %+v, %v, want %+v", again, err, h)
		}
		if n == 0 {
			first = h
		} else if h == first {
			t.Error("it was looked for")
		}
	}
}

func TestConformance(t *testing.T) {
	runtimetest.Run(t, runtimetest.Harness{New: func(t *testing.T) runtime.Runtime {
		r, err := process.New(process.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}})
}
