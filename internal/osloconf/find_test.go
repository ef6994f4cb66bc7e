package osloconf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFind(t *testing.T) {
	home, etc := t.TempDir(), t.TempDir()
	for _, f := range []string{filepath.Join(home, "trove-api.conf"), filepath.Join(etc, "trove.conf"), filepath.Join(etc, "trove-api.conf")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Of the wrong kind: passed over.
	if err := os.Mkdir(filepath.Join(home, "trove.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(etc, "trove.conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, dirs := find([]string{filepath.Join(home, "nothing"), home, etc}, "trove", "trove-api")
	if want := []string{filepath.Join(etc, "trove.conf"), filepath.Join(home, "trove-api.conf")}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	if want := []string{filepath.Join(etc, "trove.conf.d")}; !slices.Equal(dirs, want) {
		t.Errorf("directories %q, want %q", dirs, want)
	}
}
