package local_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// The test binary, started as an agent, is one.
func TestMain(m *testing.M) {
	if os.Getenv("GOTROVE_PROGRAM") == "trove-guestagent" {
		os.Exit(fakeAgent())
	}
	if told := os.Getenv(processVariable); told != "" {
		os.Exit(cloudProcess(told))
	}
	os.Exit(m.Run())
}

// fakeAgent starts an "engine" in a session of its own, tagged, and stops it
// when it is told to stop. A file "broken" beside its configuration makes it
// fail at once; "stubborn" makes it deaf.
func fakeAgent() int {
	conf := os.Args[2]
	var o struct {
		State string `conf:"gotrove.state_dir"`
		Log   string `conf:"gotrove.log_dir"`
	}
	if _, err := osloconf.Load(osloconf.Sources{Dirs: []string{conf}}, &o); err != nil {
		fmt.Println(err)
		return 1
	}
	has := func(name string) bool { _, err := os.Stat(filepath.Join(conf, name)); return err == nil }
	if has("broken") {
		fmt.Println("the agent is broken")
		return 3
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var engine proc.Handle
	tags := []string{"GOTROVE_INSTANCE=" + os.Getenv("GOTROVE_INSTANCE"), "GOTROVE_PROGRAM=engine"}
	if found, _ := proc.Tagged(tags...); len(found) > 0 {
		engine = found[0].Handle
	} else {
		cmd := exec.Command("/bin/sleep", "100000")
		cmd.Env, cmd.SysProcAttr = tags, &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		engine, _ = proc.Of(cmd.Process.Pid)
		go func() { _ = cmd.Wait() }()
	}
	_ = os.WriteFile(filepath.Join(o.Log, "engine.log"), []byte("engine says hello\n"), 0o600)
	fmt.Println("the agent runs")
	_ = os.WriteFile(filepath.Join(o.State, "ready"), nil, 0o600)
	for range stop {
		if has("stubborn") {
			continue
		}
		_ = engine.Signal(syscall.SIGKILL)
		_ = engine.Wait(context.Background())
		_ = os.WriteFile(filepath.Join(o.State, "stopped"), nil, 0o600)
		return 0
	}
	return 0
}

// freeRange gives each test of each process addresses of its own.
func freeRange(t *testing.T) netip.Prefix {
	h := fnv.New32a()
	fmt.Fprint(h, os.Getpid(), t.Name())
	n := h.Sum32()
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(100 + n%100), byte(n >> 8), 0}), 24)
}

var flavors = []trove.Flavor{{ID: "1", Name: "db.tiny", RAM: 512, VCPUs: 1}, {ID: "2", Name: "db.small", RAM: 1024, VCPUs: 1}}

// options of a cloud of the test's own; all its processes are gone after it.
func options(t *testing.T) local.Options {
	t.Helper()
	dir, err := os.MkdirTemp("", "gotrove")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := local.Options{
		DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Agent: self, Flavors: flavors,
		Range: freeRange(t), Ports: map[string]int{"mariadb": 33306}, CgroupParent: "gotrove-test", StopGrace: 30 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(filepath.Join(o.DataDir, "instances"))
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		for _, e := range entries {
			if err := proc.Kill(ctx, func() ([]proc.Process, error) { return proc.Tree("GOTROVE_INSTANCE=" + e.Name()) }); err != nil {
				t.Error(err)
			}
			for _, g := range []string{"/sys/fs/cgroup/memory/gotrove-test/", "/sys/fs/cgroup/gotrove-test/"} {
				_ = syscall.Rmdir(g + e.Name())
				_ = syscall.Rmdir(g)
			}
		}
		_ = os.RemoveAll(dir)
	})
	return o
}

