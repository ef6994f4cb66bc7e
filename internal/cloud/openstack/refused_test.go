package openstack_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const instance = "11111111-2222-4333-8444-555555555555"

func ann() cloud.Owner {
	return cloud.Owner{InstanceID: instance, ProjectID: openstacktest.Tenant, UserID: "ann", Name: "orders", Manager: "mariadb"}
}

// build makes an instance with public access, waiting where flows do.
func build(ctx context.Context, c cloud.Cloud, o cloud.Owner, access trove.Access) (spec cloud.ServerSpec, srv cloud.Server, err error) {
	spec = cloud.ServerSpec{Owner: o, Flavor: trove.Flavor{ID: "1"}, ImageTags: []string{"trove", "mariadb"},
		Files: map[string][]byte{"/etc/trove/conf.d/guest_info.conf": []byte("guest_id=" + o.InstanceID + "\n"),
			"/etc/trove/conf.d/trove-guestagent.conf": []byte("transport_url=rabbit://x:pa$$word@10.9.0.1/\n")}}
	if err = c.EnsureSecurityGroup(ctx, o, []cloud.Rule{{FirstPort: 3306, LastPort: 3306, CIDRs: []string{"0.0.0.0/0", "2001:db8::/32"}}}); err != nil {
		return spec, srv, err
	}
	if spec.Ports, err = c.EnsurePorts(ctx, o, []trove.NIC{{NetworkID: openstacktest.UserNetwork}}, access); err != nil {
		return spec, srv, err
	}
	for !spec.Volume.Ready {
		if spec.Volume, err = c.EnsureVolume(ctx, o, 2, ""); err != nil {
			return spec, srv, err
		}
	}
	if srv, err = c.EnsureServer(ctx, spec); err != nil {
		return spec, srv, err
	}
	for srv.Status == trove.ServerBuild {
		if srv, err = c.Server(ctx, o); err != nil {
			return spec, srv, err
		}
	}
	return spec, srv, nil
}

func destroy(ctx context.Context, c cloud.Cloud, o cloud.Owner) error {
	for _, del := range []func(context.Context, cloud.Owner) (bool, error){c.DeleteServer, c.DeleteVolume} {
		for gone := false; !gone; {
			var err error
			if gone, err = del(ctx, o); err != nil {
				return err
			}
		}
	}
	return errors.Join(c.DeletePorts(ctx, o), c.DeleteSecurityGroup(ctx, o))
}

func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A quota that is used up ends the creation, and its name is told.
func TestQuota(t *testing.T) {
	for quota, words := range map[string]string{
		"security_group": "['security_group']", "port": "['port']", "floatingip": "['floatingip']",
		"gigabytes": "gigabytes quota", "instances": "instances",
	} {
		t.Run(quota, func(t *testing.T) {
			t.Parallel()
			f := openstacktest.New(t)
			f.Quota = map[string]int{quota: 0}
			c, ctx := open(t, options(f)), patience(t)
			_, _, err := build(ctx, c, ann(), trove.Access{IsPublic: true})
			if !trove.IsKind(err, trove.KindOverLimit) || !strings.Contains(err.Error(), words) || trove.ActionOf(err) == "" {
				t.Errorf("quota of %s: %v (%s)", quota, err, trove.KindOf(err))
			}
			if err := destroy(ctx, c, ann()); err != nil || len(f.Left(instance)) > 0 {
				t.Errorf("left %v, %v", f.Left(instance), err)
			}
		})
	}
}

// What ends in error is told, goes, and can be made again.
func TestHalfMade(t *testing.T) {
	for _, kind := range []string{"volume", "server"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := openstacktest.New(t)
			var broke atomic.Bool
			f.Break = func(k string) bool { return k == kind && !broke.Swap(true) }
			c, ctx := open(t, options(f)), patience(t)
			_, srv, err := build(ctx, c, ann(), trove.Access{})
			switch kind {
			case "volume":
				if !trove.IsKind(err, trove.KindInternal) || !strings.Contains(err.Error(), "error") {
					t.Errorf("a volume that failed: %v", err)
				}
			case "server":
				if err != nil || srv.Status != trove.ServerError || !strings.Contains(srv.Fault, "No valid host") {
					t.Errorf("a server that failed: %+v, %v", srv, err)
				}
			}
			if err := destroy(ctx, c, ann()); err != nil || len(f.Left(instance)) > 0 {
				t.Errorf("left %v, %v", f.Left(instance), err)
			}
			broke.Store(true)
			if _, srv, err := build(ctx, c, ann(), trove.Access{}); err != nil || srv.Status != trove.ServerActive {
				t.Errorf("made again: %+v, %v", srv, err)
			}
		})
	}
}

