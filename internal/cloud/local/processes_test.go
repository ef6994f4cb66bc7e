package local_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// both is one cloud that two processes serve: what is ensured, both ensure at
// once; everything else is asked of one after the other.
type both struct {
	*local.Cloud
	other *local.Cloud
	mu    sync.Mutex
	asked int
}

func (b *both) one() *local.Cloud {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked++; b.asked%2 == 0 {
		return b.other
	}
	return b.Cloud
}

// ensure has both do the same, and fails if they differ.
func ensure[T any](b *both, f func(c *local.Cloud) (T, error), options ...cmp.Option) (T, error) {
	var theirs T
	var theirErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		theirs, theirErr = f(b.other)
	}()
	ours, err := f(b.Cloud)
	<-done
	if d := cmp.Diff(ours, theirs, options...); err == nil && theirErr == nil && d != "" {
		return ours, errors.New("two processes differ: " + d)
	}
	return ours, errors.Join(err, theirErr)
}

func (b *both) EnsurePorts(ctx context.Context, o cloud.Owner, nics []trove.NIC, a trove.Access) ([]cloud.Port, error) {
	return ensure(b, func(c *local.Cloud) ([]cloud.Port, error) { return c.EnsurePorts(ctx, o, nics, a) })
}

func (b *both) EnsureVolume(ctx context.Context, o cloud.Owner, size int, kind string) (cloud.Volume, error) {
	// Another flow may make the server between the two.
	return ensure(b, func(c *local.Cloud) (cloud.Volume, error) { return c.EnsureVolume(ctx, o, size, kind) },
		cmpopts.IgnoreFields(cloud.Volume{}, "Attached"))
}

func (b *both) EnsureServer(ctx context.Context, s cloud.ServerSpec) (cloud.Server, error) {
	return ensure(b, func(c *local.Cloud) (cloud.Server, error) { return c.EnsureServer(ctx, s) })
}

func (b *both) Server(ctx context.Context, o cloud.Owner) (cloud.Server, error) {
	return b.one().Server(ctx, o)
}

func (b *both) Servers(ctx context.Context) (map[string]cloud.Server, error) {
	return b.one().Servers(ctx)
}

func (b *both) DeleteServer(ctx context.Context, o cloud.Owner) (bool, error) {
	return b.one().DeleteServer(ctx, o)
}

func (b *both) DeleteVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	return b.one().DeleteVolume(ctx, o)
}

func (b *both) DeletePorts(ctx context.Context, o cloud.Owner) error {
	return b.one().DeletePorts(ctx, o)
}

func TestConformanceOfTwo(t *testing.T) {
	cloudtest.Run(t, func(t *testing.T) cloudtest.Harness {
		o := options(t)
		b := &both{Cloud: open(t, o), other: open(t, o)}
		run(t, b.Cloud)
		run(t, b.other)
		return cloudtest.Harness{Cloud: b, Manager: "mariadb", Unguarded: true, Left: left(o)}
	})
}

// inProcess is what a test tells a process of its own.
type inProcess struct {
	Options local.Options
	Ensure  []string // instances to make, over and over; none: to supervise
}

const processVariable = "GOTROVE_TEST_PROCESS"

// cloudProcess is a process of a task manager.
func cloudProcess(told string) int {
	var p inProcess
	if err := json.Unmarshal([]byte(told), &p); err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := local.New(p.Options)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	ctx := context.Background()
	if len(p.Ensure) == 0 {
		if err := c.Run(ctx); err != nil {
			fmt.Println(err)
		}
		return 1
	}
	for {
		for _, id := range p.Ensure {
			if _, err := c.EnsureServer(ctx, mustSpec(ctx, c, id)); err != nil {
				fmt.Println(err)
				return 1
			}
			if _, err := c.DeleteServer(ctx, cloud.Owner{InstanceID: id, Manager: "mariadb"}); err != nil {
				fmt.Println(err)
				return 1
			}
		}
	}
}

func mustSpec(ctx context.Context, c *local.Cloud, id string) cloud.ServerSpec {
	o := cloud.Owner{InstanceID: id, ProjectID: "p", Manager: "mariadb"}
	ports, err := c.EnsurePorts(ctx, o, nil, trove.Access{})
	vol, verr := c.EnsureVolume(ctx, o, 1, "")
	if err := errors.Join(err, verr); err != nil {
		panic(err)
	}
	return cloud.ServerSpec{Owner: o, Flavor: flavors[0], Ports: ports, Volume: vol,
		Files: map[string][]byte{"/etc/trove/conf.d/guest_info.conf": []byte("[DEFAULT]\nguest_id = " + id + "\n")}}
}

// spawn starts a process and returns when it has opened the cloud; kill is as
// kill -9 does it, and fails the test if the process had ended by itself.
func spawn(t *testing.T, p inProcess) (kill func()) {
	t.Helper()
	p.Options.Log = nil
	told, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.Options.Agent)
	cmd.Env = append(os.Environ(), processVariable+"="+string(told))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Errorf("the process ended by itself: %v", err)
		}
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the process said %q", lines.Text())
	}
	return kill
}

