package store

import (
	"context"
	"database/sql"

	"github.com/gotrove/gotrove/internal/trove"
)

// TaskChange is the beginning of an operation.
type TaskChange struct {
	Task    trove.Task
	Service *trove.ServiceStatus // nil: stays
	Growth  Growth               // of the quota; KindOverLimit if there is not enough
	Outbox  []OutboxRow
}

// beingDeleted is the error for an operation on an instance on its way out.
func beingDeleted(id string) error {
	return trove.Errorf(trove.KindUnprocessable, "Instance %s is being deleted.", id)
}

// BeginTask sets an instance's task and writes the messages that carry it out,
// if the instance can take an operation now. Of two that begin at once one
// gets KindUnprocessable, which says what stands in the way.
func (s *Store) BeginTask(ctx context.Context, id string, c TaskChange) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		// What is read next decides, so it must not change.
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		if done, err := t.sent(ctx, c.Outbox); err != nil || done {
			return err
		}
		inst, err := t.instance(ctx, id)
		if err != nil {
			return err
		}
		if err := inst.Actionable(); err != nil {
			return err
		}
		n, err := t.exec(ctx, `UPDATE instances SET task_id = ?, task_description = ?, updated = ?
			WHERE id = ? AND deleted = ? AND task_id = ?`,
			int(c.Task), c.Task.Description(), s.now(), id, false, int(inst.Task))
		if err != nil {
			return err
		}
		if n == 0 {
			return trove.Errorf(trove.KindUnprocessable, "Instance %s is not ready: another operation began just now.", id)
		}
		if err := t.grow(ctx, inst, c.Growth); err != nil {
			return err
		}
		if c.Service != nil {
			if err := t.setService(ctx, id, *c.Service); err != nil {
				return err
			}
		}
		return t.insertOutbox(ctx, id, c.Outbox)
	})
}

// sent tells of a repeated transaction whether it was committed the first time:
// then its messages are there, or work that came of them.
func (t *tx) sent(ctx context.Context, outbox []OutboxRow) (bool, error) {
	if !t.repeated || len(outbox) == 0 {
		return false, nil
	}
	var n int
	_, err := t.one(ctx, "SELECT (SELECT COUNT(*) FROM outbox WHERE id = ?) + (SELECT COUNT(*) FROM work WHERE request_id = ?)",
		[]any{outbox[0].ID, outbox[0].ID}, &n)
	return n > 0, err
}

// SetTask sets the task of an instance that an operation has in its hands. An
// instance that is being deleted stays so: KindUnprocessable, unless task is
// TaskDeleting.
func (s *Store) SetTask(ctx context.Context, id string, task trove.Task) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `UPDATE instances SET task_id = ?, task_description = ?, updated = ?
			WHERE id = ? AND deleted = ? AND task_id <> ?`,
			int(task), task.Description(), s.now(), id, false, int(trove.TaskDeleting))
		if err != nil || n > 0 {
			return err
		}
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		if task == trove.TaskDeleting {
			return nil
		}
		return beingDeleted(id)
	})
}

// live reports whether there is an instance that is not deleted, and lets
// nobody else change it.
func (t *tx) live(ctx context.Context, id string) (bool, error) {
	_, live, err := t.lock(ctx, id)
	return live, err
}

// SetServiceStatus writes what the control plane says of the engine: that it
// is restarting, that it is upgrading. It takes back a RESTART_REQUIRED.
func (s *Store) SetServiceStatus(ctx context.Context, id string, st trove.ServiceStatus) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		return t.setService(ctx, id, st)
	})
}

func (t *tx) setService(ctx context.Context, id string, st trove.ServiceStatus) error {
	now, args := t.s.serverNow()
	n, err := t.exec(ctx, "UPDATE service_statuses SET updated_at = "+now+", status_id = ?, status_description = ? WHERE instance_id = ?",
		append(args, st.Code, st.Description, id)...)
	if err != nil || n > 0 {
		return err
	}
	return t.addService(ctx, id, st)
}

func (t *tx) addService(ctx context.Context, id string, st trove.ServiceStatus) error {
	now, args := t.s.serverNow()
	_, err := t.exec(ctx, "INSERT INTO service_statuses (updated_at, id, instance_id, status_id, status_description) VALUES ("+now+", ?, ?, ?, ?)",
		append(args, trove.NewID(), id, st.Code, st.Description)...)
	return err
}

