package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyTree copies what is below src into the directory dst, with modes. Symbolic links
// are copied as such; a template has no other special files.
func copyTree(ctx context.Context, src, dst string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if rel == marker {
			return nil // the copy gets its own when it is whole
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		switch mode := info.Mode(); {
		case mode.IsDir():
			if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			// A directory that is not ours to write would stop the copy of
			// what is in it; servers make none.
			return os.Chmod(to, mode.Perm()|0o700)
		case mode.IsRegular():
			return copyFile(path, to, info)
		case mode&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		return fmt.Errorf("template file %s is a %s", rel, info.Mode().Type())
	})
}

// copyFile copies a regular file: by sharing its blocks where the file system
// can, else inside the kernel, leaving holes as holes.
func copyFile(src, dst string, info fs.FileInfo) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := copyData(in, out, info.Size()); err != nil {
		return err
	}
	return out.Truncate(info.Size()) // a hole at the end
}

func copyData(in, out *os.File, size int64) error {
	for pos := int64(0); pos < size; {
		from, err := in.Seek(pos, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := in.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := in.Seek(from, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(from, io.SeekStart); err != nil {
			return err
		}
		// io.Copy uses copy_file_range, or reads and writes where it cannot.
		if _, err := io.CopyN(out, in, end-from); err != nil {
			return err
		}
		pos = end
	}
	return nil
}

// syncers is how many files are made durable at once: enough for a journal to
// commit them together.
const syncers = 8

// syncTree makes a directory and all below it durable.
func syncTree(dir string) error {
	var files, dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		case d.Type().IsRegular():
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// All data is on its way before the first wait.
	if err := each(files, func(f *os.File) error { return unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) }); err != nil {
		return err
	}
	if err := each(files, (*os.File).Sync); err != nil {
		return err
	}
	return each(dirs, (*os.File).Sync)
}

func each(paths []string, f func(*os.File) error) error {
	var wg sync.WaitGroup
	errs := make([]error, syncers)
	for n := range syncers {
		wg.Go(func() {
			for i := n; i < len(paths) && errs[n] == nil; i += syncers {
				errs[n] = withFile(paths[i], f)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func withFile(path string, f func(*os.File) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

func syncDir(path string) error { return withFile(path, (*os.File).Sync) }
