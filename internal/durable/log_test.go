package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotrove/gotrove/internal/durable"
)

func TestCutLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "engine.log")
	if err := durable.CutLog(path, 100); err != nil {
		t.Fatalf("no log: %v", err)
	}
	writer, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	write := func(text []byte) {
		t.Helper()
		if _, err := writer.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
	write(bytes.Repeat([]byte("a"), 100))
	if err := durable.CutLog(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".1"); err == nil {
		t.Error("a log within its limit was cut")
	}
	write([]byte("b"))
	if err := durable.CutLog(path, 100); err != nil {
		t.Fatal(err)
	}
	check("engine.log.1", string(bytes.Repeat([]byte("a"), 49))+"b")
	write([]byte("c")) // no hole before it: the writer appends
	check("engine.log", "c")

	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 200), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.log")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	// Lstat tells a link's own, short size; a limit below it reaches the open.
	if err := durable.CutLog(link, 1); err == nil {
		t.Error("a link was followed")
	}
	if st, err := os.Stat(other); err != nil || st.Size() != 200 {
		t.Errorf("the file behind the link: %v, %v", st, err)
	}
}
