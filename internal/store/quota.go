package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// chargeOrder is every resource, in the order in which rows are locked.
var chargeOrder = [...]trove.Resource{trove.ResourceInstances, trove.ResourceRAM, trove.ResourceVolumes, trove.ResourceBackups}

// Quotas returns a project's limit and use of every resource.
func (s *Store) Quotas(ctx context.Context, tenant string, defaults trove.QuotaDelta) ([]trove.Quota, error) {
	var out []trove.Quota
	err := s.read(ctx, func(ctx context.Context, c session) error {
		limits, err := c.limits(ctx, tenant, defaults)
		if err != nil {
			return err
		}
		use := map[trove.Resource]trove.Quota{}
		err = c.each(ctx, "SELECT resource, in_use, reserved FROM quota_usages WHERE tenant_id = ?", []any{tenant},
			func(r *sql.Rows) error {
				var name string
				var inUse, reserved sql.NullInt64
				if err := r.Scan(&name, &inUse, &reserved); err != nil {
					return err
				}
				use[trove.Resource(name)] = trove.Quota{InUse: int(inUse.Int64), Reserved: int(reserved.Int64)}
				return nil
			})
		if err != nil {
			return err
		}
		out = nil
		for _, r := range chargeOrder {
			q := use[r]
			q.Resource, q.Limit = r, limits[r]
			out = append(out, q)
		}
		return nil
	})
	return out, err
}

// limits are a project's own limits, or the defaults.
func (c session) limits(ctx context.Context, tenant string, defaults trove.QuotaDelta) (trove.QuotaDelta, error) {
	out := trove.QuotaDelta{}
	for _, r := range chargeOrder {
		limit, ok := defaults[r]
		if !ok {
			limit = trove.Unlimited
		}
		out[r] = limit
	}
	err := c.each(ctx, "SELECT resource, hard_limit FROM quotas WHERE tenant_id = ?", []any{tenant},
		func(r *sql.Rows) error {
			var name string
			var limit sql.NullInt64
			if err := r.Scan(&name, &limit); err != nil {
				return err
			}
			if limit.Valid {
				out[trove.Resource(name)] = int(limit.Int64)
			}
			return nil
		})
	return out, err
}

// SetQuotas sets limits of a project, all or none. Errors: KindNotFound for an
// unknown resource, KindBadRequest for a limit below trove.Unlimited.
func (s *Store) SetQuotas(ctx context.Context, tenant string, limits map[trove.Resource]int) error {
	if err := fits(field{"project id", tenant, 36}); err != nil {
		return err
	}
	known := 0
	for _, r := range chargeOrder {
		limit, ok := limits[r]
		if !ok {
			continue
		}
		known++
		if limit < trove.Unlimited {
			return trove.Errorf(trove.KindBadRequest, "The limit of %s is %d; it must be %d (unlimited) or more.", r, limit, trove.Unlimited)
		}
	}
	if known != len(limits) {
		return trove.Errorf(trove.KindNotFound, "A resource cannot be found; there are %s.", joinResources(chargeOrder[:]))
	}
	now := s.now()
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		for _, r := range chargeOrder {
			limit, ok := limits[r]
			if !ok {
				continue
			}
			if _, err := t.exec(ctx, s.d.upsert("quotas", []string{"tenant_id", "resource"}, []string{"hard_limit", "updated"}, "id", "created"),
				tenant, string(r), limit, now, trove.NewID(), now); err != nil {
				return err
			}
		}
		return nil
	})
}

