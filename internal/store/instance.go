package store

import (
	"context"
	"database/sql"
	"slices"

	"github.com/gotrove/gotrove/internal/trove"
)

// MaxPage is the most instances one page holds.
const MaxPage = 1000

// Page asks for a part of a list: Limit rows (1 to MaxPage; anything else is
// MaxPage) after the row with id Marker, in the order of ids.
type Page struct {
	Limit  int
	Marker string
}

// InstanceFilter chooses instances.
type InstanceFilter struct {
	TenantID         string // empty: of every project
	IncludeClustered bool   // members of clusters too
	// Short leaves out what a list without details does not show: Updated,
	// what identifies the parts and the key of an instance, its fault, and of
	// its version all but ID and names.
	Short bool
}

// InstanceRef is as much of an instance as those need who watch its server.
type InstanceRef struct {
	ID        string
	TenantID  string
	ComputeID string // empty until there is a server
	Task      trove.Task
}

// notFound is the error for an instance that is not there or is deleted.
func notFound(id string) error {
	return trove.Errorf(trove.KindNotFound, "Instance %s cannot be found.", clip(id, 64))
}

// Instance returns an instance with all that is known of it, KindNotFound if
// there is none or it is deleted.
func (s *Store) Instance(ctx context.Context, id string) (*trove.Instance, error) {
	var inst *trove.Instance
	err := s.read(ctx, func(ctx context.Context, c session) error {
		var err error
		inst, err = c.instance(ctx, id)
		return err
	})
	return inst, err
}

func (c session) instance(ctx context.Context, id string) (*trove.Instance, error) {
	rows := newInstanceRows(c.s, false)
	if err := c.each(ctx, c.s.d.instanceQuery(), []any{false, false, false, id, false}, rows.scan); err != nil {
		return nil, err
	}
	found := rows.complete()
	// The collation of a database that the original made may take another id
	// for the same.
	if len(found) == 0 || found[0].ID != id {
		return nil, notFound(id)
	}
	return found[0], nil
}

// ListInstances returns one page: cut in the order of ids, then sorted newest
// first. next is the marker of the page after it, empty if there is none. It
// costs at most two queries, whatever the page holds.
func (s *Store) ListInstances(ctx context.Context, f InstanceFilter, p Page) (page []*trove.Instance, next string, err error) {
	if p.Limit < 1 || p.Limit > MaxPage {
		p.Limit = MaxPage
	}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		page, err = c.page(ctx, f, p.Marker, p.Limit+1)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if len(page) > p.Limit {
		page = page[:p.Limit]
		next = page[p.Limit-1].ID
	}
	if f.TenantID != "" { // as in instance
		page = slices.DeleteFunc(page, func(i *trove.Instance) bool { return i.TenantID != f.TenantID })
	}
	slices.SortStableFunc(page, func(a, b *trove.Instance) int { return b.Created.Compare(a.Created) })
	return page, next, nil
}

// LiveInstances returns every instance that is not deleted, in the order of
// ids.
func (s *Store) LiveInstances(ctx context.Context) ([]InstanceRef, error) {
	var refs []InstanceRef
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, `SELECT id, tenant_id, compute_instance_id, task_id FROM instances
			WHERE deleted = ? ORDER BY id`, []any{false}, func(r *sql.Rows) error {
			var ref InstanceRef
			var tenant, compute sql.NullString
			var task sql.NullInt64
			if err := r.Scan(&ref.ID, &tenant, &compute, &task); err != nil {
				return err
			}
			ref.TenantID, ref.ComputeID, ref.Task = tenant.String, compute.String, trove.Task(task.Int64)
			refs = append(refs, ref)
			return nil
		})
	})
	return refs, err
}
