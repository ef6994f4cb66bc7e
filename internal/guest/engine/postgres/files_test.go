package postgres

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/guest/engine"
)

// TestStarting reads the server's own file as it writes it.
func TestStarting(t *testing.T) {
	dir := t.TempDir()
	e := New(engine.Settings{DataDir: dir})
	const head = "4711\n/data\n1700000000\n5432\n/run\n127.0.0.1\n  123456 7\n"
	for text, want := range map[string]bool{
		"": false, "4711\n/data\n": false, head: false, head + "starting\n": true, head + "ready   \n": false, head + "stopping\n": false,
	} {
		path := filepath.Join(dir, "postmaster.pid")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := e.starting(); got != want {
			t.Errorf("%q means starting: %v", text, got)
		}
	}
}

func TestDropForks(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"base/1/2619", "base/1/2619_fsm", "base/1/2619_vm", "global/1262", "global/1262_fsm", "global/1262_vm", "pg_xact/0000"} {
		path := filepath.Join(dir, f)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := dropForks(dir); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if d := cmp.Diff([]string{"base/1/2619", "global/1262", "pg_xact/0000"}, left); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}
