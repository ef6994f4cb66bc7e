// Package proc finds processes again and ends them for sure.
//
// A pid alone names nothing: it is reused. A Handle (pid, start time, boot id)
// names one process for ever and can be stored; a tag in a process's
// environment finds it when the handle was not stored in time. Signals and
// waits go through pidfds, so they never reach a stranger, and work for
// processes that are not our children.
//
// The package knows Linux's /proc and nothing of agents or engines.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handle names one process of one boot of this machine.
type Handle struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot
	BootID    string `json:"boot_id"`
}

// Stat is what the kernel says of a process.
type Stat struct {
	PID       int
	State     byte // R, S, D, Z …
	PPID      int
	Session   int
	Flags     uint64
	StartTime uint64
}

// forkedOnly is the kernel's PF_FORKNOEXEC: the process runs its parent's
// program.
const forkedOnly = 0x40

// kernelThread is the kernel's PF_KTHREAD.
const kernelThread = 0x200000

func (s Stat) kernel() bool { return s.Flags&kernelThread != 0 }

// Ended reports whether the process has ended and only waits for its parent to
// take note.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' || s.State == 'x' }

// Leader reports whether the process was started with a session of its own: it
// leads one and has executed a program since it was forked. PostgreSQL's
// children lead sessions too, but execute nothing.
func (s Stat) Leader() bool { return s.Session == s.PID && s.Flags&forkedOnly == 0 }

// BootID is the id of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// ReadStat reads /proc/<pid>/stat; os.ErrProcessDone if there is no such process.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if gone(err) {
		return Stat{}, os.ErrProcessDone
	}
	if err != nil {
		return Stat{}, err
	}
	return parseStat(b)
}

// parseStat takes apart a line of /proc/<pid>/stat. The program's name, in
// parentheses, may itself hold blanks and parentheses.
func parseStat(b []byte) (Stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Stat{}, fmt.Errorf("malformed process stat %q", b)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return Stat{}, fmt.Errorf("malformed process stat %q", b)
	}
	var s Stat
	var errs [5]error
	s.PID, errs[0] = strconv.Atoi(strings.TrimSpace(string(b[:open])))
	s.State = f[0][0]
	s.PPID, errs[1] = strconv.Atoi(f[1])
	s.Session, errs[2] = strconv.Atoi(f[3])
	s.Flags, errs[3] = strconv.ParseUint(f[6], 10, 64)
	s.StartTime, errs[4] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

// Of makes the handle of a running process. os.ErrProcessDone if there is none.
func Of(pid int) (Handle, error) {
	boot, err := BootID()
	if err != nil {
		return Handle{}, err
	}
	st, err := ReadStat(pid)
	if err == nil && st.Ended() {
		err = os.ErrProcessDone
	}
	if err != nil {
		return Handle{}, err
	}
	return Handle{PID: pid, StartTime: st.StartTime, BootID: boot}, nil
}

func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrProcessDone)
}

// Running reports whether this very process still runs. A process of another
// boot, another process with the same pid and one that has ended but was not
// reaped do not.
func (h Handle) Running() bool {
	if h.PID <= 0 {
		return false
	}
	now, err := Of(h.PID)
	return err == nil && now == h
}

// open gives a pidfd that is surely of this process.
func (h Handle) open() (int, error) {
	if h.PID <= 0 {
		return -1, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(h.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if gone(err) || errors.Is(err, unix.EINVAL) {
			return -1, os.ErrProcessDone
		}
		return -1, fmt.Errorf("pidfd of %d: %w", h.PID, err)
	}
	if !h.Running() { // looked after opening: the pid was not ours
		_ = unix.Close(fd)
		return -1, os.ErrProcessDone
	}
	return fd, nil
}

// Signal sends a signal to this very process. os.ErrProcessDone if it has ended.
func (h Handle) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("not a signal of this system: %v", sig)
	}
	fd, err := h.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
		if gone(err) {
			return os.ErrProcessDone
		}
		return fmt.Errorf("signal %d: %w", h.PID, err)
	}
	return nil
}

// Wait returns nil when the process has ended, or ctx's error. It reaps
// nothing: the parent does.
func (h Handle) Wait(ctx context.Context) error {
	fd, err := h.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool { // called again when the pidfd becomes readable: the process has ended
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	return err
}
