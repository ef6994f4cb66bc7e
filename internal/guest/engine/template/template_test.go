package template_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/trove"
)

// fill makes a tree with all a data directory has: modes, a file with holes,
// one of zeros, an empty one, a link.
func fill(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o750); err != nil {
		return err
	}
	sparse := make([]byte, 4<<20)
	copy(sparse[1<<20:], "in the middle")
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "sub", "a"), []byte("content"), 0o640),
		os.WriteFile(filepath.Join(dir, "sub", "deep", "empty"), nil, 0o600),
		holed(filepath.Join(dir, "holes"), sparse),
		os.WriteFile(filepath.Join(dir, "zeros"), sparse, 0o600),
		os.Symlink("sub/a", filepath.Join(dir, "link")),
	)
}

// holed writes data without its zeros at the ends.
func holed(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	begin := bytes.IndexFunc(data, func(r rune) bool { return r != 0 })
	_, err = f.WriteAt(bytes.Trim(data, "\x00"), int64(begin))
	return errors.Join(err, f.Truncate(int64(len(data))), f.Close())
}

// tree is what a directory holds: mode and content by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		rel, _ := filepath.Rel(dir, path)
		got[rel] = info.Mode().String() + " " + content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func ensure(t *testing.T, root string) string {
	t.Helper()
	path, err := template.Ensure(t.Context(), root, "engine-1.0-r1", fill)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCopyIsWhole(t *testing.T) {
	root := t.TempDir()
	src := ensure(t, root)
	dst := filepath.Join(root, "volume", "data")
	for range 2 { // the second time there is nothing to do
		if err := template.Copy(t.Context(), src, dst, nil); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(tree(t, src), tree(t, dst)); d != "" {
		t.Errorf("the copy differs: %s", d)
	}
	if made, err := template.Made(dst); err != nil || !made {
		t.Errorf("Made is %v, %v", made, err)
	}
}

// TestHolesStay looks before anything reads: what is in memory counts as data.
func TestHolesStay(t *testing.T) {
	root := t.TempDir()
	dst := filepath.Join(root, "data")
	if err := template.Copy(t.Context(), ensure(t, root), dst, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"holes", "zeros"} {
		f, err := os.Open(filepath.Join(dst, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if first, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || first < 1<<20 {
			t.Errorf("%s: zeros were written: data begin at %d, %v", name, first, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 < st.Size {
			t.Errorf("%s: no room is taken: %d of %d bytes, %v", name, st.Blocks*512, st.Size, err)
		}
	}
}

func TestPrepareChangesTheCopyOnly(t *testing.T) {
	root := t.TempDir()
	src, dst := ensure(t, root), filepath.Join(root, "data")
	err := template.Copy(t.Context(), src, dst, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "sub", "a"), []byte("mine"), 0o640)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dst)["sub/a"]; !strings.HasSuffix(got, " mine") {
		t.Errorf("copy holds %q", got)
	}
	if got := tree(t, src)["sub/a"]; !strings.HasSuffix(got, " content") {
		t.Errorf("template holds %q", got)
	}
}

func TestFailedMakeLeavesNothing(t *testing.T) {
	root := t.TempDir()
	src, dst := ensure(t, root), filepath.Join(root, "volume", "data")
	boom := errors.New("boom")
	if err := template.Copy(t.Context(), src, dst, func(string) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Copy gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := template.Copy(ctx, src, dst, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Copy gives %v", err)
	}
	if got := tree(t, filepath.Join(root, "volume")); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestHalfMadeIsMadeAgain(t *testing.T) {
	root := t.TempDir()
	src, dst := ensure(t, root), filepath.Join(root, "data")
	junk := filepath.Join(template.Partial(dst), "sub")
	if err := os.MkdirAll(junk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(junk, "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if made, err := template.Made(dst); made || err != nil {
		t.Errorf("Made is %v, %v", made, err)
	}
	if err := os.Mkdir(dst, 0o700); err != nil { // an empty directory is as good as none
		t.Fatal(err)
	}
	if err := template.Copy(t.Context(), src, dst, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tree(t, src), tree(t, dst)); d != "" {
		t.Error(d)
	}
	if _, err := os.Lstat(template.Partial(dst)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-made one is still there: %v", err)
	}
}

func TestForeignDirectoryIsNotTouched(t *testing.T) {
	root := t.TempDir()
	src, dst := ensure(t, root), filepath.Join(root, "data")
	if err := os.MkdirAll(filepath.Join(dst, "thesis"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dst)
	err := template.Copy(t.Context(), src, dst, nil)
	if !trove.IsKind(err, trove.KindConflict) || !strings.Contains(err.Error(), "thesis") {
		t.Errorf("Copy gives %v", err)
	}
	if d := cmp.Diff(before, tree(t, dst)); d != "" {
		t.Error(d)
	}
}

func TestEnsureBuildsOnce(t *testing.T) {
	root := filepath.Join(t.TempDir(), "templates")
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := template.Ensure(t.Context(), root, "one", func(dir string) error {
				built.Add(1)
				return fill(dir)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestEnsureWaitsNoLongerThanItsContext(t *testing.T) {
	root := t.TempDir()
	building, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := template.Ensure(t.Context(), root, "one", func(dir string) error {
			close(building)
			<-release
			return fill(dir)
		})
		done <- err
	}()
	<-building
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := template.Ensure(ctx, root, "one", fill); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ensure gives %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		text string
	}{
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, "disk of /d/data is full"},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.EROFS}, "read-only file system"},
		{&fs.PathError{Op: "mkdir", Path: "x", Err: syscall.EACCES}, "cannot be written"},
	} {
		err := template.Explain(c.err, "/d/data")
		if !trove.IsKind(err, trove.KindGuest) || !strings.Contains(err.Error(), c.text) || trove.ActionOf(err) == "" || !errors.Is(err, c.err) {
			t.Errorf("%v becomes %v (%s)", c.err, err, trove.ActionOf(err))
		}
	}
	if err := template.Explain(nil, "/d"); err != nil {
		t.Error(err)
	}
}

func BenchmarkCopy(b *testing.B) {
	root := b.TempDir()
	src, err := template.Ensure(b.Context(), root, "one", func(dir string) error {
		for _, name := range []string{"a", "b", "c"} {
			if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("data"), 2<<20), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		dst := filepath.Join(root, "data")
		if err := template.Copy(b.Context(), src, dst, nil); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dst); err != nil {
			b.Fatal(err)
		}
	}
}
