package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
)

// Several processes may use one data directory. What one of them must do alone
// it does under a file lock, which ends with the process, however that ends.
const (
	addressLock    = ".addresses"
	supervisorLock = ".supervisor"
)

// firstTry doubles up to lastTry: how often a lock that another has is tried.
const (
	firstTry = 2 * time.Millisecond
	lastTry  = 100 * time.Millisecond
)

func (c *Cloud) lockPath(name string) string { return filepath.Join(c.o.DataDir, "locks", name) }

// lockFile takes the lock of the name, until unlock or the end of the process. A
// lock is tried, not waited for: a wait for it could not be ended.
func (c *Cloud) lockFile(ctx context.Context, name string) (unlock func(), err error) {
	path := c.lockPath(name)
	for pause := firstTry; ; pause = min(2*pause, lastTry) {
		f, err := tryLock(path)
		if err != nil {
			return nil, err
		}
		if f != nil {
			return func() { _ = f.Close() }, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// tryLock gives the locked file, nil if another has it.
func tryLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, durable.Explain(err)
		}
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, f.Close()
		case err != nil:
			return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
		}
		// Whoever had it may have removed it: then it locks nothing any more.
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		_ = f.Close()
	}
}

// turn gives those of this process who want a name's lock their turn, in the order
// they came: a lock that is tried would be nobody's for most of the time when many
// want it. done must be called.
func (c *Cloud) turn(ctx context.Context, name string) (done func(), err error) {
	c.mu.Lock()
	l := c.locks[name]
	if l == nil {
		l = &keyLock{turn: make(chan struct{}, 1)}
		c.locks[name] = l
	}
	l.users++
	c.mu.Unlock()
	release := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(c.locks, name)
		}
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
	return func() { <-l.turn; release() }, nil
}

// lockAddresses makes claims of addresses one at a time, in all processes. unlock
// must be called.
func (c *Cloud) lockAddresses(ctx context.Context) (unlock func(), err error) {
	done, err := c.turn(ctx, addressLock)
	if err != nil {
		return nil, err
	}
	free, err := c.lockFile(ctx, addressLock)
	if err != nil {
		done()
		return nil, err
	}
	return func() { free(); done() }, nil
}

// lock makes changes to one instance one at a time, in all processes. unlock must
// be called.
func (c *Cloud) lock(ctx context.Context, id string) (unlock func(), err error) {
	done, err := c.turn(ctx, id)
	if err != nil {
		return nil, err
	}
	free, err := c.lockFile(ctx, id)
	if err != nil {
		done()
		return nil, err
	}
	return func() {
		if _, err := os.Stat(c.path(id)); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(c.lockPath(id)) // nothing is left to lock
		}
		free()
		done()
	}, nil
}
