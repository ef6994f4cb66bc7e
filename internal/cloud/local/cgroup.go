package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups makes a memory control group for each instance, so that agent and
// engine together stay within the flavor. The zero value, for machines that do
// not let us, makes none.
type cgroups struct {
	mu     *sync.Mutex // held while parent comes and goes
	parent string      // directory; empty: none
	limit  string      // the file that holds the limit
	// home is the file that takes threads of ours back, version 1. It is found
	// out once, while none is away: what the kernel says later of "self" is
	// where the main thread happens to be.
	home string
}

// findCgroups looks for a place where we may make groups: version 1 or 2, below
// the root of the memory controller, beside our own group, or in it. Tried, not
// guessed: containers and delegation differ too much.
func findCgroups(name string, log *slog.Logger) cgroups {
	b, _ := os.ReadFile("/proc/self/cgroup")
	own := ownGroups(string(b))
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		g := cgroups{mu: &sync.Mutex{}}
		var path string
		switch {
		case f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",memory,"):
			g.limit, path = "memory.limit_in_bytes", own["memory"]
			g.home = filepath.Join(f[1], path, "tasks")
			if _, err := os.Stat(g.home); err != nil { // in a container the path may be that of the outside
				g.home = filepath.Join(f[1], "tasks")
			}
		case f[2] == "cgroup2":
			g.limit, path = "memory.max", own[""]
		default:
			continue
		}
		for _, base := range []string{f[1], filepath.Join(f[1], filepath.Dir(path)), filepath.Join(f[1], path)} {
			g.parent = filepath.Join(base, name)
			if g.works() {
				return g
			}
		}
	}
	log.Info("memory limits are not enforced: no memory control group may be made here")
	return cgroups{}
}

// ownGroups reads /proc/self/cgroup: our groups by controller; "" is version 2.
func ownGroups(text string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(text) {
		if p := strings.SplitN(strings.TrimSpace(line), ":", 3); len(p) == 3 {
			for ctl := range strings.SplitSeq(p[1], ",") {
				own[ctl] = p[2]
			}
		}
	}
	return own
}

// works tries a group out.
func (g cgroups) works() bool {
	probe := "probe-" + strconv.Itoa(os.Getpid())
	err := g.make(probe, 1<<10)
	_ = g.take(probe) // there is nothing else to try
	return err == nil
}

func (g cgroups) path(id string) string { return filepath.Join(g.parent, id) }

// start starts cmd in the instance's group, with the limit in MiB. Where there
// are no groups, or this one cannot be made (failed tells why), it is started
// without.
func (g cgroups) start(cmd *exec.Cmd, id string, memory int) (failed, err error) {
	if g.parent == "" {
		return nil, cmd.Start()
	}
	if failed := g.make(id, memory); failed != nil {
		return failed, cmd.Start()
	}
	if g.limit == "memory.max" {
		dir, failed := os.Open(g.path(id))
		if failed != nil {
			return failed, cmd.Start()
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return nil, cmd.Start()
	}
	// Version 1 has no way to start a process in a group, but threads can be in
	// groups of their own: one of ours goes there, starts it and comes back.
	onThread(func() (keep bool) {
		tid := []byte(strconv.Itoa(unix.Gettid()))
		if failed = os.WriteFile(filepath.Join(g.path(id), "tasks"), tid, 0); failed != nil {
			err = cmd.Start()
			return true
		}
		err = cmd.Start()
		return os.WriteFile(g.home, tid, 0) == nil
	})
	return failed, err
}

// onThread runs f on a thread that nothing else runs on, and ends the thread
// unless f says that it can be kept. It is never the main thread, which cannot
// be ended.
func onThread(f func() (keep bool)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onThread(f) // on another one, as long as we hold this
			runtime.UnlockOSThread()
			return
		}
		if f() {
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// makeTries bounds how often a group is made whose parent another process took
// away in between.
const makeTries = 5

// make makes the instance's group, and the parent with the first.
func (g cgroups) make(id string, memory int) (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for range makeTries {
		if err = g.makeOnce(id, memory); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (g cgroups) makeOnce(id string, memory int) error {
	if err := os.Mkdir(g.parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if g.limit == "memory.max" {
		// Fails where it is not ours to give; then the limit's file is missing below.
		for _, dir := range []string{filepath.Dir(g.parent), g.parent} {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0)
		}
	}
	if err := os.Mkdir(g.path(id), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.WriteFile(filepath.Join(g.path(id), g.limit), []byte(strconv.Itoa(memory<<20)), 0)
}

// take takes the instance's group away, and the parent with the last.
func (g cgroups) take(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := syscall.Rmdir(g.path(id))
	_ = syscall.Rmdir(g.parent) // fails while it has groups
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveGroups takes away the memory control groups of instances whose
// processes have ended and which no cloud serves any more.
func RemoveGroups(ctx context.Context, log *slog.Logger, instanceIDs ...string) error {
	g := findCgroups(cgroupParent, log)
	for _, id := range instanceIDs {
		if err := g.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// pids gives the processes in the instance's group.
func (g cgroups) pids(id string) []int {
	if g.parent == "" {
		return nil
	}
	b, _ := os.ReadFile(filepath.Join(g.path(id), "cgroup.procs"))
	var out []int
	for f := range bytes.FieldsSeq(b) {
		if n, err := strconv.Atoi(string(f)); err == nil && n > 0 {
			out = append(out, n)
		}
	}
	return out
}

// holds reports whether a process is in the instance's group by more than a
// thread that passes through it, as one of ours does to start an agent.
func (g cgroups) holds(pid int, id string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup") // of its main thread
	if err != nil {
		return false
	}
	for _, path := range ownGroups(string(b)) {
		if strings.HasSuffix(path, "/"+filepath.Base(g.parent)+"/"+id) {
			return true
		}
	}
	return false
}

// remove takes the instance's group away; its processes have ended, but the
// kernel may need a moment to see it.
func (g cgroups) remove(ctx context.Context, id string) error {
	if g.parent == "" {
		return nil
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := g.take(id)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return &fs.PathError{Op: "rmdir", Path: g.path(id), Err: err}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
