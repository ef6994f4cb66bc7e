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
	if want := []string{"mariadb 10.11.19 --ready 3", "postgresql 15.20 --ready 3"}; !slices.Equal(got, want) {
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

// TestShelf: what is taken is made again, but not while a burst lasts, nor again
// and again where there is no room.
func TestShelf(t *testing.T) {
	dir := t.TempDir()
	room, fills := 10, 0
	have := func(n int) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &shelf{want: 10, refill: func(context.Context) (string, error) {
		fills++
		have(room)
		return dir, nil
	}}
	now := time.Now()
	for i, step := range []struct {
		why   string
		after time.Duration
		room  int
		have  int // -1: as it is
		fills int
	}{
		{"the first time", 0, 10, -1, 1},
		{"nothing was taken", time.Second, 10, -1, 1},
		{"one was taken", time.Second, 10, 9, 2},
		{"a burst", time.Second, 10, 2, 2},
		{"its end", time.Second, 10, 0, 2},
		{"after it", burstLength, 10, -1, 3},
		{"no room", time.Second, 1, 9, 4},
		{"still none", time.Second, 10, -1, 4},
		{"room again", stockAgain, 10, -1, 5},
	} {
		now, room = now.Add(step.after), step.room
		if step.have >= 0 {
			have(step.have)
		}
		if err := s.look(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if fills != step.fills {
			t.Fatalf("step %d, %s: filled %d times, not %d", i, step.why, fills, step.fills)
		}
	}
}
