package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// lockEvents lets nobody else append events of a subject: those who read on from
// the last sequence they saw would miss one that is committed after a later one.
func (t *tx) lockEvents(ctx context.Context, subject string) error {
	_, _, err := t.lock(ctx, subject)
	return err
}

// addEvent appends an event at now, under lockEvents.
func (t *tx) addEvent(ctx context.Context, now int64, e trove.OperationEvent) error {
	if !slices.Contains(t.events, e.InstanceID) {
		t.events = append(t.events, e.InstanceID)
	}
	var done, total sql.NullInt64
	var unit string
	if p := e.Progress; p != nil {
		done, total = sql.NullInt64{Int64: p.Done, Valid: true}, sql.NullInt64{Int64: p.Total, Valid: true}
		unit = p.Unit
	}
	_, err := t.exec(ctx, `INSERT INTO work_events (work_id, subject, kind, step, state, at, message,
		progress_done, progress_total, progress_unit, cause, action) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.OperationID, e.InstanceID, e.Kind, e.Step, string(e.State), now, e.Message, done, total, unit, e.Cause, e.Action)
	return err
}

// AddWorkEvent appends an event; its Sequence and Time are the database's.
func (s *Store) AddWorkEvent(ctx context.Context, e trove.OperationEvent) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if err := t.lockEvents(ctx, e.InstanceID); err != nil {
			return err
		}
		now, err := t.dbNow(ctx)
		if err != nil {
			return err
		}
		return t.addEvent(ctx, now, e)
	})
}

// RecordStage adds what a guest says it is doing to the step that works on the
// instance. Without running work, or after too many reports, it does nothing.
func (s *Store) RecordStage(ctx context.Context, instanceID, message string, p *trove.Progress) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if err := t.lockEvents(ctx, instanceID); err != nil {
			return err
		}
		e := trove.OperationEvent{InstanceID: instanceID, State: trove.OperationRunning, Message: message, Progress: p}
		found, err := t.one(ctx, `SELECT w.id, w.kind, w.step FROM work w WHERE w.subject = ? AND w.outcome = 'running'
			ORDER BY w.created LIMIT ?`, []any{instanceID, 1}, &e.OperationID, &e.Kind, &e.Step)
		if err != nil || !found {
			return err
		}
		var events int
		if _, err := t.one(ctx, "SELECT COUNT(*) FROM work_events WHERE work_id = ?", []any{e.OperationID}, &events); err != nil {
			return err
		}
		if events >= maxStageEvents {
			return nil
		}
		now, err := t.dbNow(ctx)
		if err != nil {
			return err
		}
		return t.addEvent(ctx, now, e)
	})
}

const eventColumns = "seq, work_id, subject, kind, step, state, at, message, progress_done, progress_total, progress_unit, cause, action"

func scanEvent(r *sql.Rows) (e trove.OperationEvent, err error) {
	var (
		at          int64
		done, total sql.NullInt64
		unit        string
	)
	err = r.Scan(&e.Sequence, &e.OperationID, &e.InstanceID, &e.Kind, &e.Step, &e.State, &at, &e.Message, &done, &total, &unit, &e.Cause, &e.Action)
	e.Time = fromMicros(at)
	if done.Valid {
		e.Progress = &trove.Progress{Done: done.Int64, Total: total.Int64, Unit: unit}
	}
	return e, err
}

// Events gives up to limit events of an instance with a sequence above after,
// oldest first.
func (s *Store) Events(ctx context.Context, instanceID string, after int64, limit int) (events []trove.OperationEvent, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, "SELECT "+eventColumns+" FROM work_events WHERE subject = ? AND seq > ? ORDER BY seq LIMIT ?",
			[]any{instanceID, after, limit}, func(r *sql.Rows) error {
				e, err := scanEvent(r)
				events = append(events, e)
				return err
			})
	})
	return events, err
}

// Operations gives the newest operations on an instance, newest first, with
// their steps in the order they began.
func (s *Store) Operations(ctx context.Context, instanceID string, limit int) (ops []trove.Operation, err error) {
	byID := map[string]int{}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		err := c.each(ctx, `SELECT id, kind, outcome, rpc_context, created, ended, deadline_at, error, action, `+s.d.nowMicros+` FROM work
			WHERE subject = ? ORDER BY created DESC, id DESC LIMIT ?`, []any{instanceID, limit}, func(r *sql.Rows) error {
			var (
				o                             = trove.Operation{InstanceID: instanceID}
				rpcContext                    string
				created, ended, deadline, now int64
			)
			if err := r.Scan(&o.ID, &o.Kind, &o.State, &rpcContext, &created, &ended, &deadline, &o.Cause, &o.Action, &now); err != nil {
				return err
			}
			o.RequestID = operationRequest(rpcContext)
			o.Started, o.Ended, o.Deadline, o.Read = fromMicros(created), fromMicros(ended), fromMicros(deadline), fromMicros(now)
			byID[o.ID] = len(ops)
			ops = append(ops, o)
			return nil
		})
		if err != nil || len(ops) == 0 {
			return err
		}
		args := make([]any, 0, len(ops))
		for _, o := range ops {
			args = append(args, o.ID)
		}
		return c.each(ctx, "SELECT "+eventColumns+" FROM work_events WHERE work_id IN ("+marks(len(args))+") ORDER BY seq", args,
			func(r *sql.Rows) error {
				e, err := scanEvent(r)
				if at, ok := byID[e.OperationID]; err == nil && ok && e.Step != "" {
					o := &ops[at]
					o.Steps = applyEvent(o.Steps, e)
				}
				return err
			})
	})
	return ops, err
}

// applyEvent is steps after e.
func applyEvent(steps []trove.OperationStep, e trove.OperationEvent) []trove.OperationStep {
	at := -1
	for i := range steps {
		if steps[i].Name == e.Step {
			at = i
		}
	}
	if at < 0 {
		at = len(steps)
		steps = append(steps, trove.OperationStep{Name: e.Step, Started: e.Time})
	}
	st := &steps[at]
	st.State, st.Ended = e.State, time.Time{}
	if e.State.Finished() {
		st.Ended = e.Time
	}
	if e.Message != "" {
		st.Message = e.Message
	}
	if e.Progress != nil {
		st.Progress = e.Progress
	}
	if e.Cause != "" {
		st.Cause = e.Cause
	}
	return steps
}
