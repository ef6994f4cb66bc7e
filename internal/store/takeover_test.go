package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// original makes a database as OpenStack Trove leaves it: its schema with a
// character set and collation of long ago, and an instance.
func original(t *testing.T, e dbtest.Engine, charset, collation string) (*sql.DB, string) {
	t.Helper()
	server := servers[e].Get(t)
	url := server.Database(t)
	name := url[strings.LastIndex(url, "/")+1:]
	file := "migrations/mysql/00001_trove_head.sql"
	if e == dbtest.PostgreSQL {
		file = "migrations/postgres/00001_trove_head.sql"
	}
	text, err := os.ReadFile(file)
	must(t, err)
	schema := strings.NewReplacer("CHARACTER SET utf8mb4", "CHARACTER SET "+charset, "{{exact}}", collation).Replace(string(text))
	db := server.AdminOf(t, name)
	db.SetMaxOpenConns(1)
	for statement := range strings.SplitSeq(schema, ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err, statement)
		}
	}
	for _, statement := range []string{
		`INSERT INTO instances (id, name, created, updated, tenant_id, task_id, deleted, volume_size, task_description)
			VALUES ('abc', 'old', '2024-05-06 07:08:09', '2024-05-06 07:08:09', 'tenant', 1, FALSE, 5, 'x')`,
		`INSERT INTO service_statuses (id, instance_id, status_id, status_description, updated_at) VALUES ('s', 'abc', 33, 'healthy', '2024-05-06 07:08:09')`,
		`INSERT INTO datastores (id, name) VALUES ('d', 'MySQL')`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err, statement)
		}
	}
	return db, url
}

// indexes lists the indexes and columns of the original's tables.
func structure(t *testing.T, db *sql.DB, e dbtest.Engine) (out []string) {
	t.Helper()
	query := `SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique) FROM information_schema.statistics WHERE table_schema = DATABASE()
		UNION ALL SELECT CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, collation_name, column_default) FROM information_schema.columns WHERE table_schema = DATABASE()
		UNION ALL SELECT CONCAT_WS(' ', table_name, constraint_name, constraint_type) FROM information_schema.table_constraints WHERE table_schema = DATABASE()`
	if e == dbtest.PostgreSQL {
		query = `SELECT CONCAT_WS(' ', tablename, indexdef) FROM pg_indexes WHERE schemaname = 'public'
			UNION ALL SELECT CONCAT_WS(' ', table_name, column_name, data_type, is_nullable, column_default) FROM information_schema.columns WHERE table_schema = 'public'
			UNION ALL SELECT CONCAT_WS(' ', conrelid::regclass, conname, contype) FROM pg_constraint`
	}
	rows, err := db.QueryContext(t.Context(), query)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var line string
		must(t, rows.Scan(&line))
		out = append(out, line)
	}
	must(t, rows.Err())
	return out
}

// A running Trove's database is taken over as it is, whatever its collation.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		engine             dbtest.Engine
		charset, collation string
	}{
		{dbtest.MariaDB, "utf8mb3", "utf8mb3_general_ci"}, {dbtest.MariaDB, "latin1", "latin1_swedish_ci"},
		{dbtest.MariaDB, "utf8mb4", "utf8mb4_unicode_ci"}, {dbtest.PostgreSQL, "", ""},
	} {
		t.Run(string(c.engine)+c.collation, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			db, url := original(t, c.engine, c.charset, c.collation)
			exec := func(statement string) {
				t.Helper()
				if _, err := db.ExecContext(ctx, statement); err != nil {
					t.Fatal(err)
				}
			}
			exec("UPDATE alembic_version SET version_num = 'f90016d7baf8'")
			s := openURL(t, url)
			err := s.Migrate(ctx)
			if !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "f90016d7baf8") ||
				!strings.Contains(err.Error(), "95418fe2a1c8") || !strings.Contains(trove.ActionOf(err), "db_sync") {
				t.Fatalf("an older schema: %v (%s)", err, trove.ActionOf(err))
			}
			if now, err := store.TablesForTest(ctx, s); err != nil || slices.Contains(now, "work") {
				t.Errorf("an older schema was changed: %v, %v", now, err)
			}
			exec("UPDATE alembic_version SET version_num = '95418fe2a1c8'")
			before := structure(t, db, c.engine)
			// Several processes at once.
			errs := make([]error, 3)
			var g sync.WaitGroup
			for i := range errs {
				g.Go(func() { errs[i] = openURL(t, url).Migrate(ctx) })
			}
			g.Wait()
			must(t, errors.Join(errs...))
			after := structure(t, db, c.engine)
			for _, line := range before {
				if !slices.Contains(after, line) {
					t.Errorf("this is gone: %s", line)
				}
			}
			i, err := s.Instance(ctx, "abc")
			must(t, err)
			if i.Name != "old" || i.Service != trove.ServiceHealthy || i.VolumeSize != 5 {
				t.Errorf("%+v", i)
			}
			// Ids and names that only their collation takes for the same.
			for _, other := range []string{"ABC", "abc ", "äbc", "ab🐬"} {
				// The last is one that not every table can be asked for.
				if _, err := s.Instance(ctx, other); !trove.IsKind(err, trove.KindNotFound) && !trove.IsKind(err, trove.KindBadRequest) {
					t.Errorf("%q was found: %v", other, err)
				}
				if err := s.SetFault(ctx, other, trove.Fault{Message: "m"}); !trove.IsKind(err, trove.KindNotFound) && !trove.IsKind(err, trove.KindBadRequest) {
					t.Errorf("%q was changed: %v", other, err)
				}
			}
			if page, _, err := s.ListInstances(ctx, store.InstanceFilter{TenantID: "TENANT"}, store.Page{}); err != nil || len(page) != 0 {
				t.Errorf("another project sees %v, %v", page, err)
			}
			if _, err := s.Datastore(ctx, "mysql"); !trove.IsKind(err, trove.KindNotFound) {
				t.Errorf("a datastore by another name: %v", err)
			}
			// Everything works on it, joins of theirs and ours too.
			id := ready(t, s, "tenant")
			if _, err := s.StuckInstances(ctx, -1); err != nil {
				t.Error(err)
			}
			if ok, err := s.AcceptWork(ctx, store.NewWork{ID: "w", Kind: "k", Subject: id, RequestID: "r", Step: "one", State: []byte(`{"a":"🐬"}`)}); err != nil || !ok {
				t.Fatal(ok, err)
			}
			if w, err := s.LeaseWork(ctx, "me", []string{"k"}, 1e9); err != nil || w == nil || string(w.State) != `{"a":"🐬"}` {
				t.Fatal(w, err)
			}
			must(t, s.FinishDelete(ctx, id))
			err = s.RenameInstance(ctx, "abc", "🐬")
			if c.charset == "utf8mb4" || c.charset == "" {
				must(t, err)
			} else if !trove.IsKind(err, trove.KindBadRequest) {
				t.Errorf("a name that the table cannot hold: %v", err)
			}
		})
	}
}

