package template

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
)

// Copies that are ready are in a directory beside their template, under names
// that mean nothing. One is taken by renaming it, so of those who want it one
// gets it; one that is not whole has a name that begins with a dot. Where a file
// has holes a ready copy has them too, so that it takes little room: the further
// lines of its marker name these files.
const readySuffix = ".ready"

// ReadyDir is where a template's ready copies are.
func ReadyDir(template string) string { return template + readySuffix }

// Stock makes copies of the template until want are ready, at most most of them,
// and removes what is half-made. It makes none that would leave fewer than room bytes free to
// others; where less than half of that is free, it removes those there are.
// Those of the engine's other templates go: a template's name begins with its
// engine's and a hyphen. Of any number of processes one does so at a time.
func Stock(ctx context.Context, template string, want, most int, room uint64) error {
	if made, err := Made(template); err != nil || !made {
		return errors.Join(err, fmt.Errorf("template %s is not whole", template))
	}
	dir := ReadyDir(template)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return Explain(err, dir)
	}
	durable.Spread(dir) // a copy is a thousand files
	engine, _, _ := strings.Cut(filepath.Base(template), "-")
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(template), "."+engine+readySuffix+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	siblings, err := os.ReadDir(filepath.Dir(template))
	if err != nil {
		return Explain(err, dir)
	}
	for _, s := range siblings {
		other := filepath.Join(filepath.Dir(template), s.Name())
		if strings.HasPrefix(s.Name(), engine+"-") && strings.HasSuffix(s.Name(), readySuffix) && other != dir {
			if _, err := keep(other, 0); err != nil {
				return Explain(err, other)
			}
			if err := os.Remove(other); err != nil {
				return Explain(err, other)
			}
		}
	}
	if Room(dir, room/2) != nil {
		want = 0
	}
	ready, err := keep(dir, want)
	if err == nil && ready < want {
		err = stock(ctx, template, dir, min(want-ready, most), room)
	}
	return Explain(err, dir)
}

// keep removes what is half-made in dir and all but n whole copies. It gives how
// many are left.
func keep(dir string, n int) (left int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && left < n {
			left++
			continue
		}
		if err := discard(dir, e.Name()); err != nil {
			return left, err
		}
	}
	return left, nil
}

// discard removes a copy, under a name that nobody takes.
func discard(dir, name string) error {
	path := filepath.Join(dir, name)
	if hidden := filepath.Join(dir, "."+name); !strings.HasPrefix(name, ".") {
		if err := unix.Rename(path, hidden); errors.Is(err, unix.ENOENT) {
			return nil // it was taken
		} else if err != nil {
			return err
		}
		path = hidden
	}
	return os.RemoveAll(path)
}

// stock makes n copies in dir, or as many as there is room for: durable together,
// which takes little longer than for one, and only then under names to be taken
// by.
func stock(ctx context.Context, template, dir string, n int, room uint64) (err error) {
	var parts []string
	defer func() {
		for _, p := range parts {
			err = errors.Join(err, os.RemoveAll(p)) // none if all went well
		}
	}()
	for range n {
		if Room(dir, room) != nil {
			break
		}
		part := Partial(filepath.Join(dir, rand.Text()))
		parts = append(parts, part)
		if err := stockOne(ctx, template, part); err != nil {
			return err
		}
	}
	if err := syncTree(dir); err != nil {
		return err
	}
	for len(parts) > 0 {
		if err := os.Rename(parts[0], filepath.Join(dir, rand.Text())); err != nil {
			return err
		}
		parts = parts[1:]
	}
	return SyncDir(dir)
}

func stockOne(ctx context.Context, template, part string) error {
	if err := os.Mkdir(part, 0o700); err != nil {
		return err
	}
	var mu sync.Mutex
	mark := []byte(whole)
	err := copyTree(ctx, template, part, func(rel string, size int64) {
		mu.Lock()
		defer mu.Unlock()
		mark = fmt.Appendf(mark, "%d %s\n", size, rel)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(part, marker), mark, 0o600)
}

// take makes part, an empty directory, a ready copy of the template, if there is
// one on the same file system.
func take(template, part string) (bool, error) {
	entries, _ := os.ReadDir(ReadyDir(template))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		// It fails where another took it, or where it cannot be taken: on another
		// file system, or to a directory with a quota of its own.
		if unix.Rename(filepath.Join(ReadyDir(template), e.Name()), part) == nil {
			return true, fillHoles(part)
		}
	}
	return false, nil
}

// fillHoles takes the room that a ready copy did without.
func fillHoles(dir string) error {
	mark, err := os.ReadFile(filepath.Join(dir, marker))
	if err != nil {
		return err
	}
	for line := range strings.Lines(strings.TrimPrefix(string(mark), whole)) {
		number, rel, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		size, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return fmt.Errorf("the marker of %s is damaged", dir)
		}
		if err := opened("take the room of", unix.O_WRONLY, func(fd int) error { return takeRoom(fd, size) })(filepath.Join(dir, rel)); err != nil {
			return err
		}
	}
	return nil
}
