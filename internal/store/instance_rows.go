package store

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

const (
	shortColumns = `i.id, i.name, i.tenant_id, i.hostname, i.region_id, i.flavor_id, i.created, i.task_id, i.volume_size,
	i.slave_of_id, i.access, v.id, d.name, v.name, o.server_status, o.addresses,
	s.status_id, s.status_description, s.updated_at, r.id, b.id`
	restColumns = `, i.updated, i.compute_instance_id, i.volume_id, i.configuration_id, i.cluster_id, i.shard_id, i.type, i.encrypted_key,
	v.datastore_id, v.version, v.manager, v.image_id, v.image_tags, v.packages, v.registry_ext, v.repl_strategy, v.active,
	o.seen_at, f.message, f.details, f.updated`

	// What is joined is joined from the left, so that no engine begins with
	// anything but the instances.
	shortJoins = `
		LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id
		LEFT JOIN datastores d ON d.id = v.datastore_id
		LEFT JOIN observed o ON o.instance_id = i.id
		LEFT JOIN service_statuses s ON s.instance_id = i.id
		LEFT JOIN instances r ON r.slave_of_id = i.id AND r.deleted = ?
		LEFT JOIN backups b ON b.instance_id = i.id AND b.deleted = ? AND b.state IN ('NEW', 'BUILDING', 'SAVING')`
	restJoins = `
		LEFT JOIN instance_faults f ON f.instance_id = i.id AND f.deleted = ?`
)

// columns are those of instanceRow: the last is the clock that ages are told by.
func (d *dialect) columns(short bool) string {
	if short {
		return shortColumns + ", " + d.nowMicros
	}
	return shortColumns + restColumns + ", " + d.nowMicros
}

func (d *dialect) instanceQuery() string {
	return "SELECT " + d.columns(false) + " FROM instances i" + shortJoins + restJoins + " WHERE i.id = ? AND i.deleted = ?"
}

// page reads the first live instances after marker, in the order of ids, most of
// them at most.
func (c session) page(ctx context.Context, f InstanceFilter, marker string, most int) ([]*trove.Instance, error) {
	joined := []any{false, false}
	if !f.Short {
		joined = append(joined, false)
	}
	cut := []any{false, marker}
	if f.TenantID != "" {
		cut = append(cut, f.TenantID)
	}
	cut = append(cut, most)
	rows := newInstanceRows(c.s, f.Short)
	if c.s.d.byIndex != nil {
		err := c.each(ctx, c.s.d.pageQuery(f, true), slices.Concat(joined, cut), rows.scan)
		if err != nil || rows.n < most || len(rows.found) == most {
			return rows.complete(), err
		}
		// Some gave several rows, of which the last were cut off.
		rows = newInstanceRows(c.s, f.Short)
	}
	err := c.each(ctx, c.s.d.pageQuery(f, false), slices.Concat(cut, joined), rows.scan)
	return rows.complete(), err
}

// pageQuery is that of page. Joined at once, it ends after so many rows, not
// instances; it is for engines that can be told which index has the order:
// another would keep what it joined to sort it. Else the page is cut first, as
// ids only, which is little to keep.
func (d *dialect) pageQuery(f InstanceFilter, atOnce bool) string {
	columns, joins := d.columns(f.Short), shortJoins
	if !f.Short {
		joins += restJoins
	}
	where, index := "i.deleted = ? AND i.id > ?", "instances_page"
	if f.TenantID != "" {
		where, index = where+" AND i.tenant_id = ?", "instances_tenant_page"
	}
	if !f.IncludeClustered {
		where += " AND i.cluster_id IS NULL"
	}
	from := "instances i"
	if d.byIndex != nil {
		from += d.byIndex(index)
	}
	cut := " WHERE " + where + " ORDER BY i.id LIMIT ?"
	if atOnce {
		return "SELECT " + columns + " FROM " + from + joins + cut
	}
	return "SELECT " + columns + " FROM (SELECT i.id FROM " + from + cut + ") p LEFT JOIN instances i ON i.id = p.id" + joins
}

// instanceRows collects the instances that a query gives, each of which may be
// in several rows.
type instanceRows struct {
	s     *Store
	row   instanceRow
	into  []any // where the columns of a row go
	n     int   // rows
	known map[string]*trove.Instance
	found []*trove.Instance

	// The access of most instances reads like that of the one before.
	accessText string
	access     *trove.Access
}

// instanceRow is one row.
type instanceRow struct {
	id                                             string
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
	now                                            int64
}

