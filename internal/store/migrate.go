package store

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/gotrove/gotrove/internal/trove"
)

//go:embed migrations
var migrations embed.FS

const (
	// headRevision is the revision of the original's schema that we work with.
	headRevision = "95418fe2a1c8"
	// versionTable records our migrations. It is ours, beside alembic_version,
	// which we write only into a database that we made.
	versionTable = "gotrove_db_version"
	// migrateTimeout bounds all migrations together.
	migrateTimeout = 10 * time.Minute
	// adopted is the migration that makes the original's schema.
	adopted = 1
)

// Migrate brings the schema up to date. A new database gets the original's
// schema at its head revision, stamped so that the original could read it, and
// our tables. A database that the original made must be at that revision; it
// gets our tables only, and the original's are left as they are. Not more than
// one process may migrate a database at a time.
func (s *Store) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	folder, err := fs.Sub(migrations, s.d.migrations)
	if err != nil {
		return trove.Errorf(trove.KindInternal, "the migrations are missing: %w", err)
	}
	options := []goose.ProviderOption{goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true)}
	foreign, err := s.madeByOriginal(ctx)
	if err != nil {
		return err
	}
	if foreign {
		options = append(options, goose.WithExcludeVersions([]int64{adopted}))
	}
	p, err := goose.NewProvider(s.d.goose, s.writer, folder, options...)
	if err != nil {
		return trove.Errorf(trove.KindInternal, "cannot prepare the migration of the database: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		s.log.ErrorContext(ctx, "the migration of the database failed", "error", err)
		return &trove.Error{Kind: trove.KindUnavailable, Err: err,
			Message: "The database's schema could not be brought up to date.", Action: "Look at the service's log."}
	}
	if s.walPath != "" {
		s.holdRoom(ctx)
	}
	return nil
}

// madeByOriginal tells whether the original made this database, and refuses
// one that is not at the head revision.
func (s *Store) madeByOriginal(ctx context.Context) (theirs bool, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		theirs, err = s.originalIn(ctx, c)
		return err
	})
	return theirs, err
}

func (s *Store) originalIn(ctx context.Context, c session) (bool, error) {
	var tables int
	if _, err := c.one(ctx, s.d.tableExists, []any{"alembic_version"}, &tables); err != nil || tables == 0 {
		return false, err
	}
	var revision string
	if _, err := c.one(ctx, "SELECT version_num FROM alembic_version", nil, &revision); err != nil {
		return false, err
	}
	if revision != headRevision {
		return false, trove.Errorf(trove.KindUnavailable,
			"The database is at revision %q of Trove's schema, but %q is needed.", revision, headRevision).
			WithAction("Run trove-manage db_sync of the newest OpenStack Trove first.")
	}
	// One that we made says in our own table that we did.
	if _, err := c.one(ctx, s.d.tableExists, []any{versionTable}, &tables); err != nil || tables == 0 {
		return tables == 0, err
	}
	var n int
	_, err := c.one(ctx, "SELECT COUNT(*) FROM "+versionTable+" WHERE version_id = ?", []any{adopted}, &n)
	return n == 0, err
}
