package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// busyRetries is how often a transaction is begun anew because others were in
// its way, on top of the engine's own waiting.
const busyRetries = 12

// lostRetries is the same for a connection that was lost.
const lostRetries = 3

// session runs statements, in a transaction or out of one.
type session struct {
	s        *Store
	db       *sql.DB
	tx       *sql.Tx   // nil: each statement is for itself
	prepared *prepared // nil: the driver keeps compiled statements
}

// run runs a statement, compiled if it has been already.
func (c session) run(ctx context.Context, query string, args []any) (sql.Result, error) {
	query = c.s.d.bind(query)
	switch stmt := c.prepared.get(query); {
	case stmt != nil && c.tx != nil:
		return c.tx.StmtContext(ctx, stmt).ExecContext(ctx, args...)
	case stmt != nil:
		return stmt.ExecContext(ctx, args...)
	case c.tx != nil:
		return c.tx.ExecContext(ctx, query, args...)
	}
	return c.db.ExecContext(ctx, query, args...)
}

// query is run for a statement that gives rows.
func (c session) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	query = c.s.d.bind(query)
	switch stmt := c.prepared.get(query); {
	case stmt != nil && c.tx != nil:
		return c.tx.StmtContext(ctx, stmt).QueryContext(ctx, args...)
	case stmt != nil:
		return stmt.QueryContext(ctx, args...)
	case c.tx != nil:
		return c.tx.QueryContext(ctx, query, args...)
	}
	return c.db.QueryContext(ctx, query, args...)
}

// exec runs a statement and returns how many rows matched it.
func (c session) exec(ctx context.Context, query string, args ...any) (int64, error) {
	c.s.statements.Add(1)
	r, err := c.run(ctx, query, args)
	if err != nil {
		return 0, c.s.classify(err, query)
	}
	n, err := r.RowsAffected()
	return n, c.s.classify(err, query)
}

// each runs a query and calls scan for each row.
func (c session) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	c.s.statements.Add(1)
	rows, err := c.query(ctx, query, args)
	if err != nil {
		return c.s.classify(err, query)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return c.s.classify(err, query)
		}
	}
	return c.s.classify(rows.Err(), query)
}

// one scans the first row of a query, if there is one.
func (c session) one(ctx context.Context, query string, args []any, dest ...any) (found bool, err error) {
	err = c.each(ctx, query, args, func(r *sql.Rows) error {
		if found {
			return nil
		}
		found = true
		return r.Scan(dest...)
	})
	return found, err
}

// tx is a writing transaction.
type tx struct {
	session
	outbox, work bool
	events       []string // the instances that have new ones
	// repeated: the same was done before, and whether that was committed is
	// not known. Nothing that was may be an error now.
	repeated bool
}

// insertNew writes one row, unless there is one like it, by any of its unique
// keys. It reports whether it did.
func (t *tx) insertNew(ctx context.Context, table string, columns []string, args ...any) (bool, error) {
	query := t.s.d.insert(table, 1, columns)
	if t.s.d.duplicate == nil {
		n, err := t.exec(ctx, query+" "+t.s.d.onConflict(nil, nil), args...)
		return n > 0, err
	}
	_, err := t.exec(ctx, query, args...)
	if err != nil && t.s.d.duplicate(err) {
		return false, nil
	}
	return err == nil, err
}

// lock keeps other transactions from an instance until this one ends: those
// that change an instance, or decide on what they read of it, begin with it. It
// reports whether the instance is there and whether it is not deleted.
func (t *tx) lock(ctx context.Context, id string) (found, live bool, err error) {
	var is string
	var deleted sql.NullBool
	if _, err := t.one(ctx, "SELECT id, deleted FROM instances WHERE id = ?"+t.s.d.forUpdate, []any{id}, &is, &deleted); err != nil {
		return false, false, err
	}
	// The collation of a database that the original made may take another id
	// for the same.
	found = is == id && id != ""
	return found, found && deleted.Valid && !deleted.Bool, nil
}

// outboxChanged and workChanged wake those who wait for rows, once the
// transaction is committed; addEvent does so itself.
func (t *tx) outboxChanged() { t.outbox = true }
func (t *tx) workChanged()   { t.work = true }

