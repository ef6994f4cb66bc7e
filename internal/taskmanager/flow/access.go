package flow

import (
	"context"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// UpdateAccess is the state of KindUpdateAccess.
type UpdateAccess struct {
	Request taskmanager.UpdateAccess `json:"request"`
}

type accessRun = work.Run[UpdateAccess]

// updateAccess lets others reach an instance than before. What fails leaves it
// reachable for those who could reach it.
func (f *Flows) updateAccess() work.Registered {
	type step = work.Step[UpdateAccess]
	return work.Flow[UpdateAccess]{
		Kind:    KindUpdateAccess,
		Timeout: f.opts.AccessTimeout,
		Steps: []step{
			{Name: "check", Do: func(ctx context.Context, r *accessRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if beingDeleted(inst, err) {
					return work.Done()
				}
				return outcome(err)
			}},
			{Name: "security_group", Do: func(ctx context.Context, r *accessRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if err != nil {
					return work.Fail(err)
				}
				return outcome(f.cloud.EnsureSecurityGroup(ctx, ownerOf(inst), f.rules(inst.Version.Manager, asked(r))))
			}, Undo: func(ctx context.Context, r *accessRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if beingDeleted(inst, err) {
					return work.Next()
				}
				if err != nil {
					return work.Retry(err)
				}
				return stubborn(f.cloud.EnsureSecurityGroup(ctx, ownerOf(inst), f.rules(inst.Version.Manager, inst.Access)))
			}},
			{Name: "address", Do: func(ctx context.Context, r *accessRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if err != nil {
					return work.Fail(err)
				}
				return outcome(f.makePublic(ctx, inst, r.State.Request.Access.IsPublic))
			}, Undo: func(ctx context.Context, r *accessRun) work.Outcome {
				inst, err := f.store.Instance(ctx, r.Subject())
				if beingDeleted(inst, err) {
					return work.Next()
				}
				if err != nil {
					return work.Retry(err)
				}
				return stubborn(f.makePublic(ctx, inst, inst.Access != nil && inst.Access.IsPublic))
			}},
			{Name: "finish", Do: func(_ context.Context, r *accessRun) work.Outcome {
				r.EndWith(store.Change{Task: trove.TaskUpdating, Access: asked(r)})
				return work.Next()
			}},
		},
		Expired: func(_ context.Context, _ *accessRun, step string, last error) error {
			return late("The change of access", step, f.opts.AccessTimeout, last)
		},
		Failed: func(ctx context.Context, r *accessRun, fail work.Failure) error {
			inst, err := f.store.Instance(ctx, r.Subject())
			if beingDeleted(inst, err) {
				return nil
			}
			if err != nil {
				return err
			}
			r.EndWith(store.Change{Task: trove.TaskUpdating, Fault: f.newFault("The access was not changed: ", fail, "")})
			return nil
		},
	}
}

// asked is what is stored of a change: what was left out is nothing.
func asked(r *accessRun) *trove.Access {
	a := r.State.Request.Access
	return &trove.Access{IsPublic: a.IsPublic, AllowedCIDRs: append([]string{}, a.AllowedCIDRs...)}
}

// rules open an engine's ports to those who are named, or to the default.
func (f *Flows) rules(manager string, access *trove.Access) []cloud.Rule {
	cidrs := f.opts.DefaultCIDRs
	if access != nil && len(access.AllowedCIDRs) > 0 {
		cidrs = access.AllowedCIDRs
	}
	rules := enginePorts(manager)
	for i := range rules {
		rules[i].CIDRs = cidrs
	}
	return rules
}

func (f *Flows) makePublic(ctx context.Context, inst *trove.Instance, public bool) error {
	addresses, err := f.cloud.EnsurePublic(ctx, ownerOf(inst), public)
	if err != nil {
		return err
	}
	return f.observe(ctx, inst.ID, inst.Server.Status, addresses)
}
