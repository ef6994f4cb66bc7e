package store

import (
	"context"
	"database/sql"
	"maps"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Growth is what an operation needs of a project's quota beyond what the
// instance uses already.
type Growth struct {
	Cost   trove.QuotaDelta // what is more; what is less is given back when it ends
	Limits trove.QuotaDelta // for projects without limits of their own
	// Uses is what the instance uses now: it is what is given back one day if
	// nothing was written down about it, as of an instance of the original's.
	Uses trove.QuotaDelta
}

// grow charges what an instance will use more. It counts from now on: whoever
// deletes the instance gives it back.
func (t *tx) grow(ctx context.Context, i *trove.Instance, g Growth) error {
	if len(g.Cost) == 0 {
		return nil
	}
	if err := t.charge(ctx, i.TenantID, g.Cost, g.Limits); err != nil {
		return err
	}
	known, err := t.charges(ctx, i.ID)
	if err != nil {
		return err
	}
	if len(known) == 0 {
		known = trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceVolumes: i.VolumeSize}
		for r, n := range g.Uses {
			known[r] = n
		}
		for _, r := range chargeOrder {
			if known[r] > 0 {
				if err := t.setCharge(ctx, i.ID, r, known[r]); err != nil {
					return err
				}
			}
		}
	}
	for _, r := range chargeOrder {
		if n := g.Cost[r]; n > 0 {
			if err := t.setCharge(ctx, i.ID, r, known[r]+n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) setCharge(ctx context.Context, id string, r trove.Resource, amount int) error {
	n, err := t.exec(ctx, "UPDATE charges SET amount = ? WHERE instance_id = ? AND resource = ?", amount, id, string(r))
	if err != nil || n > 0 {
		return err
	}
	_, err = t.exec(ctx, t.s.d.insert("charges", 1, []string{"instance_id", "resource", "amount"}), id, string(r), amount)
	return err
}

// charges is what was written down of an instance's use; empty if nothing was.
func (t *tx) charges(ctx context.Context, id string) (trove.QuotaDelta, error) {
	out := trove.QuotaDelta{}
	err := t.each(ctx, "SELECT resource, amount FROM charges WHERE instance_id = ?", []any{id}, func(r *sql.Rows) error {
		var name string
		var amount int
		if err := r.Scan(&name, &amount); err != nil {
			return err
		}
		out[trove.Resource(name)] = amount
		return nil
	})
	return out, err
}

// settle makes what is charged for an instance what it uses. Where nothing was
// written down, whoever charged gives back.
func (t *tx) settle(ctx context.Context, id string, uses trove.QuotaDelta) error {
	if len(uses) == 0 {
		return nil
	}
	known, err := t.charges(ctx, id)
	if err != nil {
		return err
	}
	less := trove.QuotaDelta{}
	for _, r := range chargeOrder {
		use, told := uses[r]
		was, charged := known[r]
		if !told || !charged || use >= was {
			continue
		}
		less[r] = was - use
		if err := t.setCharge(ctx, id, r, use); err != nil {
			return err
		}
	}
	if len(less) == 0 {
		return nil
	}
	var tenant sql.NullString
	if _, err := t.one(ctx, "SELECT tenant_id FROM instances WHERE id = ?", []any{id}, &tenant); err != nil {
		return err
	}
	return t.refund(ctx, tenant.String, less)
}

// settleLost settles a resize that was lost before anything was done: uses is what
// is known of the instance beside its row.
func (t *tx) settleLost(ctx context.Context, id string, uses trove.QuotaDelta) error {
	var size sql.NullInt64
	if _, err := t.one(ctx, "SELECT volume_size FROM instances WHERE id = ?", []any{id}, &size); err != nil {
		return err
	}
	all := trove.QuotaDelta{trove.ResourceVolumes: int(size.Int64)}
	maps.Copy(all, uses)
	return t.settle(ctx, id, all)
}

// Change is how an operation on an instance ended; what is nil stays.
type Change struct {
	Task       trove.Task // that ends; another one stays as it is
	FlavorID   *string
	VolumeSize *int // GiB
	Access     *trove.Access
	// Uses is what the instance uses now of the resources named: what was
	// charged beyond it is given back.
	Uses  trove.QuotaDelta
	Fault *trove.Fault // nil: what was recorded is taken back
}

// endChange records the end of an operation on an instance, nothing if it is gone.
// Another operation may have begun when it is done a second time.
func (t *tx) endChange(ctx context.Context, id string, c Change) error {
	set, args := []string{"updated = ?"}, []any{t.s.now()}
	if c.FlavorID != nil {
		if err := fits(field{"flavor", *c.FlavorID, 255}); err != nil {
			return err
		}
		set, args = append(set, "flavor_id = ?"), append(args, *c.FlavorID)
	}
	if c.VolumeSize != nil {
		set, args = append(set, "volume_size = ?"), append(args, *c.VolumeSize)
	}
	if c.Access != nil {
		text, err := encodeAccess(c.Access)
		if err != nil {
			return trove.Errorf(trove.KindInternal, "the access of instance %s cannot be stored: %w", id, err)
		}
		set, args = append(set, "access = ?"), append(args, text)
	}
	if live, err := t.live(ctx, id); err != nil || !live {
		return err
	}
	if _, err := t.exec(ctx, "UPDATE instances SET "+strings.Join(set, ", ")+" WHERE id = ?", append(args, id)...); err != nil {
		return err
	}
	if err := t.settle(ctx, id, c.Uses); err != nil {
		return err
	}
	var err error
	if c.Fault != nil {
		err = t.setFault(ctx, id, *c.Fault)
	} else {
		err = t.clearFault(ctx, id)
	}
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, "UPDATE instances SET task_id = ?, task_description = ? WHERE id = ? AND task_id = ?",
		int(trove.TaskNone), trove.TaskNone.Description(), id, int(c.Task))
	return err
}
