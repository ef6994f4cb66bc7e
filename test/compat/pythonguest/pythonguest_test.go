// Package pythonguest tries our flows on an agent that uses oslo.messaging with
// the original's methods: a region may hold agents of both kinds for as long as
// there are instances that the original made.
package pythonguest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

const (
	exchange = "trove"
	instance = "11111111-2222-4333-8444-555555555555"
	python   = "/usr/bin/python3"
	limit    = 2 * time.Minute
)

// heard is a message as the agent got it.
type heard struct {
	Method    string         `json:"method"`
	Version   string         `json:"version"`
	Args      map[string]any `json:"args"`
	Namespace any            `json:"namespace"`
	Call      bool           `json:"call"`
	Failed    string         `json:"failed"`
	Ready     bool           `json:"ready"`
}

// anybody may do anything on the bus, as the original's shared login.
type anybody struct{}

func (anybody) Login(string, string) (broker.Permissions, error) {
	all := regexp.MustCompile(".*")
	return broker.Permissions{Configure: all, Write: all, Read: all}, nil
}

// region is a control plane of ours with one agent of the other kind.
type region struct {
	t     *testing.T
	cloud *openstacktest.Cloud
	store *store.Store
	work  *work.Engine
	calls *guest.Client
	heard chan heard
}

func open(t *testing.T, change func(*openstacktest.Cloud)) *region {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python")
	}
	if err := exec.Command(python, "-c", "import oslo_messaging").Run(); err != nil {
		t.Fatalf("%s cannot import oslo_messaging (%v): install Debian's package python3-oslo.messaging", python, err)
	}
	r := &region{t: t, cloud: openstacktest.New(t), store: worktest.Store(t), heard: make(chan heard, 100)}
	quiet := slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := broker.New(broker.Options{Auth: anybody{}, Logger: quiet})
	served := make(chan error, 1)
	go func() { served <- b.Serve(context.WithoutCancel(t.Context()), l) }()
	later := func(f func(context.Context) error) {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_ = f(ctx)
		})
	}
	later(func(ctx context.Context) error { defer func() { <-served }(); return b.Shutdown(ctx) })
	address := "openstack:s3cret@" + l.Addr().String() + "/"
	conn, err := amqp.New(amqp.Config{URL: "amqp://" + address, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	later(conn.Close)
	caller := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Log: quiet})
	later(caller.Close)

	r.cloud.Set("networks", openstacktest.UserNetwork, "project_id", openstacktest.Tenant)
	if change != nil {
		change(r.cloud)
	}
	c, err := openstack.New(openstack.Options{AuthURL: r.cloud.AuthURL(), Username: openstacktest.User, Password: secret.New(openstacktest.Password),
		UserDomainName: "Default", ProjectID: openstacktest.Project, Region: openstacktest.Region, ManagementNetworks: []string{openstacktest.Management},
		ListEvery: 2 * time.Millisecond, Settle: 20 * time.Millisecond, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	r.calls = guest.NewClient(caller, limit, limit)
	// The operator's one login for all, as the original's agents have it.
	bus := guestlogin.On(guestlogin.Shared{}, guestlogin.NewTopology(conn, exchange, false))
	flows := flow.New(r.store, c, r.calls, caller, bus, flow.Options{PollInterval: 5 * time.Millisecond,
		StopTimeout: time.Second, ControlExchange: exchange, GuestConfig: []byte("[DEFAULT]\ntransport_url = rabbit://" + address + "\n"), Log: quiet})
	if r.work, err = work.New(r.store, work.Options{Poll: 20 * time.Millisecond, Log: quiet}, flows.All()...); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.work.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	r.agent("rabbit://" + address)
	r.create()
	return r
}

// agent starts the agent, which tells what it hears.
func (r *region) agent(url string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 5*time.Minute)
	c := exec.CommandContext(ctx, python, "testdata/guest.py", url, exchange, instance)
	c.Env, c.Stderr = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	eof := make(chan struct{})
	go func() {
		defer close(eof)
		for s := bufio.NewScanner(out); s.Scan(); {
			var h heard
			if err := json.Unmarshal(s.Bytes(), &h); err != nil {
				h.Failed = err.Error()
			}
			r.heard <- h
		}
	}()
	r.t.Cleanup(func() {
		in.Close()
		<-eof
		if err := c.Wait(); err != nil {
			r.t.Error(err)
		}
		cancel()
	})
	if h := r.next(); !h.Ready {
		r.t.Fatalf("the agent says %+v", h)
	}
}

func (r *region) next() heard {
	r.t.Helper()
	select {
	case h := <-r.heard:
		return h
	case <-time.After(limit):
		r.t.Fatal("the agent hears nothing")
		return heard{}
	}
}

// create makes the instance, up to the agent's word that it serves.
func (r *region) create() {
	r.t.Helper()
	ctx := r.t.Context()
	v, err := r.store.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "mariadb", Name: "11.4", Number: "11.4", Manager: "mariadb", Active: true}, true)
	if err != nil {
		r.t.Fatal(err)
	}
	cost := trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2}
	limits := trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: 51200, trove.ResourceVolumes: 20}
	if err := r.store.CreateInstance(ctx, store.NewInstance{Cost: cost, Limits: limits, Instance: &trove.Instance{ID: instance, Name: "old",
		TenantID: openstacktest.Tenant, FlavorID: "1", VolumeSize: 2, Task: trove.TaskBuilding, Version: trove.DatastoreVersion{ID: v}}}); err != nil {
		r.t.Fatal(err)
	}
	r.begin(flow.KindCreate, flow.NewCreate(taskmanager.CreateInstance{InstanceID: instance, Name: "old", Flavor: rpcapi.Flavor{ID: "1", RAM: 512},
		DatastoreManager: "mariadb", DSVersion: "11.4", ImageID: openstacktest.Image, NICs: []taskmanager.NIC{{NetworkID: openstacktest.UserNetwork}}}))
	if h := r.next(); h.Method != "prepare" || h.Call || h.Version != "1.1" || h.Failed != "" {
		r.t.Fatalf("of a creation the agent hears %+v", h)
	}
	if err := r.store.SetServiceStatus(ctx, instance, trove.ServiceHealthy); err != nil {
		r.t.Fatal(err)
	}
	r.done()
}

