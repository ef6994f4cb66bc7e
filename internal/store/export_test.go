package store

import (
	"context"
	"database/sql"
	"slices"
)

// BreakForTest runs a statement as it is.
func BreakForTest(ctx context.Context, s *Store, statement string) error {
	_, err := s.writer.ExecContext(ctx, statement)
	return err
}

// TablesForTest lists the tables of a database, by name.
func TablesForTest(ctx context.Context, s *Store) ([]string, error) {
	query := "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
	switch s.d.migrations {
	case "migrations/sqlite":
		query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	case "migrations/postgres":
		query = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
	}
	var names []string
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, query, nil, func(r *sql.Rows) error {
			var name string
			err := r.Scan(&name)
			names = append(names, name)
			return err
		})
	})
	slices.Sort(names)
	return names, err
}

// KnownTables are those that Copy and Wipe know.
func KnownTables() []string { return slices.Concat(versionTables, originalTables, ownTables) }
