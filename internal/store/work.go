package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// WishCancel is the wish that a piece of work ends without being done.
const WishCancel = "cancel"

// maxStageEvents bounds how many reports of a guest one piece of work keeps.
const maxStageEvents = 500

// maxFinishedPerSubject bounds the history of one instance.
const maxFinishedPerSubject = 50

// NewWork is a piece of work to be accepted.
type NewWork struct {
	ID         string
	Kind       string
	Subject    string // instance id
	RequestID  string // unique id of the message that asks for it
	RPCContext []byte // JSON; its request_id is shown to people
	Step       string
	State      []byte // JSON; may hold secrets
}

// Work is a row that is leased.
type Work struct {
	ID         string
	Kind       string
	Subject    string
	RPCContext []byte
	Step       string
	State      []byte
	Version    int64
	Deadline   time.Time // zero: none
	Attempt    int
	Wakes      int64
	Wish       string
	Created    time.Time
	Now        time.Time // the database's clock at the lease
}

// WorkUpdate is the end of a step.
type WorkUpdate struct {
	ID, Owner string
	Version   int64 // as leased or last saved
	// SeenWakes is Work.Wakes or WorkSaved.Wakes as the step found it: if there
	// are more by now, the row is due at once whatever RunIn says.
	SeenWakes int64
	Step      string
	State     []byte
	Attempt   int
	Deadline  time.Time
	// Release gives the lease back; the row is due after RunIn. Otherwise it
	// is extended by Lease.
	Release bool
	RunIn   time.Duration
	Lease   time.Duration
	// Finished ends the work: done, failed or cancelled.
	Finished trove.OperationState
	Cause    string
	Action   string
	// Change is how the operation on the subject ended; nil: nothing to be said of
	// the instance, as of one that is gone.
	Change *Change
	Events []trove.OperationEvent
}

// WorkSaved is what a row holds after a save.
type WorkSaved struct {
	Version int64
	Wakes   int64
	Wish    string
}

// unfinished is the condition for a row w that is not finished.
const unfinished = "w.outcome IN ('pending', 'running')"

// notBlocked is the condition for a row w that may run as far as other work on
// the same subject is concerned: none has begun, and none is older.
const notBlocked = `NOT EXISTS (SELECT 1 FROM work o WHERE o.subject = w.subject AND o.id <> w.id
	AND o.outcome IN ('pending', 'running')
	AND (o.begun_on IS NOT NULL OR w.begun_on IS NULL AND (o.created < w.created OR (o.created = w.created AND o.id < w.id))))`

// AcceptWork writes a piece of work and removes the outbox row of its request,
// if the request came from our own outbox. It reports false, and changes
// nothing but the outbox, if work with the same RequestID is there already.
func (s *Store) AcceptWork(ctx context.Context, w NewWork) (accepted bool, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		// Others that accept work on this subject wait, so that the clock that is
		// read next gives the order.
		if _, _, err := t.lock(ctx, w.Subject); err != nil {
			return err
		}
		now, err := t.dbNow(ctx)
		if err != nil {
			return err
		}
		if _, err := t.exec(ctx, "DELETE FROM outbox WHERE id = ?", w.RequestID); err != nil {
			return err
		}
		// Work on one subject is done in the order it was accepted, also within
		// one tick of the clock.
		var newest sql.NullInt64
		if _, err := t.one(ctx, "SELECT MAX(created) FROM work WHERE subject = ?", []any{w.Subject}, &newest); err != nil {
			return err
		}
		created := max(now, newest.Int64+1)
		if accepted, err = t.insertNew(ctx, "work",
			[]string{"id", "kind", "subject", "request_id", "rpc_context", "step", "state", "run_at", "outcome", "created"},
			w.ID, w.Kind, w.Subject, w.RequestID, string(w.RPCContext), w.Step, string(s.seal(workPlace(w.ID), w.State)), now, string(trove.OperationPending), created,
		); err != nil {
			return err
		}
		t.workChanged()
		if !accepted {
			if t.repeated {
				var id string
				_, err = t.one(ctx, "SELECT id FROM work WHERE request_id = ?", []any{w.RequestID}, &id)
				accepted = id == w.ID
			}
			return err
		}
		return t.addEvent(ctx, now, trove.OperationEvent{OperationID: w.ID, InstanceID: w.Subject, Kind: w.Kind, State: trove.OperationPending})
	})
	return accepted, err
}

