package flow

import (
	"context"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// ResizeFlavor is the state of KindResizeFlavor.
type ResizeFlavor struct {
	Request taskmanager.ResizeFlavor `json:"request"`
	Details string                   `json:"details,omitempty"`
	// Awaited and Reverting are when the cloud was first looked at for the resized
	// server, and when it was first asked to take it back.
	Awaited   time.Time `json:"awaited,omitzero"`
	Reverting time.Time `json:"reverting,omitzero"`
}

type flavorRun = work.Run[ResizeFlavor]

// resizeFlavor has an instance's server become one of another flavor:
//
//	stop the engine ─▶ resize the server ─▶ it waits, resized, for a word
//	  ─▶ the engine starts with the new memory and answers ─▶ confirm
//
// Whatever fails before the end brings the server back, and the engine with the
// memory it had.
func (f *Flows) resizeFlavor() work.Registered {
	type step = work.Step[ResizeFlavor]
	return work.Flow[ResizeFlavor]{
		Kind:    KindResizeFlavor,
		Timeout: f.opts.ResizeTimeout,
		Steps: []step{
			{Name: "check", Do: f.flavorCheck},
			{Name: "stop", Do: func(ctx context.Context, r *flavorRun) work.Outcome {
				return patient(f.guest.StopDB(ctx, r.Subject()), r.Attempt())
			}, Undo: func(ctx context.Context, r *flavorRun) work.Outcome {
				return f.startAgain(ctx, r.Subject(), undoOnce(r.ID(), r.Attempt()))
			}},
			{Name: "resize", Do: func(ctx context.Context, r *flavorRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if err != nil {
					return work.Fail(err)
				}
				return outcome(f.cloud.StartResize(ctx, ownerOf(inst), flavorOf(r.State.Request.NewFlavor)))
			}, Undo: f.flavorRevert},
			{Name: "server", Do: f.flavorAwait},
			{Name: "start", Do: f.flavorStart},
			{Name: "confirm", Do: f.flavorConfirm},
			{Name: "finish", Do: f.flavorFinish},
		},
		Expired: func(_ context.Context, _ *flavorRun, step string, last error) error {
			return late("The resize", step, f.opts.ResizeTimeout, last)
		},
		Failed: f.flavorFailed,
	}
}

func flavorOf(w rpcapi.Flavor) trove.Flavor {
	return trove.Flavor{ID: w.ID, Name: w.Name, RAM: w.RAM, VCPUs: w.VCPUs, Disk: w.Disk}
}

func (f *Flows) flavorCheck(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Done()
	}
	if err != nil {
		return work.Fail(err)
	}
	return f.mustRun(ctx, inst)
}

// mustRun goes on if the instance's server runs.
func (f *Flows) mustRun(ctx context.Context, inst *trove.Instance) work.Outcome {
	server, err := f.cloud.Server(ctx, ownerOf(inst))
	if err != nil {
		return work.Fail(err)
	}
	if server.Status != trove.ServerActive {
		return work.Fail(trove.Errorf(trove.KindUnprocessable, "The server of the instance is %s, not ACTIVE.", server.Status))
	}
	return work.Next()
}

// flavorAwait only looks: a cloud without room for the flavor goes back to the
// old one, and must not be asked again for ever.
func (f *Flows) flavorAwait(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	server, err := f.cloud.Server(ctx, ownerOf(inst))
	if err != nil {
		return work.Fail(err)
	}
	want := r.State.Request.NewFlavor.ID
	has := server.FlavorID == want || server.FlavorID == ""
	switch {
	case server.Status == trove.ServerError:
		return f.flavorServerFailed(ctx, inst, server.Fault, r)
	case server.Status == trove.ServerVerifyResize && !has:
		return work.Fail(trove.Errorf(trove.KindInternal, "The server was resized to flavor %s instead of %s.", server.FlavorID, want))
	case server.Status == trove.ServerVerifyResize, server.Status == trove.ServerActive && server.FlavorID == want:
		return work.Next()
	case server.Status == trove.ServerActive:
		return f.flavorServerFailed(ctx, inst, server.Fault, r)
	}
	if inst.Server.Status != server.Status {
		if err := f.observe(ctx, inst.ID, server.Status, inst.Server.Addresses); err != nil {
			return work.Fail(err)
		}
	}
	now := r.Now()
	if r.State.Awaited.IsZero() {
		r.State.Awaited = now
	}
	if now.Sub(r.State.Awaited) >= f.opts.ResizeWait {
		return f.flavorServerFailed(ctx, inst, "it was still "+server.Status+" after "+f.opts.ResizeWait.String()+" ([DEFAULT] resize_time_out)", r)
	}
	return work.Nap(f.opts.PollInterval)
}

func (f *Flows) flavorServerFailed(ctx context.Context, inst *trove.Instance, why string, r *flavorRun) work.Outcome {
	r.State.Details = f.evidenceOf(ctx, inst)
	if why == "" {
		why = "it does not say why"
	}
	return work.Fail(trove.Errorf(trove.KindInternal, "The cloud did not resize the server: %s", why).
		WithAction("Look whether the cloud has room for flavor %s, or choose another flavor.", r.State.Request.NewFlavor.ID))
}

