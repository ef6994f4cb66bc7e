// Package cloudtest is the suite that every cloud.Cloud passes: what is ensured
// twice is there once, what is deleted twice is gone once, and a delete at any
// point leaves nothing.
//
// It knows the interface only; what a cloud may leave behind its Harness tells.
package cloudtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// Harness is a cloud to be tested.
type Harness struct {
	Cloud cloud.Cloud
	// Manager of the instances to be made.
	Manager string
	// Project of the instances, ImageID and NICs of their servers, where the cloud
	// asks for them.
	Project string
	ImageID string
	NICs    []trove.NIC
	// Pause between two questions for what takes time; 50 ms.
	Pause time.Duration
	// Limit of each test; 2 min. Few is how many instances are made at once; 6.
	Limit time.Duration
	Few   int
	// Inert: servers run no system, which would let go of a volume.
	Inert bool
	// Unguarded: there are no security groups and nothing is more public than
	// the rest, as on one machine.
	Unguarded bool
	// Left lists what the cloud still holds for an instance, for people to read.
	Left func(t *testing.T, o cloud.Owner) []string

	// made are the instances of a test, to be deleted if it fails.
	made *owners
}

type owners struct {
	mu  sync.Mutex
	all []cloud.Owner
}

const limit = 120 * time.Second

// Run runs the suite. open makes a cloud of its own for each test.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context, h Harness)
	}{
		{"Flavors", flavors},
		{"NetworkThatIsNot", noNetwork},
		{"NothingIsFound", nothing},
		{"EnsureTwiceIsOnce", twice},
		{"DeleteAtAnyPoint", deleteAnywhere},
		{"MadeAgainAfterADelete", again},
		{"InParallel", parallel},
		{"EndedContext", endedContext},
		{"Resize", resize},
		{"Grow", grow},
		{"Access", access},
		{"Inspect", inspect},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := open(t)
			if h.Limit == 0 {
				h.Limit = limit
			}
			h.made = &owners{}
			ctx, cancel := context.WithTimeout(t.Context(), h.Limit)
			defer cancel()
			defer h.cleanUp(t)
			test.run(t, ctx, h)
		})
	}
}

// owner makes an instance that nobody has.
func (h Harness) owner() cloud.Owner {
	project := h.Project
	if project == "" {
		project = "p"
	}
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	o := cloud.Owner{InstanceID: fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]),
		ProjectID: project, UserID: "u", Name: "test", Manager: h.Manager}
	h.made.mu.Lock()
	defer h.made.mu.Unlock()
	h.made.all = append(h.made.all, o)
	return o
}

// cleanUp leaves nothing behind after a test that failed: a cloud may be real.
func (h Harness) cleanUp(t *testing.T) {
	if !t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), h.Limit)
	defer cancel()
	for _, o := range h.made.all {
		if err := h.destroy(ctx, o); err != nil {
			t.Logf("instance %s is left behind: %v", o.InstanceID, err)
		}
	}
}

// steps of making an instance, in order.
const (
	stepGroup = iota
	stepPorts
	stepVolume
	stepServer
	steps
)

// build makes the instance up to a step, not including it.
func (h Harness) build(ctx context.Context, o cloud.Owner, upTo int) (s cloud.ServerSpec, srv cloud.Server, err error) {
	all, err := h.Cloud.Flavors(ctx)
	if err != nil {
		return s, srv, err
	}
	s = cloud.ServerSpec{Owner: o, Flavor: all[0], ImageID: h.ImageID, Files: map[string][]byte{"/etc/trove/conf.d/guest_info.conf": []byte("[DEFAULT]\nguest_id = " + o.InstanceID + "\n")}}
	if upTo > stepGroup {
		err = h.Cloud.EnsureSecurityGroup(ctx, o, []cloud.Rule{{FirstPort: 3306, LastPort: 3306, CIDRs: []string{"0.0.0.0/0"}}})
	}
	if upTo > stepPorts && err == nil {
		s.Ports, err = h.Cloud.EnsurePorts(ctx, o, h.NICs, trove.Access{})
	}
	for upTo > stepVolume && err == nil && !s.Volume.Ready {
		s.Volume, err = h.Cloud.EnsureVolume(ctx, o, 1, "")
		err = errors.Join(err, h.pause(ctx, s.Volume.Ready))
	}
	for upTo > stepServer && err == nil && srv.Status != trove.ServerActive {
		srv, err = h.Cloud.EnsureServer(ctx, s)
		if srv.Status == trove.ServerError {
			return s, srv, errors.New(srv.Fault)
		}
		err = errors.Join(err, h.pause(ctx, srv.Status == trove.ServerActive))
	}
	return s, srv, err
}