// The supervisor is killed: another process supervises at once, and what the dead
// one started runs on.
func TestSupervisorIsKilled(t *testing.T) {
	o := options(t)
	kill := spawn(t, inProcess{Options: o})
	c := open(t, o)
	eventually(t, "the other process supervises", func() bool {
		f, err := os.OpenFile(filepath.Join(o.DataDir, "locks", ".supervisor"), os.O_RDWR, 0)
		if err != nil {
			return false
		}
		defer f.Close()
		return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	})
	run(t, c) // waits
	s := create(t, c, o, "watched")
	first := one(t, "watched", "trove-guestagent")
	if err := first.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var second proc.Handle
	eventually(t, "the other process starts an agent that we started first", func() bool {
		found := tagged(t, "watched", "trove-guestagent")
		if len(found) == 1 && found[0].Handle != first {
			second = found[0].Handle
		}
		return second.PID != 0
	})
	kill()
	if now := one(t, "watched", "trove-guestagent"); now != second {
		t.Errorf("agent was %v, is %v", second, now)
	}
	if err := second.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	eventually(t, "we start it", func() bool {
		found := tagged(t, "watched", "trove-guestagent")
		return len(found) == 1 && found[0].Handle != second
	})
	if took := time.Since(killed); took > 10*time.Second {
		t.Errorf("taking over took %s", took)
	}
	// A server that a process deletes which does not supervise stays deleted.
	other := open(t, o)
	if gone, err := other.DeleteServer(t.Context(), s.Owner); !gone || err != nil {
		t.Errorf("gone %v, %v", gone, err)
	}
	if found, err := proc.Tagged("GOTROVE_INSTANCE=watched"); err != nil || len(found) > 0 {
		t.Errorf("still %v, %v", found, err)
	}
	if _, err := c.Server(t.Context(), s.Owner); !trove.IsKind(err, trove.KindNotFound) {
		t.Errorf("server: %v", err)
	}
}

// What one process sees of an agent that fails, all do.
func TestFailingAgentIsSeenByAll(t *testing.T) {
	o := options(t)
	run(t, open(t, o))
	other := open(t, o)
	s := create(t, other, o, "broken", "broken")
	eventually(t, "the server is in ERROR", func() bool {
		srv, err := other.Server(t.Context(), s.Owner)
		return err == nil && srv.Status == trove.ServerError && strings.Contains(srv.Fault, "in a row")
	})
	if gone, err := other.DeleteServer(t.Context(), s.Owner); !gone || err != nil {
		t.Errorf("gone %v, %v", gone, err)
	}
	for _, clean := range []func() error{
		func() error { _, err := other.DeleteVolume(t.Context(), s.Owner); return err },
		func() error { return other.DeletePorts(t.Context(), s.Owner) },
	} {
		if err := clean(); err != nil {
			t.Error(err)
		}
	}
	if l := left(o)(t, s.Owner); len(l) > 0 {
		t.Errorf("left: %v", l)
	}
}

// Processes are killed in the middle of making and deleting the servers that we
// make and delete too: at no time has one two agents, and nothing is left.
func TestKilledWhileItMakesServers(t *testing.T) {
	o := options(t)
	c := open(t, o)
	run(t, c)
	ids := []string{"aaaaaaaaaaaaaaaa-1", "bbbbbbbbbbbbbbbb-2"}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		kill := spawn(t, inProcess{Options: o, Ensure: ids})
		wait := time.NewTimer(rand.N(150 * time.Millisecond))
		<-wait.C
		kill()
		for _, id := range ids {
			s := mustSpec(t.Context(), c, id)
			if _, err := c.EnsureServer(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			one(t, id, "trove-guestagent")
			if found := tagged(t, id, "engine"); len(found) > 1 {
				t.Errorf("%s has %d engines", id, len(found))
			}
		}
		if gone, err := c.DeleteServer(t.Context(), cloud.Owner{InstanceID: ids[0]}); !gone || err != nil {
			t.Errorf("gone %v, %v", gone, err)
		}
	}
	for _, id := range ids {
		owner := cloud.Owner{InstanceID: id, Manager: "mariadb"}
		_, serr := c.DeleteServer(t.Context(), owner)
		_, verr := c.DeleteVolume(t.Context(), owner)
		if err := errors.Join(serr, verr, c.DeletePorts(t.Context(), owner)); err != nil {
			t.Error(err)
		}
		if l := left(o)(t, owner); len(l) > 0 {
			t.Errorf("left of %s: %v", id, l)
		}
	}
	open(t, o) // sweeps what the killed had begun to write
	for _, pattern := range []string{"addresses/.*", "instances/*", "locks/[a-z]*"} {
		if found, _ := filepath.Glob(filepath.Join(o.DataDir, pattern)); len(found) > 0 {
			t.Errorf("left: %v", found)
		}
	}
}
