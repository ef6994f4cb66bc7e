package store

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/gotrove/gotrove/internal/trove"
)

// readers is how many connections serve reads beside the one that writes.
const readers = 4

// openSQLite opens one connection that writes and a few that read. In WAL mode
// they do not wait for each other. Every commit is on the disk before it is
// reported (synchronous FULL).
func openSQLite(path string) (writer, reader *sql.DB, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, nil, trove.Errorf(trove.KindUnavailable, "cannot open the database %s: %w", path, err)
	}
	// Made by us, so that it is never open to others; -wal and -shm take the
	// mode of this file.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, trove.Errorf(trove.KindUnavailable, "cannot open the database: %w", err).
			WithAction("Make the directory %s, and let the service read and write it.", filepath.Dir(path))
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, nil, trove.Errorf(trove.KindUnavailable, "cannot protect the database: %w", err)
	}

	// The driver's busy timeout is short: waiting longer is ours (tx), which
	// watches the context.
	common := "_pragma=busy_timeout(500)&_pragma=foreign_keys(1)&_time_format=datetime&_timezone=UTC&_dqs=0"
	file := (&url.URL{Scheme: "file", Path: path}).String()
	writer, err = sql.Open("sqlite", file+"?"+common+"&_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, nil, trove.Errorf(trove.KindUnavailable, "cannot open the database %s: %w", path, err)
	}
	writer.SetMaxOpenConns(1)
	reader, err = sql.Open("sqlite", file+"?"+common+"&_query_only=1")
	if err != nil {
		return nil, nil, errors.Join(trove.Errorf(trove.KindUnavailable, "cannot open the database %s: %w", path, err), writer.Close())
	}
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader, nil
}

func sqliteDialect() *dialect {
	return &dialect{
		migrations:  "migrations/sqlite",
		goose:       goose.DialectSQLite3,
		bind:        func(q string) string { return q },
		keep:        true,
		bigint:      "?",
		nowMicros:   "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)",
		quote:       func(name string) string { return `"` + name + `"` },
		onConflict:  onConflict,
		verdict:     sqliteVerdict,
		full:        fullSQLite,
		explain:     explainSQLite,
		tableExists: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?",
	}
}

func sqliteVerdict(err error) verdict {
	if sqliteCode(err, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) {
		return again
	}
	return final
}

// sqliteCode reports whether err has one of these primary result codes.
func sqliteCode(err error, codes ...int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	for _, c := range codes {
		if e.Code()&0xff == c {
			return true
		}
	}
	return false
}

// fullSQLite also knows the file shared by connections that could not grow.
func fullSQLite(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}

// walRoom is what the file has that SQLite writes first, in bytes. It is used
// again after each thousand pages (4 MiB).
const walRoom = 8 << 20

// holdRoom takes room on the disk for what SQLite writes first, which nobody
// else can take then. Where the file system cannot, there is none.
func (s *Store) holdRoom(ctx context.Context) {
	f, err := os.OpenFile(s.walPath, os.O_RDWR, 0)
	if err == nil {
		// SQLite locks other files of its own, so closing this one is safe.
		err = errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, walRoom), f.Close())
	}
	if err != nil {
		s.log.DebugContext(ctx, "no room is held for the database's log", "error", err)
	}
}

func explainSQLite(err error) *explanation {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return nil
	}
	if fullSQLite(err) {
		return &explanation{trove.KindUnavailable, "The database cannot be written: its disk is full.",
			"Make room on the file system that holds the database."}
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return &explanation{trove.KindConflict, "There is one like it already.", ""}
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return &explanation{trove.KindBadRequest, "It refers to something that does not exist.", ""}
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return &explanation{trove.KindUnavailable, "The database is busy.", "Try again."}
	case sqlite3.SQLITE_INTERRUPT:
		return &explanation{trove.KindUnavailable, "The database did not answer in time.", "Try again."}
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return &explanation{trove.KindUnavailable, "The database cannot be written.",
			"Let the service read and write the database's file and directory."}
	case sqlite3.SQLITE_IOERR:
		return &explanation{trove.KindUnavailable, "The database's disk fails.",
			"Look at the service's log and at the machine's disk."}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return &explanation{trove.KindUnavailable, "The database's file is damaged or is no database.",
			"Restore the file from a backup."}
	}
	return nil
}
