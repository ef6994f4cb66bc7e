package store_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/store/storetest"
)

// The servers that the tests of this package share.
var servers = map[dbtest.Engine]*dbtest.Shared{
	dbtest.MariaDB: {Engine: dbtest.MariaDB}, dbtest.PostgreSQL: {Engine: dbtest.PostgreSQL},
}

func runTests(m *testing.M) int {
	defer func() {
		for _, s := range servers {
			s.Stop()
		}
	}()
	return m.Run()
}

func configOf(url string) store.Config { return store.Config{URL: secret.New(url)} }

// openURL opens a database on a server; it is not migrated.
func openURL(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: secret.New(url), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openOn makes a migrated database on a server.
func openOn(t *testing.T, e dbtest.Engine) *store.Store {
	t.Helper()
	s := openURL(t, servers[e].Get(t).Database(t))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// onEach runs f on a migrated database of each engine. open gives a store of
// its own on it each time, as another process has.
func onEach(t *testing.T, f func(t *testing.T, open func() *store.Store)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "trove.db")
		openAt(t, path)
		f(t, func() *store.Store { return openURL(t, "sqlite:///"+path) })
	})
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			url := servers[e].Get(t).Database(t)
			if err := openURL(t, url).Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			f(t, func() *store.Store { return openURL(t, url) })
		})
	}
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) *store.Store { return openAt(t, filepath.Join(t.TempDir(), "a ?%#b.db")) })
}

func TestMariaDB(t *testing.T) {
	t.Parallel()
	dbtest.Require(t, dbtest.MariaDB)
	storetest.Run(t, func(t *testing.T) *store.Store { return openOn(t, dbtest.MariaDB) })
}

func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	dbtest.Require(t, dbtest.PostgreSQL)
	storetest.Run(t, func(t *testing.T) *store.Store { return openOn(t, dbtest.PostgreSQL) })
}

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		crash(path)
	}
	os.Exit(runTests(m))
}
