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
// values: bodies of messages and states of work hold passwords. It does not look
// into them; a Sealer it is given seals them on their way to the database. The
// files of SQLite are readable by their owner only.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Config says where the database is.
type Config struct {
	// URL is [database] connection: mysql+pymysql://, postgresql:// or
	// sqlite:////path. Path is used if it is empty.
	URL  secret.String
	Path string // file of an SQLite database; made, with mode 0600, if missing
	Pool Pool
	// Clock gives the time written into rows for people to read; time.Now if nil.
	// What is compared (leases, deadlines, when an agent was last heard) is of the
	// database's own clock instead: those of several processes may differ.
	Clock func() time.Time
	// Log gets statements that failed for no expected reason (without their
	// values); none if nil.
	Log *slog.Logger
	// MakeRoom is called when the disk of an SQLite database is full. It reports
	// whether there is room now, so that what failed is worth another try. nil:
	// there never is.
	MakeRoom func() bool
	// Sealer seals bodies of messages and states of work; nil stores them as
	// they are.
	Sealer Sealer
}

// Pool bounds the connections to a database server; SQLite has its own rule.
// Zero values are oslo.db's defaults.
type Pool struct {
	Most    int           // connections at once; 55, no limit if below 0
	Recycle time.Duration // age at which a connection is replaced; an hour
	// Retries is how often Open tries again to reach a server, Interval apart
	// (10 s); no limit if below 0.
	Retries  int
	Interval time.Duration
}

func (p Pool) apply(db *sql.DB) {
	most := cmp.Or(p.Most, 55)
	if most > 0 {
		db.SetMaxOpenConns(max(most, 2)) // one holds the lock of a migration
	} else {
		most = 256
	}
	// All are kept for a while: a connection costs more than many statements,
	// and each compiles its own.
	db.SetMaxIdleConns(max(most, 2))
	db.SetConnMaxLifetime(cmp.Or(p.Recycle, time.Hour))
	// Before the server ends it for having no work.
	db.SetConnMaxIdleTime(idleTimeout)
}

// Bounds in time.
const (
	callTimeout = 30 * time.Second // of one call, whatever deadline its ctx has
	dialTimeout = 10 * time.Second
	lockTimeout = 10 * time.Second // of waiting for a row that another has
	idleTimeout = time.Minute      // of a connection without work
)

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	d      *dialect
	writer *sql.DB
	reader *sql.DB
	writes *prepared // of writer
	reads  *prepared // of reader
	shared *shared   // how transactions of SQLite are written; nil for other engines
	pool   Pool      // how writer and reader are kept
	clock  func() time.Time
	log    *slog.Logger

	makeRoom func() bool
	sealer   Sealer
	// walPath is the file that SQLite writes first; empty for other engines.
	walPath string

	statements atomic.Uint64
	retries    atomic.Uint64
	closed     atomic.Bool

	outboxHints hints
	relay       atomic.Pointer[string] // who publishes what this process writes
	workHints   hints
}

// Open opens the database and makes sure that it answers. It is to be
// migrated before its first use. Errors are KindUnavailable, KindBadRequest for
// a URL that is wrong; they name the database, never the password.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{clock: c.Clock, log: c.Log, makeRoom: c.MakeRoom, sealer: c.Sealer}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	at := target{engine: engineSQLite, path: c.Path}
	if !c.URL.IsZero() {
		var err error
		if at, err = parseURL(c.URL.Reveal()); err != nil {
			return nil, err
		}
	}
	for n := 0; ; n++ {
		err := s.open(ctx, at, c.Pool)
		if err == nil {
			return s, nil
		}
		if n == c.Pool.Retries || !trove.IsKind(err, trove.KindUnavailable) {
			return nil, err
		}
		s.log.WarnContext(ctx, "the database cannot be opened yet", "error", err)
		t := time.NewTimer(cmp.Or(c.Pool.Interval, 10*time.Second))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-t.C:
		}
	}
}

func (s *Store) open(ctx context.Context, at target, p Pool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch at.engine {
	case engineSQLite:
		s.d, s.walPath = sqliteDialect(), at.path+"-wal"
		if s.writer, s.reader, err = openSQLite(at.path); err != nil {
			return err
		}
		s.shared = &shared{db: s.writer}
	case engineMySQL:
		s.pool = p
		var f flavor
		s.d = mysqlDialect(f)
		if s.writer, f, err = openMySQL(ctx, at, p, s.log); err != nil {
			return s.cannotOpen(at, err)
		}
		s.d, s.reader = mysqlDialect(f), s.writer
	case enginePostgres:
		s.pool = p
		s.d = postgresDialect()
		if s.writer, err = openPostgres(at, p, s.log); err != nil {
			return s.cannotOpen(at, err)
		}
		s.reader = s.writer
	}
	if s.d.keep {
		s.writes = newPrepared(s.writer)
		if s.reads = s.writes; s.reader != s.writer {
			s.reads = newPrepared(s.reader)
		}
	}
	if err := s.Ping(ctx); err != nil {
		_ = s.Close()
		s.closed.Store(false)
		return s.cannotOpen(at, err)
	}
	return nil
}

// cannotOpen names the database. What is wrong with its URL keeps its kind.
func (s *Store) cannotOpen(at target, err error) error {
	err = s.classify(err, "open")
	if trove.IsKind(err, trove.KindBadRequest) {
		return err
	}
	return trove.Errorf(trove.KindUnavailable, "cannot open the database %s: %w", at, err)
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

// Writable makes sure that the database answers and takes writes, and changes
// nothing: a server that was demoted to a replica answers well, and nobody's
// request can be taken any more.
func (s *Store) Writable(ctx context.Context) error {
	if err := s.Ping(ctx); err != nil || s.reader != s.writer {
		return err // nobody demotes a file
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, "UPDATE leases SET expires = expires WHERE name = ''")
		return err
	})
}

// Close waits for calls under way and closes the database.
func (s *Store) Close() error {
	s.closed.Store(true)
	err := s.writer.Close()
	if s.reader != s.writer {
		err = errors.Join(s.reader.Close(), err)
	}
	return err
}

// Stats are counters since Open.
type Stats struct {
	Statements uint64 // SQL statements run, without BEGIN and COMMIT
	Retries    uint64 // transactions begun anew
	// Writer and Reader are the pools of connections. Reader is not set where
	// one pool does both.
	Writer, Reader sql.DBStats
	TwoPools       bool
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	st := Stats{Statements: s.statements.Load(), Retries: s.retries.Load(), Writer: s.writer.Stats(), TwoPools: s.reader != s.writer}
	if st.TwoPools {
		st.Reader = s.reader.Stats()
	}
	return st
}

// now is the time for the original's columns: UTC, whole seconds.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Second) }

// serverTime is what nowMicros said, or our own clock where that is the same.
func (s *Store) serverTime(us int64) time.Time {
	if s.d.nowSeconds == "" {
		return s.clock()
	}
	return time.UnixMicro(us)
}

// serverNow is what a statement writes into a column of the original's that is
// compared later: an expression, and its argument if it has one.
func (s *Store) serverNow() (expression string, args []any) {
	if s.d.nowSeconds == "" {
		return "?", []any{s.now()}
	}
	return s.d.nowSeconds, nil
}

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
