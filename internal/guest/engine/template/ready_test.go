package template_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/engine/template"
)

func readyTemplate(t *testing.T) (root, path string) {
	t.Helper()
	root = t.TempDir()
	path, err := template.Ensure(t.Context(), root, "engine-1-r1", fill)
	if err != nil {
		t.Fatal(err)
	}
	return root, path
}

// ready gives the names of those that are whole and of those that are not.
func ready(t *testing.T, path string) (whole, half []string) {
	t.Helper()
	entries, err := os.ReadDir(template.ReadyDir(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			half = append(half, e.Name())
		} else {
			whole = append(whole, e.Name())
		}
	}
	return whole, half
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestReadyIsTaken: a copy that is ready is used, once, and is what a copy would
// be, with the room of its holes.
func TestReadyIsTaken(t *testing.T) {
	t.Parallel()
	root, path := readyTemplate(t)
	if err := template.Stock(t.Context(), path, 2, 2, 0); err != nil {
		t.Fatal(err)
	}
	if whole, half := ready(t, path); len(whole) != 2 || half != nil {
		t.Fatalf("%v are ready, %v half-made", whole, half)
	}
	fresh := filepath.Join(template.ReadyDir(path), first(ready(t, path)))
	if n := allocated(t, filepath.Join(fresh, "holes")); n >= 4<<20 {
		t.Errorf("a file with holes takes %d bytes before it is taken", n)
	}
	// Something that only a ready copy has.
	for _, name := range both(ready(t, path)) {
		if err := os.WriteFile(filepath.Join(template.ReadyDir(path), name, "taken"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	taken := make([]bool, 4)
	for i := range taken {
		dst := filepath.Join(root, "data", string(rune('a'+i)))
		wg.Go(func() {
			if err := template.Copy(t.Context(), path, dst, func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "own"), []byte{byte(i)}, 0o600)
			}); err != nil {
				t.Error(err)
				return
			}
			_, err := os.Stat(filepath.Join(dst, "taken"))
			taken[i] = err == nil
			for _, f := range []string{"own", "sub/a", "sub/deep/empty", "link"} {
				if _, err := os.Stat(filepath.Join(dst, f)); err != nil {
					t.Error(err)
				}
			}
			want, _ := os.ReadFile(filepath.Join(path, "holes"))
			if got, err := os.ReadFile(filepath.Join(dst, "holes")); err != nil || string(got) != string(want) {
				t.Errorf("a file with holes is not the same: %v", err)
			}
			if n := allocated(t, filepath.Join(dst, "holes")); n < 4<<20 {
				t.Errorf("a file of 4 MiB has room for %d bytes", n)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, one := range taken {
		if one {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d of 2 ready copies were used", n)
	}
	if whole, half := ready(t, path); whole != nil || half != nil {
		t.Errorf("%v and %v are left", whole, half)
	}
}

func first(whole, _ []string) string  { return whole[0] }
func both(whole, _ []string) []string { return whole }

// TestStock: as many as wanted; what is half-made, of an older version or more
// than there is room for goes.
func TestStock(t *testing.T) {
	t.Parallel()
	root, path := readyTemplate(t)
	most := 10
	stock := func(want int, room uint64) {
		t.Helper()
		if err := template.Stock(t.Context(), path, want, most, room); err != nil {
			t.Fatal(err)
		}
	}
	count := func(want int, why string) {
		t.Helper()
		if whole, half := ready(t, path); len(whole) != want || half != nil {
			t.Fatalf("%s: %v are ready, %v half-made; want %d", why, whole, half, want)
		}
	}
	stock(3, 0)
	kept := first(ready(t, path))
	half := template.Partial(filepath.Join(template.ReadyDir(path), "cut-off"))
	old, others := filepath.Join(root, "engine-0-r1.ready"), filepath.Join(root, "other-1.ready")
	for _, dir := range []string{half, filepath.Join(old, "one"), filepath.Join(others, "one")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stock(4, 0)
	count(4, "one more")
	if _, err := os.Stat(filepath.Join(template.ReadyDir(path), kept)); err != nil {
		t.Error("one that was ready was made again")
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("those of an older version: %v", err)
	}
	if _, err := os.Stat(others); err != nil {
		t.Errorf("those of another engine: %v", err)
	}
	most = 2
	stock(7, 0)
	count(6, "two more at most")
	most = 10
	stock(1, 0)
	count(1, "fewer are wanted")
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		t.Fatal(err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	stock(4, free+free/2)
	count(1, "little room")
	stock(4, 4*free)
	count(0, "hardly any room")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := template.Stock(cancelled, path, 2, 2, 0); err == nil {
		t.Error("it was told to stop and went on")
	}
	count(0, "told to stop")
}