// A volume that failed is not waited for in silence.
func TestFailedVolumeIsNamed(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	f.Break = func(k string) bool { return k == "volume" }
	c, ctx := open(t, options(f)), patience(t)
	_, _, _ = build(ctx, c, ann(), trove.Access{})
	for name, do := range map[string]func(context.Context, cloud.Owner) (bool, error){"detach": c.DetachVolume, "attach": c.AttachVolume} {
		if done, err := do(ctx, ann()); done || !trove.IsKind(err, trove.KindConflict) || !strings.Contains(trove.ActionOf(err), "volume set --state") {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
}

// Retry-After is waited for, by all requests to that service.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	f.RetryAfter = "1"
	var refused atomic.Int64 // when, in nanoseconds
	var early, asked atomic.Int64
	f.Fail = func(r *http.Request) openstacktest.Fault {
		if !strings.HasPrefix(r.URL.Path, "/compute/v2.1/flavors") {
			return openstacktest.None
		}
		now := time.Now().UnixNano()
		if asked.Add(1) == 1 {
			refused.Store(now)
			return openstacktest.TooMany
		}
		if at := refused.Load(); at != 0 && now-at < int64(950*time.Millisecond) {
			early.Add(1)
		}
		return openstacktest.None
	}
	c := open(t, options(f))
	if _, err := c.Flavors(patience(t)); err != nil {
		t.Error(err)
	}
	if early.Load() != 0 || asked.Load() != 2 {
		t.Errorf("%d requests, %d of them before the second was over", asked.Load(), early.Load())
	}

	// What asks for longer than a call waits fails at once and names the time.
	f.RetryAfter = "3000"
	f.Fail = func(*http.Request) openstacktest.Fault { return openstacktest.TooMany }
	_, err := c.Flavor(patience(t), "private")
	if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "50m0s") && !strings.Contains(err.Error(), "49m") {
		t.Errorf("a long Retry-After: %v", err)
	}
}

// Errors have the kinds that flows go by.
func TestKinds(t *testing.T) {
	t.Parallel()
	ctx := patience(t)
	f := openstacktest.New(t)
	wrong := options(f)
	wrong.Password = secret.New("wrong")
	if _, err := open(t, wrong).Flavors(ctx); !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(trove.ActionOf(err), "service_credentials") {
		t.Errorf("a wrong password: %v", err)
	}
	nowhere := options(f)
	nowhere.AuthURL = "http://127.0.0.1:1/v3"
	if _, err := open(t, nowhere).Flavors(ctx); !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("nobody there: %v", err)
	}
	region := options(f)
	region.Region = "Mars"
	if _, err := open(t, region).Flavors(ctx); !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "Mars") {
		t.Errorf("another region: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := open(t, options(f)).Flavors(ended); !errors.Is(err, context.Canceled) || trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("a call that was cut off: %v", err)
	}
	c := open(t, options(f))
	if _, err := c.EnsureVolume(ctx, ann(), 1, "no such type"); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("a volume type that is not: %v", err)
	}
	for name, nics := range map[string][]trove.NIC{
		"without a router": {{NetworkID: openstacktest.Lonely}}, "another's": {{NetworkID: openstacktest.Stranger}},
		"two": {{NetworkID: openstacktest.UserNetwork}, {NetworkID: openstacktest.UserNetwork}}, "no id": {{NetworkID: "../ports"}},
		"subnet elsewhere":         {{NetworkID: openstacktest.UserNetwork, SubnetID: openstacktest.LonelySub}},
		"an address that is taken": {{SubnetID: openstacktest.UserSubnet, IPAddress: "10.1.0.1"}},
	} {
		_ = c.EnsureSecurityGroup(ctx, ann(), nil)
		if _, err := c.EnsurePorts(ctx, ann(), nics, trove.Access{}); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("a network %s: %v", name, err)
		}
	}
	if _, err := c.EnsurePorts(ctx, ann(), nil, trove.Access{IsPublic: true}); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("public without a network: %v", err)
	}
	if _, err := openstack.New(openstack.Options{AuthURL: "x", RootVolume: true}); !trove.IsKind(err, trove.KindNotImplemented) {
		t.Errorf("boot from volume: %v", err)
	}
}

// A user's network must not overlap with those of the service, unless they are
// kept apart.
func TestOverlap(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	o := options(f)
	o.ReservedCIDRs = []string{"10.1.128.0/17"}
	nics := []trove.NIC{{NetworkID: openstacktest.UserNetwork}}
	if err := open(t, o).CheckNICs(patience(t), nics); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), "10.1.128.0/17") {
		t.Errorf("overlap: %v", err)
	}
	o.Isolation = true
	if err := open(t, o).CheckNICs(patience(t), nics); err != nil {
		t.Error(err)
	}
}

