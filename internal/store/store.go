// Package store is the database of record: instances, datastores, quotas, the
// outbox and the work table, in the schema of OpenStack Trove at its head
// revision plus tables of our own.
//
// It owns every SQL statement of the project. One text serves all engines:
// placeholders are `?`, and what differs between engines is in dialect.go and
// in one folder of migrations each. Every change of state is one transaction,
// compare-and-set where two may want the same; nothing is read first and
// written later on the strength of it.
//
// Errors are trove.Errors; the driver's text is only in their chain, for logs.
// The package must not know HTTP, AMQP, clouds or any flow, and it never logs
// values: bodies of messages hold passwords. They are stored as they are, so
// the files of SQLite are readable by their owner only.
package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Config says where the database is.
type Config struct {
	Path string // file of an SQLite database; made, with mode 0600, if missing
	// Clock gives the time written into rows; time.Now if nil. Leases and what
	// is compared with them use the database's own clock instead.
	Clock func() time.Time
	// Log gets statements that failed for no expected reason (without their
	// values); none if nil.
	Log *slog.Logger
	// MakeRoom is called when the disk of an SQLite database is full. It reports
	// whether there is room now, so that what failed is worth another try. nil:
	// there never is.
	MakeRoom func() bool
}

// callTimeout bounds one call, whatever deadline its ctx has.
const callTimeout = 30 * time.Second

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	d      *dialect
	writer *sql.DB
	reader *sql.DB
	writes *prepared // of writer
	reads  *prepared // of reader
	clock  func() time.Time
	log    *slog.Logger

	makeRoom func() bool
	// walPath is the file that SQLite writes first; empty for other engines.
	walPath string

	statements atomic.Uint64
	closed     atomic.Bool

	outboxHints hints
	workHints   hints
}

// Open opens the database and makes sure that it answers. It is to be
// migrated before its first use. Errors are KindUnavailable and name the file.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{d: sqliteDialect(), clock: c.Clock, log: c.Log, makeRoom: c.MakeRoom, walPath: c.Path + "-wal"}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.writer, s.reader, err = openSQLite(c.Path); err != nil {
		return nil, err
	}
	s.writes, s.reads = newPrepared(s.writer), newPrepared(s.reader)
	if err := s.Ping(ctx); err != nil {
		_ = s.Close()
		return nil, trove.Errorf(trove.KindUnavailable, "cannot open the database %s: %w", c.Path, err)
	}
	return s, nil
}

// Ping makes sure that the database answers.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.writer.PingContext(ctx); err != nil {
		return s.classify(err, "ping")
	}
	return s.classify(s.reader.PingContext(ctx), "ping")
}

// Close waits for calls under way and closes the database.
func (s *Store) Close() error {
	s.closed.Store(true)
	return errors.Join(s.reader.Close(), s.writer.Close())
}

// Stats are counters since Open.
type Stats struct {
	Statements uint64 // SQL statements run, without BEGIN and COMMIT
}

// Stats returns the counters.
func (s *Store) Stats() Stats { return Stats{Statements: s.statements.Load()} }

// now is the time for the original's columns: UTC, whole seconds.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Second) }

// micros is t as our own tables hold it; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
