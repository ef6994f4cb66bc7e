package amqp

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// QueueNames makes names for reply and fanout queues as oslo.messaging does
// with use_queue_manager: <host>:<process>:<counter>. The counter is kept in
// shared memory, for all processes of that name on the host, and begins at 1
// again when the service was started anew, so that it finds its queues again.
type QueueNames struct {
	Host    string // empty: the machine's name
	Process string // empty: the program's name
	// Dir is where the counter is kept; empty: /dev/shm.
	Dir string
}

// lockWait bounds the wait for another process that takes a name.
const lockWait = 10 * time.Second

// next gives a name; without q it is 128 random bits in hex, as of a Python
// uuid.
func (q *QueueNames) next() (string, error) {
	if q == nil {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		return hex.EncodeToString(b[:]), nil
	}
	host := q.Host
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	process := cmp.Or(q.Process, filepath.Base(os.Args[0]))
	file := filepath.Join(cmp.Or(q.Dir, "/dev/shm"), strings.ReplaceAll(host+"_"+process, "/", "_")+"_qmanager")
	n, err := count(file)
	if err != nil {
		return "", fmt.Errorf("use_queue_manager: %w", err)
	}
	return host + ":" + process + ":" + strconv.Itoa(n), nil
}

// count adds one to the counter in file, or begins it: its one line is
// <process group>:<counter>:<start time of the group's leader>.
func count(file string) (int, error) {
	// Nobody may lay a link there for us to write through.
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if !pause(ctx, 10*time.Millisecond) {
			return 0, fmt.Errorf("%s is locked: %w", file, ctx.Err())
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, 200))
	if err != nil {
		return 0, err
	}
	group := unix.Getpgrp()
	started, err := startTime(group)
	if err != nil {
		return 0, err
	}
	n := 1
	if p := strings.Split(strings.TrimSpace(string(b)), ":"); len(p) == 3 && p[0] == strconv.Itoa(group) && p[2] == started {
		if before, err := strconv.Atoi(p[1]); err == nil {
			n = before + 1
		}
	}
	line := fmt.Sprintf("%d:%d:%s", group, n, started)
	_, err = f.WriteAt([]byte(line), 0)
	return n, errors.Join(err, f.Truncate(int64(len(line))))
}

// startTime is when a process started, in the kernel's ticks since its own
// start; "0" for one that is no more, as the leader of a group may be.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return "0", nil
	}
	if err != nil {
		return "", err
	}
	// The second field, the name in parentheses, may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return "", errors.New("/proc: no start time")
	}
	return fields[19], nil
}
