package postgres

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
	"github.com/gotrove/gotrove/internal/trove"
)

// served starts a server on a copy of a template.
func served(t *testing.T, templates, address string) *Engine {
	t.Helper()
	root, err := os.MkdirTemp("", "i") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	set := engine.Settings{InstanceID: enginetest.InstanceID(root), DataDir: filepath.Join(root, "data"), ConfigDir: filepath.Join(root, "etc"),
		RunDir: filepath.Join(root, "run"), LogDir: root, TemplateDir: templates,
		Address: address, Port: 20000 + os.Getpid()%10000, MemoryMB: 256}
	if err := os.Mkdir(set.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	e := New(set)
	t.Cleanup(func() { _ = e.Close() })
	if err := e.Initialise(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := process.New(process.Options{})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := e.Command()
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.WithoutCancel(t.Context()), h, spec.StopSignal, 10*time.Second) })
	limit, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for e.Ready(limit) != nil {
		select {
		case <-tick.C:
		case <-limit.Done():
			t.Fatalf("not ready\n%s", e.LogTail())
		}
	}
	if err := e.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// catalog gives the names of all databases there are.
func catalog(t *testing.T, e *Engine) []string {
	t.Helper()
	return ask1[[]string](t, e, "postgres", "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database")
}

func ask1[T any](t *testing.T, e *Engine, database, query string, args ...any) (v T) {
	t.Helper()
	if err := e.in(t.Context(), database, func(c *pgx.Conn) error { return c.QueryRow(t.Context(), query, args...).Scan(&v) }); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// TestSpare takes the spare database and compares with one that is made: in the
// catalog and by what is in it.
func TestSpare(t *testing.T) {
	if len(candidates()) == 0 {
		t.Skip("PostgreSQL is not installed: apt-get install postgresql")
	}
	templates := t.TempDir()
	e := served(t, templates, "127.31.1.1")
	if e.found.major < spareSince {
		t.Skipf("PostgreSQL %d has no spare database", e.found.major)
	}
	system := []string{"postgres", "template0", "template1"}
	create := func(d trove.Database) {
		t.Helper()
		if err := e.CreateDatabase(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	want := func(names ...string) {
		t.Helper()
		if d := cmp.Diff(append(names, system...), catalog(t, e)); d != "" {
			t.Errorf("databases: %s", d)
		}
	}
	want(spareDatabase)
	if all, err := e.Databases(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("the spare is listed: %v, %v", all, err)
	}
	if err := e.in(t.Context(), spareDatabase, func(*pgx.Conn) error { return nil }); err == nil {
		t.Error("the spare takes connections")
	}
	create(trove.Database{Name: "latin", CharacterSet: "LATIN1"}) // not what the spare is
	want(spareDatabase, "latin")
	if err := e.takeSpare(t.Context(), "latin"); err == nil { // fails after its first statement
		t.Error("two databases of one name")
	}
	if ask1[bool](t, e, "postgres", "SELECT datallowconn FROM pg_database WHERE datname = $1", spareDatabase) {
		t.Error("taking the spare failed and left it half taken")
	}
	create(trove.Database{Name: "Taken \"1\""})
	want("Taken \"1\"", "latin")
	create(trove.Database{Name: "made"})
	want("Taken \"1\"", "latin", "made")

	row := func(name string) map[string]any {
		m := ask1[map[string]any](t, e, "postgres", "SELECT to_jsonb(d) FROM pg_database d WHERE datname = $1", name)
		for _, own := range []string{"oid", "datname"} {
			if m[own] == nil {
				t.Errorf("%s has no %s: %v", name, own, m)
			}
			delete(m, own)
		}
		return m
	}
	if d := cmp.Diff(row("made"), row("Taken \"1\"")); d != "" {
		t.Errorf("a spare database that was taken differs from one that is made: %s", d)
	}
	if oid := ask1[int](t, e, "postgres", "SELECT oid::int FROM pg_database WHERE datname = $1", "Taken \"1\""); oid < firstOID {
		t.Errorf("its oid %d is one of the system's", oid)
	}
	create(trove.Database{Name: "Taken \"1\""}) // as after a lost answer
	want("Taken \"1\"", "latin", "made")
	const content = `SELECT md5(string_agg(x, ',' ORDER BY x)) FROM (
		SELECT 'c ' || c.relname || ' ' || c.relkind::text || coalesce(c.relacl::text, '') || pg_get_userbyid(c.relowner)::text FROM pg_class c
		UNION ALL SELECT 'n ' || nspname || coalesce(nspacl::text, '') || pg_get_userbyid(nspowner)::text FROM pg_namespace
		UNION ALL SELECT 'e ' || extname || extversion FROM pg_extension
		UNION ALL SELECT 'p ' || oid::text || proname || coalesce(proacl::text, '') FROM pg_proc
		UNION ALL SELECT 'l ' || collname || collencoding::text FROM pg_collation) AS all_of_it (x)`
	if a, b := ask1[string](t, e, "made", content), ask1[string](t, e, "Taken \"1\"", content); a != b {
		t.Error("what is in it differs from what is in one that is made")
	}
	if n := ask1[int](t, e, "postgres", `SELECT count(*)::int FROM pg_shdepend WHERE classid = 'pg_database'::regclass
		OR dbid IN (SELECT oid FROM pg_database)`) + ask1[int](t, e, "postgres", "SELECT count(*)::int FROM pg_db_role_setting"); n != 0 {
		t.Errorf("%d dependencies or settings of a database", n)
	}
	if err := e.Prepared(t.Context()); err != nil { // nothing to do
		t.Error(err)
	}
	want("Taken \"1\"", "latin", "made")

	// A second instance takes none, and its log is read back after a kill.
	second := served(t, templates, "127.31.1.2")
	for range 2 {
		if err := second.Prepared(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(system, catalog(t, second)); d != "" {
		t.Errorf("databases after prepare: %s", d)
	}
	if left, err := os.Stat(filepath.Join(second.set.DataDir, "base", strconv.Itoa(firstOID))); err == nil {
		t.Errorf("%s of the spare is left", left.Name())
	}
}