// A database of an older Trove, without alembic, is refused.
func TestTakeOverTooOld(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		s := openURL(t, servers[e].Get(t).Database(t))
		must(t, store.BreakForTest(t.Context(), s, "CREATE TABLE instances (id VARCHAR(36) PRIMARY KEY)"))
		if err := s.Migrate(t.Context()); !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
			t.Errorf("%s: %v", e, err)
		}
	}
}

// In a database that we made, texts are equal only if they are the same.
func TestExactTexts(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		ctx, s := within(t), open()
		texts := []string{"a", "A", "a ", "á", "a🐬", "a🐭"}
		for _, x := range texts {
			n := newInstance(x)
			n.Instance.ID, n.Instance.Name, n.Outbox[0].ID = x, x, x
			must(t, s.CreateInstance(ctx, n))
			ok, err := s.AcceptWork(ctx, store.NewWork{ID: "w" + x, Kind: "k", Subject: x, RequestID: "r" + x, Step: "one", State: []byte("{}")})
			if err != nil || !ok {
				t.Errorf("%q: %v, %v", x, ok, err)
			}
			must(t, s.UpdateDatastore(ctx, x, ""))
		}
		stores, err := s.Datastores(ctx)
		must(t, err)
		if len(stores) != len(texts) {
			t.Errorf("%d datastores", len(stores))
		}
		for _, x := range texts {
			page, _, err := s.ListInstances(ctx, store.InstanceFilter{TenantID: x}, store.Page{})
			must(t, err)
			if len(page) != 1 || page[0].Name != x {
				t.Errorf("%q: %d instances", x, len(page))
			}
			if n := used(t, s, x, trove.ResourceInstances); n != 1 {
				t.Errorf("%q: %d in use", x, n)
			}
		}
	})
}

// A migration that was cut off is run again and ends.
func TestMigrationCutOff(t *testing.T) {
	t.Parallel()
	s := openURL(t, servers[dbtest.MariaDB].Get(t).Database(t))
	ctx := within(t)
	must(t, s.Migrate(ctx))
	want, err := store.TablesForTest(ctx, s)
	must(t, err)
	// As if it had ended before the last of each was written down.
	for _, cut := range []string{"DELETE FROM gotrove_db_version WHERE version_id > %d", "DROP TABLE guest_credentials, leases"} {
		if strings.Contains(cut, "%d") {
			for n := 4; n >= 0; n-- {
				must(t, store.BreakForTest(ctx, s, fmt.Sprintf(cut, n)))
				must(t, s.Migrate(ctx))
			}
			continue
		}
		must(t, store.BreakForTest(ctx, s, cut))
		must(t, store.BreakForTest(ctx, s, "DELETE FROM gotrove_db_version WHERE version_id > 1"))
		must(t, s.Migrate(ctx))
	}
	have, err := store.TablesForTest(ctx, s)
	must(t, err)
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
	ready(t, s, "t")
}