// pause waits a moment between two questions, unless done.
func (h Harness) pause(ctx context.Context, done bool) error {
	if done {
		return nil
	}
	wait := h.Pause
	if wait == 0 {
		wait = 50 * time.Millisecond
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// destroy deletes everything, in the order flows do.
func (h Harness) destroy(ctx context.Context, o cloud.Owner) error {
	for _, del := range []func(context.Context, cloud.Owner) (bool, error){h.Cloud.DeleteServer, h.Cloud.DeleteVolume} {
		for gone := false; !gone; {
			var err error
			if gone, err = del(ctx, o); err != nil {
				return err
			}
			if err := h.pause(ctx, gone); err != nil {
				return err
			}
		}
	}
	return errors.Join(h.Cloud.DeletePorts(ctx, o), h.Cloud.DeleteSecurityGroup(ctx, o))
}

func (h Harness) mustBuild(t *testing.T, ctx context.Context, o cloud.Owner) (cloud.ServerSpec, cloud.Server) {
	t.Helper()
	s, srv, err := h.build(ctx, o, steps)
	if err != nil {
		t.Fatal(err)
	}
	return s, srv
}

// mustDestroy deletes everything and finds nothing left.
func (h Harness) mustDestroy(t *testing.T, ctx context.Context, o cloud.Owner) {
	t.Helper()
	if err := h.destroy(ctx, o); err != nil {
		t.Fatal(err)
	}
	if left := h.Left(t, o); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := h.Cloud.Server(ctx, o); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("Server after a delete: %v", err)
	}
	if all, err := h.Cloud.Servers(ctx); err != nil || all[o.InstanceID].ID != "" {
		t.Errorf("Servers after a delete: %v, %v", all, err)
	}
}

func flavors(t *testing.T, ctx context.Context, h Harness) {
	all, err := h.Cloud.Flavors(ctx)
	if err != nil || len(all) == 0 {
		t.Fatalf("flavors are %v, %v", all, err)
	}
	for _, f := range all {
		if got, err := h.Cloud.Flavor(ctx, f.ID); err != nil || got != f {
			t.Errorf("flavor %s is %v, %v; want %v", f.ID, got, err, f)
		}
	}
	if _, err := h.Cloud.Flavor(ctx, "no such flavor"); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("unknown flavor: %v", err)
	}
}

func noNetwork(t *testing.T, ctx context.Context, h Harness) {
	for _, nics := range [][]trove.NIC{
		{{NetworkID: "00000000-0000-4000-8000-000000000000"}},
		{{IPAddress: "203.0.113.7"}},
		{{IPAddress: "no address"}},
	} {
		if err := h.Cloud.CheckNICs(ctx, nics); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("CheckNICs(%+v): %v", nics, err)
		}
		o := h.owner()
		if _, err := h.Cloud.EnsurePorts(ctx, o, nics, trove.Access{}); err == nil && nics[0].IPAddress != "" {
			t.Errorf("EnsurePorts(%+v) made a port", nics)
		}
		h.mustDestroy(t, ctx, o)
	}
	if err := h.Cloud.CheckNICs(ctx, nil); err != nil {
		t.Errorf("CheckNICs of none: %v", err)
	}
}

func nothing(t *testing.T, ctx context.Context, h Harness) {
	o := h.owner()
	if _, err := h.Cloud.Server(ctx, o); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("Server of nobody: %v", err)
	}
	if text, err := h.Cloud.Evidence(ctx, o); err != nil && !trove.IsKind(err, trove.KindNotFound) || text != "" {
		t.Errorf("Evidence of nobody: %q, %v", text, err)
	}
	h.mustDestroy(t, ctx, o)
}

