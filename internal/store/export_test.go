package store

import (
	"context"
	"database/sql"
	"slices"
	"time"
)

// BreakForTest runs a statement as it is.
func BreakForTest(ctx context.Context, s *Store, statement string) error {
	_, err := s.writer.ExecContext(ctx, statement)
	return err
}

// HoldAllForTest takes all connections that the server gives, until release.
func HoldAllForTest(ctx context.Context, s *Store) (release func()) {
	var held []*sql.Conn
	for {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		c, err := s.writer.Conn(short)
		cancel()
		if err != nil {
			break
		}
		held = append(held, c)
	}
	return func() {
		for _, c := range held {
			_ = c.Close()
		}
	}
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

// PlanForTest is how a database reads the first page of a project's instances.
func PlanForTest(ctx context.Context, s *Store, tenant string) (plan string, err error) {
	explain := "EXPLAIN "
	if s.d.migrations == "migrations/sqlite" {
		explain = "EXPLAIN QUERY PLAN "
	}
	atOnce := s.d.byIndex != nil
	query := s.d.pageQuery(InstanceFilter{TenantID: tenant, Short: true}, atOnce)
	args := []any{false, "", tenant, 21, false, false}
	if atOnce {
		args = []any{false, false, false, "", tenant, 21}
	}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, explain+query, args, func(r *sql.Rows) error {
			columns, err := r.Columns()
			if err != nil {
				return err
			}
			row := make([]sql.NullString, len(columns))
			into := make([]any, len(columns))
			for i := range row {
				into[i] = &row[i]
			}
			if err := r.Scan(into...); err != nil {
				return err
			}
			for _, v := range row {
				plan += v.String + " "
			}
			plan += "\n"
			return nil
		})
	})
	return plan, err
}