func open(t *testing.T, o local.Options) *local.Cloud {
	t.Helper()
	c, err := local.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run supervises until the function it returns is called, or the test ends.
func run(t *testing.T, c *local.Cloud) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func tagged(t *testing.T, id, program string) []proc.Process {
	t.Helper()
	found, err := proc.Tagged("GOTROVE_INSTANCE="+id, "GOTROVE_PROGRAM="+program)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// one is the only process of a program, once there is one.
func one(t *testing.T, id, program string) proc.Handle {
	t.Helper()
	var found []proc.Process
	eventually(t, program+" runs", func() bool { found = tagged(t, id, program); return len(found) == 1 })
	return found[0].Handle
}

// create makes an instance and waits for its engine.
func create(t *testing.T, c *local.Cloud, o local.Options, id string, files ...string) cloud.ServerSpec {
	t.Helper()
	ctx := t.Context()
	owner := cloud.Owner{InstanceID: id, ProjectID: "p", Name: "n", Manager: "mariadb"}
	ports, err := c.EnsurePorts(ctx, owner, nil, trove.Access{})
	if err != nil {
		t.Fatal(err)
	}
	vol, err := c.EnsureVolume(ctx, owner, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	s := cloud.ServerSpec{Owner: owner, Flavor: flavors[0], Ports: ports, Volume: vol, Files: map[string][]byte{
		"/etc/trove/conf.d/guest_info.conf": []byte("[DEFAULT]\nguest_id = " + id + "\n"),
		"/../../outside":                    []byte("stays inside"),
	}}
	for _, f := range files {
		s.Files["/etc/trove/conf.d/"+f] = nil
	}
	// That of an agent that fails may have noticed it already.
	if _, err := c.EnsureServer(ctx, s); err != nil && !slices.Contains(files, "broken") {
		t.Fatal(err)
	}
	if len(files) == 0 {
		eventually(t, "agent is ready", func() bool { return exists(filepath.Join(o.DataDir, "instances", id, "agent", "ready")) })
	}
	return s
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestConformance(t *testing.T) {
	cloudtest.Run(t, func(t *testing.T) cloudtest.Harness {
		o := options(t)
		c := open(t, o)
		run(t, c)
		return cloudtest.Harness{Cloud: c, Manager: "mariadb", Unguarded: true, Left: left(o)}
	})
}

// left lists what is there of an instance.
func left(o local.Options) func(t *testing.T, owner cloud.Owner) []string {
	return func(t *testing.T, owner cloud.Owner) []string {
		var left []string
		short := strings.ReplaceAll(owner.InstanceID, "-", "")
		found, err := proc.Tagged("GOTROVE_INSTANCE=" + owner.InstanceID)
		if err != nil {
			t.Error(err)
		}
		for _, p := range found {
			left = append(left, fmt.Sprintf("process %d", p.PID))
		}
		for _, dir := range []string{o.DataDir, o.RunDir, "/sys/fs/cgroup/memory/gotrove-test", "/sys/fs/cgroup/gotrove-test"} {
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && filepath.Dir(path) == filepath.Join(o.DataDir, "addresses") {
					if b, _ := os.ReadFile(path); strings.Contains(string(b), owner.InstanceID) {
						left = append(left, path)
					}
				}
				if err == nil && strings.Contains(path, short[:min(12, len(short))]) || strings.Contains(path, owner.InstanceID) {
					left = append(left, path)
				}
				return nil
			})
		}
		return left
	}
}

func TestAgentIsRestartedAndEngineStays(t *testing.T) {
	o := options(t)
	c := open(t, o)
	run(t, c)
	s := create(t, c, o, "restarted")
	agent, engine := one(t, "restarted", "trove-guestagent"), one(t, "restarted", "engine")
	if err := agent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new agent", func() bool {
		found := tagged(t, "restarted", "trove-guestagent")
		return len(found) == 1 && found[0].Handle != agent
	})
	if srv, err := c.Server(t.Context(), s.Owner); err != nil || srv.Status != trove.ServerActive {
		t.Errorf("server is %+v, %v", srv, err)
	}
	if now := one(t, "restarted", "engine"); now != engine {
		t.Errorf("engine was %v, is %v", engine, now)
	}
}

// We were killed: agents run on and are found, by handle or by tag.
func TestAgentsAreFoundAgain(t *testing.T) {
	o := options(t)
	c := open(t, o)
	stop := run(t, c)
	create(t, c, o, "kept")
	create(t, c, o, "untold")
	stop()
	agents := map[string]proc.Handle{}
	for _, id := range []string{"kept", "untold"} {
		agents[id] = one(t, id, "trove-guestagent")
	}
	// We were killed between starting it and writing that down.
	if err := os.Remove(filepath.Join(o.DataDir, "instances", "untold", "handle.json")); err != nil {
		t.Fatal(err)
	}
	// One died meanwhile.
	create(t, c, o, "dead")
	agents["dead"] = one(t, "dead", "trove-guestagent")
	if err := agents["dead"].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := agents["dead"].Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, open(t, o))
	one(t, "dead", "trove-guestagent")
	eventually(t, "the handle is written", func() bool {
		return exists(filepath.Join(o.DataDir, "instances", "untold", "handle.json"))
	})
	for _, id := range []string{"kept", "untold"} {
		if now := one(t, id, "trove-guestagent"); now != agents[id] {
			t.Errorf("agent of %s was %v, is %v", id, agents[id], now)
		}
	}
}

