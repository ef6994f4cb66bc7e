package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// TestReadOnly: a server that was demoted under open connections is found out.
func TestReadOnly(t *testing.T) {
	for e, demote := range map[dbtest.Engine][2]string{
		dbtest.MariaDB:    {"SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"},
		dbtest.PostgreSQL: {"ALTER SYSTEM SET default_transaction_read_only = on", "ALTER SYSTEM SET default_transaction_read_only = off"},
	} {
		t.Run(string(e), func(t *testing.T) {
			server := dbtest.Start(t, e)
			url := server.Database(t)
			s, err := store.Open(t.Context(), configOf(url))
			must(t, err)
			defer s.Close()
			must(t, s.Migrate(t.Context()))
			must(t, s.Writable(t.Context()))
			admin := server.Admin(t)
			set := func(statement string) {
				t.Helper()
				_, err := admin.ExecContext(t.Context(), statement)
				must(t, err)
				if e == dbtest.PostgreSQL {
					_, err = admin.ExecContext(t.Context(), "SELECT pg_reload_conf()")
					must(t, err)
				}
			}
			// PostgreSQL's sessions hear of it a little later.
			await := func(what string, ok func(error) bool) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for {
					err := s.Writable(ctx)
					if ok(err) {
						return
					}
					select {
					case <-ctx.Done():
						t.Fatalf("never %s: %v", what, err)
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
			set(demote[0])
			await("read-only", func(err error) bool { return trove.IsKind(err, trove.KindUnavailable) })
			if err := s.Ping(t.Context()); err != nil {
				t.Errorf("it answers all the same: %v", err)
			}
			// As the default of a session ALTER SYSTEM itself is not hindered.
			set(demote[1])
			await("writable", func(err error) bool { return err == nil })
		})
	}
}
