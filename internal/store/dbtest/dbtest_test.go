package dbtest_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store/dbtest"
)

// What was committed is there after a kill, and after an orderly stop.
func TestServersSurvive(t *testing.T) {
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			s := dbtest.Start(t, e)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if first, second := s.Database(t), s.Database(t); first == second {
				t.Error("two databases are one")
			}
			admin := s.Admin(t)
			exec(t, ctx, admin, "CREATE DATABASE kept")
			stop := []func(){s.Kill, func() { s.Shutdown(ctx) }}
			for _, f := range stop {
				f()
				if err := s.Start(ctx); err != nil {
					t.Fatal(err)
				}
				query := "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'kept'"
				if e == dbtest.PostgreSQL {
					query = "SELECT COUNT(*) FROM pg_database WHERE datname = 'kept'"
				}
				var n int
				if err := s.Admin(t).QueryRowContext(ctx, query).Scan(&n); err != nil || n != 1 {
					t.Errorf("%d databases are there, %v", n, err)
				}
			}
		})
	}
}

func exec(t *testing.T, ctx context.Context, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(ctx, query); err != nil {
		t.Fatal(err)
	}
}
