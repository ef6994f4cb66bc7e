package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"math/rand/v2"
	"time"
)

// fullWait bounds how long a call waits for a server that has no connection left:
// others give theirs back soon, and the caller is still there.
const fullWait = 3 * time.Second

// patient makes connections, and waits a little for a server that has none left.
type patient struct {
	driver.Connector
	full func(error) bool
}

// Connect implements driver.Connector.
func (c patient) Connect(ctx context.Context) (driver.Conn, error) {
	end := time.Now().Add(fullWait)
	for d := 20 * time.Millisecond; ; d = min(2*d, 500*time.Millisecond) {
		conn, err := c.Connector.Connect(ctx)
		if err == nil || !c.full(err) {
			return conn, err
		}
		wait := d/2 + rand.N(d)
		if time.Now().Add(wait).After(end) {
			return nil, err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-t.C:
		}
	}
}

// leaveDemoted closes the connections that have no work: their server has become
// one that only reads, and its address may lead to another by now.
func (s *Store) leaveDemoted() {
	for _, db := range []*sql.DB{s.writer, s.reader} {
		db.SetMaxIdleConns(0)
		s.pool.apply(db)
	}
}