// flavorStart waits for the agent, whose server was moved, and has it start the
// engine. Asked again after an answer that was lost, it is the same request.
func (f *Flows) flavorStart(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	server, err := f.cloud.Server(ctx, ownerOf(inst))
	if err != nil {
		return work.Fail(err)
	}
	if server.Status != trove.ServerVerifyResize && server.Status != trove.ServerActive {
		return f.flavorServerFailed(ctx, inst, server.Fault, r)
	}
	if out := takenBack(server, r); out != nil {
		return *out
	}
	if err := f.guest.Ping(ctx, inst.ID); err != nil {
		r.Report(ctx, "waiting for the guest agent of the resized server", nil)
		return until(err)
	}
	return until(f.startDB(ctx, inst, once("start", r.ID())))
}

// takenBack fails a resize whose server has another flavor after all: it is not in
// VERIFY_RESIZE any more, and somebody may have reverted it.
func takenBack(server cloud.Server, r *flavorRun) *work.Outcome {
	if server.FlavorID == "" || server.FlavorID == r.State.Request.NewFlavor.ID {
		return nil
	}
	out := work.Fail(trove.Errorf(trove.KindConflict, "The resize was taken back in the cloud: the server has flavor %s.", server.FlavorID).
		WithAction("Ask whoever reverted the resize of server %s, then resize again.", server.ID))
	return &out
}

// startDB starts an engine with what its server has now. Agents that share a
// login may be the original's, whose configuration we would have to write whole:
// they keep theirs. An agent of ours makes its own whenever its server was
// started.
func (f *Flows) startDB(ctx context.Context, inst *trove.Instance, request string) error {
	if f.bus.PerGuest() {
		return f.guest.StartDB(ctx, inst.ID, request, guest.NewMemory{DSVersion: inst.Version.Name})
	}
	return f.guest.Restart(ctx, inst.ID, request)
}

func (f *Flows) flavorConfirm(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	return f.when(f.cloud.ConfirmResize(ctx, ownerOf(inst)))
}

func (f *Flows) flavorFinish(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	// Out of VERIFY_RESIZE it may also have been brought by a revert.
	server, err := f.cloud.Server(ctx, ownerOf(inst))
	if err != nil {
		return work.Fail(err)
	}
	if out := takenBack(server, r); out != nil {
		return *out
	}
	q := r.State.Request
	if err := f.observe(ctx, inst.ID, trove.ServerActive, inst.Server.Addresses); err != nil {
		return work.Fail(err)
	}
	r.EndWith(store.Change{Task: trove.TaskResizing, FlavorID: &q.NewFlavor.ID, Uses: trove.QuotaDelta{trove.ResourceRAM: q.NewFlavor.RAM}})
	return work.Next()
}

// flavorRevert brings the server back to what it was.
func (f *Flows) flavorRevert(ctx context.Context, r *flavorRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Next() // its deletion takes the server away
	}
	if err != nil {
		return work.Retry(err)
	}
	if r.State.Reverting.IsZero() {
		r.State.Reverting = r.Now()
	}
	done, err := f.cloud.RevertResize(ctx, ownerOf(inst))
	if trove.IsKind(err, trove.KindConflict) || trove.IsKind(err, trove.KindNotFound) {
		// Asking again would not help.
		r.State.Details = "The server cannot be brought back: " + err.Error() + "\n\n" + r.State.Details
		return work.Next()
	}
	if (err != nil || !done) && r.Now().Sub(r.State.Reverting) >= f.opts.RevertWait {
		why := "the cloud does not say why"
		if err != nil {
			why = err.Error()
		}
		r.State.Details = "The server was not brought back within " + f.opts.RevertWait.String() + " ([DEFAULT] revert_time_out): " + why + "\n\n" + r.State.Details
		return work.Next()
	}
	return f.gone(done, err)
}

// flavorFailed records what the server is now, which the cloud knows.
func (f *Flows) flavorFailed(ctx context.Context, r *flavorRun, fail work.Failure) error {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return nil
	}
	if err != nil {
		return err
	}
	q := r.State.Request
	is := q.OldFlavor
	server, err := f.cloud.Server(ctx, ownerOf(inst))
	if err == nil {
		switch server.FlavorID {
		case q.OldFlavor.ID, "":
		case q.NewFlavor.ID:
			is = q.NewFlavor
		default:
			other, err := f.cloud.Flavor(ctx, server.FlavorID)
			if err != nil {
				return err
			}
			is = rpcapi.Flavor{ID: other.ID, Name: other.Name, RAM: other.RAM, VCPUs: other.VCPUs, Disk: other.Disk}
		}
		if err := f.observe(ctx, inst.ID, server.Status, inst.Server.Addresses); err != nil {
			return err
		}
	}
	cause := "The resize failed, and the instance has its old flavor: "
	switch is.ID {
	case q.OldFlavor.ID:
	case q.NewFlavor.ID:
		cause = "The resize did not end well, though the instance has the new flavor: "
	default:
		cause = "The resize failed, and the instance has flavor " + is.ID + ": "
	}
	change := store.Change{Task: trove.TaskResizing, Uses: trove.QuotaDelta{trove.ResourceRAM: is.RAM},
		Fault: f.newFault(cause, fail, r.State.Details)}
	if is.ID != q.OldFlavor.ID {
		change.FlavorID = &is.ID
	}
	r.EndWith(change)
	return nil
}
