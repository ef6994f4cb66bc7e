package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gotrove/gotrove/internal/trove"
)

// maxName is what PostgreSQL keeps of a name, in bytes; it would cut the rest.
const maxName = 63

// reservedDatabases are never listed and refused. os_admin is of the original.
var reservedDatabases = []string{"postgres", "template0", "template1", "os_admin", spareDatabase}

// checkName refuses what cannot be the name of a database or user, or is
// reserved.
func checkName(what, name string, reserved func(string) bool) error {
	switch {
	case name == "":
		return trove.Errorf(trove.KindBadRequest, "A %s needs a name.", what)
	case len(name) > maxName:
		return trove.Errorf(trove.KindBadRequest, "The name of a %s has at most %d bytes; %.20q… has %d.", what, maxName, name, len(name))
	case !utf8.ValidString(name), strings.ContainsFunc(name, unicode.IsControl):
		return trove.Errorf(trove.KindBadRequest, "The %s name %q holds characters that cannot be printed.", what, name)
	case reserved(name):
		return trove.Errorf(trove.KindBadRequest, "The %s name %q is reserved.", what, name)
	}
	return nil
}

func checkDatabase(name string) error {
	return checkName("database", name, func(n string) bool { return slices.Contains(reservedDatabases, n) })
}

func noDatabase(name string) error {
	return trove.Errorf(trove.KindNotFound, "There is no database %q.", name)
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// Databases lists databases by name.
func (e *Engine) Databases(ctx context.Context) ([]trove.Database, error) {
	pool, err := e.admin()
	if err != nil {
		return nil, err
	}
	rows, err := pool.Query(ctx, `
		SELECT datname, pg_encoding_to_char(encoding), datcollate
		FROM pg_database WHERE NOT datistemplate AND datname <> ALL ($1) ORDER BY datname`, reservedDatabases)
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (trove.Database, error) {
		var d trove.Database
		return d, r.Scan(&d.Name, &d.CharacterSet, &d.Collation)
	})
}

// hasDatabase reports whether a database is there.
func (e *Engine) hasDatabase(ctx context.Context, name string) (bool, error) {
	pool, err := e.admin()
	if err != nil {
		return false, err
	}
	var there bool
	err = pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there)
	return there, err
}

// CreateDatabase creates a database unless it is there. Only those who are
// granted it may connect.
func (e *Engine) CreateDatabase(ctx context.Context, d trove.Database) error {
	if err := checkDatabase(d.Name); err != nil {
		return err
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	var there, spare bool
	if err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1),
		EXISTS (SELECT FROM pg_database WHERE datname = $2)`, d.Name, spareDatabase).Scan(&there, &spare); err != nil {
		return err
	}
	if !there && spare && d.CharacterSet == "" && d.Collation == "" {
		return notCreated(d.Name, e.takeSpare(ctx, d.Name))
	}
	if !there {
		if _, err := pool.Exec(ctx, createDatabase(d)); err != nil {
			return notCreated(d.Name, err)
		}
	}
	_, err = pool.Exec(ctx, closeDatabase(d.Name))
	return err
}

// notCreated tells what is wrong with what was asked for from what befell us.
func notCreated(name string, err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "42")) {
		return trove.Errorf(trove.KindBadRequest, "The database %q cannot be created: %s.", name, pg.Message)
	}
	return fmt.Errorf("create database %q: %w", name, err)
}

// closeDatabase is the statement that leaves a database to those who are granted it.
func closeDatabase(name string) string {
	return "REVOKE CONNECT, TEMPORARY ON DATABASE " + ident(name) + " FROM PUBLIC"
}

// createDatabase is the statement. One that asks for an encoding or collation
// of its own is made of the empty template, the only one that allows it.
func createDatabase(d trove.Database) string {
	q := "CREATE DATABASE " + ident(d.Name)
	if d.CharacterSet == "" && d.Collation == "" {
		return q
	}
	q += " TEMPLATE template0"
	if d.CharacterSet != "" {
		q += " ENCODING" + quoteLiteral(d.CharacterSet)
	}
	if d.Collation != "" {
		// Comparison and letters go together; an encoding fits both or none.
		return q + " LC_COLLATE" + quoteLiteral(d.Collation) + " LC_CTYPE" + quoteLiteral(d.Collation)
	}
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(d.CharacterSet)) {
	case "utf8", "unicode":
		return q
	}
	return q + " LC_COLLATE 'C' LC_CTYPE 'C'" // fits every encoding
}

// DropDatabase drops a database and ends the sessions in it.
func (e *Engine) DropDatabase(ctx context.Context, name string) error {
	if err := checkDatabase(name); err != nil {
		return err
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	there, err := e.hasDatabase(ctx, name)
	if err != nil {
		return err
	}
	if !there {
		return noDatabase(name)
	}
	if _, err := pool.Exec(ctx, "DROP DATABASE "+ident(name)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %q: %w", name, err)
	}
	return nil
}
