// Package proctest freezes processes for tests of what a hung one does. It is
// for tests only.
package proctest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/proc"
)

// patience is how long a process may take to stop: each of its threads has to
// come out of the kernel first.
const patience = 30 * time.Second

// Freeze stops a process and returns when none of its threads runs any more,
// which on a busy machine is some time after the signal; Thaw lets it go on. It
// is an error if the process has ended.
func Freeze(pid int) error { return freeze(pid, pid) }

// FreezeGroup is Freeze for a process group; it waits for its leader.
func FreezeGroup(leader int) error { return freeze(-leader, leader) }

// Thaw ends Freeze.
func Thaw(pid int) error { return syscall.Kill(pid, syscall.SIGCONT) }

// ThawGroup ends FreezeGroup.
func ThawGroup(leader int) error { return syscall.Kill(-leader, syscall.SIGCONT) }

func freeze(target, pid int) error {
	if err := syscall.Kill(target, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freezing process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := stopped(pid); done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d is not frozen: %w", pid, ctx.Err())
		}
	}
}

// stopped reports whether every thread of a process is.
func stopped(pid int) (bool, error) {
	threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*"))
	if err != nil {
		return false, err
	}
	all := 0
	for _, t := range threads {
		id, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			return false, err
		}
		// A thread has a directory of its own beside its process's.
		s, err := proc.ReadStat(id)
		switch {
		case errors.Is(err, os.ErrProcessDone):
		case err != nil:
			return false, err
		case s.Ended():
		case s.State != 'T':
			return false, nil
		default:
			all++
		}
	}
	if all == 0 {
		return false, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return true, nil
}
