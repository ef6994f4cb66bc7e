package docker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"crypto/rand"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
	"github.com/gotrove/gotrove/internal/trove"
)

const limit = 60 * time.Second

func shell(t *testing.T, script string) runtime.Spec {
	t.Helper()
	dir := t.TempDir()
	return runtime.Spec{InstanceID: "test-" + strings.ToLower(rand.Text()), Name: "shell", Argv: []string{"sh", "-c", script},
		Dir: dir, LogFile: filepath.Join(dir, "log"), StopSignal: syscall.SIGTERM}
}

func start(t *testing.T, r *docker.Runtime, s runtime.Spec) runtime.Handle {
	t.Helper()
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.RemoveInstance(context.WithoutCancel(t.Context()), daemon.Socket, s.InstanceID); err != nil {
			t.Error(err)
		}
	})
	return h
}

func isRunning(t *testing.T, r *docker.Runtime, h runtime.Handle) bool {
	t.Helper()
	st, err := r.State(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return st.Running
}

func containers(t *testing.T, s runtime.Spec) []string {
	t.Helper()
	out, err := daemon.Docker(t.Context(), "ps", "--all", "--no-trunc", "--quiet", "--filter", "label=org.gotrove.instance="+s.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

// What Docker shows of a container is what was asked for, and no more.
func TestContainer(t *testing.T) {
	o := options(t)
	o.MemoryMB, o.Restart, o.User = 256, true, "1234:5678"
	r, s := open(t, o), shell(t, "id -u; id -g; grep CapEff /proc/self/status; exec sleep 1000")
	if err := os.Chown(s.Dir, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	s.Dirs, s.Health = []string{other}, []string{"true"}
	if err := os.WriteFile(s.LogFile, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(s.LogFile, 0o666), os.Chmod(filepath.Dir(s.Dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	start(t, r, s)
	runtimetest.Eventually(t, "it runs as the user without rights", func() error {
		b, err := os.ReadFile(s.LogFile)
		if err == nil && string(b) != "1234\n5678\nCapEff:\t0000000000000000\n" {
			err = errors.New(string(b))
		}
		return err
	})
	got, err := daemon.Docker(t.Context(), "inspect", "--format",
		"{{.Name}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.Config.Healthcheck.Test}} {{len .Mounts}} {{.HostConfig.Privileged}}",
		containers(t, s)[0])
	// The image's own volume is the third mount.
	if want := "/gotrove-" + s.InstanceID + "-shell 268435456 268435456 unless-stopped host [CMD true] 3 false"; err != nil || got != want {
		t.Errorf("Docker shows\n%s, %v, want\n%s", got, err, want)
	}
}

func TestDaemonKilled(t *testing.T) {
	o := options(t)
	r, s := open(t, o), shell(t, "echo up; exec sleep 1000")
	h := start(t, r, s)
	waited := make(chan error, 1)
	go func() {
		_, err := r.Wait(t.Context(), h)
		waited <- err
	}()
	if err := daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	if !isRunning(t, r, h) {
		t.Error("a program is taken for ended because Docker is away")
	}
	if _, err := r.Start(t.Context(), s); !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
		t.Errorf("Start without Docker gives %v (%s)", err, trove.ActionOf(err))
	}
	select {
	case err := <-waited:
		t.Errorf("Wait returned while the program runs: %v", err)
		waited <- err
	default:
	}
	// A Docker without live restore ends what ran, and does so as it starts.
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit):
		t.Fatal("Wait does not return")
	}
	again := start(t, r, s)
	if again == h || !isRunning(t, r, again) || isRunning(t, r, h) {
		t.Errorf("after Docker's restart the program is %+v, was %+v", again, h)
	}
	if all := containers(t, s); len(all) != 1 {
		t.Errorf("there are containers %v", all)
	}
}

// With live restore a program goes on through a restart of Docker.
func TestLiveRestore(t *testing.T) {
	o := options(t)
	d, err := dockertest.Start(dockertest.Options{Sets: []string{dockertest.Stable}, LiveRestore: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	o.Socket = d.Socket
	r, s := open(t, o), shell(t, "exec sleep 1000")
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []func() error{d.Down, d.Kill} {
		if err := errors.Join(end(), d.Start()); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*docker.Runtime{r, open(t, o)} {
			if got, err := r.Start(t.Context(), s); err != nil || got != h {
				t.Errorf("Start gives %+v, %v, want %+v", got, err, h)
			}
		}
	}
	if err := r.Stop(t.Context(), h, syscall.SIGKILL, limit); err != nil {
		t.Error(err)
	}
}

// A program that Docker starts again is another one to the agent, which finds
// it; one that was stopped stays stopped.
func TestRestartPolicy(t *testing.T) {
	o := options(t)
	o.Restart = true
	r, s := open(t, o), shell(t, "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")
	first := start(t, r, s)
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if st, err := r.Wait(ctx, first); err != nil || st.Running {
		t.Fatalf("the killed program is %+v, %v", st, err)
	}
	var second runtime.Handle
	runtimetest.Eventually(t, "Docker starts it again", func() (err error) {
		var ok bool
		if second, ok, err = r.Find(t.Context(), s); err == nil && !ok {
			err = errors.New("it does not run")
		}
		return err
	})
	if second == first || second.Container != first.Container || isRunning(t, r, first) {
		t.Errorf("the program that was started again is %+v, it was %+v", second, first)
	}
	if err := r.Stop(t.Context(), first, syscall.SIGKILL, 0); err != nil || !isRunning(t, r, second) {
		t.Errorf("stopping a run that has ended: %v; the next one runs: %v", err, isRunning(t, r, second))
	}
	if err := r.Stop(t.Context(), second, syscall.SIGTERM, limit); err != nil {
		t.Fatal(err)
	}
	if all := containers(t, s); len(all) > 0 {
		t.Errorf("containers %v are left", all)
	}
}

// A container that was made by an agent which died before it could start it, or
// that ended, stands in nobody's way.
func TestDeadContainer(t *testing.T) {
	o := options(t)
	r, s := open(t, o), shell(t, "exec sleep 1000")
	if _, err := daemon.Docker(t.Context(), "create", "--name", "gotrove-"+s.InstanceID+"-shell", "--label", "org.gotrove.instance="+s.InstanceID,
		"--label", "org.gotrove.program=shell", o.Image, "true"); err != nil {
		t.Fatal(err)
	}
	h := start(t, r, s)
	if all := containers(t, s); len(all) != 1 || all[0] != h.Container {
		t.Errorf("there are containers %v, want %s", all, h.Container)
	}
}

// Any number of agents start one program once.
func TestStartedAtOnce(t *testing.T) {
	o := options(t)
	s := shell(t, "exec sleep 1000")
	handles := make(chan runtime.Handle, 4)
	for range cap(handles) {
		r := open(t, o)
		go func() {
			h, err := r.Start(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			handles <- h
		}()
	}
	t.Cleanup(func() { _ = docker.RemoveInstance(context.WithoutCancel(t.Context()), daemon.Socket, s.InstanceID) })
	var first runtime.Handle
	for n := range cap(handles) {
		h := <-handles
		if n == 0 {
			first = h
		}
		if h != first {
			t.Errorf("handles %+v and %+v", first, h)
		}
	}
	if all := containers(t, s); len(all) != 1 {
		t.Errorf("there are containers %v", all)
	}
}

func TestOutOfMemory(t *testing.T) {
	o := options(t)
	o.MemoryMB = 32
	r, s := open(t, o), shell(t, "exec tail /dev/zero") // keeps its last line, which has no end
	h := start(t, r, s)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	st, err := r.Wait(ctx, h)
	if err != nil || st.ExitCode != -1 || !strings.Contains(st.Detail, "memory") {
		t.Errorf("the program that takes all memory is %+v, %v", st, err)
	}
}

func TestTool(t *testing.T) {
	o := options(t)
	o.User = "4242:4242"
	r, dir := open(t, o), t.TempDir()
	if err := os.Chown(dir, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	run := func(named bool, script string) (string, error) {
		return r.Run(t.Context(), runtime.Tool{Argv: []string{"sh", "-c", script}, Env: []string{"GIVEN=yes"}, Dir: dir, Named: named})
	}
	if out, err := run(false, "echo $GIVEN; pwd; touch made; echo end >&2"); err != nil || out != "yes\n"+dir+"\nend\n" {
		t.Errorf("it said %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Error(err)
	}
	if out, err := run(true, "id -un"); err != nil || out != "database\n" {
		t.Errorf("the user's name is %q, %v", out, err)
	}
	if _, err := run(false, "echo because >&2; exit 3"); !trove.IsKind(err, trove.KindGuest) || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), "3") {
		t.Errorf("a failure is %v", err)
	}
	if _, err := r.Run(t.Context(), runtime.Tool{Argv: []string{"no-such-program"}, Dir: dir}); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := r.Run(ctx, runtime.Tool{Argv: []string{"sleep", "1000"}, Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that takes too long is %v", err)
	}
	runtimetest.Eventually(t, "no container is left", func() error {
		out, err := daemon.Docker(t.Context(), "ps", "--all", "--quiet", "--filter", "label=org.gotrove.tool")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

func TestTags(t *testing.T) {
	o := options(t)
	name, tag, _ := strings.Cut(o.Image, ":")
	if got, err := docker.Tags(t.Context(), daemon.Socket, name); err != nil || len(got) != 1 || got[0] != tag {
		t.Errorf("Tags gives %v, %v, want %s", got, err, tag)
	}
	if got, err := docker.Tags(t.Context(), daemon.Socket, "nothing"); err != nil || len(got) != 0 {
		t.Errorf("Tags gives %v, %v", got, err)
	}
	if _, err := docker.Tags(t.Context(), "/nowhere/docker.sock", "nothing"); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("Tags without Docker gives %v", err)
	}
}
