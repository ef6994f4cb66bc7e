package openstack_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/trove"
)

// polls are the lists that all who wait share.
var polls = []string{"GET compute/servers/detail", "GET volume/volumes/detail?status"}

// counted gives the calls since the last time, and how many there were beside
// polls.
func counted(f *openstacktest.Cloud) (all map[string]int, sum int) {
	all = f.Calls()
	f.ResetCalls()
	for call, n := range all {
		if !slices.Contains(polls, call) {
			sum += n
		}
	}
	return all, sum
}

// What one instance costs a cloud in calls: stated in docs/operator/openstack-options.md,
// and not to be exceeded. Beside them there is one list a second, which all that
// wait share.
func TestCallsPerInstance(t *testing.T) {
	f := openstacktest.New(t)
	f.Delay = 30 * time.Millisecond
	o := options(f)
	o.ListEvery = 200 * time.Millisecond // the first look after a change sees its end
	c, ctx := open(t, o), patience(t)
	if _, err := c.Flavors(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := build(ctx, c, cloud.Owner{InstanceID: "first", ProjectID: openstacktest.Tenant, Name: "first"}, trove.Access{IsPublic: true}); err != nil {
		t.Fatal(err) // networks are known from now on
	}
	counted(f)
	for _, test := range []struct {
		name   string
		access trove.Access
		most   int
		undo   int
	}{
		// Group: look, make, look again, rules. Ports: look, group, two made, look
		// again. Volume: look, make, look again, and when it is ready. Image; server:
		// look, make, look again.
		// Then server: look, delete, look again; volume the same; ports: look, floating
		// IPs, two deleted, floating IPs that lost theirs; group: look, delete.
		{"private", trove.Access{}, 17, 13},
		// And a floating IP: look, make; delete.
		{"public", trove.Access{IsPublic: true}, 19, 14},
	} {
		t.Run(test.name, func(t *testing.T) {
			who := ann()
			if _, _, err := build(ctx, c, who, test.access); err != nil {
				t.Fatal(err)
			}
			all, sum := counted(f)
			t.Logf("a creation: %d calls: %v", sum, all)
			if sum > test.most {
				t.Errorf("a creation makes %d calls, not %d at most: %s", sum, test.most, lines(all))
			}
			if err := destroy(ctx, c, who); err != nil {
				t.Fatal(err)
			}
			all, sum = counted(f)
			t.Logf("a deletion: %d calls: %v", sum, all)
			if sum > test.undo {
				t.Errorf("a deletion makes %d calls, not %d at most: %s", sum, test.undo, lines(all))
			}
		})
	}
}

func lines(all map[string]int) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "\n%3d %s", all[k], k)
	}
	return b.String()
}

