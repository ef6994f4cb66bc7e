package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process that was found.
type Process struct {
	Handle
	Stat Stat
	UID  int
	Env  []string // empty if we may not read it
}

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 256 << 10

// execTries is how often, a millisecond apart, a process is looked at that is
// executing a program just now.
const execTries = 100

// List reads all processes that have not ended. Those that end meanwhile are
// left out.
func List() ([]Process, error) {
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		st, err := ReadStat(pid)
		if err != nil || st.Ended() {
			continue
		}
		var owner syscall.Stat_t
		if syscall.Stat("/proc/"+name, &owner) != nil {
			continue
		}
		out = append(out, Process{Handle: Handle{PID: pid, StartTime: st.StartTime, BootID: boot}, Stat: st, UID: int(owner.Uid), Env: environ(name, st)})
	}
	return out, nil
}

// environ reads the environment that a process was started with. In the middle of
// execve it is empty, and so is the command line: who looks for the process must
// not miss it then, so it is read again for a moment.
func environ(pid string, st Stat) []string {
	for range execTries {
		b := head("/proc/" + pid + "/environ")
		if len(b) > 0 {
			return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		}
		if b == nil || st.kernel() || len(head("/proc/"+pid+"/cmdline")) > 0 {
			return nil
		}
		<-time.After(time.Millisecond)
	}
	return nil
}

// head reads a file's first bytes; nil if it cannot be read.
func head(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	return b
}

// Has reports whether the process's environment at its start held kv, a whole
// NAME=value.
func (p Process) Has(kv string) bool { return slices.Contains(p.Env, kv) }

// Tagged finds the running processes whose environment holds all tags, each a
// whole NAME=value.
func Tagged(tags ...string) ([]Process, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	var out []Process
next:
	for _, p := range all {
		for _, t := range tags {
			if !p.Has(t) {
				continue next
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// Tree finds the tagged processes and everything below them. What they started
// need not show the tag any more: PostgreSQL's servers write over their
// environment and lead sessions of their own.
func Tree(tags ...string) ([]Process, error) {
	all, err := List()
	if err != nil {
		return nil, err
	}
	children := map[int][]Process{}
	var todo []Process
next:
	for _, p := range all {
		children[p.Stat.PPID] = append(children[p.Stat.PPID], p)
		for _, t := range tags {
			if !p.Has(t) {
				continue next
			}
		}
		todo = append(todo, p)
	}
	seen := map[int]bool{os.Getpid(): true} // never ourselves
	var out []Process
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p.PID] {
			continue
		}
		seen[p.PID] = true
		out = append(out, p)
		todo = append(todo, children[p.PID]...)
	}
	return out, nil
}

// Kill kills what find gives, and looks again until find gives nothing and all
// it ever gave is gone. It returns ctx's error if that does not come to pass.
func Kill(ctx context.Context, find func() ([]Process, error)) error {
	known := map[Handle]bool{}
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		found, err := find()
		if err != nil {
			return err
		}
		for _, p := range found {
			known[p.Handle] = true
		}
		for h := range known {
			err := h.Signal(syscall.SIGKILL)
			if errors.Is(err, os.ErrProcessDone) {
				delete(known, h)
			} else if err != nil {
				return err
			}
		}
		if len(known) == 0 {
			return nil
		}
		wait.Reset(5 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			return fmt.Errorf("%d processes do not end: %w", len(known), ctx.Err())
		}
	}
}
