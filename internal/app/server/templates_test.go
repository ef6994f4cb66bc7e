package server

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
)

func TestTemplateCommands(t *testing.T) {
	var got []string
	for _, command := range templateCommands([]found{
		{Manager: "mariadb", Version: "10.11.19"}, {Manager: "postgresql", Version: "9.6.1"}, {Manager: "postgresql", Version: "15.20"},
	}, "/bin/agent", "/t", &local.User{UID: 12, GID: 34}) {
		cmd := command(t.Context(), 3)
		got = append(got, cmd.Args[3]+" "+cmd.Args[5]+" "+strings.Join(cmd.Args[8:], " "))
		if c := cmd.SysProcAttr.Credential; c.Uid != 12 || c.Gid != 34 {
			t.Errorf("it runs as %d:%d", c.Uid, c.Gid)
		}
	}
	if want := []string{"mariadb 10.11.19 --ready 3 --most 1", "postgresql 15.20 --ready 3 --most 1"}; !slices.Equal(got, want) {
		t.Errorf("templates of %q, not %q", got, want)
	}
}

func TestRemoveReady(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"mariadb-10.11.19-r2", "mariadb-10.11.19-r2.ready/A/data", "postgresql-15.20-3", "postgresql-15.20-3.ready/B/data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeReady(dir, []found{{Manager: "mariadb"}}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"mariadb-10.11.19-r2", "mariadb-10.11.19-r2.ready", "postgresql-15.20-3"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("%v are left, %v, not %v", left, err, want)
	}
}

// TestShelf: what is taken is made again, but not while much is being done, nor
// again and again where there is no room.
func TestShelf(t *testing.T) {
	dir := t.TempDir()
	room, fills, made, busy := 10, 0, 0, false
	take := func(leave int) {
		t.Helper()
		for _, name := range readyIn(dir)[leave:] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &shelf{want: 10, busy: func(context.Context) bool { return busy }, refill: func(context.Context) (string, error) {
		fills++
		if len(readyIn(dir)) < room {
			made++
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(made)), nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		return dir, nil
	}}
	now := time.Now()
	for i, step := range []struct {
		why   string
		after time.Duration
		room  int
		busy  bool
		leave int // -1: nothing is taken
		fills int
	}{
		{"the first time", 0, 10, false, -1, 10},
		{"nothing was taken", time.Second, 10, false, -1, 10},
		{"one was taken", time.Second, 10, false, 9, 11},
		{"a burst", time.Second, 10, true, 2, 11},
		{"its end", time.Second, 10, true, 0, 11},
		{"after it", time.Second, 10, false, -1, 21},
		{"no room", time.Second, 9, false, 9, 22},
		{"still none", time.Second, 10, false, -1, 22},
		{"room again", stockAgain, 10, false, -1, 23},
	} {
		now, room, busy = now.Add(step.after), step.room, step.busy
		if step.leave >= 0 {
			take(step.leave)
		}
		if err := s.look(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if fills != step.fills {
			t.Fatalf("step %d, %s: filled %d times, not %d", i, step.why, fills, step.fills)
		}
	}
}
