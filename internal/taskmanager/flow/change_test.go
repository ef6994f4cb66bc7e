package flow_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// asked writes what the API writes for an operation on a served instance.
func (w *world) asked(task trove.Task, cost trove.QuotaDelta) {
	w.t.Helper()
	w.served()
	if err := w.store.BeginTask(w.t.Context(), "i1", store.TaskChange{Task: task,
		Growth: store.Growth{Cost: cost, Limits: trove.QuotaDelta{trove.ResourceRAM: 51200, trove.ResourceVolumes: 20}}}); err != nil {
		w.t.Fatal(err)
	}
}

func toFlavor(id string, ram int) flow.ResizeFlavor {
	return flow.ResizeFlavor{Request: taskmanager.ResizeFlavor{InstanceID: "i1",
		OldFlavor: rpcapi.Flavor{ID: "1", RAM: 512}, NewFlavor: rpcapi.Flavor{ID: id, RAM: ram}}}
}

func toSize(gib int) flow.ResizeVolume {
	return flow.ResizeVolume{Request: taskmanager.ResizeVolume{InstanceID: "i1", NewSize: gib}}
}

func toAccess(public bool, cidrs ...string) flow.UpdateAccess {
	return flow.UpdateAccess{Request: taskmanager.UpdateAccess{InstanceID: "i1", Access: taskmanager.Access{IsPublic: public, AllowedCIDRs: cidrs}}}
}

// ask is a killCase's begin.
func ask(kind string, state any) func(context.Context, *world, *work.Engine) error {
	return func(ctx context.Context, _ *world, e *work.Engine) error { return accept(ctx, e, kind, "m2", state) }
}

const (
	made    = "flavor 1 , volume 2, detached false, public false, open to [{3306 3306 [0.0.0.0/0]}]"
	madeRow = "flavor 1, volume 2, access <nil>"
	serving = "mounted true, file system 2, flavor 1"
)

// well: the instance runs, nobody works on it, nothing was left.
func (e end) well(t *testing.T, machine, agent, row string) {
	t.Helper()
	if e.Task != trove.TaskNone || e.Service != trove.ServiceHealthy || e.Server != trove.ServerActive || e.Stopped {
		t.Errorf("it does not serve: %+v", e)
	}
	if e.Machine != machine || e.Agent != agent || e.Row != row {
		t.Errorf("it is\n%s\n%s\n%s\nwant\n%s\n%s\n%s", e.Machine, e.Agent, e.Row, machine, agent, row)
	}
}

func (e end) failed(t *testing.T, cause string) {
	t.Helper()
	if !strings.Contains(e.Fault, cause) || !slices.ContainsFunc(e.Operations, func(o string) bool { return strings.Contains(o, "failed") }) {
		t.Errorf("the fault is %q, of the operations %q; want %q", e.Fault, e.Operations, cause)
	}
}