func joinResources(rs []trove.Resource) string {
	names := make([]string, len(rs))
	for i, r := range rs {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// charge adds cost to a project's use. The project's rows are locked before
// they are looked at, so that no two charges can both take what is left. What
// does not fit is KindOverLimit, naming every resource, and nothing is to be
// committed.
func (t *tx) charge(ctx context.Context, tenant string, cost, defaults trove.QuotaDelta) error {
	used, limits, err := t.usage(ctx, tenant, cost)
	if err != nil {
		return err
	}
	var over []string
	for _, r := range chargeOrder {
		limit, own := limits[r]
		if !own {
			limit, own = defaults[r]
		}
		if n := cost[r]; n > 0 && own && limit >= 0 && used[r]+n > limit {
			over = append(over, fmt.Sprintf("%s (requested %d, used %d, limit %d)", r, n, used[r], limit))
		}
	}
	if len(over) > 0 {
		return trove.Errorf(trove.KindOverLimit, "Quota exceeded for %s.", strings.Join(over, ", ")).
			WithAction("Delete instances that are not needed, or ask an operator for a higher limit.")
	}
	set, args, named := "", []any{}, []any{}
	for _, r := range chargeOrder {
		if n := cost[r]; n > 0 {
			set += " WHEN ? THEN in_use + " + t.s.d.bigint
			args, named = append(args, string(r), n), append(named, string(r))
		}
	}
	if len(named) == 0 {
		return nil
	}
	_, err = t.exec(ctx, "UPDATE quota_usages SET in_use = CASE resource"+set+" ELSE in_use END, updated = ? WHERE tenant_id = ? AND resource IN ("+
		marks(len(named))+")", slices.Concat(args, []any{t.s.now(), tenant}, named)...)
	return err
}

// usage locks a project's use of what cost is about, in one order for all, and
// tells it with the limits that are its own. Rows that are missing are made.
func (t *tx) usage(ctx context.Context, tenant string, cost trove.QuotaDelta) (used, limits trove.QuotaDelta, err error) {
	var wanted []any
	for _, r := range chargeOrder {
		if cost[r] > 0 {
			wanted = append(wanted, string(r))
		}
	}
	if len(wanted) == 0 {
		return trove.QuotaDelta{}, trove.QuotaDelta{}, nil
	}
	for {
		used, limits = trove.QuotaDelta{}, trove.QuotaDelta{}
		if err := t.each(ctx, `SELECT u.resource, u.in_use, u.reserved,
			(SELECT q.hard_limit FROM quotas q WHERE q.tenant_id = u.tenant_id AND q.resource = u.resource)
			FROM quota_usages u WHERE u.tenant_id = ? AND u.resource IN (`+marks(len(wanted))+
			") ORDER BY u.resource"+t.s.d.forUpdate, append([]any{tenant}, wanted...), func(r *sql.Rows) error {
			var name string
			var inUse, reserved, limit sql.NullInt64
			err := r.Scan(&name, &inUse, &reserved, &limit)
			used[trove.Resource(name)] = int(inUse.Int64 + reserved.Int64)
			if limit.Valid {
				limits[trove.Resource(name)] = int(limit.Int64)
			}
			return err
		}); err != nil {
			return nil, nil, err
		}
		if len(used) >= len(wanted) {
			return used, limits, nil
		}
		now := t.s.now()
		slices.SortFunc(wanted, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		for _, r := range wanted {
			if _, there := used[trove.Resource(r.(string))]; there {
				continue
			}
			if _, err := t.exec(ctx, t.s.d.upsert("quota_usages", []string{"tenant_id", "resource"}, nil, "id", "created", "updated", "in_use", "reserved"),
				tenant, r, trove.NewID(), now, now, 0, 0); err != nil {
				return nil, nil, err
			}
		}
	}
}

// refund takes cost off a project's use, which never goes below nothing.
func (t *tx) refund(ctx context.Context, tenant string, cost trove.QuotaDelta) error {
	now := t.s.now()
	for _, r := range chargeOrder {
		n := cost[r]
		if n <= 0 {
			continue
		}
		if _, err := t.exec(ctx, `UPDATE quota_usages SET in_use = CASE WHEN in_use > ? THEN in_use - ? ELSE 0 END, updated = ?
			WHERE tenant_id = ? AND resource = ?`, n, n, now, tenant, string(r)); err != nil {
			return err
		}
	}
	return nil
}

// charged is what a live instance costs of its quota. One that the original
// made has no charges of ours: the RAM of its flavor is not known here.
func (t *tx) charged(ctx context.Context, id string, volumeSize int) (trove.QuotaDelta, error) {
	cost, err := t.charges(ctx, id)
	if len(cost) == 0 {
		cost = trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceVolumes: volumeSize}
	}
	return cost, err
}