func TestStopAllStopsCleanlyOrKills(t *testing.T) {
	o := options(t)
	o.StopGrace = 2 * time.Second
	c := open(t, o)
	stop := run(t, c)
	create(t, c, o, "good")
	create(t, c, o, "stubborn", "stubborn")
	one(t, "stubborn", "engine")
	stop()
	if err := c.StopAll(t.Context()); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"good", "stubborn"} {
		if found, _ := proc.Tagged("GOTROVE_INSTANCE=" + id); len(found) > 0 {
			t.Errorf("%s still has %v", id, found)
		}
		if clean := exists(filepath.Join(o.DataDir, "instances", id, "agent", "stopped")); clean != (id == "good") {
			t.Errorf("%s stopped cleanly: %v", id, clean)
		}
	}
	// Everything comes back.
	run(t, open(t, o))
	one(t, "good", "engine")
	one(t, "stubborn", "engine")
}

func TestAgentThatFailsIsShown(t *testing.T) {
	o := options(t)
	c := open(t, o)
	run(t, c)
	s := create(t, c, o, "broken", "broken")
	eventually(t, "the server is in ERROR", func() bool {
		srv, err := c.Server(t.Context(), s.Owner)
		return err == nil && srv.Status == trove.ServerError && srv.Fault != ""
	})
	text, err := c.Evidence(t.Context(), s.Owner)
	if err != nil || !strings.Contains(text, "the agent is broken") || len(text) > 4<<10 {
		t.Errorf("evidence is %q, %v", text, err)
	}
}

func TestEvidenceHasBothEnds(t *testing.T) {
	o := options(t)
	c := open(t, o)
	s := create(t, c, o, "told")
	text, err := c.Evidence(t.Context(), s.Owner)
	if err != nil || !strings.Contains(text, "the agent runs") || !strings.Contains(text, "engine says hello") {
		t.Errorf("evidence is %q, %v", text, err)
	}
	// A link to somewhere else is not followed.
	log := filepath.Join(o.DataDir, "instances", "told", "log", "engine.log")
	if err := errors.Join(os.Remove(log), os.Symlink("/etc/passwd", log)); err != nil {
		t.Fatal(err)
	}
	if text, err := c.Evidence(t.Context(), s.Owner); err != nil || strings.Contains(text, "root:") {
		t.Errorf("evidence is %q, %v", text, err)
	}
}

