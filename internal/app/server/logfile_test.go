package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotrove/gotrove/internal/trove"
)

func TestLogPath(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]logOptions{
		"": {}, "/a/b.log": {File: "/a/b.log", Dir: "/c"}, "b.log": {File: "b.log"}, "/c/b.log": {File: "b.log", Dir: "/c"}, "/c/trove-api.log": {Dir: "/c"},
	} {
		if got := o.path("trove-api"); got != want {
			t.Errorf("%+v: %q, want %q", o, got, want)
		}
	}
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "trove-api.log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	o := logOptions{Dir: dir, UseStderr: true}
	w, file, err := o.open("trove-api", &errs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "one\n"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"two\n", "three\n"} {
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		if err := file.Reopen(); err != nil { // and again
			t.Fatal(err)
		}
	}
	was, _ := os.ReadFile(path + ".1")
	is, _ := os.ReadFile(path)
	if string(was) != "old\none\ntwo\n" || string(is) != "three\n" || errs.String() != "one\ntwo\nthree\n" {
		t.Errorf("%q, %q and %q", was, is, errs.String())
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o137 != 0 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	o = logOptions{File: filepath.Join(dir, "nosuch", "x.log")}
	if _, _, err := o.open("trove-api", &errs); !trove.IsKind(err, trove.KindBadRequest) || trove.ActionOf(err) == "" {
		t.Errorf("a directory that is not there: %v", err)
	}
	// A rotation that goes wrong costs no line.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := file.follow(ctx, func(err error) { t.Error(err) }); err != nil {
		t.Error(err)
	}
	file.path = filepath.Join(dir, "nosuch", "x.log")
	if err := file.Reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := io.WriteString(w, "four\n"); err != nil {
		t.Error(err)
	}
}
