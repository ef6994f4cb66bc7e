package store

import (
	"context"
	"database/sql"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// CheckSchema makes sure that the database was migrated at least as far as this
// program needs (KindUnavailable, saying what to do, if not). One that is
// further is fine: migrations only add, so that programs of two releases share
// a database while one after the other is upgraded.
func (s *Store) CheckSchema(ctx context.Context) error {
	have, want, err := s.SchemaVersion(ctx)
	switch {
	case err != nil:
		return err
	case have == 0:
		return trove.Errorf(trove.KindUnavailable, "The database has none of gotrove's tables.").WithAction("Run trove-manage db_sync.")
	case have < want:
		return trove.Errorf(trove.KindUnavailable, "The database is at version %d of gotrove's schema, but %d is needed.", have, want).
			WithAction("Run trove-manage db_sync of this release.")
	}
	return nil
}

// SchemaVersion gives the version of our tables that the database has, 0 if it
// has none, and the one this program brings it to.
func (s *Store) SchemaVersion(ctx context.Context) (have, want int64, err error) {
	names, err := fs.Glob(migrations, path.Join(s.d.migrations, "*.sql"))
	if err != nil {
		return 0, 0, trove.Errorf(trove.KindInternal, "the migrations are missing: %w", err)
	}
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, 0, trove.Errorf(trove.KindInternal, "the migration %s has no number", name)
		}
		want = max(want, n)
	}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		var tables int
		if _, err := c.one(ctx, s.d.tableExists, []any{versionTable}, &tables); err != nil || tables == 0 {
			return err
		}
		var newest sql.NullInt64
		_, err := c.one(ctx, "SELECT MAX(version_id) FROM "+versionTable, nil, &newest)
		have = newest.Int64
		return err
	})
	return have, want, err
}
