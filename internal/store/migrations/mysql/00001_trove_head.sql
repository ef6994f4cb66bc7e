-- OpenStack Trove's own schema at its head revision, 95418fe2a1c8: names,
-- types and keys as its migrations leave them. On a database that Trove made,
-- this file is recorded as applied and not run. Nothing here may ever change:
-- what gotrove adds goes into later files. No statement of it minds that it was
-- run before: here a migration that is cut off is not taken back.

-- +goose Up
CREATE TABLE IF NOT EXISTS service_images (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    service_name VARCHAR(255),
    image_id VARCHAR(255)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS service_statuses (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(36) NOT NULL,
    status_id INTEGER NOT NULL,
    status_description VARCHAR(64) NOT NULL,
    updated_at DATETIME,
    KEY service_statuses_instance_id (instance_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS root_enabled_history (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    `user` VARCHAR(255),
    created DATETIME,
    deleted_at DATETIME
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS agent_heartbeats (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(36) NOT NULL,
    guest_agent_version VARCHAR(255),
    deleted TINYINT(1),
    deleted_at DATETIME,
    updated_at DATETIME NOT NULL,
    UNIQUE KEY ix_agent_heartbeats_instance_id (instance_id),
    KEY ix_agent_heartbeats_guest_agent_version (guest_agent_version),
    KEY ix_agent_heartbeats_deleted (deleted)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS dns_records (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    record_id VARCHAR(64)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS usage_events (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_name VARCHAR(36),
    tenant_id VARCHAR(36),
    nova_instance_id VARCHAR(36),
    instance_size INTEGER,
    nova_volume_id VARCHAR(36),
    volume_size INTEGER,
    end_time DATETIME,
    updated DATETIME
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS quotas (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created DATETIME,
    updated DATETIME,
    tenant_id VARCHAR(36),
    resource VARCHAR(255) NOT NULL,
    hard_limit INTEGER,
    UNIQUE (tenant_id, resource)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS quota_usages (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created DATETIME,
    updated DATETIME,
    tenant_id VARCHAR(36),
    in_use INTEGER,
    reserved INTEGER,
    resource VARCHAR(255) NOT NULL,
    UNIQUE (tenant_id, resource)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS reservations (
    created DATETIME,
    updated DATETIME,
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    usage_id VARCHAR(36),
    delta INTEGER NOT NULL,
    status VARCHAR(36)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS security_groups (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255),
    description VARCHAR(255),
    `user` VARCHAR(255),
    tenant_id VARCHAR(255),
    created DATETIME,
    updated DATETIME,
    deleted TINYINT(1),
    deleted_at DATETIME
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS security_group_rules (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    group_id VARCHAR(36),
    parent_group_id VARCHAR(36),
    protocol VARCHAR(255),
    from_port INTEGER,
    to_port INTEGER,
    cidr VARCHAR(255),
    created DATETIME,
    updated DATETIME,
    deleted TINYINT(1),
    deleted_at DATETIME,
    FOREIGN KEY (group_id) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (parent_group_id) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS datastores (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) UNIQUE,
    default_version_id VARCHAR(36)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS datastore_versions (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_id VARCHAR(36),
    name VARCHAR(255),
    image_id VARCHAR(36),
    packages VARCHAR(511),
    active TINYINT(1) NOT NULL,
    manager VARCHAR(255),
    image_tags VARCHAR(255),
    version VARCHAR(255),
    registry_ext TEXT NOT NULL,
    repl_strategy TEXT NOT NULL,
    CONSTRAINT ds_versions UNIQUE (datastore_id, name, version),
    FOREIGN KEY (datastore_id) REFERENCES datastores (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS configurations (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    description VARCHAR(256),
    tenant_id VARCHAR(36) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL,
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    created DATETIME,
    updated DATETIME
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS configuration_parameters (
    configuration_id VARCHAR(36) NOT NULL,
    configuration_key VARCHAR(128) NOT NULL,
    configuration_value VARCHAR(128),
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    PRIMARY KEY (configuration_id, configuration_key),
    FOREIGN KEY (configuration_id) REFERENCES configurations (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS conductor_lastseen (
    instance_id VARCHAR(36) NOT NULL,
    method_name VARCHAR(36) NOT NULL,
    sent FLOAT(32),
    PRIMARY KEY (instance_id, method_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS capabilities (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) UNIQUE,
    description VARCHAR(255) NOT NULL,
    enabled TINYINT(1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS capability_overrides (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_version_id VARCHAR(36),
    capability_id VARCHAR(36),
    enabled TINYINT(1),
    CONSTRAINT idx_datastore_capabilities_enabled UNIQUE (datastore_version_id, capability_id),
    FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id),
    FOREIGN KEY (capability_id) REFERENCES capabilities (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS backups (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    description VARCHAR(512),
    location VARCHAR(1024),
    backup_type VARCHAR(32),
    size FLOAT,
    tenant_id VARCHAR(36),
    state VARCHAR(32) NOT NULL,
    instance_id VARCHAR(36),
    checksum VARCHAR(32),
    backup_timestamp DATETIME,
    deleted TINYINT(1),
    created DATETIME,
    updated DATETIME,
    deleted_at DATETIME,
    parent_id VARCHAR(36),
    datastore_version_id VARCHAR(36),
    storage_driver TEXT,
    CONSTRAINT backups_ibfk_1 FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id),
    KEY backups_instance_id (instance_id),
    KEY backups_deleted (deleted)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS clusters (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created DATETIME NOT NULL,
    updated DATETIME NOT NULL,
    name VARCHAR(255) NOT NULL,
    task_id INTEGER NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL,
    deleted TINYINT(1),
    deleted_at DATETIME,
    configuration_id VARCHAR(36),
    CONSTRAINT clusters_ibfk_1 FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id),
    CONSTRAINT clusters_ibfk_2 FOREIGN KEY (configuration_id) REFERENCES configurations (id),
    KEY clusters_tenant_id (tenant_id),
    KEY clusters_deleted (deleted)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS instances (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created DATETIME,
    updated DATETIME,
    name VARCHAR(255),
    hostname VARCHAR(255),
    compute_instance_id VARCHAR(36),
    task_id INTEGER,
    task_description VARCHAR(255),
    task_start_time DATETIME,
    volume_id VARCHAR(36),
    flavor_id VARCHAR(255),
    volume_size INTEGER,
    tenant_id VARCHAR(36),
    server_status VARCHAR(64),
    deleted TINYINT(1),
    deleted_at DATETIME,
    datastore_version_id VARCHAR(36),
    configuration_id VARCHAR(36),
    slave_of_id VARCHAR(36),
    cluster_id VARCHAR(36),
    shard_id VARCHAR(36),
    type VARCHAR(64),
    region_id VARCHAR(255),
    encrypted_key VARCHAR(255),
    access TEXT,
    ssl_mode VARCHAR(16),
    ssl_ref TEXT,
    CONSTRAINT instances_ibfk_1 FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id),
    CONSTRAINT instances_ibfk_2 FOREIGN KEY (configuration_id) REFERENCES configurations (id),
    CONSTRAINT instances_ibfk_3 FOREIGN KEY (slave_of_id) REFERENCES instances (id),
    CONSTRAINT instances_ibfk_4 FOREIGN KEY (cluster_id) REFERENCES clusters (id),
    KEY instances_tenant_id (tenant_id),
    KEY instances_deleted (deleted),
    KEY instances_cluster_id (cluster_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS security_group_instance_associations (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    security_group_id VARCHAR(36),
    instance_id VARCHAR(36),
    created DATETIME,
    updated DATETIME,
    deleted TINYINT(1),
    deleted_at DATETIME,
    FOREIGN KEY (security_group_id) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (instance_id) REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS datastore_configuration_parameters (
    id VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL,
    restart_required TINYINT(1) NOT NULL,
    max_size VARCHAR(40),
    min_size VARCHAR(40),
    data_type VARCHAR(128) NOT NULL,
    PRIMARY KEY (id, name, datastore_version_id),
    CONSTRAINT `UQ_datastore_configuration_parameters_datastore_version_id_name` UNIQUE (datastore_version_id, name),
    FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS datastore_version_metadata (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_version_id VARCHAR(36),
    `key` VARCHAR(128) NOT NULL,
    value VARCHAR(128),
    created DATETIME NOT NULL,
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    updated_at DATETIME,
    CONSTRAINT `UQ_datastore_version_metadata_datastore_version_id_key_value` UNIQUE (datastore_version_id, `key`, value),
    FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS modules (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    type VARCHAR(255) NOT NULL,
    contents LONGTEXT NOT NULL,
    description VARCHAR(255),
    tenant_id VARCHAR(64),
    datastore_id VARCHAR(64),
    datastore_version_id VARCHAR(64),
    auto_apply TINYINT(1) NOT NULL,
    visible TINYINT(1) NOT NULL DEFAULT 1,
    live_update TINYINT(1) NOT NULL,
    md5 VARCHAR(32) NOT NULL,
    created DATETIME NOT NULL,
    updated DATETIME NOT NULL,
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    priority_apply TINYINT(1),
    apply_order INTEGER DEFAULT 5,
    is_admin TINYINT(1),
    CONSTRAINT `UQ_type_tenant_datastore_datastore_version_name`
        UNIQUE (type, tenant_id, datastore_id, datastore_version_id, name, deleted_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS instance_modules (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(64) NOT NULL,
    module_id VARCHAR(64) NOT NULL,
    md5 VARCHAR(32) NOT NULL,
    created DATETIME NOT NULL,
    updated DATETIME NOT NULL,
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    FOREIGN KEY (instance_id) REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE,
    FOREIGN KEY (module_id) REFERENCES modules (id) ON DELETE CASCADE ON UPDATE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS instance_faults (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(64) NOT NULL,
    message VARCHAR(255) NOT NULL,
    details TEXT NOT NULL,
    created DATETIME NOT NULL,
    updated DATETIME NOT NULL,
    deleted TINYINT(1) NOT NULL,
    deleted_at DATETIME,
    FOREIGN KEY (instance_id) REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

CREATE TABLE IF NOT EXISTS backup_strategy (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL DEFAULT '',
    backend VARCHAR(255) NOT NULL,
    swift_container VARCHAR(255),
    created DATETIME,
    CONSTRAINT `UQ_backup_strategy_tenant_id_instance_id` UNIQUE (tenant_id, instance_id),
    KEY backup_strategy_tenant_id_instance_id (tenant_id, instance_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- Last: a database with this stamp has all the tables.
CREATE TABLE IF NOT EXISTS alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};
INSERT IGNORE INTO alembic_version (version_num) VALUES ('95418fe2a1c8');
