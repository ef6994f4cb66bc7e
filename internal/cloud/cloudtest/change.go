package cloudtest

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// await looks at the server until ok says that it has seen enough.
func (h Harness) await(t *testing.T, ctx context.Context, o cloud.Owner, what string, ok func(cloud.Server) bool) cloud.Server {
	t.Helper()
	for {
		s, err := h.Cloud.Server(ctx, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok(s) {
			return s
		}
		if s.Status == trove.ServerError {
			t.Fatalf("%s: the server failed: %s", what, s.Fault)
		}
		if err := h.pause(ctx, false); err != nil {
			t.Fatalf("%s: not within %s; it is %+v", what, h.Limit, s)
		}
	}
}

// until asks until it is done.
func (h Harness) until(t *testing.T, ctx context.Context, what string, ask func() (bool, error)) {
	t.Helper()
	for done := false; !done; {
		var err error
		if done, err = ask(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := h.pause(ctx, done); err != nil {
			t.Fatalf("%s: not within %s", what, h.Limit)
		}
	}
}

// twoFlavors are that of a server that build made, and another.
func (h Harness) twoFlavors(t *testing.T, ctx context.Context) (was, other trove.Flavor) {
	t.Helper()
	all, err := h.Cloud.Flavors(ctx)
	if err != nil || len(all) < 2 {
		t.Fatalf("flavors are %v, %v; the suite needs two", all, err)
	}
	return all[0], all[1]
}

// startResize asks twice, as a flow does that was killed over the first time,
// and waits until the server is there.
func (h Harness) startResize(t *testing.T, ctx context.Context, o cloud.Owner, f trove.Flavor) {
	t.Helper()
	for range 2 {
		if err := h.Cloud.StartResize(ctx, o, f); err != nil {
			t.Fatalf("StartResize: %v", err)
		}
	}
	s := h.await(t, ctx, o, "resize", func(s cloud.Server) bool { return s.Status == trove.ServerVerifyResize })
	if s.FlavorID != f.ID {
		t.Errorf("a resized server has flavor %q, want %q", s.FlavorID, f.ID)
	}
	if err := h.Cloud.StartResize(ctx, o, f); err != nil {
		t.Errorf("StartResize of what is resized: %v", err)
	}
}

func resize(t *testing.T, ctx context.Context, h Harness) {
	was, other := h.twoFlavors(t, ctx)
	o := h.owner()
	if err := h.Cloud.StartResize(ctx, o, other); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("StartResize of nothing: %v", err)
	}
	_, made := h.mustBuild(t, ctx, o)
	if made.FlavorID != was.ID {
		t.Errorf("a new server has flavor %q, want %q", made.FlavorID, was.ID)
	}
	active := func(s cloud.Server) bool { return s.Status == trove.ServerActive }
	// What is in no resize is out of it.
	for name, ask := range map[string]func(context.Context, cloud.Owner) (bool, error){"confirm": h.Cloud.ConfirmResize, "revert": h.Cloud.RevertResize} {
		if done, err := ask(ctx, o); err != nil || !done {
			t.Errorf("%s of no resize: %v, %v", name, done, err)
		}
	}
	if err := h.Cloud.StartResize(ctx, o, was); err != nil {
		t.Errorf("StartResize to the same flavor: %v", err)
	}
	if s := h.await(t, ctx, o, "nothing", active); s.FlavorID != was.ID {
		t.Errorf("it has flavor %q", s.FlavorID)
	}

	h.startResize(t, ctx, o, other)
	if err := h.Cloud.StartResize(ctx, o, was); !trove.IsKind(err, trove.KindConflict) {
		t.Errorf("StartResize to a third flavor: %v", err)
	}
	for range 2 {
		h.until(t, ctx, "revert", func() (bool, error) { return h.Cloud.RevertResize(ctx, o) })
		if s := h.await(t, ctx, o, "revert", active); s.FlavorID != was.ID || s.ID != made.ID {
			t.Errorf("after a revert it is %+v", s)
		}
	}
	h.startResize(t, ctx, o, other)
	for range 2 {
		h.until(t, ctx, "confirm", func() (bool, error) { return h.Cloud.ConfirmResize(ctx, o) })
		s := h.await(t, ctx, o, "confirm", active)
		if s.FlavorID != other.ID || s.ID != made.ID {
			t.Errorf("after a resize it is %+v", s)
		}
		if d := cmp.Diff(made.Addresses, s.Addresses); d != "" {
			t.Errorf("its addresses changed: %s", d)
		}
	}
	if done, err := h.Cloud.RevertResize(ctx, o); err != nil || !done {
		t.Errorf("revert of what is confirmed: %v, %v", done, err)
	}
	if s, err := h.Cloud.Server(ctx, o); err != nil || s.FlavorID != other.ID {
		t.Errorf("it is %+v, %v", s, err)
	}
	h.mustDestroy(t, ctx, o)

	// Deleted in the middle.
	_, _ = h.mustBuild(t, ctx, o)
	h.startResize(t, ctx, o, other)
	h.mustDestroy(t, ctx, o)
}

func grow(t *testing.T, ctx context.Context, h Harness) {
	o := h.owner()
	if _, err := h.Cloud.Volume(ctx, o); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("Volume of nobody: %v", err)
	}
	if err := h.Cloud.StartGrow(ctx, o, 2); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("StartGrow of nothing: %v", err)
	}
	spec, _ := h.mustBuild(t, ctx, o)
	look := func(what string, ok func(cloud.Volume) bool) (v cloud.Volume) {
		t.Helper()
		h.until(t, ctx, what, func() (_ bool, err error) {
			v, err = h.Cloud.Volume(ctx, o)
			if v.Fault != "" {
				t.Fatalf("%s: the volume failed: %s", what, v.Fault)
			}
			return v.Ready && ok(v), err
		})
		return v
	}
	if v := look("made", func(v cloud.Volume) bool { return v.Attached }); v.ID != spec.Volume.ID || v.Size != 1 {
		t.Errorf("the volume is %+v, want %+v", v, spec.Volume)
	}
	size := func(gib int) func(cloud.Volume) bool {
		return func(v cloud.Volume) bool { return v.Attached && v.Size == gib }
	}
	// Online where the cloud can, else detached; twice each, and never smaller.
	err := h.Cloud.StartGrow(ctx, o, 2)
	if err != nil && !trove.IsKind(err, trove.KindConflict) {
		t.Fatalf("StartGrow: %v", err)
	}
	if err == nil {
		look("grown online", size(2))
	}
	if h.Inert {
		h.mustDestroy(t, ctx, o)
		return
	}
	for range 2 {
		h.until(t, ctx, "detach", func() (bool, error) { return h.Cloud.DetachVolume(ctx, o) })
	}
	for range 2 {
		if err := h.Cloud.StartGrow(ctx, o, 3); err != nil {
			t.Fatalf("StartGrow: %v", err)
		}
		look("grown", func(v cloud.Volume) bool { return v.Size == 3 })
	}
	for range 2 {
		h.until(t, ctx, "attach", func() (bool, error) { return h.Cloud.AttachVolume(ctx, o) })
	}
	look("attached again", size(3))
	if err := h.Cloud.StartGrow(ctx, o, 2); err != nil {
		t.Errorf("StartGrow to what it is more than: %v", err)
	}
	if v := look("not smaller", size(3)); v.ID != spec.Volume.ID {
		t.Errorf("the volume is %+v", v)
	}
	h.mustDestroy(t, ctx, o)

	// Deleted while it is detached.
	h.mustBuild(t, ctx, o)
	h.until(t, ctx, "detach", func() (bool, error) { return h.Cloud.DetachVolume(ctx, o) })
	h.mustDestroy(t, ctx, o)
}

