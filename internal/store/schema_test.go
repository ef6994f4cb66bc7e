package store

import (
	"path/filepath"
	"testing"

	"github.com/gotrove/gotrove/internal/trove"
)

func TestCheckSchema(t *testing.T) {
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.CheckSchema(t.Context()); !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
		t.Errorf("an empty database: %v", err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckSchema(t.Context()); err != nil {
		t.Errorf("a new database: %v", err)
	}
	have, want, err := s.SchemaVersion(t.Context())
	if err != nil || have != want || want < 2 {
		t.Errorf("versions %d and %d, error %v", have, want, err)
	}
	for _, tc := range []struct {
		what, change string
		fine         bool
	}{
		{"a newer one", "INSERT INTO " + versionTable + " (version_id, is_applied) VALUES (9999, 1)", true},
		{"an older one", "DELETE FROM " + versionTable + " WHERE version_id > 1", false},
	} {
		if _, err := s.writer.ExecContext(t.Context(), tc.change); err != nil {
			t.Fatal(err)
		}
		if err := s.CheckSchema(t.Context()); (err == nil) != tc.fine {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}
