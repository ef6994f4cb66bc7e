package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFilesAreOpenedAnew rotates the log and the audit of a process under it, as
// logrotate does.
func TestFilesAreOpenedAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log, audit := filepath.Join(dir, "log"), filepath.Join(dir, "audit")
	s := newStandalone(t, "audit_log = "+audit, "[DEFAULT]", "log_file = "+log)
	// A call that is refused is audited like any.
	say := func(round int) (mark string) {
		t.Helper()
		mark = fmt.Sprintf("nobody-%d", round)
		if code, err := s.rest("DELETE", "instances/"+mark, nil, nil); code != http.StatusNotFound {
			t.Fatalf("%d, %v", code, err)
		}
		return mark
	}
	has := func(path, mark, word string) error {
		if text := readFile(path); !strings.Contains(text, mark) || !strings.Contains(text, word) {
			return fmt.Errorf("%s has no %s of %s: %s", path, word, mark, tail(text, 2000))
		}
		return nil
	}
	for round := range 3 {
		mark := say(round)
		for path, word := range map[string]string{log: `"msg":"request"`, audit: `"msg":"audit"`} {
			if err := has(path, mark, word); err != nil {
				t.Error(err)
			}
			if st, err := os.Stat(path); err != nil {
				t.Error(err)
			} else if st.Mode() != 0o640 {
				t.Errorf("%s has mode %s", path, st.Mode())
			}
			if err := os.Rename(path, fmt.Sprintf("%s.%d", path, round)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{log, audit} {
			s.eventually(path+" is made anew", func() error { _, err := os.Stat(path); return err })
		}
	}
	if strings.Contains(readFile(log+".0"), `"msg":"audit"`) || strings.Contains(readFile(audit+".0"), `"msg":"request"`) {
		t.Error("what goes to one file goes to the other too")
	}
	// Nothing went to standard error beside the file.
	if text := readFile(s.log.Name()); strings.Contains(text, `"msg":"request"`) {
		t.Errorf("standard error has lines of the log: %s", tail(text, 1000))
	}
}