func newInstanceRows(of *Store, short bool) *instanceRows {
	s := &instanceRows{s: of, known: map[string]*trove.Instance{}}
	r := &s.row
	s.into = []any{&r.id, &r.name, &r.tenant, &r.host, &r.region, &r.flavor, &r.created, &r.task, &r.size,
		&r.replicaOf, &r.access, &r.vID, &r.dName, &r.vName, &r.status, &r.addresses,
		&r.code, &r.description, &r.reported, &r.replica, &r.backup}
	if !short {
		s.into = append(s.into, &r.updated, &r.compute, &r.volume, &r.conf, &r.cluster, &r.shard, &r.typ, &r.key,
			&r.vStore, &r.vNumber, &r.vManager, &r.vImage, &r.vTags, &r.vPackages, &r.vRegistry, &r.vStrategy, &r.vActive,
			&r.seen, &r.message, &r.details, &r.failed)
	}
	s.into = append(s.into, &r.now)
	return s
}

func (s *instanceRows) scan(r *sql.Rows) error {
	if err := r.Scan(s.into...); err != nil {
		return err
	}
	s.n++
	i, err := s.row.instance()
	if s.row.reported.Valid {
		i.ServiceAge = s.s.serverTime(s.row.now).Sub(i.ServiceUpdated)
	}
	if err != nil {
		return err
	}
	if text := s.row.access.String; text != s.accessText {
		s.accessText, s.access = text, decodeAccess(text)
	}
	if s.access != nil {
		i.Access = &trove.Access{IsPublic: s.access.IsPublic, AllowedCIDRs: slices.Clone(s.access.AllowedCIDRs)}
	}
	if same := s.known[i.ID]; same != nil {
		merge(same, i)
	} else {
		s.known[i.ID] = i
		s.found = append(s.found, i)
	}
	return nil
}

// complete gives what was found, in the order of ids.
func (s *instanceRows) complete() []*trove.Instance {
	slices.SortFunc(s.found, func(a, b *trove.Instance) int { return strings.Compare(a.ID, b.ID) })
	for _, i := range s.found {
		slices.Sort(i.Replicas)
	}
	return s.found
}

// merge takes what another row says of the same instance: it may have several
// replicas and, as no unique key forbids it, statuses and faults, of which the
// newest counts.
func merge(into, i *trove.Instance) {
	if i.ServiceUpdated.After(into.ServiceUpdated) {
		into.Service, into.ServiceUpdated, into.ServiceAge = i.Service, i.ServiceUpdated, i.ServiceAge
	}
	if i.Fault != nil && i.Fault.Created.After(into.Fault.Created) {
		into.Fault = i.Fault
	}
	if len(i.Replicas) > 0 && !slices.Contains(into.Replicas, i.Replicas[0]) {
		into.Replicas = append(into.Replicas, i.Replicas[0])
	}
	into.BackupRunning = into.BackupRunning || i.BackupRunning
}

// instance is what the row tells of an instance, but for its access.
func (r *instanceRow) instance() (*trove.Instance, error) {
	i := &trove.Instance{
		ID: r.id, Name: r.name.String, TenantID: r.tenant.String, Hostname: r.host.String, RegionID: r.region.String, FlavorID: r.flavor.String,
		Created: r.created.Time.UTC(), Updated: r.updated.Time.UTC(), Task: trove.Task(r.task.Int64), ComputeID: r.compute.String,
		VolumeID: r.volume.String, VolumeSize: int(r.size.Int64), ConfigurationID: r.conf.String, ReplicaOf: r.replicaOf.String,
		ClusterID: r.cluster.String, ShardID: r.shard.String, Type: r.typ.String, EncryptedKey: r.key.String,
		Service:        trove.ServiceStatus{Code: int(r.code.Int64), Description: r.description.String},
		ServiceUpdated: r.reported.Time.UTC(), ServiceAge: math.MaxInt64, BackupRunning: r.backup.Valid,
	}
	if r.vID.Valid {
		i.Version = trove.DatastoreVersion{
			ID: r.vID.String, DatastoreID: r.vStore.String, DatastoreName: r.dName.String,
			Name: r.vName.String, Number: r.vNumber.String, Manager: r.vManager.String,
			ImageID: r.vImage.String, ImageTags: list(r.vTags.String), Packages: list(r.vPackages.String),
			RegistryExt: r.vRegistry.String, ReplStrategy: r.vStrategy.String, Active: r.vActive.Bool,
		}
	}
	if r.replica.Valid {
		i.Replicas = []string{r.replica.String}
	}
	if r.message.Valid {
		i.Fault = &trove.Fault{Message: r.message.String, Details: r.details.String, Created: r.failed.Time.UTC()}
	}
	var err error
	i.Server.Status, i.Server.SeenAt = r.status.String, fromMicros(r.seen.Int64)
	i.Server.Addresses, err = decodeAddresses(r.addresses.String)
	return i, err
}