func (r *region) begin(kind string, state any) {
	r.t.Helper()
	if _, err := r.work.Accept(r.t.Context(), kind, instance, fmt.Sprint("request ", kind), state); err != nil {
		r.t.Fatal(err)
	}
}

// done waits for the newest operation to have ended well.
func (r *region) done() {
	r.t.Helper()
	deadline := time.After(limit)
	for {
		ops, err := r.store.Operations(r.t.Context(), instance, 1)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(ops) == 1 && ops[0].State.Finished() {
			if ops[0].State != trove.OperationDone {
				r.t.Fatalf("the operation failed: %+v", ops[0])
			}
			return
		}
		select {
		case <-deadline:
			r.t.Fatalf("the operation does not end: %+v", ops)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// What our flows ask of an agent, one of the original's takes: no method, version
// or argument that it does not know.
func TestFlowsAskWhatTheOriginalKnows(t *testing.T) {
	t.Parallel()
	const device, mount = "the volume", "/var/lib/mysql"
	where := map[string]any{"device_path": device, "mount_point": mount}
	nothing := map[string]any{}
	call := func(method, version string, args map[string]any) heard {
		return heard{Method: method, Version: version, Args: args, Call: true}
	}
	grown := func(online bool) heard {
		return call("resize_fs", "1.1", map[string]any{"device_path": device, "mount_point": mount, "online": online})
	}
	type change struct {
		name  string
		task  trove.Task
		state any
		want  []heard
		row   string
	}
	toFive := flow.ResizeVolume{Request: taskmanager.ResizeVolume{InstanceID: instance, NewSize: 5}}
	for name, test := range map[string]struct {
		cloud   func(*openstacktest.Cloud)
		changes []change
	}{
		"a region": {changes: []change{
			{flow.KindRestart, trove.TaskRebooting, flow.Restart{}, []heard{call("restart", "1.0", nothing)}, "flavor 1, 2 GiB"},
			{flow.KindUpdateAccess, trove.TaskUpdating, flow.UpdateAccess{Request: taskmanager.UpdateAccess{InstanceID: instance,
				Access: taskmanager.Access{AllowedCIDRs: []string{"192.0.2.0/24"}}}}, nil, "flavor 1, 2 GiB"},
			// What it has of memory is in its configuration, which we do not write for it.
			{flow.KindResizeFlavor, trove.TaskResizing, flow.ResizeFlavor{Request: taskmanager.ResizeFlavor{InstanceID: instance,
				OldFlavor: rpcapi.Flavor{ID: "1", RAM: 512}, NewFlavor: rpcapi.Flavor{ID: "2", RAM: 1024}}},
				[]heard{call("stop_db", "1.1", nothing), call("rpc_ping", "1.0", nothing), call("restart", "1.0", nothing)}, "flavor 2, 2 GiB"},
			{flow.KindResizeVolume, trove.TaskResizing, toFive, []heard{grown(true)}, "flavor 2, 5 GiB"},
		}},
		"a region that grows detached volumes": {func(c *openstacktest.Cloud) { c.CinderMax = "3.27" }, []change{
			{flow.KindResizeVolume, trove.TaskResizing, toFive, []heard{call("stop_db", "1.1", nothing), call("unmount_volume", "1.0", where),
				grown(false), call("mount_volume", "1.0", where), call("restart", "1.0", nothing)}, "flavor 1, 5 GiB"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t, test.cloud)
			for _, c := range test.changes {
				if err := r.store.BeginTask(t.Context(), instance, store.TaskChange{Task: c.task}); err != nil {
					t.Fatal(err)
				}
				r.begin(c.name, c.state)
				r.done()
				inst, err := r.store.Instance(t.Context(), instance)
				if err != nil {
					t.Fatal(err)
				}
				got := r.all()
				for _, h := range got {
					// By its id, and not by [mariadb] device_path as the original has it: the cloud
					// names disks in the order in which they come.
					if h.Args["device_path"] == "/dev/disk/by-id/virtio-"+inst.VolumeID[:20] {
						h.Args["device_path"] = device
					}
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Errorf("%s: the agent hears other than it should (-want +got):\n%s", c.name, d)
				}
				if row := fmt.Sprintf("flavor %s, %d GiB", inst.FlavorID, inst.VolumeSize); row != c.row || inst.Task != trove.TaskNone || inst.Fault != nil {
					t.Errorf("%s: %s, task %v, fault %v, want %s", c.name, row, inst.Task, inst.Fault, c.row)
				}
			}
		})
	}
}

// all is what the agent heard. The end is a call that it does not know: so it is
// seen, too, that it would tell.
func (r *region) all() (got []heard) {
	r.t.Helper()
	if _, err := r.calls.FilesystemStats(r.t.Context(), instance); err == nil {
		r.t.Error("the agent knows every method")
	}
	for {
		h := r.next()
		if h.Method == "get_filesystem_stats" {
			if !strings.HasPrefix(h.Failed, "NoSuchMethod: ") {
				r.t.Errorf("what it does not know is %+v", h)
			}
			return got
		}
		got = append(got, h)
	}
}
