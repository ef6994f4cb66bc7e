package process_test

import (
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	runtimetest.Run(t, runtimetest.Harness{New: func(t *testing.T) runtime.Runtime {
		r, err := process.New(process.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}})
}