// tx runs f in a transaction that writes, and commits it if f returns nil. f
// is run again if others were in its way, if the connection was lost or led to a
// server that only reads, and if the disk was full and room was made: it must set
// what it captures afresh. Where a COMMIT got no answer, f runs again as repeated;
// if that is not possible, the error says that nobody knows.
func (s *Store) tx(ctx context.Context, f func(ctx context.Context, t *tx) error) error {
	return s.try(ctx, func(ctx context.Context, repeated bool) (bool, error) { return s.txOnce(ctx, repeated, f) })
}

// write runs f, one statement that writes, as a transaction of its own, and again
// as tx does: it must be one that may be done twice.
func (s *Store) write(ctx context.Context, f func(ctx context.Context, c session) error) error {
	if s.shared != nil {
		return s.tx(ctx, func(ctx context.Context, t *tx) error { return f(ctx, t.session) })
	}
	return s.try(ctx, func(ctx context.Context, _ bool) (bool, error) {
		defer s.writes.compile(ctx)
		return true, f(ctx, session{s, s.writer, nil, s.writes})
	})
}

// try calls once until it succeeds or it is of no use. once reports whether its
// error came from a COMMIT; unknown tells it that an earlier one may have.
func (s *Store) try(ctx context.Context, once func(ctx context.Context, unknown bool) (committing bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	unknown, gone := false, 0
	for n := 0; ; n++ {
		committing, err := once(ctx, unknown)
		for err != nil && ctx.Err() == nil && s.roomMade(err) {
			committing, err = once(ctx, unknown)
		}
		v := final
		if err != nil {
			v = s.d.verdict(err)
		}
		unknown = unknown || committing && v == lost
		if v == lost || v == demoted {
			gone++
		}
		if v == demoted {
			s.leaveDemoted()
		}
		if n > 0 {
			s.retries.Add(1)
		}
		if err == nil || v == final || n == busyRetries || gone > lostRetries || !s.pause(ctx, n) {
			if err != nil && unknown && v == lost {
				return &trove.Error{Kind: trove.KindUnavailable, Err: err, Message: "The database was lost while it was told to keep a change: whether it did is not known.",
					Action: "Look whether the change was made before you try again."}
			}
			return err
		}
	}
}

// pause waits before the try after number n, reporting whether ctx lasts: 5 ms
// doubling to 640 ms, each between half and the whole of it.
func (s *Store) pause(ctx context.Context, n int) bool {
	d := 5 * time.Millisecond << min(n, 7)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// roomMade reports whether err is that the disk is full, and there is room now.
func (s *Store) roomMade(err error) bool {
	return s.makeRoom != nil && s.d.full != nil && s.d.full(err) && s.makeRoom()
}

// txOnce is one try of tx. committing: err came from the COMMIT.
func (s *Store) txOnce(ctx context.Context, repeated bool, f func(ctx context.Context, t *tx) error) (committing bool, err error) {
	var t *tx
	var own error // f's
	within := func(ctx context.Context, sqlTx *sql.Tx) error {
		t = &tx{session: session{s, s.writer, sqlTx, s.writes}, repeated: repeated}
		own = f(ctx, t)
		return own
	}
	if s.shared == nil {
		committing, err = s.ownTx(ctx, within)
	} else if committing, err = s.shared.do(ctx, false, within); errors.Is(err, errTorn) {
		own = nil
		committing, err = s.shared.do(ctx, true, within)
	}
	defer s.writes.compile(ctx)
	switch {
	case own != nil:
		return false, own
	case err != nil && committing:
		return true, s.classify(err, "COMMIT")
	case err != nil:
		return false, s.classify(err, "BEGIN")
	}
	if t.outbox {
		s.outboxHints.send(everything)
	}
	if t.work {
		s.workHints.send(everything)
	}
	for _, instance := range t.events {
		s.workHints.send(instance)
	}
	return false, nil
}

// ownTx runs f in a transaction that is nobody else's.
func (s *Store) ownTx(ctx context.Context, f func(context.Context, *sql.Tx) error) (committing bool, err error) {
	sqlTx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	if err := f(ctx, sqlTx); err != nil {
		if rerr := sqlTx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			// The engine may have done it already, as after a full disk.
			s.log.DebugContext(ctx, "rolling a transaction back failed", "error", rerr)
		}
		return false, err
	}
	return true, sqlTx.Commit()
}

// read runs statements of f one by one: what they see is committed, but it may
// change between one and the next.
func (s *Store) read(ctx context.Context, f func(ctx context.Context, c session) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer s.reads.compile(ctx)
	return f(ctx, session{s, s.reader, nil, s.reads})
}
