package template_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine/template"
)

func TestVersionIsAskedOnce(t *testing.T) {
	dir := t.TempDir()
	root, server := filepath.Join(dir, "templates"), filepath.Join(dir, "server")
	install := func(version string) {
		t.Helper()
		if err := os.WriteFile(server, []byte(version), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	want := func(root, version string, times int) {
		t.Helper()
		got, err := template.Version(t.Context(), root, server, func(context.Context) (string, error) {
			asked++
			b, err := os.ReadFile(server)
			return string(b), err
		})
		if err != nil || got != version || asked != times {
			t.Errorf("version is %q, %v, asked %d times, want %q, %d", got, err, asked, version, times)
		}
	}
	install("10.11.19")
	want(root, "10.11.19", 1)
	want(root, "10.11.19", 1)
	install("11.8.6") // another size
	want(root, "11.8.6", 2)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(server, later, later); err != nil {
		t.Fatal(err)
	}
	want(root, "11.8.6", 3)
	kept, err := filepath.Glob(filepath.Join(root, ".program-*.json"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("remembered in %v, %v", kept, err)
	}
	if err := os.WriteFile(kept[0], []byte("{"), 0o600); err != nil { // cut off
		t.Fatal(err)
	}
	want(root, "11.8.6", 4)
	want("", "11.8.6", 5) // nowhere to remember it
}
