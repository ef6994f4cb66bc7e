package postgres

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestBaseConfiguration(t *testing.T) {
	t.Parallel()
	e := New(engine.Settings{DataDir: "/v/data", ConfigDir: "/v/it's/etc", RunDir: "/run/i", Address: "127.20.0.1", MemoryMB: 512})
	got := string(e.base(Installation{major: 15, lz4: true}))
	golden := filepath.Join("testdata", "postgresql.conf")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
	old := string(e.base(Installation{major: 13}))
	for _, unknown := range []string{"client_connection_check_interval", "wal_compression"} {
		if strings.Contains(old, unknown) {
			t.Errorf("a PostgreSQL 13 without LZ4 does not know %s so", unknown)
		}
	}
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	got, err := renderOverrides(map[string]any{"work_mem": "7MB", "max_connections": 50.0, "autovacuum": false, "a.b": `it's \ that`, "seq_page_cost": 1.5})
	if err != nil {
		t.Fatal(err)
	}
	want := "# Written by trove-guestagent from the configuration group.\na.b = 'it''s \\\\ that'\nautovacuum = 'off'\n" +
		"max_connections = '50'\nseq_page_cost = '1.5'\nwork_mem = '7MB'\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	for name, v := range map[string]any{"a b": 1, "": 1, "include": "x", "PORT": 1, "work_mem": "1\nport=1", "x": nil, "y": []any{1}} {
		if _, err := renderOverrides(map[string]any{name: v}); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%q = %v: %v", name, v, err)
		}
	}
}

func TestCreateDatabaseStatement(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   trove.Database
		want string
	}{
		{trove.Database{Name: `a"b`}, `CREATE DATABASE "a""b"`},
		{trove.Database{Name: "a", CharacterSet: "UTF-8"}, `CREATE DATABASE "a" TEMPLATE template0 ENCODING E'UTF-8'`},
		{trove.Database{Name: "a", CharacterSet: "latin1"}, `CREATE DATABASE "a" TEMPLATE template0 ENCODING E'latin1' LC_COLLATE 'C' LC_CTYPE 'C'`},
		{trove.Database{Name: "a", Collation: "it's"}, `CREATE DATABASE "a" TEMPLATE template0 LC_COLLATE E'it''s' LC_CTYPE E'it''s'`},
	} {
		if got := createDatabase(c.in); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// TestVerifier: the example of RFC 7677, whose proof PostgreSQL would check
// against these keys.
func TestVerifier(t *testing.T) {
	t.Parallel()
	salt := []byte{0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81}
	got, err := scramVerifier("pencil", salt)
	if err != nil {
		t.Fatal(err)
	}
	want := "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if l, err := passwordLiteral("s3cret"); err != nil || strings.Contains(l, "s3cret") {
		t.Errorf("the statement holds the password: %s, %v", l, err)
	}
}

func TestProgramsOfAVersion(t *testing.T) {
	t.Parallel()
	_, err := binDir(engine.Settings{Version: "7.4"})
	if trove.KindOf(err) != trove.KindGuest || !strings.Contains(trove.ActionOf(err), "postgresql-7") {
		t.Errorf("%v, %s", err, trove.ActionOf(err))
	}
}

// TestAsk asks programs that say what servers say; and the real one, if it is there.
func TestAsk(t *testing.T) { // alone: a program that is being written cannot be run
	const version = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'postgres (PostgreSQL) 15.20 (Debian 15.20-1)'; exit; fi\n"
	for script, want := range map[string]string{
		"echo LOG: skipping >&2; echo lz4":                                "15.20 lz4",
		"echo 'FATAL:  invalid value, \"lz4\"; available: pglz'; exit 1":  "15.20 no-lz4",
		"echo 'FATAL:  parameter \"wal_compression\" is boolean'; exit 1": "15.20 no-lz4",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(version+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		got, err := ask(t.Context(), runtime.Host{}, dir)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", script, got, err, want)
		}
	}
	if found, err := understood("15.20 lz4"); err != nil || found != (Installation{Version: "15.20", major: 15, lz4: true}) {
		t.Errorf("understood %+v, %v", found, err)
	}
	for _, dir := range candidates() {
		got, err := ask(t.Context(), runtime.Host{}, dir)
		if err != nil || got != strings.Fields(got)[0]+" lz4" { // Debian's are built with it since 15
			t.Errorf("%s: %q, %v", dir, got, err)
		}
	}
}
