package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Observe records what was seen of servers, by instance id. Instances that are
// deleted meanwhile are passed over.
func (s *Store) Observe(ctx context.Context, seen map[string]trove.ServerObservation) error {
	if len(seen) == 0 {
		return nil
	}
	type row struct {
		id, status, addresses string
		at                    time.Time
	}
	var rows []row
	for id, o := range seen {
		addresses, err := encodeAddresses(o.Addresses)
		if err != nil {
			return trove.Errorf(trove.KindInternal, "the addresses of instance %s cannot be stored: %w", id, err)
		}
		if o.SeenAt.IsZero() {
			o.SeenAt = s.clock()
		}
		rows = append(rows, row{id, clip(o.Status, 64), addresses, o.SeenAt})
	}
	// One order for all who write, so that none waits for another in a ring.
	slices.SortFunc(rows, func(a, b row) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	for _, n := range chunks(len(rows)) {
		some := rows[:n]
		rows = rows[n:]
		if err := s.tx(ctx, func(ctx context.Context, t *tx) error {
			ids := make([]any, len(some))
			for i, r := range some {
				ids[i] = r.id
			}
			// Locked: a deletion that ends now must leave nothing behind.
			live := map[string]bool{}
			if err := t.each(ctx, "SELECT id FROM instances WHERE id IN ("+marks(len(ids))+") AND deleted = ? ORDER BY id"+s.d.forUpdate,
				append(ids, false), func(r *sql.Rows) error {
					var id string
					err := r.Scan(&id)
					live[id] = true
					return err
				}); err != nil {
				return err
			}
			upsert := s.d.upsert("observed", []string{"instance_id"}, []string{"server_status", "addresses", "seen_at"})
			for _, r := range some {
				if !live[r.id] {
					continue
				}
				if _, err := t.exec(ctx, upsert, r.id, r.status, r.addresses, micros(r.at)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// chunks cuts n rows into pieces of few sizes, so that statements about a piece
// have few texts.
func chunks(n int) (sizes []int) {
	for _, size := range []int{100, 10, 1} {
		for ; n >= size; n -= size {
			sizes = append(sizes, size)
		}
	}
	return sizes
}
