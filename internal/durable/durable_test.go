package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	st, _ := os.Stat(path)
	if string(got) != "new" || st.Mode().Perm() != 0o600 {
		t.Errorf("got %q, mode %v; want new, 0600", got, st.Mode())
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestWriteFileFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o755); err != nil { // a directory cannot be replaced
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Fatal("replaced a directory")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestTryLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := durable.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.TryLock(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	l, err = durable.TryLock(path)
	if err != nil {
		t.Errorf("after unlock: %v", err)
	} else {
		_ = l.Unlock()
	}
}

func TestExplainNamesPathAndCause(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{syscall.ENOSPC: "disk is full", syscall.EROFS: "read-only", syscall.EACCES: "permission denied"} {
		err := durable.Explain(fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/data/f", Err: errno}))
		if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/data/f") || trove.ActionOf(err) == "" {
			t.Errorf("%v: got %v", errno, err)
		}
		if !errors.Is(err, errno) {
			t.Errorf("%v: cause lost", errno)
		}
	}
}
