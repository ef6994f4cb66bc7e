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
	found, err := c.instances(ctx, "i.id = ? AND i.deleted = ?", []any{id, false}, 1)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notFound(id)
	}
	return found[0], nil
}

// ListInstances returns one page: cut in the order of ids, then sorted newest
// first. next is the marker of the page after it, empty if there is none. It
// costs a fixed number of queries, whatever the page holds.
func (s *Store) ListInstances(ctx context.Context, f InstanceFilter, p Page) (page []*trove.Instance, next string, err error) {
	if p.Limit < 1 || p.Limit > MaxPage {
		p.Limit = MaxPage
	}
	where, args := "i.deleted = ? AND i.id > ?", []any{false, p.Marker}
	if f.TenantID != "" {
		where, args = where+" AND i.tenant_id = ?", append(args, f.TenantID)
	}
	if !f.IncludeClustered {
		where += " AND i.cluster_id IS NULL"
	}
	err = s.read(ctx, func(ctx context.Context, c session) error {
		page, err = c.instances(ctx, where, args, p.Limit+1)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	if len(page) > p.Limit {
		page = page[:p.Limit]
		next = page[p.Limit-1].ID
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

const instanceColumns = `i.id, i.name, i.tenant_id, i.hostname, i.region_id, i.flavor_id, i.created, i.updated,
	i.task_id, i.compute_instance_id, i.volume_id, i.volume_size, i.configuration_id,
	i.slave_of_id, i.cluster_id, i.shard_id, i.type, i.access, i.encrypted_key,
	v.id, v.datastore_id, d.name, v.name, v.version, v.manager, v.image_id, v.image_tags, v.packages,
	v.registry_ext, v.repl_strategy, v.active,
	o.server_status, o.addresses, o.seen_at`

// instances reads the live instances that a condition on table i chooses, at
// most so many, in the order of ids, each complete. Five queries, always: what
// belongs to instances is read for the whole range of ids at once.
func (c session) instances(ctx context.Context, where string, args []any, most int) ([]*trove.Instance, error) {
	var out []*trove.Instance
	byID := map[string]*trove.Instance{}
	err := c.each(ctx, `SELECT `+instanceColumns+` FROM instances i
		LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id
		LEFT JOIN datastores d ON d.id = v.datastore_id
		LEFT JOIN observed o ON o.instance_id = i.id
		WHERE `+where+` ORDER BY i.id LIMIT ?`, slices.Concat(args, []any{most}), func(r *sql.Rows) error {
		i, err := scanInstance(r)
		if err != nil {
			return err
		}
		out = append(out, i)
		byID[i.ID] = i
		return nil
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	where += " AND i.id <= ?"
	args = slices.Concat(args, []any{out[len(out)-1].ID})

	// No unique key says that an instance has one status only: the newest counts.
	err = c.each(ctx, `SELECT s.instance_id, s.status_id, s.status_description, s.updated_at
		FROM instances i JOIN service_statuses s ON s.instance_id = i.id
		WHERE `+where+` ORDER BY s.updated_at`, args, func(r *sql.Rows) error {
		var id string
		var st trove.ServiceStatus
		var at sql.NullTime
		if err := r.Scan(&id, &st.Code, &st.Description, &at); err != nil {
			return err
		}
		byID[id].Service, byID[id].ServiceUpdated = st, at.Time.UTC()
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = c.each(ctx, `SELECT f.instance_id, f.message, f.details, f.updated
		FROM instances i JOIN instance_faults f ON f.instance_id = i.id AND f.deleted = ?
		WHERE `+where+` ORDER BY f.updated`, slices.Concat([]any{false}, args), func(r *sql.Rows) error {
		var id string
		var f trove.Fault
		if err := r.Scan(&id, &f.Message, &f.Details, &f.Created); err != nil {
			return err
		}
		f.Created = f.Created.UTC()
		byID[id].Fault = &f
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = c.each(ctx, `SELECT i.id, r.id FROM instances i JOIN instances r ON r.slave_of_id = i.id AND r.deleted = ?
		WHERE `+where, slices.Concat([]any{false}, args), func(r *sql.Rows) error {
		var id, replica string
		if err := r.Scan(&id, &replica); err != nil {
			return err
		}
		byID[id].Replicas = append(byID[id].Replicas, replica)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, i := range out {
		slices.Sort(i.Replicas) // not ORDER BY: it would make SQLite read every live instance
	}
	err = c.each(ctx, `SELECT DISTINCT b.instance_id FROM instances i
		JOIN backups b ON b.instance_id = i.id AND b.deleted = ? AND b.state IN ('NEW', 'BUILDING', 'SAVING')
		WHERE `+where, slices.Concat([]any{false}, args), func(r *sql.Rows) error {
		var id string
		if err := r.Scan(&id); err != nil {
			return err
		}
		byID[id].BackupRunning = true
		return nil
	})
	return out, err
}

func scanInstance(r *sql.Rows) (*trove.Instance, error) {
	var (
		i                                              trove.Instance
		name, tenant, host, region, flavor             sql.NullString
		compute, volume, conf, replicaOf, cluster      sql.NullString
		shard, typ, access, key                        sql.NullString
		created, updated                               sql.NullTime
		task, size, seen                               sql.NullInt64
		vID, vStore, dName, vName, vNumber, vManager   sql.NullString
		vImage, vTags, vPackages, vRegistry, vStrategy sql.NullString
		vActive                                        sql.NullBool
		status, addresses                              sql.NullString
	)
	if err := r.Scan(&i.ID, &name, &tenant, &host, &region, &flavor, &created, &updated,
		&task, &compute, &volume, &size, &conf,
		&replicaOf, &cluster, &shard, &typ, &access, &key,
		&vID, &vStore, &dName, &vName, &vNumber, &vManager, &vImage, &vTags, &vPackages,
		&vRegistry, &vStrategy, &vActive,
		&status, &addresses, &seen); err != nil {
		return nil, err
	}
	i.Name, i.TenantID, i.Hostname, i.RegionID, i.FlavorID = name.String, tenant.String, host.String, region.String, flavor.String
	i.ComputeID, i.VolumeID, i.ConfigurationID, i.ReplicaOf = compute.String, volume.String, conf.String, replicaOf.String
	i.ClusterID, i.ShardID, i.Type, i.EncryptedKey = cluster.String, shard.String, typ.String, key.String
	i.Created, i.Updated = created.Time.UTC(), updated.Time.UTC()
	i.Task, i.VolumeSize = trove.Task(task.Int64), int(size.Int64)
	i.Access = decodeAccess(access.String)
	if vID.Valid {
		i.Version = trove.DatastoreVersion{
			ID: vID.String, DatastoreID: vStore.String, DatastoreName: dName.String,
			Name: vName.String, Number: vNumber.String, Manager: vManager.String,
			ImageID: vImage.String, ImageTags: list(vTags.String), Packages: list(vPackages.String),
			RegistryExt: vRegistry.String, ReplStrategy: vStrategy.String, Active: vActive.Bool,
		}
	}
	var err error
	i.Server.Status, i.Server.SeenAt = status.String, fromMicros(seen.Int64)
	i.Server.Addresses, err = decodeAddresses(addresses.String)
	return &i, err
}