// LeaseWork gives the row that has been due for longest to owner, a name used
// for one lease only; nil if none of kinds is due. The time in which the row
// was due and nobody worked on it is added to its deadline.
func (s *Store) LeaseWork(ctx context.Context, owner string, kinds []string, lease time.Duration) (leased *Work, err error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	due := `SELECT w.id, w.subject FROM work w WHERE ` + unfinished + " AND w.run_at <= " + s.d.nowMicros +
		" AND (w.lease_owner = '' OR w.lease_until <= " + s.d.nowMicros + `) AND w.kind IN (` + marks(len(kinds)) + `) AND ` + notBlocked +
		` ORDER BY w.run_at, w.created LIMIT ?`
	var args []any
	for _, k := range kinds {
		args = append(args, k)
	}
	type candidate struct{ id, subject string }
	var found []candidate
	// Looking takes no lock; only rows that were seen are worth one.
	err = s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, due, append(args, leaseCandidates), func(r *sql.Rows) error {
			var one candidate
			err := r.Scan(&one.id, &one.subject)
			found = append(found, one)
			return err
		})
	})
	for _, c := range found {
		if err == nil && leased == nil {
			leased, err = s.leaseWork(ctx, owner, c.id, c.subject, lease)
		}
	}
	return leased, err
}

// leaseCandidates is how many rows LeaseWork tries: others take them too.
const leaseCandidates = 8

// leaseWork is LeaseWork for one row; nil if somebody was quicker.
func (s *Store) leaseWork(ctx context.Context, owner, id, subject string, lease time.Duration) (leased *Work, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		leased = nil
		// Who begins work on this subject, or accepts some, waits.
		if _, _, err := t.lock(ctx, subject); err != nil {
			return err
		}
		var (
			w                          = Work{ID: id, Subject: subject}
			now, deadline, created     int64
			runAt, until               int64
			rpcContext, state, outcome string
		)
		found, err := t.one(ctx, `SELECT w.kind, w.rpc_context, w.step, w.state, w.version, w.deadline_at, w.attempt, w.wakes, w.wish,
			w.created, w.outcome, w.run_at, w.lease_until, `+s.d.nowMicros+` FROM work w WHERE w.id = ? AND `+unfinished+`
			AND w.run_at <= `+s.d.nowMicros+" AND (w.lease_owner = '' OR w.lease_owner = ? OR w.lease_until <= "+s.d.nowMicros+") AND "+notBlocked,
			[]any{id, owner}, &w.Kind, &rpcContext, &w.Step, &state, &w.Version, &deadline, &w.Attempt, &w.Wakes, &w.Wish,
			&created, &outcome, &runAt, &until, &now)
		if err != nil || !found {
			return err
		}
		plain, ok := s.opened(ctx, workPlace(id), []byte(state))
		if !ok {
			_, err := t.exec(ctx, "UPDATE work SET run_at = "+s.d.nowMicros+" + ? WHERE id = ?", unopenedPause.Microseconds(), id)
			return err
		}
		if due := max(runAt, until); deadline != 0 && now > due {
			deadline += now - due
		}
		n, err := t.exec(ctx, `UPDATE work SET deadline_at = ?, lease_owner = ?, lease_until = ?, version = version + 1, outcome = ?, begun_on = subject
			WHERE id = ? AND version = ?`, deadline, owner, now+lease.Microseconds(), string(trove.OperationRunning), id, w.Version)
		if err != nil || n == 0 {
			return err
		}
		w.Version++
		w.Now, w.RPCContext, w.State = fromMicros(now), []byte(rpcContext), plain
		w.Deadline, w.Created = fromMicros(deadline), fromMicros(created)
		leased = &w
		if outcome != string(trove.OperationPending) {
			return nil
		}
		start := trove.OperationEvent{OperationID: id, InstanceID: subject, Kind: w.Kind, State: trove.OperationRunning}
		if err := t.addEvent(ctx, now, start); err != nil {
			return err
		}
		start.Step = w.Step
		return t.addEvent(ctx, now, start)
	})
	if trove.IsKind(err, trove.KindConflict) {
		// Other work on a subject that is no instance, and so has no lock, has
		// begun in the same moment: begun_on is unique.
		return nil, nil //nolint:nilnil // somebody was quicker
	}
	if err != nil {
		return nil, err
	}
	return leased, nil
}

