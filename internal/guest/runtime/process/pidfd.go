package process

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidfd is a reference to one process that never comes to mean another one.
type pidfd struct{ f *os.File }

// openPidfd refers to the process pid that started at start; ok is false if it
// has ended.
func openPidfd(pid int, start uint64) (p pidfd, ok bool, err error) {
	if pid <= 0 {
		return pidfd{}, false, nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return pidfd{}, false, nil
	}
	if err != nil {
		return pidfd{}, false, os.NewSyscallError("pidfd_open", err)
	}
	p = pidfd{os.NewFile(uintptr(fd), "pidfd")}
	// The start time is compared after opening: from here on the pid cannot be
	// given to another process without this descriptor telling.
	s, gone, err := readStat(pid)
	if err != nil || gone || s.ended() || s.start != start {
		p.f.Close()
		return pidfd{}, false, err
	}
	return p, true, nil
}

func (p pidfd) close() { p.f.Close() }

func (p pidfd) signal(sig syscall.Signal) error {
	c, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := c.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return nil // it has ended
	}
	return os.NewSyscallError("pidfd_send_signal", sent)
}

// wait returns nil when the process has ended, ctx's error when ctx has. It
// waits in Go's poller and so costs no thread.
func (p pidfd) wait(ctx context.Context) error {
	c, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	if err := p.f.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var polled error
	err = c.Read(func(fd uintptr) bool {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(set, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			polled = os.NewSyscallError("poll", err)
			return true
		}
		return n > 0
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return errors.Join(err, polled)
}
