package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// OutboxRow is a message that must arrive. Body holds passwords: it is never
// to be logged.
type OutboxRow struct {
	Seq    int64  // order of writing; set by the store
	ID     string // unique id of the message
	Topic  string
	Method string // for people, and to find a message like it
	// Subject is the instance the message is about; the store sets it where it
	// writes the row with a change of an instance.
	Subject string
	// InstanceID is the instance whose guest agent must say that it handled
	// the message; empty if it is not for a guest agent.
	InstanceID string
	Body       []byte
	Created    time.Time // set by the store
	NextAt     time.Time // when it is to be published again; now, if zero
	Deadline   time.Time // when it is given up; never, if zero
	// GiveUpAfter, if set, makes the deadline so long after the writing.
	GiveUpAfter time.Duration
	Attempts    int // how often it was published
}

// InsertOutbox writes messages that belong to no change of an instance.
func (s *Store) InsertOutbox(ctx context.Context, rows ...OutboxRow) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error { return t.insertOutbox(ctx, "", rows) })
}

func (t *tx) insertOutbox(ctx context.Context, subject string, rows []OutboxRow) error {
	now := t.s.clock()
	for _, r := range rows {
		about := cmp.Or(subject, r.Subject, r.InstanceID)
		if err := fits(field{"message id", r.ID, 64}, field{"topic", r.Topic, 255}, field{"method", r.Method, 64},
			field{"subject", about, 36}, field{"instance id", r.InstanceID, 36}); err != nil {
			return err
		}
		deadline := r.Deadline
		if r.GiveUpAfter > 0 {
			deadline = now.Add(r.GiveUpAfter)
		}
		next := r.NextAt
		if next.IsZero() {
			next = now
		}
		if _, err := t.exec(ctx, `INSERT INTO outbox (id, topic, method, subject, instance_id, body, created, next_at, attempts, deadline)
			VALUES (`+marks(10)+`)`, r.ID, r.Topic, r.Method, about, r.InstanceID, r.Body,
			micros(now), micros(next), 0, micros(deadline)); err != nil {
			return err
		}
		t.outboxChanged()
	}
	return nil
}

// DueOutbox returns at most limit rows that are due at asOf, in the order they
// were written, after the row with seq after. A row that was never published is
// always due, so that none can overtake it.
func (s *Store) DueOutbox(ctx context.Context, asOf time.Time, after int64, limit int) ([]OutboxRow, error) {
	var rows []OutboxRow
	err := s.read(ctx, func(ctx context.Context, c session) error {
		var err error
		rows, err = c.outbox(ctx, "seq > ? AND (attempts = 0 OR next_at <= ?)", []any{after, micros(asOf)}, limit)
		return err
	})
	return rows, err
}

func (c session) outbox(ctx context.Context, where string, args []any, limit int) ([]OutboxRow, error) {
	var rows []OutboxRow
	err := c.each(ctx, `SELECT seq, id, topic, method, subject, instance_id, body, created, next_at, attempts, deadline
		FROM outbox WHERE `+where+` ORDER BY seq LIMIT ?`, append(args, limit), func(r *sql.Rows) error {
		var o OutboxRow
		var created, next, deadline int64
		if err := r.Scan(&o.Seq, &o.ID, &o.Topic, &o.Method, &o.Subject, &o.InstanceID, &o.Body,
			&created, &next, &o.Attempts, &deadline); err != nil {
			return err
		}
		o.Created, o.NextAt, o.Deadline = fromMicros(created), fromMicros(next), fromMicros(deadline)
		rows = append(rows, o)
		return nil
	})
	return rows, err
}

// NextOutbox returns when the next row becomes due or is to be given up, zero
// if there is no row.
func (s *Store) NextOutbox(ctx context.Context) (time.Time, error) {
	var at sql.NullInt64
	err := s.read(ctx, func(ctx context.Context, c session) error {
		_, err := c.one(ctx, `SELECT MIN(CASE WHEN attempts = 0 THEN created WHEN deadline > 0 AND deadline < next_at THEN deadline ELSE next_at END)
			FROM outbox`, nil, &at)
		return err
	})
	return fromMicros(at.Int64), err
}

// Published records that a row was published, and when it is to be published
// again if it is still there then. A row that is gone is no error.
func (s *Store) Published(ctx context.Context, id string, next time.Time) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, "UPDATE outbox SET attempts = attempts + 1, next_at = ? WHERE id = ?", micros(next), id)
		return err
	})
}

// GuestPending reports whether an instance's guest agent has yet to handle a
// message.
func (s *Store) GuestPending(ctx context.Context, instanceID string) (bool, error) {
	var n int
	err := s.read(ctx, func(ctx context.Context, c session) error {
		// By subject too: it is the column with an index.
		_, err := c.one(ctx, "SELECT COUNT(*) FROM outbox WHERE subject = ? AND instance_id = ?", []any{instanceID, instanceID}, &n)
		return err
	})
	return n > 0, err
}

// DeleteOutbox takes a row back or records that its receiver has it.
func (s *Store) DeleteOutbox(ctx context.Context, id string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, "DELETE FROM outbox WHERE id = ?", id)
		return err
	})
}

// expireBatch bounds one transaction of ExpireOutbox.
const expireBatch = 100

// ExpireOutbox gives up rows past their deadline, at most a hundred at a time:
// they are deleted, and their instance gets a fault that says so. They are
// returned without their bodies.
func (s *Store) ExpireOutbox(ctx context.Context) ([]OutboxRow, error) {
	var rows []OutboxRow
	now := s.clock()
	expired := "deadline > 0 AND deadline <= ?"
	// Most of the time there is none: look without locking.
	var n int
	err := s.read(ctx, func(ctx context.Context, c session) error {
		_, err := c.one(ctx, "SELECT COUNT(*) FROM outbox WHERE "+expired, []any{micros(now)}, &n)
		return err
	})
	if err != nil || n == 0 {
		return nil, err
	}
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		var err error
		if rows, err = t.session.outbox(ctx, expired, []any{micros(now)}, expireBatch); err != nil {
			return err
		}
		for i := range rows {
			r := &rows[i]
			r.Body = nil
			if _, err := t.exec(ctx, "DELETE FROM outbox WHERE seq = ?", r.Seq); err != nil {
				return err
			}
			live, err := t.live(ctx, r.Subject)
			if err != nil {
				return err
			}
			if live {
				if err := t.setFault(ctx, r.Subject, trove.Fault{Message: expiry(r)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return rows, err
}

func expiry(r *OutboxRow) string {
	who := "The guest agent"
	if r.InstanceID == "" {
		who = "The task manager"
	}
	return fmt.Sprintf("%s did not carry out %s within %s.", who, r.Method, r.Deadline.Sub(r.Created).Round(time.Second))
}
