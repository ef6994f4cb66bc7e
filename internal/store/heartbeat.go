package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Beat is what a guest agent said.
type Beat struct {
	Status *trove.ServiceStatus
	Sent   *float64 // the sender's clock, Unix seconds
	Done   []string // ids of outbox rows that the agent has handled
}

// maxDone bounds the ids of one beat; those beyond come again.
const maxDone = 500

// Heartbeat records a beat. Rows of the outbox that the agent has handled go.
// A beat that is not newer than the last one is dropped (applied is false), and
// so is one while the stored status is RESTART_REQUIRED, which only the control
// plane takes back. A change of status wakes the instance's work. KindNotFound
// if there is no such instance.
func (s *Store) Heartbeat(ctx context.Context, id string, b Beat) (applied bool, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		applied = false
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		// Also of a beat that is too old: what was handled then is handled.
		if err := t.acknowledge(ctx, id, b.Done); err != nil {
			return err
		}
		if b.Sent != nil {
			if newer, err := t.newer(ctx, id, "heartbeat", *b.Sent); err != nil || !newer {
				return err
			}
		}
		if b.Status == nil {
			applied = true
			return nil
		}
		var was trove.ServiceStatus
		if _, err := t.one(ctx, "SELECT status_id, status_description FROM service_statuses WHERE instance_id = ? ORDER BY updated_at DESC",
			[]any{id}, &was.Code, &was.Description); err != nil {
			return err
		}
		if was == trove.ServiceRestartRequired {
			return nil
		}
		applied = true
		if err := t.setService(ctx, id, *b.Status); err != nil || was == *b.Status {
			return err
		}
		n, err := t.exec(ctx, "UPDATE work SET run_at = "+s.d.nowMicros+`, wakes = wakes + 1
			WHERE subject = ? AND outcome IN ('pending', 'running')`, id)
		if n > 0 {
			t.workChanged()
		}
		return err
	})
	return applied && err == nil, err
}

// maxAhead is how far, in seconds, a guest's clock may be ahead of ours.
const maxAhead = 60

// newer records when a guest sent a message, and reports whether it is newer
// than all of its kind before: the original's rule, in one statement so that no
// two messages can both win. A time that is still to come orders nothing: its
// clock was wrong, and has perhaps been set back since.
func (t *tx) newer(ctx context.Context, id, method string, sent float64) (bool, error) {
	latest := float64(t.s.clock().Unix()) + maxAhead
	n, err := t.exec(ctx, `UPDATE conductor_lastseen SET sent = ?
		WHERE instance_id = ? AND method_name = ? AND (sent < ? OR sent > ?)`, sent, id, method, sent, latest)
	if err != nil || n > 0 {
		return n > 0, err
	}
	return t.insertNew(ctx, "conductor_lastseen", []string{"instance_id", "method_name", "sent"}, id, method, sent)
}

// acknowledge deletes rows of the outbox that this guest, and no other, had to
// handle.
func (t *tx) acknowledge(ctx context.Context, id string, done []string) error {
	done = done[:min(len(done), maxDone)]
	if len(done) == 0 {
		return nil
	}
	args := []any{id}
	for _, d := range done {
		args = append(args, d)
	}
	n, err := t.exec(ctx, "DELETE FROM outbox WHERE instance_id = ? AND id IN ("+marks(len(done))+")", args...)
	if n > 0 {
		t.outboxChanged()
	}
	return err
}

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
