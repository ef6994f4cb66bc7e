package store

import (
	"context"
	"slices"

	"github.com/gotrove/gotrove/internal/trove"
)

// originalTables are those of the original's schema, what is referred to first.
var originalTables = []string{
	"service_images", "service_statuses", "root_enabled_history", "agent_heartbeats", "dns_records", "usage_events",
	"quotas", "quota_usages", "reservations", "security_groups", "security_group_rules", "datastores", "datastore_versions",
	"configurations", "configuration_parameters", "conductor_lastseen", "capabilities", "capability_overrides", "backups",
	"clusters", "instances", "security_group_instance_associations", "datastore_configuration_parameters",
	"datastore_version_metadata", "modules", "instance_modules", "instance_faults", "backup_strategy",
}

// ownTables are ours.
var ownTables = []string{"work", "work_events", "outbox", "observed", "charges", "leases", "guest_credentials"}

// versionTables say how far a schema is.
var versionTables = []string{"alembic_version", versionTable}

// numberedTables have a column seq that the database counts up.
var numberedTables = []string{"work_events", "outbox"}

// Wipe drops every table, ours and the original's, with all that is in them;
// others in the same database stay. What is gone already is no error.
func (s *Store) Wipe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	unlock, err := s.lockSchema(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all := slices.Concat(versionTables, originalTables, ownTables)
	slices.Reverse(all)
	for _, table := range all {
		if _, err := s.writer.ExecContext(ctx, "DROP TABLE IF EXISTS "+table); err != nil {
			return trove.Errorf(trove.KindUnavailable, "The table %s cannot be dropped: %w", table, s.classify(err, "DROP TABLE "+table)).
				WithAction("Look whether a table that is not Trove's refers to it, and run this again.")
		}
	}
	return nil
}