func twice(t *testing.T, ctx context.Context, h Harness) {
	o, other := h.owner(), h.owner()
	spec1, srv1 := h.mustBuild(t, ctx, o)
	spec2, srv2 := h.mustBuild(t, ctx, o)
	if d := cmp.Diff(spec1, spec2, cmpopts.IgnoreFields(cloud.Volume{}, "Attached", "Device")); d != "" {
		t.Errorf("the second time: %s", d)
	}
	if d := cmp.Diff(srv1, srv2, cmpopts.EquateApproxTime(time.Second)); d != "" {
		t.Errorf("the second time: %s", d)
	}
	if srv1.ID == "" || len(srv1.Addresses) == 0 {
		t.Errorf("server is %+v", srv1)
	}
	got, err := h.Cloud.Server(ctx, o)
	if d := cmp.Diff(srv1, got, cmpopts.EquateApproxTime(time.Second)); err != nil || d != "" {
		t.Errorf("Server: %v %s", err, d)
	}
	_, srv3 := h.mustBuild(t, ctx, other)
	if srv3.ID == srv1.ID || srv3.Addresses[0] == srv1.Addresses[0] {
		t.Errorf("two instances share a server or an address: %+v, %+v", srv1, srv3)
	}
	all, err := h.Cloud.Servers(ctx)
	if err != nil || len(all) != 2 || all[o.InstanceID].ID != srv1.ID || all[other.InstanceID].ID != srv3.ID {
		t.Errorf("servers are %v, %v", all, err)
	}
	// One goes, the other stays.
	h.mustDestroy(t, ctx, o)
	h.mustDestroy(t, ctx, o)
	if got, err := h.Cloud.Server(ctx, other); err != nil || got.Status != trove.ServerActive {
		t.Errorf("the other server: %+v, %v", got, err)
	}
	h.mustDestroy(t, ctx, other)
}

func deleteAnywhere(t *testing.T, ctx context.Context, h Harness) {
	for upTo := range steps + 1 {
		o := h.owner()
		if _, _, err := h.build(ctx, o, upTo); err != nil {
			t.Fatalf("up to step %d: %v", upTo, err)
		}
		if upTo > stepPorts {
			h.mustBeTagged(t, ctx, o, true)
		}
		h.mustDestroy(t, ctx, o)
		h.mustBeTagged(t, ctx, o, false)
	}
}

// mustBeTagged waits until something carries an instance's tag, or nothing does.
func (h Harness) mustBeTagged(t *testing.T, ctx context.Context, o cloud.Owner, want bool) {
	t.Helper()
	for {
		ids, err := h.Cloud.Tagged(ctx)
		if err != nil {
			t.Fatalf("Tagged: %v", err)
		}
		if slices.Contains(ids, o.InstanceID) == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("Tagged gives %q; %s should be there: %t", ids, o.InstanceID, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func again(t *testing.T, ctx context.Context, h Harness) {
	o := h.owner()
	for range 2 {
		h.mustBuild(t, ctx, o)
		h.mustDestroy(t, ctx, o)
	}
}

func parallel(t *testing.T, ctx context.Context, h Harness) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	addresses := map[string]string{}
	var owners []cloud.Owner
	many := h.Few
	if many == 0 {
		many = 6
	}
	for range many {
		o := h.owner()
		owners = append(owners, o)
		for range 2 { // a flow that was taken over by another worker a moment too early
			wg.Go(func() {
				_, srv, err := h.build(ctx, o, steps)
				if err != nil || len(srv.Addresses) == 0 {
					t.Errorf("%s: %+v, %v", o.InstanceID, srv, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if who := addresses[srv.Addresses[0].Address]; who != "" && who != o.InstanceID {
					t.Errorf("%s and %s have address %s", who, o.InstanceID, srv.Addresses[0].Address)
				}
				addresses[srv.Addresses[0].Address] = o.InstanceID
			})
		}
	}
	wg.Wait()
	if len(addresses) != len(owners) {
		t.Errorf("%d instances have the addresses %v", len(owners), addresses)
	}
	for _, o := range owners {
		for range 2 {
			wg.Go(func() {
				if err := h.destroy(ctx, o); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, o := range owners {
		h.mustDestroy(t, ctx, o)
	}
}

// Cut off anywhere, what was begun can be finished or taken back.
func endedContext(t *testing.T, ctx context.Context, h Harness) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		o := h.owner()
		cut, cancel := context.WithTimeout(ctx, after)
		_, _, _ = h.build(cut, o, steps)
		cancel()
		h.mustBuild(t, ctx, o)
		cut, cancel = context.WithTimeout(ctx, after)
		_ = h.destroy(cut, o)
		cancel()
		h.mustDestroy(t, ctx, o)
	}
}
