package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/proc"
)

// remainsLimit is how long processes may take to be gone after SIGKILL.
const remainsLimit = 10 * time.Second

// clearRemains removes what a killed server left, if no server is at work on
// the data directory: processes of its, which end soon but not at once and hold
// its shared memory till then; and lock files that name a pid which another
// process has now, as after a power cut.
func (e *Engine) clearRemains() error {
	// A server makes this file first and removes it last.
	if _, err := os.Lstat(filepath.Join(e.set.DataDir, "postmaster.pid")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	working, left, err := e.processes()
	if err != nil || working {
		return err
	}
	if len(left) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), remainsLimit)
		defer cancel()
		err := proc.Kill(ctx, func() ([]proc.Process, error) {
			_, left, err := e.processes()
			return left, err
		})
		if err != nil {
			return fmt.Errorf("end what a killed server left: %w", err)
		}
	}
	for _, lock := range []string{
		filepath.Join(e.set.DataDir, "postmaster.pid"),
		filepath.Join(e.set.RunDir, fmt.Sprintf(".s.PGSQL.%d.lock", e.set.Port)),
	} {
		if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the lock of a killed server: %w", err)
		}
	}
	return nil
}

// processes finds the processes at home in the data directory, as servers and
// all they start are, and tells whether one is a server that can work.
func (e *Engine) processes() (working bool, left []proc.Process, err error) {
	all, err := proc.List()
	if err != nil {
		return false, nil, err
	}
	home, err := filepath.EvalSymlinks(e.set.DataDir)
	if err != nil {
		return false, nil, nil // there is no data directory yet
	}
	for _, p := range all {
		dir := filepath.Join("/proc", strconv.Itoa(p.PID))
		// Of other users' processes it is not told; none of them is ours.
		if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err != nil || cwd != home {
			continue
		}
		// Somebody may look around there with a shell.
		if exe, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || !strings.HasPrefix(filepath.Base(exe), "postgres") {
			continue
		}
		// Only the server itself shows its arguments: its children write over
		// theirs.
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && strings.Contains(string(args), "\x00-D\x00"+e.set.DataDir+"\x00") {
			return true, nil, nil
		}
		left = append(left, p)
	}
	return false, left, nil
}
