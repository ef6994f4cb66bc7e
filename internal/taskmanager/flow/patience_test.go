package flow_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
)

// A cloud that does not come to an end with a resize, nor with its way back, is
// given up after the times that the operator has set.
func TestResizeIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	w.asked(trove.TaskResizing, trove.QuotaDelta{trove.ResourceRAM: 512})
	w.mu.Lock()
	w.slow = true
	w.mu.Unlock()
	e := w.run(func(o *flow.Options) { o.ResizeWait, o.RevertWait = 30*time.Millisecond, 30*time.Millisecond })
	if err := accept(t.Context(), e, flow.KindResizeFlavor, "m2", toFlavor("2", 1024)); err != nil {
		t.Fatal(err)
	}
	op := w.operation("i1")
	if op.State != trove.OperationFailed || !strings.Contains(op.Cause, "still RESIZE after 30ms ([DEFAULT] resize_time_out)") {
		t.Errorf("operation: %+v", op)
	}
	inst := w.get("i1")
	if inst.Task != trove.TaskNone || inst.Fault == nil || !strings.Contains(inst.Fault.Details, "within 30ms ([DEFAULT] revert_time_out)") {
		t.Errorf("instance: task %#x, fault %+v", int(inst.Task), inst.Fault)
	}
}

// An agent on a slow server is told its new credentials once, as long as the
// message waits for it; one that was lost is said again.
func TestCredentialsAreToldOnceToASlowAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.instance("i1")
	w.mu.Lock()
	w.mute, w.presence = true, guest.Presence{Queue: true, Waiting: 1}
	w.mu.Unlock()
	e := w.run(func(o *flow.Options) { o.Recast = time.Millisecond })
	if err := accept(t.Context(), e, flow.KindCreate, "m1", flow.NewCreate(request("i1"))); err != nil {
		t.Fatal(err)
	}
	told := func() (n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.calls {
			if c == "rotate" {
				n++
			}
		}
		return n
	}
	w.called("Seen", 10)
	if n := told(); n != 1 {
		t.Errorf("it was told %d times while the message waited for it", n)
	}
	w.mu.Lock()
	w.mute, w.presence = false, guest.Presence{Queue: true, Consumers: 1} // it came, and the message was lost
	w.mu.Unlock()
	if op := w.operation("i1"); op.State != trove.OperationDone {
		t.Errorf("operation: %+v", op)
	}
	if n := told(); n != 2 {
		t.Errorf("it was told %d times, want 2", n)
	}
}