// RenewWork extends a lease from now on; KindConflict if owner has lost it.
func (s *Store) RenewWork(ctx context.Context, id, owner string, lease time.Duration) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, "UPDATE work SET lease_until = "+s.d.nowMicros+" + ? WHERE id = ? AND lease_owner = ?",
			lease.Microseconds(), id, owner)
		if err == nil && n == 0 {
			return lostLease()
		}
		return err
	})
}

// SaveWork writes the end of a step with its events; KindConflict, and nothing
// is written, if the lease was lost.
func (s *Store) SaveWork(ctx context.Context, u WorkUpdate) (saved WorkSaved, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		if len(u.Events) > 0 {
			if err := t.lockEvents(ctx, u.Events[0].InstanceID); err != nil {
				return err
			}
		}
		now, err := t.dbNow(ctx)
		if err != nil {
			return err
		}
		owner, until, outcome, ended, begun := u.Owner, now+u.Lease.Microseconds(), trove.OperationRunning, int64(0), "subject"
		if u.Release || u.Finished != "" {
			owner, until = "", 0
		}
		state := u.State
		if u.Finished != "" {
			outcome, ended, begun = u.Finished, now, "NULL"
		} else {
			state = s.seal(workPlace(u.ID), state)
		}
		n, err := t.exec(ctx, `UPDATE work SET step = ?, state = ?, attempt = ?, deadline_at = ?, version = version + 1,
			lease_owner = ?, lease_until = ?, run_at = CASE WHEN wakes > ? THEN `+s.d.bigint+" ELSE "+s.d.bigint+` END,
			outcome = ?, ended = ?, error = ?, action = ?, begun_on = `+begun+`
			WHERE id = ? AND version = ? AND lease_owner = ?`,
			u.Step, string(state), u.Attempt, micros(u.Deadline), owner, until, u.SeenWakes, now, now+u.RunIn.Microseconds(),
			string(outcome), ended, u.Cause, u.Action, u.ID, u.Version, u.Owner)
		if err != nil {
			return err
		}
		var is, subject string
		if _, err := t.one(ctx, "SELECT version, wakes, wish, lease_owner, subject FROM work WHERE id = ?", []any{u.ID},
			&saved.Version, &saved.Wakes, &saved.Wish, &is, &subject); err != nil {
			return err
		}
		if n == 0 {
			if t.repeated && saved.Version == u.Version+1 && is == owner {
				return nil // it was committed the first time
			}
			return lostLease()
		}
		if u.Change != nil {
			if err := t.endChange(ctx, subject, *u.Change); err != nil {
				return err
			}
		}
		for _, e := range u.Events {
			if err := t.addEvent(ctx, now, e); err != nil {
				return err
			}
		}
		if owner == "" { // somebody may take it, or what waited for it
			t.workChanged()
		}
		return nil
	})
	return saved, err
}

func lostLease() error {
	return trove.Errorf(trove.KindConflict, "the lease of this work was lost")
}

// ReleaseWork ends all leases, of work, by name and on messages, whoever holds
// them, and makes all messages due: who is alone has a broker of its own, which
// has begun anew too.
func (s *Store) ReleaseWork(ctx context.Context) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		for _, statement := range []string{
			"UPDATE work SET lease_owner = '', version = version + 1 WHERE lease_owner <> ''",
			"UPDATE leases SET expires = 0",
			"UPDATE outbox SET claimed_by = '', next_at = " + s.d.nowMicros,
		} {
			if _, err := t.exec(ctx, statement); err != nil {
				return err
			}
		}
		t.workChanged()
		t.outboxChanged()
		return nil
	})
}

// WakeWork makes the unfinished work on subject due now. A wake that comes
// while a step runs is not lost: the step runs again.
func (s *Store) WakeWork(ctx context.Context, subject string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error { return t.wake(ctx, subject) })
}

