// Package durable keeps files that survive a crash: a file is replaced whole or
// not at all, and one process at a time holds a directory. It also tells the file
// system which directories are unrelated.
//
// It knows nothing of what the files mean. It exists because a torn handle, key
// or configuration file is the difference between finding a running engine
// again and starting a second one.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

// WriteFile replaces path by data: afterwards, whatever happens, the file has
// its old or its new contents, and the mode given.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return WriteFileAs(path, data, mode, -1, -1)
}

// WriteFileAs is WriteFile for a file of another user; -1 leaves uid or gid as
// they are for new files.
func WriteFileAs(path string, data []byte, mode fs.FileMode, uid, gid int) error {
	return replace(path, mode, uid, gid, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// CopyFile is WriteFile with the contents of another file, however long.
func CopyFile(path, from string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return Explain(err)
	}
	defer src.Close()
	return replace(path, mode, -1, -1, func(f *os.File) error {
		_, err := io.Copy(f, src)
		return err
	})
}

func replace(path string, mode fs.FileMode, uid, gid int, fill func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return Explain(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = Explain(err)
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if uid >= 0 || gid >= 0 {
		if err = f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err = fill(f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable: files made, renamed or
// removed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return Explain(err)
	}
	defer d.Close()
	// Some file systems cannot sync a directory; there it needs none.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return Explain(err)
	}
	return nil
}

// Explain gives the usual failures of a file system a cause that people can
// act on: a full disk, a read-only file system, a directory of someone else.
// Other errors are returned as they are.
func Explain(err error) error {
	if err == nil || trove.KindOf(err) != trove.KindInternal {
		return err
	}
	path := "the file system"
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		path = p.Path
	} else if l, ok := errors.AsType[*os.LinkError](err); ok {
		path = l.New
	}
	say := func(what, action string) error {
		return &trove.Error{Kind: trove.KindUnavailable, Message: fmt.Sprintf("Cannot write %s: %s.", path, what), Action: action, Err: err}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return say("the disk is full", "Free some space on the file system that holds it, or move the data directory.")
	case errors.Is(err, syscall.EDQUOT):
		return say("the quota is used up", "Free some space, or raise the quota.")
	case errors.Is(err, syscall.EROFS):
		return say("the file system is read-only", "Mount it writable, or choose another data directory.")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return say("permission denied", "Give the user that this program runs as the right to write there.")
	}
	return err
}

// Lock is a file held by this process, alone or with others that share it, until
// Unlock or the process's end.
type Lock struct{ f *os.File }

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("held by another process")

// TryLock takes the lock file at path, making it if needed, and writes the
// process's id into it for people. ErrLocked if someone else has it. The lock
// ends with the process, however it ends; the file stays.
func TryLock(path string) (*Lock, error) {
	l, err := tryLock(path, unix.LOCK_EX)
	if err == nil {
		_, _ = fmt.Fprintf(l.f, "%d\n", os.Getpid())
	}
	return l, err
}

// TryShare is TryLock for any number of processes at once, beside none that holds
// the lock alone. Nobody's id is in the file then.
func TryShare(path string) (*Lock, error) { return tryLock(path, unix.LOCK_SH) }

func tryLock(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, Explain(err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil { // the id of one that is gone could be anybody's by now
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f: f}, nil
}

// Unlock lets go of the lock.
func (l *Lock) Unlock() error { return l.f.Close() }
