package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// busyTasks are the tasks that some work must be behind.
var busyTasks = []any{int(trove.TaskDeleting), int(trove.TaskRebooting), int(trove.TaskResizing), int(trove.TaskBuilding),
	int(trove.TaskMigrating), int(trove.TaskPromoting), int(trove.TaskEjecting), int(trove.TaskLogging),
	int(trove.TaskDetaching), int(trove.TaskUpdating), int(trove.TaskUpgrading)}

// noWork is the condition for a row i of instances that nothing works on and no
// message to the control plane is on its way for.
const noWork = `NOT EXISTS (SELECT 1 FROM work w WHERE w.subject = i.id AND w.outcome IN ('pending', 'running'))
	AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.subject = i.id AND o.instance_id = '')`

// Stuck is an instance in a task that nothing works on.
type Stuck struct {
	ID   string
	Task trove.Task
}

// StuckInstances gives instances that have been in a task for longer than
// grace though nothing works on it and no message that asks for it is on its
// way.
func (s *Store) StuckInstances(ctx context.Context, grace time.Duration) (stuck []Stuck, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		args := append([]any{false, s.now().Add(-grace)}, busyTasks...)
		return c.each(ctx, "SELECT i.id, i.task_id FROM instances i WHERE i.deleted = ? AND i.updated < ? AND i.task_id IN ("+
			marks(len(busyTasks))+") AND "+noWork+" ORDER BY i.id", args, func(r *sql.Rows) error {
			var one Stuck
			err := r.Scan(&one.ID, &one.Task)
			stuck = append(stuck, one)
			return err
		})
	})
	return stuck, err
}

// deletedBatch is how many ids one query of Deleted asks about.
const deletedBatch = 100

// Deleted gives those of ids that are instances deleted longer ago than grace, and
// that nothing works on. Ids that nobody knows are not among them.
func (s *Store) Deleted(ctx context.Context, ids []string, grace time.Duration) (deleted []string, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		for batch := range slices.Chunk(ids, deletedBatch) {
			args := []any{true, s.now().Add(-grace)}
			for n := range deletedBatch { // always as many: the statement is kept
				id := ""
				if n < len(batch) {
					id = batch[n]
				}
				args = append(args, id)
			}
			if err := c.each(ctx, "SELECT i.id FROM instances i WHERE i.deleted = ? AND i.deleted_at < ? AND i.id IN ("+marks(deletedBatch)+
				") AND "+noWork+" ORDER BY i.id", args, func(r *sql.Rows) error {
				var id string
				err := r.Scan(&id)
				deleted = append(deleted, id)
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return deleted, err
}

// Unstick ends the task of an instance with a fault, if it still is in that
// task and still nothing works on it.
func (s *Store) Unstick(ctx context.Context, was Stuck, becomes trove.Task, f trove.Fault) (done bool, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) (err error) {
		if done, err = t.endTask(ctx, was, becomes, nil); err != nil || !done {
			return err
		}
		return t.setFault(ctx, was.ID, f)
	})
	return done && err == nil, err
}