func (t *tx) wake(ctx context.Context, subject string) error {
	n, err := t.exec(ctx, "UPDATE work SET wakes = wakes + 1, run_at = "+t.s.d.nowMicros+
		" WHERE subject = ? AND outcome IN ('pending', 'running')", subject)
	if n > 0 {
		t.workChanged()
	}
	return err
}

// CancelWork wishes that the unfinished work on subject ends, and wakes it. A
// flow that cannot be cancelled goes on.
func (s *Store) CancelWork(ctx context.Context, subject string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error { return t.cancelWork(ctx, subject) })
}

// cancelWork wishes that all unfinished work on subject ends.
func (t *tx) cancelWork(ctx context.Context, subject string) error {
	if _, err := t.exec(ctx, "UPDATE work SET wish = ? WHERE subject = ? AND outcome IN ('pending', 'running')",
		WishCancel, subject); err != nil {
		return err
	}
	return t.wake(ctx, subject)
}

// WishedWork gives the ids of leased rows that someone wishes to end.
func (s *Store) WishedWork(ctx context.Context) (ids []string, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, "SELECT w.id FROM work w WHERE "+unfinished+" AND w.lease_owner <> '' AND w.wish <> ''", nil,
			func(r *sql.Rows) error {
				var id string
				err := r.Scan(&id)
				ids = append(ids, id)
				return err
			})
	})
	return ids, err
}

// NextDueWork tells how long it is until LeaseWork may find a row of kinds, at
// least 0; false if nothing is waiting.
func (s *Store) NextDueWork(ctx context.Context, kinds []string) (in time.Duration, waiting bool, err error) {
	if len(kinds) == 0 {
		return 0, false, nil
	}
	var args []any
	for _, k := range kinds {
		args = append(args, k)
	}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		var left sql.NullInt64 // one statement: idle processes ask for it all the time
		_, err := c.one(ctx, `SELECT MIN(CASE WHEN w.lease_owner <> '' AND w.lease_until > w.run_at THEN w.lease_until ELSE w.run_at END) - `+
			s.d.nowMicros+" FROM work w WHERE "+unfinished+` AND w.kind IN (`+marks(len(kinds))+`) AND `+notBlocked, args, &left)
		in, waiting = time.Duration(max(0, left.Int64))*time.Microsecond, left.Valid
		return err
	})
	return in, waiting, err
}

// pruneBatch bounds one transaction of PruneWork.
const pruneBatch = 100

// PruneWork deletes work that ended longer ago than keep, and of each subject
// all but its newest finished pieces, with their events.
func (s *Store) PruneWork(ctx context.Context, keep time.Duration) error {
	for {
		var ids []any
		err := s.read(ctx, func(ctx context.Context, c session) error {
			return c.each(ctx, `SELECT id FROM (SELECT id, ended, ROW_NUMBER() OVER (PARTITION BY subject ORDER BY created DESC, id DESC) AS place
				FROM work WHERE ended <> 0) counted WHERE ended < `+s.d.nowMicros+" - ? OR place > ? LIMIT ?",
				[]any{keep.Microseconds(), maxFinishedPerSubject, pruneBatch}, func(r *sql.Rows) error {
					var id string
					err := r.Scan(&id)
					ids = append(ids, id)
					return err
				})
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		// What has ended changes no more.
		if err := s.tx(ctx, func(ctx context.Context, t *tx) error {
			for _, id := range ids {
				if _, err := t.exec(ctx, "DELETE FROM work_events WHERE work_id = ?", id); err != nil {
					return err
				}
				if _, err := t.exec(ctx, "DELETE FROM work WHERE id = ?", id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil || len(ids) < pruneBatch {
			return err
		}
	}
}

// dbNow is the database's own clock in Unix microseconds.
func (c session) dbNow(ctx context.Context) (now int64, err error) {
	_, err = c.one(ctx, "SELECT "+c.s.d.nowMicros, nil, &now)
	return now, err
}

// operationRequest is what people see of a stored request context.
func operationRequest(rpcContext string) string {
	var c struct {
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal([]byte(rpcContext), &c) != nil {
		return "" // a sender that has none
	}
	return c.RequestID
}
