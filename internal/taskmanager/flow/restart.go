package flow

import (
	"context"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// Restart is the state of KindRestart.
type Restart struct{}

type restartRun = work.Run[Restart]

func (f *Flows) restart() work.Registered {
	type step = work.Step[Restart]
	return work.Flow[Restart]{
		Kind:    KindRestart,
		Timeout: f.opts.RestartTimeout,
		Steps:   []step{{Name: "restart", Do: f.restartEngine}, {Name: "finish", Do: f.restartFinish}},
		Failed: func(ctx context.Context, r *restartRun, fail work.Failure) error {
			inst, err := f.store.Instance(ctx, r.Subject())
			if beingDeleted(inst, err) {
				return nil
			}
			if err != nil {
				return err
			}
			// The agent's heartbeats tell how the engine is.
			r.EndWith(store.Change{Task: trove.TaskRebooting, Fault: f.newFault("The restart failed: ", fail, "")})
			return nil
		},
	}
}

// restartEngine asks the agent, which answers when the engine serves again.
// Asked again, by a task manager that took over from one that was killed over
// the answer, it is the same request: the engine is not restarted twice.
func (f *Flows) restartEngine(ctx context.Context, r *restartRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Done()
	}
	if err != nil {
		return work.Fail(err)
	}
	return outcome(f.guest.Restart(ctx, inst.ID, once("restart", r.ID())))
}

func (f *Flows) restartFinish(ctx context.Context, r *restartRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Done()
	}
	if err != nil {
		return work.Fail(err)
	}
	r.EndWith(store.Change{Task: trove.TaskRebooting})
	return work.Next()
}
