package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reservePieces is in how many pieces a reserve is given up: whoever fills the
// disk takes what is freed too, and must not get all of it at once.
const reservePieces = 8

// Reserve is room of a file system that is held by a file, to be given up piece
// by piece when the disk is full: what must be written then can be. It is safe
// for concurrent use, by one process at a time.
type Reserve struct {
	path string
	size int64

	mu   sync.Mutex
	held int64
}

// OpenReserve finds what an earlier process held at path. size is what is to be
// held, in bytes; nothing is taken yet: see Fill.
func OpenReserve(path string, size int64) (*Reserve, error) {
	r := &Reserve{path: path, size: size}
	var st syscall.Stat_t
	err := syscall.Lstat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, Explain(&fs.PathError{Op: "lstat", Path: path, Err: err})
	}
	// Of a file with holes only what is there can be given up.
	r.held = min(st.Size, st.Blocks*512, size)
	return r, nil
}

// Missing is how much of the reserve was given up or could not be had, in bytes.
func (r *Reserve) Missing() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size - r.held
}

// Release gives a piece up. It reports whether there was one.
func (r *Reserve) Release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == 0 {
		return false
	}
	left := max(0, r.held-(r.size+reservePieces-1)/reservePieces)
	if os.Truncate(r.path, left) != nil {
		return false
	}
	r.held = left
	return true
}

// Fill takes back what is missing, if there is then still as much free as the
// whole reserve: else it would be given up again at once. It reports whether
// the reserve is whole.
func (r *Reserve) Fill() (whole bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == r.size {
		return true, nil
	}
	free, err := FreeSpace(filepath.Dir(r.path))
	if err != nil || free < 2*r.size-r.held {
		return false, err
	}
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, Explain(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, r.size); err != nil {
		_ = f.Truncate(r.held) // it may have got a part
		return false, Explain(&fs.PathError{Op: "fallocate", Path: r.path, Err: err})
	}
	r.held = r.size
	return true, nil
}

// FreeSpace is what ordinary users may still write on the file system of path,
// in bytes.
func FreeSpace(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}
