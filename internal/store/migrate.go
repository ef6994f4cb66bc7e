package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"io"
	"io/fs"
	"strings"
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
// gets our tables, indexes and nullable columns only, and the original's are
// left as they are. Of several processes that migrate a database server's
// database at once, one does; a file must not be migrated by two.
func (s *Store) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	unlock, err := s.lockSchema(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	foreign, err := s.madeByOriginal(ctx)
	if err != nil {
		return err
	}
	folder, err := s.migrations(ctx)
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true)}
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

// lockSchema waits until no other process migrates the database.
func (s *Store) lockSchema(ctx context.Context) (unlock func(), err error) {
	if s.d.lock == "" {
		return func() {}, nil
	}
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return nil, s.classify(err, "connect")
	}
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, s.d.bind(s.d.lock), s.d.lockWait(migrateTimeout)).Scan(&got); err != nil {
		return nil, errors.Join(s.classify(err, s.d.lock), conn.Close())
	}
	if got.Int64 != 1 {
		return nil, errors.Join(trove.Errorf(trove.KindUnavailable, "Another process migrates the database."), conn.Close())
	}
	return func() {
		// Not of use any more: its settings are changed, and with it goes the lock.
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		_ = conn.Close()
	}, nil
}

// migrations are the files for this database. In those for MySQL {{exact}} is
// the collation of our tables, and {{id}} the type of a column that is joined
// with instances.id: the same character set and collation, or no index would
// help.
func (s *Store) migrations(ctx context.Context) (fs.FS, error) {
	folder, err := fs.Sub(migrations, s.d.migrations)
	if err != nil {
		return nil, trove.Errorf(trove.KindInternal, "the migrations are missing: %w", err)
	}
	if s.d.exact == "" {
		return folder, nil
	}
	set, collation := "utf8mb4", s.d.exact
	err = s.read(ctx, func(ctx context.Context, c session) error {
		_, err := c.one(ctx, `SELECT character_set_name, collation_name FROM information_schema.columns
			WHERE table_schema = DATABASE() AND table_name = 'instances' AND column_name = 'id'`, nil, &set, &collation)
		return err
	})
	if err != nil {
		return nil, err
	}
	return filled{folder, strings.NewReplacer("{{exact}}", s.d.exact,
		"{{id}}", "VARCHAR(36) CHARACTER SET "+set+" COLLATE "+collation)}, nil
}

// filled is a folder of files with something put in for placeholders.
type filled struct {
	fs.FS
	with *strings.Replacer
}

// Open gives a file as filled in.
func (f filled) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return file, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return filledFile{file, strings.NewReader(f.with.Replace(string(text)))}, nil
}

type filledFile struct {
	fs.File
	text *strings.Reader
}

// Read reads the text as filled in.
func (f filledFile) Read(p []byte) (int, error) { return f.text.Read(p) }

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
	exists := map[string]bool{}
	for _, table := range []string{"alembic_version", versionTable, "instances"} {
		var n int
		if _, err := c.one(ctx, s.d.tableExists, []any{table}, &n); err != nil {
			return false, err
		}
		exists[table] = n > 0
	}
	revision, stamped := "", false
	if exists["alembic_version"] {
		var err error
		if stamped, err = c.one(ctx, "SELECT version_num FROM alembic_version", nil, &revision); err != nil {
			return false, err
		}
	}
	switch {
	case stamped && revision != headRevision, !stamped && exists["instances"] && !exists[versionTable]:
		return false, trove.Errorf(trove.KindUnavailable,
			"The database is at revision %q of Trove's schema, but %q is needed.", revision, headRevision).
			WithAction("Run trove-manage db_sync of the newest OpenStack Trove first.")
	case !stamped:
		return false, nil // new, or one that we were making
	case !exists[versionTable]:
		return true, nil
	}
	// One that we made says in our own table that we did.
	var n int
	_, err := c.one(ctx, "SELECT COUNT(*) FROM "+versionTable+" WHERE version_id = ?", []any{adopted}, &n)
	return n == 0, err
}