func TestMissingAgent(t *testing.T) {
	o := options(t)
	o.Agent = "/nowhere/trove-guestagent"
	c := open(t, o)
	owner := cloud.Owner{InstanceID: "none", Manager: "mariadb"}
	ports, err := c.EnsurePorts(t.Context(), owner, nil, trove.Access{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.EnsureServer(t.Context(), cloud.ServerSpec{Owner: owner, Flavor: flavors[0], Ports: ports})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/trove-guestagent is missing") || trove.ActionOf(err) == "" {
		t.Errorf("error is %v", err)
	}
}

func TestAddresses(t *testing.T) {
	o := options(t)
	c := open(t, o)
	ctx := t.Context()
	owner := func(id string) cloud.Owner { return cloud.Owner{InstanceID: id, Manager: "mariadb"} }
	first, second, third := o.Range.Addr().Next(), o.Range.Addr().Next().Next(), o.Range.Addr().Next().Next().Next()
	// A stranger has the first address.
	l, err := net.Listen("tcp", net.JoinHostPort(first.String(), "33306"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	get := func(id, ask string) (string, error) {
		var nics []trove.NIC
		if ask != "" {
			nics = []trove.NIC{{NetworkID: local.Network, IPAddress: ask}}
		}
		ports, err := c.EnsurePorts(ctx, owner(id), nics, trove.Access{})
		if err != nil {
			return "", err
		}
		return ports[0].Addresses[0].Address, nil
	}
	if a, err := get("a", ""); a != second.String() || err != nil {
		t.Errorf("a has %s, %v; want %s", a, err, second)
	}
	if a, err := get("b", third.String()); a != third.String() || err != nil {
		t.Errorf("b has %s, %v; want %s", a, err, third)
	}
	for ask, why := range map[string]string{first.String(): "of a stranger", second.String(): "of a", o.Range.Addr().String(): "the range's first"} {
		if a, err := get("c", ask); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("c got %s (%s): %v, %v", ask, why, a, err)
		}
	}
	// Another process with the same data sees the same.
	c = open(t, o)
	if a, err := get("a", ""); a != second.String() || err != nil {
		t.Errorf("a has %s, %v; want %s", a, err, second)
	}
	if err := c.DeletePorts(ctx, owner("a")); err != nil {
		t.Fatal(err)
	}
	if a, err := get("c", ""); a != second.String() || err != nil {
		t.Errorf("c has %s, %v; want %s, given back", a, err, second)
	}
}

func TestAddressesRunOut(t *testing.T) {
	o := options(t)
	o.Range = netip.PrefixFrom(o.Range.Addr(), 30) // two
	c := open(t, o)
	for i, want := range []trove.Kind{0, 0, trove.KindOverLimit} {
		_, err := c.EnsurePorts(t.Context(), cloud.Owner{InstanceID: fmt.Sprint(i), Manager: "mariadb"}, nil, trove.Access{})
		if (err != nil) != (want != 0) || err != nil && trove.KindOf(err) != want {
			t.Errorf("address %d: %v", i, err)
		}
	}
}

func TestPortTakenEverywhere(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := options(t)
	o.Ports = map[string]int{"mariadb": l.Addr().(*net.TCPAddr).Port}
	_, err = open(t, o).EnsurePorts(t.Context(), cloud.Owner{InstanceID: "x", Manager: "mariadb"}, nil, trove.Access{})
	if !trove.IsKind(err, trove.KindOverLimit) || trove.ActionOf(err) == "" {
		t.Errorf("error is %v", err)
	}
}

func TestFilesAreThereAndPrivate(t *testing.T) {
	o := options(t)
	c := open(t, o)
	create(t, c, o, "files")
	root := filepath.Join(o.DataDir, "instances", "files", "root")
	for _, f := range []string{"etc/trove/conf.d/guest_info.conf", "etc/trove/conf.d/zz-local.conf", "outside"} {
		st, err := os.Stat(filepath.Join(root, f))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
	var conf struct {
		Runtime string `conf:"gotrove.runtime"`
		Data    string `conf:"gotrove.data_dir"`
		Address string `conf:"gotrove.address"`
		Memory  int    `conf:"gotrove.memory_mb"`
		Volume  int    `conf:"gotrove.volume_size"`
		Stop    bool   `conf:"gotrove.stop_engine_on_exit"`
		Guest   string `conf:"guest_id"`
	}
	if _, err := osloconf.Load(osloconf.Sources{Dirs: []string{filepath.Join(root, "etc/trove/conf.d")}}, &conf); err != nil {
		t.Fatal(err)
	}
	if conf.Runtime != "process" || !exists(conf.Data) || conf.Address == "" || conf.Memory != 512 || conf.Volume != 1 || !conf.Stop || conf.Guest != "files" {
		t.Errorf("the agent reads %+v", conf)
	}
}

// As root agents run as another user, within the flavor's memory, and last to
// go when memory runs out.
func TestAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	o := options(t)
	o.User = &local.User{Name: "nobody", UID: 65534, GID: 65534}
	self, err := os.ReadFile(o.Agent)
	if err != nil {
		t.Fatal(err)
	}
	o.Agent = filepath.Join(filepath.Dir(o.DataDir), "agent")
	if err := os.WriteFile(o.Agent, self, 0o755); err != nil {
		t.Fatal(err)
	}
	c := open(t, o)
	s := create(t, c, o, "nobodys")
	agent, engine := one(t, "nobodys", "trove-guestagent"), one(t, "nobodys", "engine")
	for _, p := range []int{agent.PID, engine.PID} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil || !strings.Contains(string(b), "Uid:\t65534\t65534") {
			t.Errorf("process %d is not nobody's: %v", p, err)
		}
		b, _ = os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p))
		if exists("/sys/fs/cgroup/memory/gotrove-test") && !strings.Contains(string(b), "/gotrove-test/nobodys") {
			t.Errorf("process %d is in %s", p, b)
		}
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory/gotrove-test/nobodys/memory.limit_in_bytes"); err == nil && strings.TrimSpace(string(b)) != fmt.Sprint(512<<20) {
		t.Errorf("memory limit is %s", b)
	}
	// A container's root may not be allowed to.
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", agent.PID)); mayProtect() && strings.TrimSpace(string(b)) != "-500" {
		t.Errorf("agent's oom_score_adj is %s", b)
	}
	if gone, err := c.DeleteServer(t.Context(), s.Owner); !gone || err != nil {
		t.Errorf("delete: %v, %v", gone, err)
	}
	if exists("/sys/fs/cgroup/memory/gotrove-test/nobodys") {
		t.Error("the control group is left")
	}
	// A directory on the way that nobody may enter is named.
	if err := os.Chmod(filepath.Dir(o.DataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := local.New(o); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), filepath.Dir(o.DataDir)) {
		t.Errorf("closed directory: %v", err)
	}
}

// mayProtect reports whether we have CAP_SYS_RESOURCE.
func mayProtect() bool {
	var caps [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	return err == nil && caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
