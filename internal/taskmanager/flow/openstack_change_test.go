package flow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

func inRegionRequest() flow.Create {
	r := request("i1")
	r.ImageID, r.NICs = openstacktest.Image, []taskmanager.NIC{{NetworkID: openstacktest.UserNetwork}}
	return flow.NewCreate(r)
}

// changed is what an OpenStack and the row say of a changed instance.
func changed(ctx context.Context, w *world, f *openstacktest.Cloud) (string, error) {
	inst, err := w.store.Instance(ctx, "i1")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "row: flavor %s, %d GiB, access %+v, task %d, %s\n", inst.FlavorID, inst.VolumeSize, inst.Access, inst.Task, inst.Service.Description)
	for _, s := range f.All("servers") {
		flavor, _ := s["flavor"].(map[string]any)
		fmt.Fprintf(&b, "server: %v, flavor %v\n", s["status"], flavor["id"])
	}
	for _, v := range f.All("volumes") {
		fmt.Fprintf(&b, "volume: %v, %v GiB\n", v["status"], v["size"])
	}
	var open []string
	for _, r := range f.All("security-group-rules") {
		if r["direction"] == "ingress" {
			open = append(open, fmt.Sprint(r["remote_ip_prefix"], " ", r["port_range_min"]))
		}
	}
	slices.Sort(open)
	fmt.Fprintf(&b, "open: %q\nfloating IPs: %d\n", open, len(f.All("floatingips")))
	return b.String(), nil
}

// TestChangedInOpenStack kills task managers around every call that changes
// something while an instance is resized, or others are to reach it.
func TestChangedInOpenStack(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		task  trove.Task
		kind  string
		state any
		set   func(f *openstacktest.Cloud)
		want  []string
	}{
		"flavor": {trove.TaskResizing, flow.KindResizeFlavor, toFlavor("2", 1024), nil,
			[]string{"row: flavor 2, 2 GiB", "task 1, healthy", "server: ACTIVE, flavor 2\n"}},
		"flavor without room": {trove.TaskResizing, flow.KindResizeFlavor, toFlavor("2", 1024), func(f *openstacktest.Cloud) { f.Full = true },
			[]string{"row: flavor 1, 2 GiB", "task 1, healthy", "server: ACTIVE, flavor 1\n"}},
		"volume": {trove.TaskResizing, flow.KindResizeVolume, toSize(5), nil,
			[]string{"row: flavor 1, 5 GiB", "task 1, healthy", "volume: in-use, 5 GiB\n"}},
		"volume of an old Cinder": {trove.TaskResizing, flow.KindResizeVolume, toSize(5), func(f *openstacktest.Cloud) { f.CinderMax = "3.27" },
			[]string{"row: flavor 1, 5 GiB", "task 1, healthy", "volume: in-use, 5 GiB\n"}},
		"access": {trove.TaskUpdating, flow.KindUpdateAccess, toAccess(true, "192.0.2.0/24"), nil,
			[]string{"AllowedCIDRs:[192.0.2.0/24]", `"192.0.2.0/24 3306"`, "floating IPs: 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			worktest.EveryNth(t, 7, func(t *testing.T) worktest.World {
				w := newWorld(t)
				w.instance("i1")
				f := inRegion(t, w)
				if tc.set != nil {
					tc.set(f)
				}
				w.made = map[string]int{}
				w.built(inRegionRequest())
				if err := w.store.BeginTask(t.Context(), "i1", store.TaskChange{Task: tc.task}); err != nil {
					t.Fatal(err)
				}
				return worktest.World{
					Engine: func(g *worktest.Gate) (*work.Engine, error) { return w.engine(g, nil) },
					Begin:  func(ctx context.Context, e *work.Engine) error { return accept(ctx, e, tc.kind, "m2", tc.state) },
					Ended:  w.ended(2),
					Result: func(ctx context.Context) (any, error) {
						got, err := changed(ctx, w, f)
						for _, want := range tc.want {
							if !strings.Contains(got, want) {
								t.Errorf("it is not %q:\n%s", want, got)
							}
						}
						if n := f.Made("servers"); n != 1 {
							t.Errorf("%d servers were made", n)
						}
						return got, err
					},
				}
			})
		})
	}
}

// TestHopsInOpenStack breaks what is between a request and a database in an
// OpenStack; the fault names it.
func TestHopsInOpenStack(t *testing.T) {
	t.Parallel()
	said := func(l guest.BootLine) string { return "Linux version 6.1\n" + l.String() + "\n" }
	for name, tc := range map[string]struct {
		set func(w *world, f *openstacktest.Cloud)
		hop string
	}{
		"no port":   {func(_ *world, f *openstacktest.Cloud) { f.Quota = map[string]int{"port": 0} }, "No port: "},
		"no volume": {func(_ *world, f *openstacktest.Cloud) { f.Break = func(kind string) bool { return kind == "volume" } }, "No volume: "},
		"no server": {func(_ *world, f *openstacktest.Cloud) { f.Quota = map[string]int{"instances": 0} }, "No server: "},
		"server failed": {func(_ *world, f *openstacktest.Cloud) { f.Break = func(kind string) bool { return kind == "server" } },
			"Server failed: "},
		"image without the agent": {func(_ *world, f *openstacktest.Cloud) { f.Console = "host login:" }, "Image lacks the agent: "},
		"silent console":          {func(_ *world, f *openstacktest.Cloud) { f.Console = "" }, "Agent not started: "},
		"broker unreachable": {func(_ *world, f *openstacktest.Cloud) {
			f.Console = said(guest.BootLine{Stage: guest.BootBroker, Failed: true, Detail: "i/o timeout"})
		}, "Broker unreachable: "},
		"login refused": {func(_ *world, f *openstacktest.Cloud) {
			f.Console = said(guest.BootLine{Stage: guest.BootLogin, Failed: true, Detail: "not allowed"})
		}, "Login refused: "},
		"container failed": {func(w *world, f *openstacktest.Cloud) {
			w.mute, w.ahead, w.ends = false, 0, trove.ServiceFailed
			f.Console = said(guest.BootLine{Stage: guest.BootImage, Failed: true, Detail: "manifest unknown"})
		}, "Container failed: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.instance("i1")
			f := inRegion(t, w)
			w.mute, w.ahead = true, 31*time.Minute
			tc.set(w, f)
			e := w.run(nil)
			if err := accept(t.Context(), e, flow.KindCreate, "m1", inRegionRequest()); err != nil {
				t.Fatal(err)
			}
			op, inst := w.operation("i1"), w.get("i1")
			if !strings.HasPrefix(op.Cause, tc.hop) || inst.Fault == nil || !strings.HasPrefix(inst.Fault.Message, tc.hop) {
				t.Errorf("operation: %s; fault: %+v; want %q", op.Cause, inst.Fault, tc.hop)
			}
			if left := f.Left("i1"); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
