// Package template makes data directories that are either whole or not there.
//
// A fresh directory is built beside its place, made durable and renamed into
// it, so a crash leaves at most a directory whose name says it is half-made and
// ours. A template is such a directory that is built once per machine and
// copied for each instance. The package knows no SQL and no engine; an engine
// that has identity in its files gives each copy its own in Copy's prepare.
package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

// marker is the file that shows a directory to be made here and whole.
const marker = ".gotrove"

// whole is its first line; the others are of a ready copy: see Stock.
const whole = "made by gotrove; do not remove\n"

// Partial is where dst is made before it gets its name. Anything found there
// is half-made and may be removed.
func Partial(dst string) string {
	return filepath.Join(filepath.Dir(dst), "."+filepath.Base(dst)+".gotrove-partial")
}

// Made reports whether dst was made by this package and is whole. A missing or
// empty dst is not; a directory with anything else in it is an error of
// KindConflict, for it is not ours to touch.
func Made(dst string) (bool, error) {
	if _, err := os.Lstat(filepath.Join(dst, marker)); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, Explain(err, dst)
	}
	entries, err := os.ReadDir(dst)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, Explain(err, dst)
	}
	if len(entries) > 0 {
		return false, trove.Errorf(trove.KindConflict,
			"data directory %s is not empty and was not made here: it holds %s", dst, entries[0].Name()).
			WithAction("move what is in %s elsewhere, or give the instance another directory", dst)
	}
	return false, nil
}

// Make makes the directory dst: fill writes it at the path it is given. When
// Make returns nil, dst is whole and durable; when it fails, nothing is left.
// A dst already made is left alone. Only one Make of a dst may run at a time.
func Make(ctx context.Context, dst string, fill func(dir string) error) error {
	return makeWhole(ctx, dst, func(part string) error {
		if err := fill(part); err != nil {
			return err
		}
		return finish(ctx, part, []byte(whole))
	})
}

// finish marks what was written at part as whole and makes it durable.
func finish(ctx context.Context, part string, mark []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(part, marker), mark, 0o600); err != nil {
		return err
	}
	return syncTree(part)
}

// makeWhole is Make with a fill that leaves its directory marked and durable.
func makeWhole(ctx context.Context, dst string, fill func(dir string) error) (err error) {
	if made, err := Made(dst); made || err != nil {
		return err
	}
	part := Partial(dst)
	if err := os.RemoveAll(part); err != nil {
		return Explain(err, part)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(part) // its name tells what it is should it stay
		}
	}()
	if err := os.MkdirAll(part, 0o700); err != nil {
		return Explain(err, dst)
	}
	if err := fill(part); err != nil {
		return Explain(err, dst)
	}
	// The system's rename replaces an empty directory and refuses any other;
	// os.Rename refuses both.
	if err := unix.Rename(part, dst); err != nil {
		return Explain(err, dst)
	}
	return Explain(SyncDir(filepath.Dir(dst)), dst)
}

// Copy makes dst a copy of the template, by taking one that is ready if there
// is one. prepare, unless nil, changes the copy before it gets its name: what
// must differ from instance to instance. It makes its changes durable.
func Copy(ctx context.Context, template, dst string, prepare func(dir string) error) error {
	if made, err := Made(template); err != nil || !made {
		return errors.Join(err, trove.Errorf(trove.KindInternal, "template %s is not whole", template))
	}
	if prepare == nil {
		prepare = func(string) error { return nil }
	}
	return makeWhole(ctx, dst, func(part string) error {
		if taken, err := take(template, part); err != nil {
			return err
		} else if taken {
			return prepare(part)
		}
		if err := copyTree(ctx, template, part, nil); err != nil {
			return err
		}
		if err := prepare(part); err != nil {
			return err
		}
		return finish(ctx, part, []byte(whole))
	})
}

// Ensure returns the path of the template name below root and has it built if
// it is not there. The name holds all that the content depends on: engine,
// exact version, version of the recipe. Of any number of processes that ask at
// once one builds, while the others wait for it or for ctx.
func Ensure(ctx context.Context, root, name string, build func(dir string) error) (string, error) {
	path := filepath.Join(root, name)
	if made, err := Made(path); made || err != nil {
		return path, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", Explain(err, root)
	}
	unlock, err := lock(ctx, filepath.Join(root, "."+name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	return path, Make(ctx, path, func(dir string) error {
		if err := build(dir); err != nil {
			return err
		}
		return dig(dir)
	})
}

// lock takes an exclusive lock on a file; a process that ends lets go of it.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, Explain(err, path)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, Explain(err, path)
		}
		again := time.NewTimer(20*time.Millisecond + rand.N(20*time.Millisecond))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			f.Close()
			return nil, fmt.Errorf("wait for %s: %w", path, ctx.Err())
		}
	}
}

// Explain turns err, which befell path, into words for the person whose disk it
// is: it names the full disk, the missing right or the read-only file system.
// nil stays nil.
func Explain(err error, path string) error {
	if _, ok := errors.AsType[*trove.Error](err); ok || err == nil {
		return err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return full(err, path)
	case errors.Is(err, syscall.EROFS):
		return trove.Errorf(trove.KindGuest, "%s is on a read-only file system: %w", path, err).
			WithAction("mount it for writing")
	case errors.Is(err, fs.ErrPermission):
		return trove.Errorf(trove.KindGuest, "%s cannot be written: %w", path, err).
			WithAction("give user %d the right to write in %s", os.Geteuid(), filepath.Dir(path))
	}
	return fmt.Errorf("make %s: %w", path, err)
}

// Room fails when the file system of path has fewer than need bytes free:
// programs that meet a full disk half-way say so in ways nobody can read. The
// error is for Explain, which Make calls.
func Room(path string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if st.Bavail*uint64(st.Bsize) < need {
		return fmt.Errorf("%d MiB are needed: %w", need>>20, syscall.ENOSPC)
	}
	return nil
}

func full(err error, path string) error {
	e := trove.Errorf(trove.KindGuest, "the disk of %s is full: %w", path, err)
	var st unix.Statfs_t
	if unix.Statfs(filepath.Dir(path), &st) != nil {
		return e.WithAction("free some space there")
	}
	const mib = 1 << 20
	return e.WithAction("free some space there: %d of %d MiB were free", st.Bavail*uint64(st.Bsize)/mib, st.Blocks*uint64(st.Bsize)/mib)
}
