package store

import (
	"context"
	"database/sql"
	"sync"
)

// maxPrepared bounds the statements kept: those whose text depends on how much
// there is to write could otherwise add up.
const maxPrepared = 256

// prepared keeps the compiled statements of one pool of connections, each
// compiled once on each of them: compiling costs more than running.
//
// A statement is compiled after the transaction that first used it. Within a
// transaction it could not be, for every connection may be in use.
type prepared struct {
	db *sql.DB

	mu     sync.Mutex
	stmts  map[string]*sql.Stmt // nil: to be compiled
	wanted []string
}

func newPrepared(db *sql.DB) *prepared { return &prepared{db: db, stmts: map[string]*sql.Stmt{}} }

// get gives the compiled statement, or nil and takes note that it is wanted. A
// nil p has none.
func (p *prepared) get(query string) *sql.Stmt {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	stmt, known := p.stmts[query]
	if !known && len(p.stmts) < maxPrepared {
		p.stmts[query] = nil
		p.wanted = append(p.wanted, query)
	}
	return stmt
}

// compile compiles what was wanted. What cannot be compiled now, because ctx
// ends, will be wanted again.
func (p *prepared) compile(ctx context.Context) {
	if p == nil {
		return
	}
	p.mu.Lock()
	wanted := p.wanted
	p.wanted = nil
	p.mu.Unlock()
	for _, query := range wanted {
		stmt, err := p.db.PrepareContext(ctx, query)
		p.mu.Lock()
		if err == nil {
			p.stmts[query] = stmt
		} else {
			delete(p.stmts, query)
		}
		p.mu.Unlock()
	}
}
