package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"
)

// busyRetries is how often a transaction is begun anew because another process
// holds the database, on top of the engine's own waiting.
const busyRetries = 12

// session runs statements, in a transaction or out of one.
type session struct {
	s        *Store
	tx       *sql.Tx
	prepared *prepared
}

// run runs a statement, compiled if it has been already.
func (c session) run(ctx context.Context, query string, args []any) (sql.Result, error) {
	query = c.s.d.bind(query)
	if stmt := c.prepared.get(query); stmt != nil {
		return c.tx.StmtContext(ctx, stmt).ExecContext(ctx, args...)
	}
	return c.tx.ExecContext(ctx, query, args...)
}

// query is run for a statement that gives rows.
func (c session) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	query = c.s.d.bind(query)
	if stmt := c.prepared.get(query); stmt != nil {
		return c.tx.StmtContext(ctx, stmt).QueryContext(ctx, args...)
	}
	return c.tx.QueryContext(ctx, query, args...)
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
}

// outboxChanged and workChanged wake those who wait for rows, once the
// transaction is committed.
func (t *tx) outboxChanged() { t.outbox = true }
func (t *tx) workChanged()   { t.work = true }

// tx runs f in a transaction that writes, and commits it if f returns nil. f
// is run again if the database was busy, and if its disk was full and room was
// made: it must set what it captures afresh.
func (s *Store) tx(ctx context.Context, f func(ctx context.Context, t *tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for n := 0; ; n++ {
		err := s.txOnce(ctx, f)
		for err != nil && ctx.Err() == nil && s.roomMade(err) {
			err = s.txOnce(ctx, f)
		}
		if err == nil || n == busyRetries || !s.d.retryable(err) {
			return err
		}
		// 5 ms doubling to 640 ms, each between half and the whole of it.
		pause := 5 * time.Millisecond << min(n, 7)
		pause = pause/2 + rand.N(pause/2)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// roomMade reports whether err is that the disk is full, and there is room now.
func (s *Store) roomMade(err error) bool {
	return s.makeRoom != nil && s.d.full != nil && s.d.full(err) && s.makeRoom()
}

func (s *Store) txOnce(ctx context.Context, f func(ctx context.Context, t *tx) error) error {
	sqlTx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return s.classify(err, "BEGIN")
	}
	defer s.writes.compile(ctx)
	t := &tx{session: session{s, sqlTx, s.writes}}
	if err := f(ctx, t); err != nil {
		if rerr := sqlTx.Rollback(); rerr != nil && !errors.Is(rerr, sql.ErrTxDone) {
			// The engine may have done it already, as after a full disk.
			s.log.DebugContext(ctx, "rolling a transaction back failed", "error", rerr)
		}
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return s.classify(err, "COMMIT")
	}
	if t.outbox {
		s.outboxHints.send()
	}
	if t.work {
		s.workHints.send()
	}
	return nil
}

// read runs f over one snapshot of the database.
func (s *Store) read(ctx context.Context, f func(ctx context.Context, c session) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sqlTx, err := s.reader.BeginTx(ctx, nil)
	if err != nil {
		return s.classify(err, "BEGIN")
	}
	defer s.reads.compile(ctx)
	defer sqlTx.Rollback() //nolint:errcheck // nothing was written
	return f(ctx, session{s, sqlTx, s.reads})
}
