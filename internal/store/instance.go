package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"

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
	// The collation of a database that the original made may take another id
	// for the same.
	if len(found) == 0 || found[0].ID != id {
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

const instanceColumns = `i.id, i.name, i.tenant_id, i.hostname, i.region_id, i.flavor_id, i.created, i.updated,
	i.task_id, i.compute_instance_id, i.volume_id, i.volume_size, i.configuration_id,
	i.slave_of_id, i.cluster_id, i.shard_id, i.type, i.access, i.encrypted_key,
	v.id, v.datastore_id, d.name, v.name, v.version, v.manager, v.image_id, v.image_tags, v.packages,
	v.registry_ext, v.repl_strategy, v.active,
	o.server_status, o.addresses, o.seen_at,
	s.status_id, s.status_description, s.updated_at, f.message, f.details, f.updated, r.id, b.id`

// instances reads the live instances that a condition on table i chooses, at
// most so many, in the order of ids, each complete: one query, whatever it
// finds.
func (c session) instances(ctx context.Context, where string, args []any, most int) ([]*trove.Instance, error) {
	var out []*trove.Instance
	known := map[string]*trove.Instance{}
	err := c.each(ctx, instanceQuery(where), slices.Concat(args, []any{most, false, false, false}), func(r *sql.Rows) error {
		i, err := scanInstance(r)
		if err != nil {
			return err
		}
		if same := known[i.ID]; same != nil {
			merge(same, i)
		} else {
			known[i.ID] = i
			out = append(out, i)
		}
		return nil
	})
	// Sorted here: MariaDB would need a temporary table, and half as much time
	// again, to sort what it joined.
	slices.SortFunc(out, func(a, b *trove.Instance) int { return strings.Compare(a.ID, b.ID) })
	for _, i := range out {
		slices.Sort(i.Replicas)
	}
	return out, err
}

// instanceQuery is that of instances. The page is cut first, as ids only: what
// engines sort and keep in between must be small. What follows is joined from
// the left, so that no engine begins with anything else.
func instanceQuery(where string) string {
	return "SELECT " + instanceColumns + " FROM (SELECT i.id FROM instances i WHERE " + where + ` ORDER BY i.id LIMIT ?) p
		LEFT JOIN instances i ON i.id = p.id
		LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id
		LEFT JOIN datastores d ON d.id = v.datastore_id
		LEFT JOIN observed o ON o.instance_id = i.id
		LEFT JOIN service_statuses s ON s.instance_id = i.id
		LEFT JOIN instance_faults f ON f.instance_id = i.id AND f.deleted = ?
		LEFT JOIN instances r ON r.slave_of_id = i.id AND r.deleted = ?
		LEFT JOIN backups b ON b.instance_id = i.id AND b.deleted = ? AND b.state IN ('NEW', 'BUILDING', 'SAVING')`
}

// merge takes what another row says of the same instance: it may have several
// replicas and, as no unique key forbids it, statuses and faults, of which the
// newest counts.
func merge(into, i *trove.Instance) {
	if i.ServiceUpdated.After(into.ServiceUpdated) {
		into.Service, into.ServiceUpdated = i.Service, i.ServiceUpdated
	}
	if i.Fault != nil && i.Fault.Created.After(into.Fault.Created) {
		into.Fault = i.Fault
	}
	if len(i.Replicas) > 0 && !slices.Contains(into.Replicas, i.Replicas[0]) {
		into.Replicas = append(into.Replicas, i.Replicas[0])
	}
	into.BackupRunning = into.BackupRunning || i.BackupRunning
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
		code                                           sql.NullInt64
		description, message, details                  sql.NullString
		reported, failed                               sql.NullTime
		replica, backup                                sql.NullString
	)
	if err := r.Scan(&i.ID, &name, &tenant, &host, &region, &flavor, &created, &updated,
		&task, &compute, &volume, &size, &conf,
		&replicaOf, &cluster, &shard, &typ, &access, &key,
		&vID, &vStore, &dName, &vName, &vNumber, &vManager, &vImage, &vTags, &vPackages,
		&vRegistry, &vStrategy, &vActive,
		&status, &addresses, &seen,
		&code, &description, &reported, &message, &details, &failed,
		&replica, &backup); err != nil {
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
	i.Service, i.ServiceUpdated = trove.ServiceStatus{Code: int(code.Int64), Description: description.String}, reported.Time.UTC()
	i.BackupRunning = backup.Valid
	if replica.Valid {
		i.Replicas = []string{replica.String}
	}
	if message.Valid {
		i.Fault = &trove.Fault{Message: message.String, Details: details.String, Created: failed.Time.UTC()}
	}
	var err error
	i.Server.Status, i.Server.SeenAt = status.String, fromMicros(seen.Int64)
	i.Server.Addresses, err = decodeAddresses(addresses.String)
	return &i, err
}
