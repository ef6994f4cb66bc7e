// Package porttest gives the servers of tests TCP ports that stay theirs: also
// while a server is stopped and will be started again on the same port. The
// kernel gives none of them to a connection, and a lock keeps the other test
// processes of this machine away. It is for tests only.
package porttest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// from is the lowest port that is given; below it are well-known ones. to is
// beyond the highest: rabbitmqctl listens at its server's port plus 10000.
const from, to = 10000, 32000

// Free gives a port of 127.0.0.1 that nobody listens on. It is the caller's
// until this process ends.
func Free() (int, error) {
	first, last, err := kernelRange()
	if err != nil {
		return 0, err
	}
	const tries = 10000
	for n := range tries {
		port := from + rand.IntN(to-from)
		if n < tries/2 && first <= port && port <= last {
			continue // unless the kernel leaves none
		}
		unlock, err := lock(port)
		if err != nil {
			return 0, err
		}
		if unlock == nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			unlock()
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("no free port")
}

// kernelRange are the first and the last port that the kernel gives to
// connections: one of them may take the port of a server that is down.
func kernelRange() (first, last int, err error) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(string(b), &first, &last); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", file, err)
	}
	return first, last, nil
}

// lock takes a port's byte of a file, until the process ends or unlock; unlock is
// nil if another has it.
func lock(port int) (unlock func(), err error) {
	fd, err := open()
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: file, Err: err}
	}
	unlock = func() { _ = syscall.Close(fd) }
	// Of the open file, not of the process: two tests of one process do not share it.
	err = syscall.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Start: int64(port), Len: 1})
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		unlock()
		return nil, nil
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("lock of %s: %w", file, err)
	}
	return unlock, nil
}

// file is locked by all users, and whatever directory for temporary files a test
// has: some run as an unprivileged user beside others that do not.
const file = "/tmp/gotrove-test-ports"

// open gives a descriptor and no os.File: that would be closed, and the lock
// gone, when it is not in use.
func open() (fd int, err error) {
	const how = syscall.O_RDWR | syscall.O_CLOEXEC | syscall.O_NOFOLLOW
	// Linux lets nobody open another's file in /tmp with O_CREAT.
	if fd, err = syscall.Open(file, how, 0); !errors.Is(err, syscall.ENOENT) {
		return fd, err
	}
	made, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file))
	if err != nil {
		return -1, err
	}
	defer os.Remove(made.Name())
	// Everybody's before it has its name; the first to give it that wins.
	if err = errors.Join(made.Chmod(0o666), made.Close()); err == nil {
		err = os.Link(made.Name(), file)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return -1, err
	}
	return syscall.Open(file, how, 0)
}
