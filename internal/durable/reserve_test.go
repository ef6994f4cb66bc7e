package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/durable"
)

// smallDisk is a file system of n bytes.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("this machine does not let us mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestReserve(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "size=16m")
	path, filler := filepath.Join(dir, "reserve"), filepath.Join(dir, "filler")
	const size = 4 << 20
	open := func(missing int64) *durable.Reserve {
		t.Helper()
		r, err := durable.OpenReserve(path, size)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Missing(); got != missing {
			t.Fatalf("%d bytes are missing, not %d", got, missing)
		}
		return r
	}
	fill := func(r *durable.Reserve, want bool) {
		t.Helper()
		if whole, err := r.Fill(); whole != want || err != nil {
			t.Fatalf("filled: %t, %v", whole, err)
		}
	}
	r := open(size)
	fill(r, true)
	fill(r, true)
	if free, err := durable.FreeSpace(dir); err != nil || free > 12<<20 {
		t.Fatalf("%d bytes are free (%v): nothing is held", free, err)
	}
	r = open(0) // by the next process
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, 12<<20); err != nil {
		t.Fatal(err)
	}
	small := []byte("what must be written")
	if err := durable.WriteFile(filepath.Join(dir, "f"), small, 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if !r.Release() {
		t.Fatal("nothing was given up")
	}
	if err := durable.WriteFile(filepath.Join(dir, "f"), small, 0o600); err != nil {
		t.Fatal(err)
	}
	if m := r.Missing(); m == 0 || m > size/4 {
		t.Errorf("%d of %d bytes were given up at once", m, size)
	}
	fill(r, false) // it is still full
	for n := 0; r.Release(); n++ {
		if n > 100 {
			t.Fatal("it never ends")
		}
	}
	r = open(size)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	fill(r, true)
	open(0)
}
