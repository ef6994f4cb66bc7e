package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	lockName     = "troved.lock"
	logName      = "troved.log"
	openrcName   = "openrc"
	databaseName = "gotrove.db"
	keysName     = "keys.conf"

	startWait = 60 * time.Second
	maxLog    = 64 << 20 // bytes; half of it is kept beside
	logCheck  = time.Minute
	stopWait  = 3 * time.Minute
)

const (
	// readyVariable names the file descriptor on which a detached standalone
	// says readyWord when it serves.
	readyVariable = "GOTROVE_READY_FD"
	readyWord     = "ready"
)

// detach starts this program again in the background, with its output in a log
// file of the data directory, and returns when it serves. One that runs
// already is fine.
func detach(ctx context.Context, c *Config, out io.Writer) error {
	if pid := runningPID(c); pid > 0 {
		fmt.Fprintf(out, "gotrove runs already (pid %d)\n", pid)
		return nil
	}
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil {
		return trove.Errorf(trove.KindUnavailable, "data directory: %w", durable.Explain(err))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.path(logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return trove.Errorf(trove.KindUnavailable, "log file: %w", durable.Explain(err))
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	readyIn, readyOut, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyIn.Close()

	args := []string{}
	for _, a := range os.Args[1:] {
		if a != "--detach" && a != "--detach=true" {
			args = append(args, a)
		}
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{readyOut}
	cmd.Env = append(os.Environ(), readyVariable+"=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyOut.Close()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	stopWaiting := context.AfterFunc(ctx, func() { readyIn.Close() })
	defer stopWaiting()
	said := make([]byte, len(readyWord))
	if _, err := io.ReadFull(readyIn, said); err == nil && string(said) == readyWord {
		fmt.Fprintf(out, "gotrove runs (pid %d, log %s)\n", cmd.Process.Pid, log.Name())
		return cmd.Process.Release()
	}
	if ctx.Err() != nil {
		return trove.Errorf(trove.KindUnavailable, "gotrove did not come up within %s; its log is %s", startWait, log.Name())
	}
	// The pipe was closed without a word: it has failed and its log says why.
	_ = cmd.Wait()
	return trove.Errorf(trove.KindUnavailable, "gotrove did not start:\n%s", tailFrom(log.Name(), begin))
}

// keepLogShort bounds the log that a detached standalone writes.
func (s *standalone) keepLogShort(ctx context.Context) error {
	tick := time.NewTicker(logCheck)
	defer tick.Stop()
	for {
		if err := durable.CutLog(s.c.path(logName), maxLog); err != nil {
			s.log.WarnContext(ctx, "the log is not kept short", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func tailFrom(file string, offset int64) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err.Error()
	}
	b, _ := io.ReadAll(io.LimitReader(f, 64<<10))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// readyPipe takes the pipe of whoever detached this process, before anything is
// started that could inherit it and outlive us, and gives what says on it that
// this process serves.
func readyPipe() (sayReady func()) {
	fd, err := strconv.Atoi(os.Getenv(readyVariable))
	os.Unsetenv(readyVariable)
	if err != nil || fd < 3 {
		return func() {}
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "ready")
	return func() {
		fmt.Fprint(f, readyWord)
		f.Close()
	}
}

// lock takes the data directory for this process.
func lock(c *Config) (*durable.Lock, error) {
	l, err := durable.TryLock(c.path(lockName))
	if err != nil {
		if pid := runningPID(c); pid > 0 { // else it is not the lock that stops us
			return nil, trove.Errorf(trove.KindConflict, "another standalone (pid %d) uses the data in %s", pid, c.DataDir).
				WithAction("stop it with: troved stop --data-dir %s, or give this one a --data-dir of its own", c.DataDir)
		}
		if shared, err := durable.TryShare(c.path(lockName)); err == nil {
			shared.Unlock()
			return nil, trove.Errorf(trove.KindConflict, "a trove-taskmanager of a process of its own uses the data in %s", c.DataDir).
				WithAction("stop it, or give the standalone a --data-dir of its own")
		}
		return nil, trove.Errorf(trove.KindUnavailable, "data directory: %w", durable.Explain(err))
	}
	return l, nil
}

// shareData takes the data directory for this process and others of its kind, but
// not beside a standalone, until the process ends.
func (p *process) shareData() error {
	if err := ownDirectory(p.c.DataDir); err != nil {
		return err
	}
	l, err := durable.TryShare(p.c.path(lockName))
	switch {
	case errors.Is(err, durable.ErrLocked):
		return trove.Errorf(trove.KindConflict, "a standalone uses the data in %s", p.c.DataDir).
			WithAction("stop it with: troved stop --data-dir %s, or set [gotrove] data_dir to another directory", p.c.DataDir)
	case err != nil:
		return trove.Errorf(trove.KindUnavailable, "data directory: %w", durable.Explain(err))
	}
	p.task("data directory", func(ctx context.Context) error {
		<-ctx.Done()
		return l.Unlock()
	}, 0)
	return nil
}

// runningPID is the pid of the standalone that holds the data directory, 0 if
// none does.
func runningPID(c *Config) int {
	// The lock holds its owner's pid. Taking it must not make it, in a
	// directory that may not be ours.
	b, err := os.ReadFile(c.path(lockName))
	if err != nil {
		return 0
	}
	l, err := durable.TryLock(c.path(lockName))
	if err == nil {
		l.Unlock()
	}
	if !errors.Is(err, durable.ErrLocked) { // a file system may be read-only
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}

// stop ends the standalone that holds the data directory and waits for it;
// remove takes the data away afterwards.
func stop(ctx context.Context, c *Config, remove bool, out io.Writer) error {
	if pid := runningPID(c); pid > 0 {
		h, err := proc.Of(pid)
		if err == nil {
			err = h.Signal(syscall.SIGTERM)
		}
		if err != nil {
			return fmt.Errorf("pid %d: %w", pid, err)
		}
		ctx, cancel := context.WithTimeout(ctx, stopWait)
		defer cancel()
		if err := h.Wait(ctx); err != nil {
			return trove.Errorf(trove.KindUnavailable, "pid %d did not end within %s", pid, stopWait)
		}
		fmt.Fprintf(out, "gotrove is stopped (pid %d)\n", pid)
	} else {
		fmt.Fprintln(out, "gotrove does not run")
	}
	if !remove {
		return nil
	}
	return removeData(ctx, c, out)
}

// removeData kills what a killed standalone may have left and removes its
// directories. A directory that is not ours is left alone.
func removeData(ctx context.Context, c *Config, out io.Writer) error {
	for _, mark := range []string{lockName, databaseName} {
		if _, err := os.Stat(c.path(mark)); errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(out, "there are no data of gotrove's in %s\n", c.DataDir)
			return nil
		}
	}
	l, err := lock(c)
	if err != nil {
		return err
	}
	defer l.Unlock()
	instances, err := filepath.Glob(c.path("instances", "*"))
	if err != nil {
		return err
	}
	var ids []string
	for _, dir := range instances {
		ids = append(ids, filepath.Base(dir))
		tag := instanceTag + filepath.Base(dir)
		if err := proc.Kill(ctx, func() ([]proc.Process, error) { return proc.Tree(tag) }); err != nil {
			return err
		}
	}
	if err := c.removeContainers(ctx, ids); err != nil {
		return err
	}
	if err := local.RemoveGroups(ctx, slog.New(slog.DiscardHandler), ids...); err != nil {
		return err
	}
	for _, dir := range []string{c.DataDir, c.RunDir} {
		if err := os.RemoveAll(dir); err != nil {
			return trove.Errorf(trove.KindUnavailable, "remove: %w", durable.Explain(err))
		}
	}
	fmt.Fprintf(out, "removed %s\n", c.DataDir)
	return nil
}

// instanceTag is how every process of an instance is marked in its environment.
const instanceTag = "GOTROVE_INSTANCE="