// However many wait, and however often they ask, there is one list for all, once
// in a while.
func TestOneListForAllWhoWait(t *testing.T) {
	f := openstacktest.New(t)
	f.Delay = time.Hour // nothing becomes ready
	o := options(f)
	o.ListEvery = 300 * time.Millisecond
	c, ctx := open(t, o), patience(t)
	var owners []cloud.Owner
	for i := range 20 {
		who := cloud.Owner{InstanceID: fmt.Sprintf("waits-%d", i), ProjectID: openstacktest.Tenant, Name: "n"}
		owners = append(owners, who)
		if _, err := c.EnsureVolume(ctx, who, 1, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := c.EnsureServer(ctx, cloud.ServerSpec{Owner: who, Flavor: trove.Flavor{ID: "1"}, ImageID: openstacktest.Image}); err != nil {
			t.Fatal(err)
		}
	}
	counted(f)
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(1500*time.Millisecond))
	defer cancel()
	var wg sync.WaitGroup
	for _, who := range owners {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Server(ctx, who); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if _, err := c.EnsureVolume(ctx, who, 1, ""); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	most := int(time.Since(began)/o.ListEvery) + 1
	all, _ := counted(f)
	for call, n := range all {
		if n > most {
			t.Errorf("%s was called %d times within %s", call, n, time.Since(began))
		}
	}
	if all[polls[0]] == 0 || all[polls[1]] == 0 || len(all) != 2 {
		t.Errorf("calls are %s", lines(all))
	}
}

// turns uses another process for each call: what one remembers the next does not.
type turns struct {
	all  []cloud.Cloud
	next atomic.Int64
}

func (p *turns) pick() cloud.Cloud { return p.all[p.next.Add(1)%int64(len(p.all))] }

// What is there twice, since two processes made it at one time, is there once
// soon after, and all agree which.
func TestDoubles(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	p := &turns{}
	for range 4 {
		p.all = append(p.all, cloudtest.Persistent(open(t, options(f))))
	}
	ctx := patience(t)
	for round := range 5 {
		who := ann()
		who.InstanceID = fmt.Sprintf("%s%d", instance[:35], round)
		var wg sync.WaitGroup
		for range 4 {
			c := p.pick()
			wg.Go(func() { _, _, _ = build(ctx, c, who, trove.Access{IsPublic: true}) })
		}
		wg.Wait()
		// Whoever goes on makes it one.
		_, srv, err := build(ctx, p.pick(), who, trove.Access{IsPublic: true})
		if err != nil || srv.Status != trove.ServerActive {
			t.Fatalf("round %d: %+v, %v", round, srv, err)
		}
		count := map[string]int{}
		for _, kind := range []string{"servers", "ports", "volumes", "security-groups", "floatingips"} {
			for _, o := range f.All(kind) {
				if strings.Contains(fmt.Sprint(o), who.InstanceID) && o["status"] != "deleting" && o["OS-EXT-STS:task_state"] != "deleting" {
					count[kind]++
				}
			}
		}
		if d := cmp.Diff(map[string]int{"servers": 1, "ports": 2, "volumes": 1, "security-groups": 1, "floatingips": 1}, count); d != "" {
			t.Errorf("round %d: %s", round, d)
		}
		if err := destroy(ctx, p.pick(), who); err != nil || len(f.Left(who.InstanceID)) > 0 {
			t.Errorf("round %d: left %v, %v", round, f.Left(who.InstanceID), err)
		}
	}
}

// What the original made is found by its names and goes; what others call alike
// stays.
func TestWhatTheOriginalMade(t *testing.T) {
	t.Parallel()
	for _, tagged := range []string{"by id", "by name", "by port"} {
		f := openstacktest.New(t)
		c, ctx := open(t, options(f)), patience(t)
		group := f.Put("security-groups", map[string]any{"name": "trove_sg-" + instance})
		server := f.Put("servers", map[string]any{"name": "orders", "status": "ACTIVE", "created": "2025-01-01T00:00:00Z", "addresses": map[string]any{},
			"flavor": map[string]any{"id": "1", "original_name": "db.tiny"}, "metadata": map[string]string{"trove_instance_id": instance}})
		other := f.Put("servers", map[string]any{"name": "orders", "status": "ACTIVE", "created": "2025-01-01T00:00:00Z", "addresses": map[string]any{},
			"flavor": map[string]any{"id": "1", "original_name": "db.tiny"}, "metadata": map[string]string{"trove_instance_id": "another"}})
		port := f.Put("ports", map[string]any{"name": "trove-" + instance, "description": "User port for trove instance " + instance, "network_id": openstacktest.UserNetwork,
			"device_id": server, "device_owner": "compute:nova", "security_groups": []any{group}, "mac_address": "fa:16:3e:00:00:01"})
		f.Put("floatingips", map[string]any{"port_id": port, "floating_ip_address": "203.0.113.77", "project_id": openstacktest.Tenant})
		f.Put("volumes", map[string]any{"name": "trove-" + instance, "status": "available", "size": 1, "attachments": []map[string]any{}})
		theirs := f.Put("ports", map[string]any{"name": "trove-" + instance, "project_id": "somebody", "network_id": openstacktest.Stranger})
		their := f.Put("security-groups", map[string]any{"name": "trove_sg-" + instance, "project_id": "somebody"})

		who := ann()
		switch tagged {
		case "by id":
			who.ServerID, who.Name = server, "renamed"
		case "by port":
			who.Name = "renamed"
		}
		if err := destroy(ctx, cloudtest.Persistent(c), who); err != nil {
			t.Errorf("%s: %v", tagged, err)
		}
		var left []string
		for _, kind := range []string{"servers", "ports", "security-groups", "volumes", "floatingips"} {
			for _, o := range f.All(kind) {
				if kind != "ports" || o["name"] != "" {
					left = append(left, fmt.Sprint(o["id"]))
				}
			}
		}
		slices.Sort(left)
		want := []string{other, theirs, their}
		slices.Sort(want)
		if d := cmp.Diff(want, left); d != "" {
			t.Errorf("%s: left (-want +got): %s\n%v", tagged, d, f.Left(instance))
		}
	}
}

// A token that is revoked is replaced, once for all who find out.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	c, ctx := open(t, options(f)), patience(t)
	if _, err := c.Servers(ctx); err != nil {
		t.Fatal(err)
	}
	f.Revoke()
	f.ResetCalls()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := c.EnsureSecurityGroup(ctx, ann(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := f.Calls()["POST identity/auth/tokens"]; n != 1 {
		t.Errorf("%d logins", n)
	}
}

// While Nova is away, flavors are those of before.
func TestFlavorsWhileNovaIsAway(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	o := options(f)
	o.CatalogMaxAge = time.Millisecond
	c, ctx := open(t, o), patience(t)
	want, err := c.Flavors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(2 * time.Millisecond)
	f.Fail = nowAndThen(1, openstacktest.Internal)
	got, err := c.Flavors(ctx)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}

// An application credential logs in as a password does; URLs of the operator's
// count before the catalog's.
func TestOtherLogins(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	ctx := patience(t)
	o := options(f)
	o.CredentialSecret = o.Password
	for name, change := range map[string]func(*openstack.Options){
		"credential by id":   func(o *openstack.Options) { o.CredentialID = "c" },
		"credential by name": func(o *openstack.Options) { o.CredentialName = "c" },
		"user by id":         func(o *openstack.Options) { o.UserID = "u" },
		"URLs": func(o *openstack.Options) {
			base := strings.TrimSuffix(f.AuthURL(), "/identity/v3")
			o.Region, o.ProjectID = "", openstacktest.Project
			o.Network.URL, o.Volume.URL, o.Image.URL = base+"/network", base+"/volume/v3", base+"/image"
		},
		"internal": func(o *openstack.Options) { o.Compute.Interface, o.Network.Interface = "internalURL", "internal" },
	} {
		o := o
		change(&o)
		if _, err := open(t, o).Volume(ctx, ann()); !trove.IsKind(err, trove.KindNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Certificates are checked against those that the operator names, or the
// system's, unless the operator says for a service that they are not.
func TestTLS(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	safe := httptest.NewTLSServer(f)
	t.Cleanup(safe.Close)
	safe.Config.ErrorLog = log.New(io.Discard, "", 0)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: safe.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(f)
	o.AuthURL = safe.URL + "/identity/v3"
	for name, test := range map[string]struct {
		change func(o *openstack.Options)
		works  bool
	}{
		"not known":         {func(*openstack.Options) {}, false},
		"the operator's CA": {func(o *openstack.Options) { o.CAFile = ca }, true},
		"not checked":       {func(o *openstack.Options) { o.Insecure = true }, true},
		"not checked for another service": {func(o *openstack.Options) {
			o.AuthURL, o.Network.Insecure = f.AuthURL(), true
			o.Compute.URL = safe.URL + "/compute/v2.1"
		}, false},
		"not checked for one service": {func(o *openstack.Options) {
			o.AuthURL, o.Compute.Insecure, o.Compute.URL = f.AuthURL(), true, safe.URL+"/compute/v2.1"
		}, true},
	} {
		o := o
		test.change(&o)
		if _, err := open(t, o).Flavors(patience(t)); (err == nil) != test.works || err != nil && !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.CAFile = filepath.Join(t.TempDir(), "none")
	if _, err := openstack.New(o); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("a CA file that is not there: %v", err)
	}
}