// Nova repeats what it does not like; the files of a server hold secrets.
func TestSecretsStayOutOfErrors(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	f.MostData = 1000
	c, ctx := open(t, options(f)), patience(t)
	o := ann()
	spec := cloud.ServerSpec{Owner: o, Flavor: trove.Flavor{ID: "1"}, ImageID: openstacktest.Image,
		Files: map[string][]byte{"/etc/x": []byte(strings.Repeat("s3cret!", 5000))}}
	_, err := c.EnsureServer(ctx, spec)
	if !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), "user_data") || len(err.Error()) > 200 {
		t.Errorf("%v", err)
	}
}

// What Nova gets is what the original's images read.
func TestServerRequest(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	o := options(f)
	o.KeyPair, o.ConfigDrive, o.CloudInitDir = "ops", true, t.TempDir()
	if err := os.WriteFile(filepath.Join(o.CloudInitDir, "mariadb.cloudinit"), []byte("#cloud-config\ntimezone: UTC\nwrite_files:\n- path: /etc/motd\n  content: hi\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, ctx := open(t, o), patience(t)
	who := ann()
	who.UserID = strings.Repeat("f", 64) // too long for a tag
	spec, _, err := build(ctx, c, who, trove.Access{})
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := f.All("servers")[0]["sent"].(map[string]any)
	data, err := base64.StdEncoding.DecodeString(fmt.Sprint(sent["user_data"]))
	if err != nil {
		t.Fatal(err)
	}
	b64 := func(path string) string { return base64.StdEncoding.EncodeToString(spec.Files[path]) }
	want := "#cloud-config\ntimezone: UTC\nwrite_files:\n    - content: hi\n      path: /etc/motd\n"
	for _, path := range []string{"/etc/trove/conf.d/guest_info.conf", "/etc/trove/conf.d/trove-guestagent.conf"} {
		want += "    - path: " + path + "\n      owner: ubuntu:root\n      permissions: \"0640\"\n      encoding: b64\n      content: " + b64(path) + "\n"
	}
	if d := cmp.Diff(want, string(data)); d != "" {
		t.Error(d)
	}
	delete(sent, "user_data")
	if d := cmp.Diff(map[string]any{
		"name": "orders", "imageRef": openstacktest.Image, "flavorRef": "1", "config_drive": true, "key_name": "ops",
		"metadata": map[string]any{"trove_instance_id": instance, "trove_project_id": openstacktest.Tenant, "trove_user_id": who.UserID},
		"tags":     []any{"trove_instance", "trove_mariadb", "trove_project_id_" + openstacktest.Tenant, "trove_instance_id_" + instance},
		"networks": []any{map[string]any{"port": spec.Ports[0].ID}, map[string]any{"port": spec.Ports[1].ID}},
		"block_device_mapping_v2": []any{
			map[string]any{"source_type": "image", "uuid": openstacktest.Image, "destination_type": "local", "boot_index": 0.0, "delete_on_termination": true},
			map[string]any{"source_type": "volume", "uuid": spec.Volume.ID, "destination_type": "volume", "boot_index": -1.0, "delete_on_termination": false}},
	}, sent); d != "" {
		t.Error(d)
	}
	if spec.Ports[0].Management || !spec.Ports[1].Management {
		t.Errorf("the user's port is not the first: %+v", spec.Ports)
	}
	names := map[string]string{"volumes": "trove-" + instance, "security-groups": "trove_sg-" + instance, "ports": "trove-" + instance}
	for kind, name := range names {
		if !slices.ContainsFunc(f.All(kind), func(o map[string]any) bool { return o["name"] == name }) {
			t.Errorf("no %s is called %s", kind, name)
		}
	}
}

// A script of the operator goes beside the files.
func TestOperatorsScript(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	o := options(f)
	o.CloudInitDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(o.CloudInitDir, "mariadb.cloudinit"), []byte("#!/bin/sh\necho hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := build(patience(t), open(t, o), ann(), trove.Access{}); err != nil {
		t.Fatal(err)
	}
	sent, _ := f.All("servers")[0]["sent"].(map[string]any)
	data, _ := base64.StdEncoding.DecodeString(fmt.Sprint(sent["user_data"]))
	for _, part := range []string{"Content-Type: multipart/mixed", "text/cloud-config", "text/x-shellscript", "echo hello", "write_files:"} {
		if !strings.Contains(string(data), part) {
			t.Errorf("%q is missing in:\n%s", part, data)
		}
	}
}
