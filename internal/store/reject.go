package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Rejection is why a message will never be carried out.
type Rejection struct {
	Cause, Action string // for the instance's owner
	// After is how old the message must be, so that a receiver of another
	// version has had its chance; 0: any age.
	After time.Duration
	// Uses is what the instance of a resize uses, as far as its message tells: what
	// was charged beyond it is given back.
	Uses trove.QuotaDelta
}

// RejectOutbox ends a message that nobody can carry out: it is not sent again,
// its instance gets a fault and, if it was for the task manager, a failed
// operation and the task that a lost operation leaves behind. A deletion stays
// one. It reports false, and changes nothing, if there is no such message or it
// is not old enough.
func (s *Store) RejectOutbox(ctx context.Context, id string, r Rejection) (rejected bool, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		rejected = false
		now, err := t.dbNow(ctx)
		if err != nil {
			return err
		}
		var subject, guest, method string
		found, err := t.one(ctx, "SELECT subject, instance_id, method FROM outbox WHERE id = ? AND created <= ?",
			[]any{id, now - r.After.Microseconds()}, &subject, &guest, &method)
		if err != nil || !found {
			return err
		}
		if _, err := t.exec(ctx, "DELETE FROM outbox WHERE id = ?", id); err != nil {
			return err
		}
		t.outboxChanged()
		rejected = true
		if live, err := t.live(ctx, subject); err != nil || !live {
			return err
		}
		if err := t.setFault(ctx, subject, trove.Fault{Message: r.Cause, Details: r.Action}); err != nil || guest != "" {
			return err
		}
		if err := t.failedWork(ctx, id, method, subject, r); err != nil {
			return err
		}
		var task trove.Task
		if _, err := t.one(ctx, "SELECT task_id FROM instances WHERE id = ?", []any{subject}, &task); err != nil {
			return err
		}
		_, err = t.endTask(ctx, Stuck{subject, task}, task.AfterLoss(), r.Uses)
		return err
	})
	return rejected && err == nil, err
}

// failedWork records work that was never begun. The message's id is used up by
// it: a copy that is still on its way begins nothing.
func (t *tx) failedWork(ctx context.Context, requestID, kind, subject string, r Rejection) error {
	now, err := t.dbNow(ctx)
	if err != nil {
		return err
	}
	var newest sql.NullInt64
	if _, err := t.one(ctx, "SELECT MAX(created) FROM work WHERE subject = ?", []any{subject}, &newest); err != nil {
		return err
	}
	id := trove.NewID()
	made, err := t.insertNew(ctx, "work",
		[]string{"id", "kind", "subject", "request_id", "step", "state", "run_at", "outcome", "created", "ended", "error", "action"},
		id, kind, subject, requestID, "", "{}", now, string(trove.OperationFailed), max(now, newest.Int64+1), now, r.Cause, r.Action)
	if err != nil || !made {
		return err
	}
	t.workChanged()
	return t.addEvent(ctx, now, trove.OperationEvent{OperationID: id, InstanceID: subject, Kind: kind,
		State: trove.OperationFailed, Cause: r.Cause, Action: r.Action})
}

// endTask ends a task that an instance still is in and that nothing works on. A
// resize that was lost gives back what was charged for it; uses is what is known of
// the instance beside its row.
func (t *tx) endTask(ctx context.Context, was Stuck, becomes trove.Task, uses trove.QuotaDelta) (done bool, err error) {
	// Locked by a statement of its own: what the next one sees is newer.
	if _, live, err := t.lock(ctx, was.ID); err != nil || !live {
		return false, err
	}
	n, err := t.exec(ctx, `UPDATE instances AS i SET task_id = ?, task_description = ?, updated = ?
		WHERE i.id = ? AND i.deleted = ? AND i.task_id = ? AND `+noWork,
		int(becomes), becomes.Description(), t.s.now(), was.ID, false, int(was.Task))
	if err == nil && n > 0 && was.Task == trove.TaskResizing {
		err = t.settleLost(ctx, was.ID, uses)
	}
	return n > 0, err
}
