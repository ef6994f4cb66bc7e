package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Backlog is what waits, and which agents are silent.
type Backlog struct {
	Work         map[trove.OperationState]int // unfinished
	WorkOverdue  time.Duration                // of the work that is due longest and that nobody has
	Outbox       int
	OutboxOldest time.Duration
	// Live are the instances that have an agent which should report: those that
	// are not being built. Of them, Silent have not for longer than was asked, and
	// the one that is silent longest for SilentLongest.
	Live, Silent  int
	SilentLongest time.Duration
}

// UnfinishedWork is how many pieces of work wait or are under way.
func (s *Store) UnfinishedWork(ctx context.Context) (n int, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		_, err := c.one(ctx, "SELECT COUNT(*) FROM work w WHERE "+unfinished, nil, &n)
		return err
	})
	return n, err
}

// Backlog costs four statements, none of which reads what is finished or
// deleted. An agent is silent that has not reported for longer than expiry.
func (s *Store) Backlog(ctx context.Context, expiry time.Duration) (b Backlog, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		b = Backlog{Work: map[trove.OperationState]int{trove.OperationPending: 0, trove.OperationRunning: 0}}
		if err := c.each(ctx, "SELECT w.outcome, COUNT(*), MAX(CASE WHEN w.run_at <= "+s.d.nowMicros+" AND w.lease_until <= "+s.d.nowMicros+
			" THEN "+s.d.nowMicros+" - w.run_at ELSE 0 END) FROM work w WHERE "+unfinished+" GROUP BY w.outcome", nil,
			func(r *sql.Rows) error {
				var state string
				var n int
				var overdue int64
				err := r.Scan(&state, &n, &overdue)
				b.Work[trove.OperationState(state)] = n
				b.WorkOverdue = max(b.WorkOverdue, time.Duration(overdue)*time.Microsecond)
				return err
			}); err != nil {
			return err
		}
		var oldest sql.NullInt64
		var micros int64
		if _, err := c.one(ctx, "SELECT COUNT(*), "+s.d.nowMicros+" - MIN(created), "+s.d.nowMicros+" FROM outbox", nil, &b.Outbox, &oldest, &micros); err != nil {
			return err
		}
		b.OutboxOldest = time.Duration(max(0, oldest.Int64)) * time.Microsecond
		now := s.serverTime(micros)
		live := " FROM instances i JOIN service_statuses s ON s.instance_id = i.id WHERE i.deleted = ? AND i.task_id <> ?"
		var silent sql.NullInt64
		if _, err := c.one(ctx, "SELECT COUNT(*), SUM(CASE WHEN s.updated_at < ? THEN 1 ELSE 0 END)"+live,
			[]any{now.Add(-expiry).UTC().Truncate(time.Second), false, int(trove.TaskBuilding)}, &b.Live, &silent); err != nil {
			return err
		}
		b.Silent = int(silent.Int64)
		var last sql.NullTime
		if _, err := c.one(ctx, "SELECT s.updated_at"+live+" AND s.updated_at IS NOT NULL ORDER BY s.updated_at LIMIT ?",
			[]any{false, int(trove.TaskBuilding), 1}, &last); err != nil {
			return err
		}
		if last.Valid {
			b.SilentLongest = max(0, now.Sub(last.Time))
		}
		return nil
	})
	return b, err
}