func changes() map[string]killCase {
	const larger = "flavor 2 , volume 2, detached false, public false, open to [{3306 3306 [0.0.0.0/0]}]"
	const grown = "flavor 1 , volume 5, detached false, public false, open to [{3306 3306 [0.0.0.0/0]}]"
	flavor := func(set func(w *world)) func(w *world) {
		return func(w *world) {
			w.asked(trove.TaskResizing, trove.QuotaDelta{trove.ResourceRAM: 512})
			if set != nil {
				set(w)
			}
		}
	}
	volume := func(set func(w *world)) func(w *world) {
		return func(w *world) {
			w.asked(trove.TaskResizing, trove.QuotaDelta{trove.ResourceVolumes: 3})
			if set != nil {
				set(w)
			}
		}
	}
	unchanged := func(t *testing.T, e end, cause string) {
		t.Helper()
		e.well(t, made, serving, madeRow)
		e.failed(t, cause)
		if e.RAM != 512 || e.Volumes != 2 {
			t.Errorf("it costs %d MiB and %d GiB", e.RAM, e.Volumes)
		}
	}
	return map[string]killCase{
		"resize flavor": {works: 2, set: flavor(nil), begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check: func(t *testing.T, e end) {
				e.well(t, larger, "mounted true, file system 2, flavor 2", "flavor 2, volume 2, access <nil>")
				if e.RAM != 1024 || e.Made["resize i1"] != 1 || e.Restarts != 1 || e.Fault != "" {
					t.Errorf("the end of a resize: %+v", e)
				}
			}},
		"resize flavor to less": {works: 2, set: func(w *world) { w.asked(trove.TaskResizing, nil) }, begin: ask(flow.KindResizeFlavor, toFlavor("0", 256)),
			check: func(t *testing.T, e end) {
				if e.RAM != 256 || e.Fault != "" {
					t.Errorf("the end of a resize: %+v", e)
				}
			}},
		// Of agents that share a login nobody knows whether they are ours.
		"resize flavor of an agent of the original's": {works: 2, set: func(w *world) {
			w.shared = true
			w.asked(trove.TaskResizing, trove.QuotaDelta{trove.ResourceRAM: 512})
		}, begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check: func(t *testing.T, e end) {
				e.well(t, larger, serving, "flavor 2, volume 2, access <nil>")
				if e.RAM != 1024 || e.Restarts != 1 || e.Fault != "" {
					t.Errorf("the end of a resize: %+v", e)
				}
			}},
		"resize flavor without room": {works: 2, set: flavor(func(w *world) { w.noFlavor = true }), begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			// Killed before it has written down that it asked, it asks again.
			forget: func(e end) end { delete(e.Made, "resize i1"); return e },
			check:  func(t *testing.T, e end) { unchanged(t, e, "old flavor: The cloud did not resize the server") }},
		"resize flavor the engine cannot run with": {works: 2, set: flavor(func(w *world) { w.agents["i1"].refuses = "2" }),
			begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check: func(t *testing.T, e end) { unchanged(t, e, "old flavor: cannot allocate memory") }},
		"resize flavor that cannot be confirmed": {works: 2, set: flavor(func(w *world) {
			w.faults["ConfirmResize"] = &fault{times: 99, err: errors.New("nova is confused")}
		}), begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check:  func(t *testing.T, e end) { unchanged(t, e, "nova is confused") },
			forget: func(e end) end { e.Restarts = 0; return e }},
		"resize flavor that an operator reverts": {works: 2, set: flavor(func(w *world) { w.reverted = "1" }),
			begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check: func(t *testing.T, e end) { unchanged(t, e, "old flavor: The resize was taken back in the cloud") }},
		"resize flavor that ends in a third": {works: 2, set: flavor(func(w *world) { w.reverted = "3" }),
			begin: ask(flow.KindResizeFlavor, toFlavor("2", 1024)),
			check: func(t *testing.T, e end) {
				e.well(t, strings.Replace(larger, "flavor 2", "flavor 3", 1), "mounted true, file system 2, flavor 3", "flavor 3, volume 2, access <nil>")
				e.failed(t, "has flavor 3: The resize was taken back in the cloud")
				if e.RAM != 768 {
					t.Errorf("it costs %d MiB", e.RAM)
				}
			}},
		"resize volume": {works: 2, set: volume(nil), begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				e.well(t, grown, "mounted true, file system 5, flavor 1", "flavor 1, volume 5, access <nil>")
				if e.Volumes != 5 || e.Made["growth i1"] != 1 || e.Restarts != 0 || e.Fault != "" {
					t.Errorf("the end of a resize: %+v", e)
				}
			}},
		"resize volume offline": {works: 2, set: volume(func(w *world) { w.offline = true }), begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				e.well(t, grown, "mounted true, file system 5, flavor 1", "flavor 1, volume 5, access <nil>")
				if e.Volumes != 5 || e.Made["growth i1"] != 1 || e.Restarts != 1 || e.Fault != "" {
					t.Errorf("the end of a resize: %+v", e)
				}
			}},
		"resize volume that the driver refuses": {works: 2, set: volume(func(w *world) { w.refused = true }), begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				e.well(t, grown, "mounted true, file system 5, flavor 1", "flavor 1, volume 5, access <nil>")
			}},
		"resize volume that has failed before": {works: 2, set: volume(func(w *world) { w.volume = "error_extending" }),
			begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				if e.Restarts != 0 {
					t.Error("the database was stopped for nothing")
				}
				unchanged(t, e, "error_extending")
			}},
		"resize volume that is not attached again": {works: 2, set: volume(func(w *world) {
			w.offline = true
			w.faults["StartGrow"] = &fault{times: 99, err: trove.Errorf(trove.KindOverLimit, "no room in the pool")}
			w.faults["AttachVolume"] = &fault{times: 2, err: trove.Errorf(trove.KindUnavailable, "not now")}
		}), begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				if strings.Contains(e.Fault, "not resized: no room in the pool") {
					unchanged(t, e, "no room in the pool")
					return
				}
				t.Errorf("the fault is %q", e.Fault)
			},
			forget: func(e end) end { e.Restarts = 0; return e }},
		"resize volume whose file system does not grow": {works: 2, set: volume(func(w *world) {
			w.faults["ResizeFS"] = &fault{times: 99, err: trove.Errorf(trove.KindGuest, "bad magic number")}
		}), begin: ask(flow.KindResizeVolume, toSize(5)),
			check: func(t *testing.T, e end) {
				e.well(t, grown, serving, "flavor 1, volume 5, access <nil>")
				e.failed(t, "has grown, but its file system may not have: bad magic number")
				if e.Volumes != 5 {
					t.Errorf("it costs %d GiB", e.Volumes)
				}
			}},
		"access": {works: 2, set: func(w *world) { w.asked(trove.TaskUpdating, nil) }, begin: ask(flow.KindUpdateAccess, toAccess(true, "192.0.2.0/24")),
			check: func(t *testing.T, e end) {
				e.well(t, "flavor 1 , volume 2, detached false, public true, open to [{3306 3306 [192.0.2.0/24]}]", serving,
					"flavor 1, volume 2, access &{IsPublic:true AllowedCIDRs:[192.0.2.0/24]}")
				if len(e.Addresses) != 2 || e.Fault != "" {
					t.Errorf("the end of a change of access: %+v", e)
				}
			}},
		"access that the cloud refuses": {works: 2, set: func(w *world) {
			w.asked(trove.TaskUpdating, nil)
			w.faults["EnsurePublic"] = &fault{times: 1, err: trove.Errorf(trove.KindBadRequest, "there is no external network")}
		}, begin: ask(flow.KindUpdateAccess, toAccess(true, "192.0.2.0/24")),
			check: func(t *testing.T, e end) {
				if strings.Contains(e.Fault, "no external network") {
					unchanged(t, e, "not changed: there is no external network")
				}
			},
			// Of the call that fails once, a kill may be all that is seen.
			forget: func(end) end { return end{} }},
	}
}