// What is open, and to whom, is what was asked for last.
func access(t *testing.T, ctx context.Context, h Harness) {
	o := h.owner()
	_, srv := h.mustBuild(t, ctx, o)
	for _, cidrs := range [][]string{{"0.0.0.0/0"}, {"192.0.2.0/24", "198.51.100.7/32"}, {"198.51.100.7/32"}} {
		for range 2 {
			if err := h.Cloud.EnsureSecurityGroup(ctx, o, []cloud.Rule{{FirstPort: 3306, LastPort: 3306, CIDRs: cidrs}}); err != nil {
				t.Fatalf("EnsureSecurityGroup %v: %v", cidrs, err)
			}
		}
		v, err := h.Cloud.Inspect(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		if !h.Unguarded {
			var open []string
			for _, r := range v.Open {
				if r.FirstPort != 3306 || r.LastPort != 3306 {
					t.Errorf("ports %d to %d are open", r.FirstPort, r.LastPort)
				}
				open = append(open, r.CIDRs...)
			}
			slices.Sort(open)
			if d := cmp.Diff(cidrs, open); d != "" {
				t.Errorf("open to: %s", d)
			}
		}
	}
	for _, public := range []bool{false, true, true, false, false} {
		addresses, err := h.Cloud.EnsurePublic(ctx, o, public)
		if public && trove.IsKind(err, trove.KindBadRequest) {
			continue // a cloud without a way out
		}
		if err != nil {
			t.Fatalf("EnsurePublic(%v): %v", public, err)
		}
		is := slices.ContainsFunc(addresses, func(a trove.Address) bool { return a.Type == trove.AddressPublic })
		if is != (public && !h.Unguarded) {
			t.Errorf("EnsurePublic(%v) gives %+v", public, addresses)
		}
		for _, a := range srv.Addresses {
			if !slices.Contains(addresses, a) {
				t.Errorf("EnsurePublic(%v) took %+v away: %+v", public, a, addresses)
			}
		}
	}
	h.mustDestroy(t, ctx, o)

	// A floating IP goes with its instance.
	h.mustBuild(t, ctx, o)
	if _, err := h.Cloud.EnsurePublic(ctx, o, true); err != nil && !trove.IsKind(err, trove.KindBadRequest) {
		t.Error(err)
	}
	h.mustDestroy(t, ctx, o)
}

// Each part that is made shows.
func inspect(t *testing.T, ctx context.Context, h Harness) {
	for upTo := range steps + 1 {
		o := h.owner()
		if _, _, err := h.build(ctx, o, upTo); err != nil {
			t.Fatalf("up to step %d: %v", upTo, err)
		}
		v, err := h.Cloud.Inspect(ctx, o)
		if err != nil {
			t.Errorf("up to step %d: %v", upTo, err)
		}
		if is := v.Group; is != (upTo > stepGroup || h.Unguarded) {
			t.Errorf("up to step %d there is a security group: %v", upTo, is)
		}
		if is := len(v.Ports) > 0; is != (upTo > stepPorts) {
			t.Errorf("up to step %d there are the ports %+v", upTo, v.Ports)
		}
		if is := v.Volume != nil; is != (upTo > stepVolume) {
			t.Errorf("up to step %d there is the volume %+v", upTo, v.Volume)
		}
		if is := v.Server != nil; is != (upTo > stepServer) {
			t.Errorf("up to step %d there is the server %+v", upTo, v.Server)
		}
		for _, p := range v.Ports {
			if p.ID == "" || len(p.Addresses) == 0 || p.Status == "" || !p.Groups && !p.Management {
				t.Errorf("up to step %d a port is %+v", upTo, p)
			}
		}
		h.mustDestroy(t, ctx, o)
	}
}
