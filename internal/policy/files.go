package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

const (
	defaultFile = "policy.yaml"
	olderFile   = "policy.json" // what the default was before

	// lookEvery is how often the files are looked at, at most.
	lookEvery = time.Second
	// settle is how long a change must have lasted: who writes a file may not be
	// finished.
	settle = time.Second
	// maxFiles bounds the files of the directories.
	maxFiles = 1000
)

// files are what is known of the policy files. An error to look at them counts
// as a state of theirs.
type files struct {
	loaded  []file // what the rules in force are made of
	seen    []file // what was there at the last look
	seenAt  time.Time
	refused []file // what could not be used, so that it is tried and told once
}

// file is a policy file in a state of its life.
type file struct {
	path    string
	inode   uint64
	size    int64
	written time.Time
	changed time.Time // also by a rename
}

// Open makes an enforcer of the defaults and the files of o, which it reads
// again when they change: at most a second later, and a second after the last
// change. An error is of KindBadRequest and names the file, the line and the
// rule; once open, files that cannot be used are logged as errors and the rules
// as they were stay in force (Broken).
func Open(ctx context.Context, o Options) (*Enforcer, error) {
	e := &Enforcer{o: o.withDefaults()}
	found, err := e.list()
	if err == nil {
		err = e.load(found)
	}
	if err != nil {
		return nil, e.refusal(err)
	}
	e.files.seen, e.files.seenAt = found, e.o.Now()
	e.due.Store(e.files.seenAt.Add(lookEvery).UnixNano())
	e.o.Log.InfoContext(ctx, "policy", "files", paths(found))
	if len(found) == 0 && e.o.File != defaultFile {
		e.o.Log.WarnContext(ctx, "the policy file is not there; the default rules are in force", "file", e.o.File, "looked_in", e.o.Search)
	}
	return e, nil
}

func (e *Enforcer) refusal(err error) *trove.Error {
	return trove.Errorf(trove.KindBadRequest, "policy: %w", err)
}

// look reads the files again if they have changed. Only one goroutine looks;
// the others go on with the rules as they are.
func (e *Enforcer) look() {
	if e.static {
		return
	}
	now := e.o.Now()
	left := time.Duration(e.due.Load() - now.UnixNano())
	if 0 < left && left <= lookEvery { // more: the clock was put back
		return
	}
	if !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	e.due.Store(now.Add(lookEvery).UnixNano())
	found, err := e.list()
	if err != nil {
		e.refuse(nil, err)
		return
	}
	f := &e.files
	same := slices.Equal(found, f.seen)
	if !same {
		f.seen, f.seenAt = found, now
	}
	switch {
	case slices.Equal(found, f.loaded):
		e.accept(found)
	case slices.Equal(found, f.refused) && len(found) > 0:
	case !e.settled(now):
	default:
		err := f.emptied(found)
		if err == nil {
			err = e.load(found)
		}
		if err != nil {
			e.refuse(found, err)
			return
		}
		e.o.Log.Warn("the policy files have changed; the new rules are in force", "files", paths(found))
	}
}

// emptied is an error if a file of found is empty and was not so before: whoever
// writes it has only come to cutting it off, however long ago.
func (f *files) emptied(found []file) error {
	for _, is := range found {
		before := slices.ContainsFunc(f.loaded, func(was file) bool { return was.path == is.path && was.size == 0 })
		if is.size == 0 && !before {
			return fmt.Errorf("%s is empty now: to have the default rules, remove it or leave a comment in it", is.path)
		}
	}
	return nil
}

func (e *Enforcer) accept(found []file) {
	e.files.loaded, e.files.refused = found, nil
	e.broken.Store(nil)
}

func (e *Enforcer) refuse(found []file, err error) {
	e.files.refused = found
	told := e.broken.Swap(e.refusal(err))
	if found != nil || told == nil {
		e.o.Log.Error("the policy files cannot be used; the rules as they were stay in force", "error", err)
	}
}

// settled reports whether what was seen is likely to be whole: it has been so
// for a while, or every file of it is old and none is gone.
func (e *Enforcer) settled(now time.Time) bool {
	f := &e.files
	if now.Sub(f.seenAt) >= settle {
		return true
	}
	for _, was := range f.loaded {
		if !slices.ContainsFunc(f.seen, func(is file) bool { return is.path == was.path }) {
			return false
		}
	}
	return !slices.ContainsFunc(f.seen, func(is file) bool {
		age := now.Sub(is.written)
		return age >= 0 && age < settle
	})
}

// load makes the rules of the files the rules in force.
func (e *Enforcer) load(found []file) error {
	over := map[string]Check{}
	var errs []error
	for _, f := range found {
		rules, err := readFile(f)
		if err != nil {
			errs = append(errs, err)
		}
		maps.Copy(over, rules)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s, err := newRuleSet(over, e.o.DefaultRule)
	if err != nil {
		return err
	}
	for _, d := range s.doubts(over) {
		e.o.Log.Warn("policy: " + d)
	}
	e.rules.Store(s)
	e.accept(found)
	return nil
}

// list finds the files that there are, in the order they are laid over one
// another.
func (e *Enforcer) list() ([]file, error) {
	var found []file
	path, err := e.locate(e.o.File)
	if err == nil && path == "" && e.o.File == defaultFile {
		path, err = e.locate(olderFile)
	}
	if err != nil {
		return nil, err
	}
	if path != "" {
		f, ok, err := inspect(path)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, f)
		}
	}
	for _, d := range e.o.Dirs {
		dir, err := e.locate(d)
		if err != nil {
			return nil, err
		}
		if dir == "" {
			continue
		}
		entries, err := os.ReadDir(dir) // sorted by name
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			f, ok, err := inspect(filepath.Join(dir, entry.Name()))
			if err != nil {
				return nil, err
			}
			if ok {
				found = append(found, f)
			}
			if len(found) > maxFiles {
				return nil, errors.New(dir + " has too many files")
			}
		}
	}
	return found, nil
}

// locate gives the path of a file or directory, empty if there is none.
func (e *Enforcer) locate(name string) (string, error) {
	candidates := []string{name}
	if !filepath.IsAbs(name) {
		candidates = nil
		for _, dir := range e.o.Search {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, c := range candidates {
		_, err := os.Stat(c)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// inspect tells the state of a file; false if it is none, or gone.
func inspect(path string) (file, bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, false, nil
	}
	if err != nil {
		return file{}, false, err
	}
	if !st.Mode().IsRegular() {
		return file{}, false, nil
	}
	f := file{path: path, size: st.Size(), written: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		f.inode, f.changed = sys.Ino, time.Unix(sys.Ctim.Unix())
	}
	return f, true, nil
}

func paths(files []file) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = f.path
	}
	return out
}
