package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
)

// shared has transactions of one process that want to write at the same time
// share a COMMIT, and so the wait for the disk, which is most of what a small one
// takes. A transaction is a savepoint then:
//
//	first   BEGIN f ─────────────────────────────────────── wait ─┐
//	second  wait ─── SAVEPOINT f RELEASE ────────────────── wait ─┤
//	last    wait ───────────────────────── SAVEPOINT f … COMMIT ──┴─ all return
//
// Who comes while nobody waits commits at once; who waits for a COMMIT of others
// shares the next. It is for an engine with one writer (SQLite): there they would
// only come one after the other. Each f runs in its caller's goroutine, one at a
// time, and nobody returns before what it wrote, or what it saw, is committed.
type shared struct {
	db *sql.DB

	mu      sync.Mutex
	held    bool            // somebody has the turn
	waiting []chan struct{} // for the turn, which is handed on by closing one

	open *batch // touched by who has the turn only
}

// batch is an open transaction with its members.
type batch struct {
	tx      *sql.Tx
	end     context.CancelFunc
	members int // whose f is part of it
	// torn: what is open is not what its members wrote.
	torn bool
	done chan struct{}
	err  error // of the COMMIT, once done
}

// batchMost bounds the members of a batch, so that the first need not wait for
// ever for the last.
const batchMost = 64

// errTorn means that a transaction was undone for the sake of another one, or
// with it: it is to be done again, alone.
var errTorn = errors.New("undone with the transactions beside it")

// do runs f in a transaction, alone or with others that want one now, and returns
// when it is committed or undone. committing says that err is the COMMIT's. Once
// f runs it is not interrupted when ctx ends: that would undo the others' too.
func (c *shared) do(ctx context.Context, alone bool, f func(context.Context, *sql.Tx) error) (committing bool, err error) {
	if err := c.take(ctx); err != nil {
		return false, err
	}
	b, err := c.join(ctx, alone, f)
	if b == nil {
		return false, err
	}
	<-b.done
	switch {
	case b.err == nil:
		return false, err
	case err != nil && b.members == 0:
		return false, err // it was the only one, and has undone itself
	case b.members == 1 && err == nil && !errors.Is(b.err, errTorn):
		return true, b.err
	}
	return false, errTorn
}

// take waits for the turn.
func (c *shared) take(ctx context.Context) error {
	c.mu.Lock()
	if !c.held {
		c.held = true
		c.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	c.waiting = append(c.waiting, turn)
	c.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	at := slices.Index(c.waiting, turn)
	if at >= 0 {
		c.waiting = slices.Delete(c.waiting, at, at+1)
		c.mu.Unlock()
		return ctx.Err()
	}
	c.mu.Unlock()
	c.pass(false) // it was ours in the same moment, and others rely on us
	return ctx.Err()
}

// join makes f part of the open transaction, or of a new one, and hands the turn
// on. Without a batch f did not run.
func (c *shared) join(ctx context.Context, alone bool, f func(context.Context, *sql.Tx) error) (b *batch, err error) {
	defer c.pass(alone) // also if f panics
	if alone && c.open != nil {
		c.finish()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.open == nil {
		if c.open, err = c.begin(ctx); err != nil {
			c.open = nil
			return nil, err
		}
	}
	b = c.open
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	first := b.members == 0
	b.torn = true // until it is whole again
	if !first {
		if _, err := b.tx.ExecContext(ctx, "SAVEPOINT member"); err != nil {
			return b, err
		}
	}
	if err := f(ctx, b.tx); err != nil {
		if first {
			return b, err // with it the transaction ends
		}
		// Fails where the engine has undone everything, as it does when the disk
		// is full.
		_, undone := b.tx.ExecContext(ctx, "ROLLBACK TO member")
		if undone == nil {
			_, undone = b.tx.ExecContext(ctx, "RELEASE member")
		}
		b.torn = undone != nil
		return b, err
	}
	if !first {
		if _, err := b.tx.ExecContext(ctx, "RELEASE member"); err != nil {
			return b, err
		}
	}
	b.members++
	b.torn = false
	return b, nil
}

// begin begins a transaction that outlasts ctx, but is not begun after its end.
func (c *shared) begin(ctx context.Context) (*batch, error) {
	lasting, end := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	stop := context.AfterFunc(ctx, end)
	tx, err := c.db.BeginTx(lasting, nil)
	if !stop() && err == nil {
		_ = tx.Rollback() // nothing was written
		err = ctx.Err()
	}
	if err != nil {
		end()
		return nil, err
	}
	return &batch{tx: tx, end: end, done: make(chan struct{})}, nil
}

// pass hands the turn on. An open transaction ends here unless somebody waits who
// may join it.
func (c *shared) pass(alone bool) {
	for {
		c.mu.Lock()
		more := len(c.waiting) > 0
		b := c.open
		if b == nil || more && !alone && !b.torn && b.members < batchMost {
			if more {
				close(c.waiting[0])
				c.waiting = c.waiting[1:]
			} else {
				c.held = false
			}
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.finish()
	}
}

// finish commits the open transaction, or undoes it if it is torn.
func (c *shared) finish() {
	b := c.open
	c.open = nil
	if b.torn {
		_ = b.tx.Rollback() // the engine may have done it already
		b.err = errTorn
	} else {
		b.err = b.tx.Commit()
	}
	b.end()
	close(b.done)
}
