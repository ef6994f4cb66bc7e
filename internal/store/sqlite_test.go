package store_test

import (
	"path/filepath"
	"testing"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/storetest"
)

func openAt(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) *store.Store { return openAt(t, filepath.Join(t.TempDir(), "a ?%#b.db")) })
}