// BeginDelete sets an instance's task to DELETING, whatever it was, asks the
// operations under way to stop, and writes the messages that carry the
// deletion out, unless one like them (same method) is still on its way or
// being worked on. KindForbidden if the instance has replicas.
func (s *Store) BeginDelete(ctx context.Context, id string, outbox []OutboxRow) error {
	methods := []any{""} // not every engine takes an empty IN list
	for _, r := range outbox {
		methods = append(methods, r.Method)
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		var replicas int
		if _, err := t.one(ctx, "SELECT COUNT(*) FROM instances WHERE slave_of_id = ? AND deleted = ?", []any{id, false}, &replicas); err != nil {
			return err
		}
		if replicas > 0 {
			return trove.Errorf(trove.KindForbidden, "Instance %s cannot be deleted: it has %d replicas.", id, replicas).
				WithAction("Delete or detach its replicas first.")
		}
		if _, err := t.exec(ctx, `UPDATE instances SET task_id = ?, task_description = ?, configuration_id = NULL, updated = ?
			WHERE id = ?`, int(trove.TaskDeleting), trove.TaskDeleting.Description(), s.now(), id); err != nil {
			return err
		}
		n, err := t.exec(ctx, `UPDATE work SET wish = 'cancel', run_at = `+s.d.nowMicros+`, wakes = wakes + 1
			WHERE subject = ? AND outcome IN ('pending', 'running') AND kind NOT IN (`+marks(len(methods))+`)`,
			append([]any{id}, methods...)...)
		if err != nil {
			return err
		}
		if n > 0 {
			t.workChanged()
		}
		if len(outbox) == 0 {
			return nil
		}
		var underway int
		if _, err := t.one(ctx, `SELECT (SELECT COUNT(*) FROM outbox WHERE subject = ? AND method IN (`+marks(len(methods))+`))
			+ (SELECT COUNT(*) FROM work WHERE subject = ? AND outcome IN ('pending', 'running') AND kind IN (`+marks(len(methods))+`))`,
			append(append(append([]any{id}, methods...), id), methods...), &underway); err != nil {
			return err
		}
		if underway > 0 {
			return nil
		}
		return t.insertOutbox(ctx, id, outbox)
	})
}

// FinishDelete marks an instance deleted, once nothing of it is left in the
// cloud: its quota is given back, its service is DELETED, its fault and every
// row about it that nobody needs any more go. A second time is no error.
func (s *Store) FinishDelete(ctx context.Context, id string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		found, live, err := t.lock(ctx, id)
		if err != nil {
			return err
		}
		if !found {
			return notFound(id)
		}
		if !live {
			return nil
		}
		var tenant sql.NullString
		var size sql.NullInt64
		if _, err := t.one(ctx, "SELECT tenant_id, volume_size FROM instances WHERE id = ?", []any{id}, &tenant, &size); err != nil {
			return err
		}
		now := s.now()
		if _, err := t.exec(ctx, `UPDATE instances SET deleted = ?, deleted_at = ?, updated = ?, task_id = ?, task_description = ?,
			datastore_version_id = NULL, configuration_id = NULL, slave_of_id = NULL, cluster_id = NULL
			WHERE id = ?`,
			true, now, now, int(trove.TaskNone), trove.TaskNone.Description(), id); err != nil {
			return err
		}
		cost, err := t.charged(ctx, id, int(size.Int64))
		if err != nil {
			return err
		}
		if err := t.refund(ctx, tenant.String, cost); err != nil {
			return err
		}
		if err := t.setService(ctx, id, trove.ServiceDeleted); err != nil {
			return err
		}
		if err := t.clearFault(ctx, id); err != nil {
			return err
		}
		for _, statement := range []string{
			"DELETE FROM charges WHERE instance_id = ?",
			"DELETE FROM outbox WHERE subject = ?",
			"DELETE FROM observed WHERE instance_id = ?",
			"DELETE FROM conductor_lastseen WHERE instance_id = ?",
			"DELETE FROM guest_credentials WHERE instance_id = ?",
		} {
			if _, err := t.exec(ctx, statement, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// ResetStatus is an operator's way out of a stuck instance: no task, service
// status unknown, running backups failed.
func (s *Store) ResetStatus(ctx context.Context, id string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		now := s.now()
		n, err := t.exec(ctx, "UPDATE instances SET task_id = ?, task_description = ?, updated = ? WHERE id = ? AND deleted = ?",
			int(trove.TaskNone), trove.TaskNone.Description(), now, id, false)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound(id)
		}
		if err := t.setService(ctx, id, trove.ServiceUnknown); err != nil {
			return err
		}
		_, err = t.exec(ctx, `UPDATE backups SET state = 'FAILED', updated = ?
			WHERE instance_id = ? AND deleted = ? AND state IN ('NEW', 'BUILDING', 'SAVING')`, now, id, false)
		return err
	})
}

// SetFault records why an instance failed, in place of what was recorded
// before.
func (s *Store) SetFault(ctx context.Context, id string, f trove.Fault) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if live, err := t.live(ctx, id); err != nil {
			return err
		} else if !live {
			return notFound(id)
		}
		return t.setFault(ctx, id, f)
	})
}

// maxDetails is what the column holds on every engine, in bytes, if each
// character takes four.
const maxDetails = 65535 / 4

func (t *tx) setFault(ctx context.Context, id string, f trove.Fault) error {
	now := t.s.now()
	message, details := clip(f.Message, 255), clip(f.Details, maxDetails)
	n, err := t.exec(ctx, `UPDATE instance_faults SET message = ?, details = ?, updated = ?, deleted = ?, deleted_at = NULL
		WHERE instance_id = ?`, message, details, now, false, id)
	if err != nil || n > 0 {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO instance_faults (id, instance_id, message, details, created, updated, deleted)
		VALUES (?, ?, ?, ?, ?, ?, ?)`, trove.NewID(), id, message, details, now, now, false)
	return err
}

// clearFault takes the record of a failure back.
func (t *tx) clearFault(ctx context.Context, id string) error {
	_, err := t.exec(ctx, "UPDATE instance_faults SET deleted = ?, deleted_at = ? WHERE instance_id = ? AND deleted = ?",
		true, t.s.now(), id, false)
	return err
}
