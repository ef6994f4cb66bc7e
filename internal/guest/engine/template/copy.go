package template

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// workers is how many files are copied or made durable at once: enough to keep
// the cores and a disk busy, and for a journal to commit several together.
const workers = 8

// copyTree copies what is below src into the directory dst, with modes. Symbolic
// links are copied as such; a template has no other special files. Of the holes
// in each file it takes the room, unless holed is there to be told of it instead.
func copyTree(ctx context.Context, src, dst string, holed func(rel string, size int64)) error {
	var files []string
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := dst + path[len(src):]
		switch {
		case d.IsDir():
			info, err := d.Info()
			if err != nil {
				return err
			}
			if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			// A directory that is not ours to write would stop the copy of
			// what is in it; servers make none.
			return os.Chmod(to, info.Mode().Perm()|0o700)
		case path == filepath.Join(src, marker):
			return nil // the copy gets its own when it is whole
		case d.Type().IsRegular():
			files = append(files, path)
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		return fmt.Errorf("%s in a template is a %s", path, d.Type())
	})
	if err != nil {
		return err
	}
	c := newCopier()
	return each(files, func(path string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rel := path[len(src):]
		if holed == nil {
			return c.file(path, dst+rel, takeRoom)
		}
		return c.file(path, dst+rel, func(out int, size int64) error {
			holed(rel, size)
			return unix.Ftruncate(out, size)
		})
	})
}

// copier copies regular files. It works on bare descriptors: most of a data
// directory is small files, where what os.File does around each call costs more
// than the call.
type copier struct {
	noClone atomic.Bool // the file system has said it shares no blocks
	buffers sync.Pool
}

func newCopier() *copier {
	return &copier{buffers: sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}}
}

// file copies src to dst, which is not there yet: by sharing its blocks where
// the file system can. Of a hole nothing is written; the file that has one is
// given to finish with its size.
func (c *copier) file(src, dst string, finish func(out int, size int64) error) (err error) {
	in, err := unix.Open(src, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: src, Err: err}
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: src, Err: err}
	}
	out, err := unix.Open(dst, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: dst, Err: err}
	}
	defer func() {
		if e := unix.Close(out); e != nil && err == nil {
			err = &fs.PathError{Op: "close", Path: dst, Err: e}
		}
	}()
	if err := c.content(in, out, st.Size, finish); err != nil {
		return &fs.PathError{Op: "copy", Path: dst, Err: err}
	}
	if err := unix.Fchmod(out, st.Mode&0o777); err != nil {
		return &fs.PathError{Op: "chmod", Path: dst, Err: err}
	}
	return nil
}

func (c *copier) content(in, out int, size int64, finish func(out int, size int64) error) error {
	if size == 0 {
		return nil
	}
	if !c.noClone.Load() {
		if unix.IoctlFileClone(out, in) == nil {
			return nil
		}
		c.noClone.Store(true)
	}
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	copied := int64(0)
	for pos := int64(0); pos < size; {
		from, err := unix.Seek(in, pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(in, from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for from < end {
			n, err := unix.Pread(in, (*buf)[:min(end-from, int64(len(*buf)))], from)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			if err := writeAll(out, (*buf)[:n], from); err != nil {
				return err
			}
			from += int64(n)
			copied += int64(n)
		}
		pos = end
	}
	if copied >= size {
		return nil
	}
	return finish(out, size)
}

// takeRoom takes the room of a file's holes, where the file system can, and
// gives it its size: a server must not find the disk full in a file that it
// believes to have.
func takeRoom(out int, size int64) error {
	if err := unix.Fallocate(out, 0, 0, size); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return unix.Ftruncate(out, size) // there may be a hole at the end
}

// digBlock is the least run of zeros that is worth a hole.
const digBlock = 64 << 10

// dig makes holes of the zeros below dir, so that copies need not write them:
// servers fill the files they make. It is best effort.
func dig(dir string) error {
	zeros, block := make([]byte, digBlock), make([]byte, digBlock)
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil // it is copied as it is
		}
		defer f.Close()
		for at := int64(0); ; at += digBlock {
			if _, err := f.ReadAt(block, at); errors.Is(err, io.EOF) {
				return nil // what is left is small
			} else if err != nil {
				return err
			}
			if !bytes.Equal(block, zeros) {
				continue
			}
			if unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, digBlock) != nil {
				return filepath.SkipAll // this file system has no holes
			}
		}
	})
}

func writeAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// syncTree makes a directory and all below it durable, by writing out the whole
// file system: one commit of its journal instead of one wait for each of a
// thousand files. Errors of writing since the file system was mounted are
// reported (Linux 5.8).
func syncTree(dir string) error { return opened("sync", unix.O_RDONLY, unix.Syncfs)(dir) }

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error { return opened("sync", unix.O_RDONLY, unix.Fsync)(path) }

// opened makes a function of descriptors one of paths.
func opened(op string, how int, f func(fd int) error) func(path string) error {
	return func(path string) error {
		fd, err := unix.Open(path, how|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			err = f(fd)
		}
		if err != nil {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
		return nil
	}
}

// each calls f for every path, several at once, and stops at the first error.
func each(paths []string, f func(path string) error) error {
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		errs [workers]error
	)
	for n := range workers {
		wg.Go(func() {
			for errs[n] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(paths) {
					return
				}
				if errs[n] = f(paths[i]); errs[n] != nil {
					next.Store(int64(len(paths)))
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}
