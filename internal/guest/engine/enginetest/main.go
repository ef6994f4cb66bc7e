package enginetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/proc"
)

// Environment of the tests that Main runs as another user.
const (
	envDropped = "GOTROVE_TEST_UNPRIVILEGED"
	envSmall   = "GOTROVE_TEST_SMALL_DISK"
	envDocker  = "GOTROVE_TEST_DOCKER"
	envImage   = "GOTROVE_TEST_IMAGE_" // and its name
)

// smallDisk is the size of the file system for the tests of a full disk.
const smallDisk = "size=6m"

// Main is for the TestMain of an engine's package. No server runs as root, nor
// does the agent that starts it, so as root the tests are run again as user
// nobody, with a temporary directory of their own and a small file system for
// the tests of a full disk; and a Docker with these sets of images, where it can
// be had.
func Main(m *testing.M, sets ...string) int {
	if os.Geteuid() != 0 || os.Getenv(envDropped) != "" {
		return m.Run()
	}
	flag.Parse()
	if testing.Short() {
		sets = nil
	}
	code, err := runDropped(sets)
	if err != nil {
		fmt.Fprintln(os.Stderr, "enginetest: run as an unprivileged user:", err)
		return 1
	}
	return code
}

func runDropped(sets []string) (code int, err error) {
	u, err := user.Lookup("nobody")
	if err != nil {
		return 0, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	// Short: socket paths hold about 100 characters.
	tmp, err := os.MkdirTemp("/tmp", "gte")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Chown(tmp, uid, gid); err != nil {
		return 0, err
	}
	env := append(os.Environ(), envDropped+"=1", "TMPDIR="+tmp, "HOME="+tmp, "USER=nobody")
	if small := filepath.Join(tmp, "small"); mountSmall(small, uid, gid) {
		env = append(env, envSmall+"="+small)
		defer func() { err = errors.Join(err, syscall.Unmount(small, syscall.MNT_DETACH)) }()
	}
	if len(sets) > 0 && dockertest.Missing(sets...) == "" {
		d, err := dockertest.Start(dockertest.Options{Sets: sets, GID: gid})
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, d.Stop()) }()
		env = append(env, envDocker+"="+d.Socket)
		for _, set := range sets {
			images, err := dockertest.Images(set)
			if err != nil {
				return 0, err
			}
			for name, ref := range images {
				env = append(env, envImage+name+"="+ref)
			}
		}
	}
	cmd := exec.Command("/proc/self/exe", reachable(os.Args[1:])...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, sweep(cmd.Process.Pid)) }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()
	if err := cmd.Wait(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
			return exit.ExitCode(), nil
		}
		return 0, err
	}
	return 0, nil
}

// InContainers is h with containers of the image with this name; the test is
// skipped where there is none.
func InContainers(t *testing.T, h Harness, name string) Harness {
	t.Helper()
	h.Image = os.Getenv(envImage + name)
	if h.Image == "" {
		t.Skipf("needs root, Docker (scripts/install docker) and an image %s (packaging/images/build), and is not for -short", name)
	}
	h.Runtime = func(t *testing.T) runtime.Runtime { return openDocker(t, h.Image) }
	return h
}

func openDocker(t *testing.T, image string) *docker.Runtime {
	t.Helper()
	r, err := docker.New(docker.Options{Socket: os.Getenv(envDocker), Image: image, MemoryMB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// sweep ends the servers of tests that could not: those of a run that was
// killed, or that ran out of time. InstanceID made their tags.
func sweep(pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return proc.Kill(ctx, func() ([]proc.Process, error) {
		all, err := proc.List()
		return slices.DeleteFunc(all, func(p proc.Process) bool {
			return !slices.ContainsFunc(p.Env, func(kv string) bool {
				return strings.HasPrefix(kv, "GOTROVE_INSTANCE=") && strings.HasSuffix(kv, instanceSuffix(pid))
			})
		}), err
	})
}

// InstanceID makes the id of a test's instance from the base name of its
// directory. What has such an id does not outlive the test's process.
func InstanceID(dir string) string { return filepath.Base(dir) + instanceSuffix(os.Getpid()) }

func instanceSuffix(pid int) string { return "-test" + strconv.Itoa(pid) }

func mountSmall(dir string, uid, gid int) bool {
	if os.Mkdir(dir, 0o755) != nil {
		return false
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("%s,mode=755,uid=%d,gid=%d", smallDisk, uid, gid)) == nil
}

// reachable leaves out the flags that name files in directories only root may enter.
func reachable(args []string) []string {
	var kept []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.gocoverdir") {
			kept = append(kept, a)
		}
	}
	return kept
}