func TestChangesKilledEverywhere(t *testing.T) {
	t.Parallel()
	killedIn(t, 0, everyNth(5), changes())
}

func TestChangesKilledBesideAnother(t *testing.T) {
	t.Parallel()
	cases := changes()
	maps.DeleteFunc(cases, func(name string, _ killCase) bool {
		return !slices.Contains([]string{"resize flavor", "resize volume offline", "access"}, name)
	})
	killedIn(t, 500*time.Millisecond, worktest.Beside, cases)
}

// A deletion comes in the middle of each change, at any call to the cloud or
// the agent.
func TestDeletedDuringAChange(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind  string
		task  trove.Task
		state any
		at    []string
	}{
		"flavor": {flow.KindResizeFlavor, trove.TaskResizing, toFlavor("2", 1024), []string{"StopDB", "StartResize", "StartDB", "ConfirmResize"}},
		"volume": {flow.KindResizeVolume, trove.TaskResizing, toSize(5), []string{"StartGrow", "StopDB", "UnmountVolume", "DetachVolume", "AttachVolume", "ResizeFS", "MountVolume"}},
		"access": {flow.KindUpdateAccess, trove.TaskUpdating, toAccess(true), []string{"EnsureSecurityGroup", "EnsurePublic"}},
	} {
		for _, at := range tc.at {
			t.Run(name+" at "+at, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.instance("i1")
				w.offline = true
				w.asked(tc.task, trove.QuotaDelta{trove.ResourceRAM: 512, trove.ResourceVolumes: 3})
				// The call keeps failing, so that the deletion comes in its middle.
				w.faults[at] = &fault{times: 1 << 30, late: true, err: trove.Errorf(trove.KindUnavailable, "the answer is lost")}
				w.calls = nil
				e := w.run(nil)
				if err := accept(t.Context(), e, tc.kind, "m2", tc.state); err != nil {
					t.Fatal(err)
				}
				w.called(at, 2)
				if err := w.store.BeginDelete(t.Context(), "i1", nil); err != nil {
					t.Fatal(err)
				}
				if err := accept(t.Context(), e, flow.KindDelete, "m3", flow.Delete{}); err != nil {
					t.Fatal(err)
				}
				if op := w.operation("i1"); op.State != trove.OperationDone || op.Kind != flow.KindDelete {
					t.Fatalf("operation: %+v", op)
				}
				got, err := w.end(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !got.Deleted || len(got.Left) != 0 || got.RAM != 0 || got.Volumes != 0 || got.Quota != 0 {
					t.Errorf("the end: %+v", got)
				}
			})
		}
	}
}
