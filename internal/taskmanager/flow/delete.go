package flow

import (
	"context"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Delete is the state of KindDelete.
type Delete struct {
	Owner cloud.Owner `json:"owner"`
}

type deleteRun = work.Run[Delete]

// delete takes away everything that carries the instance's tag, whatever the
// instance was doing, and never gives up: what cannot be deleted now is tried
// again, and people see why it takes time.
func (f *Flows) delete() work.Registered {
	type step = work.Step[Delete]
	return work.Flow[Delete]{
		Kind:    KindDelete,
		KeepsOn: true,
		Steps: []step{
			{Name: "stop", Do: f.deleteStop},
			{Name: "server", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				return f.gone(f.cloud.DeleteServer(ctx, r.State.Owner))
			}},
			{Name: "ports", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				return stubborn(f.cloud.DeletePorts(ctx, r.State.Owner))
			}},
			{Name: "volume", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				return f.gone(f.cloud.DeleteVolume(ctx, r.State.Owner))
			}},
			{Name: "security_group", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				return stubborn(f.cloud.DeleteSecurityGroup(ctx, r.State.Owner))
			}},
			{Name: "guest_login", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				return f.removeGuest(ctx, r.Subject())
			}},
			{Name: "finish", Do: func(ctx context.Context, r *deleteRun) work.Outcome {
				err := f.store.FinishDelete(ctx, r.Subject())
				if trove.IsKind(err, trove.KindNotFound) {
					err = nil
				}
				return stubborn(err)
			}},
		},
		// A deletion fails only by a fault in the program: the user must see it.
		Failed: func(ctx context.Context, r *deleteRun, fail work.Failure) error {
			return gone(f.fault(ctx, r.Subject(), fail.Cause, fail.Action, ""))
		},
	}
}

// deleteStop lets an engine that serves end cleanly, if it does so soon.
func (f *Flows) deleteStop(ctx context.Context, r *deleteRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if trove.IsKind(err, trove.KindNotFound) {
		return work.Done()
	}
	if err != nil {
		return work.Retry(err)
	}
	r.State.Owner = ownerOf(inst)
	if inst.Task != trove.TaskDeleting { // asked for by someone who did not say so in the row
		if err := f.store.SetTask(ctx, inst.ID, trove.TaskDeleting); err != nil {
			return work.Retry(err)
		}
	}
	if !inst.Service.Serving() {
		return work.Next()
	}
	server, err := f.cloud.Server(ctx, r.State.Owner)
	if err != nil || server.Status != trove.ServerActive {
		return work.Next() // the next step finds out what is wrong
	}
	ctx, cancel := context.WithTimeout(ctx, f.opts.StopTimeout)
	defer cancel()
	if err := f.guest.StopDB(ctx, inst.ID); err != nil {
		r.Report(ctx, "the database was not stopped cleanly, its server is deleted anyway: "+err.Error(), nil)
	}
	return work.Next()
}

// removeGuest takes away an agent's queues and every login it may have.
func (f *Flows) removeGuest(ctx context.Context, id string) work.Outcome {
	c, err := f.store.GuestCredentials(ctx, id)
	if err != nil {
		return work.Retry(err)
	}
	return stubborn(f.bus.RemoveGuest(ctx, id, c.Last()))
}
