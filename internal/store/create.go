package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// NewInstance is an instance to be made, what it costs of its project's quota,
// and the messages that set it going.
type NewInstance struct {
	// Instance gives ID, Name, TenantID, Hostname, RegionID, FlavorID, Task,
	// VolumeSize, ConfigurationID, ReplicaOf, ClusterID, ShardID, Type, Access,
	// EncryptedKey and Version.ID; the rest is not looked at.
	Instance *trove.Instance
	Cost     trove.QuotaDelta
	Limits   trove.QuotaDelta // for a project without limits of its own; trove.Unlimited for none
	Outbox   []OutboxRow
}

// CreateInstance writes the instance, its service status NEW, the charge to
// the quota and the messages, all or nothing. Errors: KindOverLimit naming each
// resource that does not suffice; KindNotFound if the instance to replicate is
// gone; KindBadRequest naming a field that is too long.
func (s *Store) CreateInstance(ctx context.Context, n NewInstance) error {
	i := n.Instance
	if err := fits(field{"id", i.ID, 36}, field{"name", i.Name, 255}, field{"project id", i.TenantID, 36},
		field{"hostname", i.Hostname, 255}, field{"region name", i.RegionID, 255}, field{"flavor", i.FlavorID, 255},
		field{"datastore version", i.Version.ID, 36}, field{"configuration", i.ConfigurationID, 36},
		field{"replica_of", i.ReplicaOf, 36}, field{"cluster id", i.ClusterID, 36}, field{"shard id", i.ShardID, 36},
		field{"type", i.Type, 64}, field{"instance key", i.EncryptedKey, 255}); err != nil {
		return err
	}
	access, err := encodeAccess(i.Access)
	if err != nil {
		return trove.Errorf(trove.KindInternal, "the access of instance %s cannot be stored: %w", i.ID, err)
	}
	now := s.now()
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if t.repeated {
			// Ids are made anew for each: one that is there was made by us.
			if found, _, err := t.lock(ctx, i.ID); err != nil || found {
				return err
			}
		}
		if i.ReplicaOf != "" {
			if err := t.replicable(ctx, i.ReplicaOf); err != nil {
				return err
			}
		}
		if err := t.charge(ctx, i.TenantID, n.Cost, n.Limits); err != nil {
			return err
		}
		var charges []any
		for _, r := range chargeOrder {
			if n.Cost[r] != 0 {
				charges = append(charges, i.ID, string(r), n.Cost[r])
			}
		}
		if len(charges) > 0 {
			if _, err := t.exec(ctx, s.d.insert("charges", len(charges)/3, []string{"instance_id", "resource", "amount"}), charges...); err != nil {
				return err
			}
		}
		if _, err := t.exec(ctx, `INSERT INTO instances (id, created, updated, name, hostname, task_id, task_description,
			flavor_id, volume_size, tenant_id, deleted, datastore_version_id, configuration_id, slave_of_id, cluster_id,
			shard_id, type, region_id, encrypted_key, access) VALUES (`+marks(20)+`)`,
			i.ID, now, now, i.Name, null(i.Hostname), int(i.Task), i.Task.Description(),
			i.FlavorID, sql.NullInt64{Int64: int64(i.VolumeSize), Valid: i.VolumeSize > 0}, i.TenantID, false,
			null(i.Version.ID), null(i.ConfigurationID), null(i.ReplicaOf), null(i.ClusterID),
			null(i.ShardID), null(i.Type), null(i.RegionID), null(i.EncryptedKey), access); err != nil {
			return err
		}
		if err := t.addService(ctx, i.ID, trove.ServiceNew); err != nil {
			return err
		}
		return t.insertOutbox(ctx, i.ID, n.Outbox)
	})
}

// replicable makes sure that a replica of an instance may be made, and lets
// nobody begin to delete it before.
func (t *tx) replicable(ctx context.Context, id string) error {
	if live, err := t.live(ctx, id); err != nil {
		return err
	} else if !live {
		return notFound(id)
	}
	var task int
	_, err := t.one(ctx, "SELECT task_id FROM instances WHERE id = ?", []any{id}, &task)
	switch {
	case err != nil:
		return err
	case trove.Task(task) == trove.TaskDeleting:
		return beingDeleted(id)
	}
	return nil
}

// RenameInstance sets the name.
func (s *Store) RenameInstance(ctx context.Context, id, name string) error {
	if err := fits(field{"name", name, 255}); err != nil {
		return err
	}
	return s.updateInstance(ctx, id, "name = ?", name)
}

// Resources are what an instance is made of in the cloud; nil stays as it is.
type Resources struct {
	ComputeID *string // the server
	VolumeID  *string
}

// SetResources records them.
func (s *Store) SetResources(ctx context.Context, id string, r Resources) error {
	var set []string
	var args []any
	for _, c := range []struct {
		column, name string
		value        *string
	}{{"compute_instance_id", "server id", r.ComputeID}, {"volume_id", "volume id", r.VolumeID}} {
		if c.value == nil {
			continue
		}
		if err := fits(field{c.name, *c.value, 36}); err != nil {
			return err
		}
		set, args = append(set, c.column+" = ?"), append(args, null(*c.value))
	}
	if len(set) == 0 {
		return nil
	}
	return s.updateInstance(ctx, id, strings.Join(set, ", "), args...)
}

// updateInstance changes columns of a live instance.
func (s *Store) updateInstance(ctx context.Context, id, set string, args ...any) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, "UPDATE instances SET updated = ?, "+set+" WHERE id = ? AND deleted = ?",
			append(append([]any{s.now()}, args...), id, false)...)
		if err == nil && n == 0 {
			return notFound(id)
		}
		return err
	})
}
