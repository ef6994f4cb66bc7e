-- OpenStack Trove's own schema at its head revision, 95418fe2a1c8: names,
-- types and keys as its migrations leave them. On a database that Trove made,
-- this file is recorded as applied and not run. Nothing here may ever change:
-- what gotrove adds goes into later files.

-- +goose Up
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version (version_num) VALUES ('95418fe2a1c8');

CREATE TABLE service_images (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    service_name VARCHAR(255),
    image_id VARCHAR(255)
);

CREATE TABLE service_statuses (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(36) NOT NULL,
    status_id INTEGER NOT NULL,
    status_description VARCHAR(64) NOT NULL,
    updated_at TIMESTAMP
);
CREATE INDEX service_statuses_instance_id ON service_statuses (instance_id);

CREATE TABLE root_enabled_history (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    "user" VARCHAR(255),
    created TIMESTAMP,
    deleted_at TIMESTAMP
);

CREATE TABLE agent_heartbeats (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(36) NOT NULL,
    guest_agent_version VARCHAR(255),
    deleted BOOLEAN,
    deleted_at TIMESTAMP,
    updated_at TIMESTAMP NOT NULL
);
CREATE UNIQUE INDEX ix_agent_heartbeats_instance_id ON agent_heartbeats (instance_id);
CREATE INDEX ix_agent_heartbeats_guest_agent_version ON agent_heartbeats (guest_agent_version);
CREATE INDEX ix_agent_heartbeats_deleted ON agent_heartbeats (deleted);

CREATE TABLE dns_records (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    record_id VARCHAR(64)
);

CREATE TABLE usage_events (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    instance_name VARCHAR(36),
    tenant_id VARCHAR(36),
    nova_instance_id VARCHAR(36),
    instance_size INTEGER,
    nova_volume_id VARCHAR(36),
    volume_size INTEGER,
    end_time TIMESTAMP,
    updated TIMESTAMP
);

CREATE TABLE quotas (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created TIMESTAMP,
    updated TIMESTAMP,
    tenant_id VARCHAR(36),
    resource VARCHAR(255) NOT NULL,
    hard_limit INTEGER,
    UNIQUE (tenant_id, resource)
);

CREATE TABLE quota_usages (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created TIMESTAMP,
    updated TIMESTAMP,
    tenant_id VARCHAR(36),
    in_use INTEGER,
    reserved INTEGER,
    resource VARCHAR(255) NOT NULL,
    UNIQUE (tenant_id, resource)
);

CREATE TABLE reservations (
    created TIMESTAMP,
    updated TIMESTAMP,
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    usage_id VARCHAR(36),
    delta INTEGER NOT NULL,
    status VARCHAR(36)
);

CREATE TABLE security_groups (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255),
    description VARCHAR(255),
    "user" VARCHAR(255),
    tenant_id VARCHAR(255),
    created TIMESTAMP,
    updated TIMESTAMP,
    deleted BOOLEAN,
    deleted_at TIMESTAMP
);

CREATE TABLE security_group_rules (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    group_id VARCHAR(36) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE,
    parent_group_id VARCHAR(36) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE,
    protocol VARCHAR(255),
    from_port INTEGER,
    to_port INTEGER,
    cidr VARCHAR(255),
    created TIMESTAMP,
    updated TIMESTAMP,
    deleted BOOLEAN,
    deleted_at TIMESTAMP
);

CREATE TABLE datastores (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) UNIQUE,
    default_version_id VARCHAR(36)
);

CREATE TABLE datastore_versions (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_id VARCHAR(36) REFERENCES datastores (id),
    name VARCHAR(255),
    image_id VARCHAR(36),
    packages VARCHAR(511),
    active BOOLEAN NOT NULL,
    manager VARCHAR(255),
    image_tags VARCHAR(255),
    version VARCHAR(255),
    registry_ext TEXT NOT NULL DEFAULT '',
    repl_strategy TEXT NOT NULL DEFAULT '',
    CONSTRAINT ds_versions UNIQUE (datastore_id, name, version)
);

CREATE TABLE configurations (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    description VARCHAR(256),
    tenant_id VARCHAR(36) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL,
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP,
    created TIMESTAMP,
    updated TIMESTAMP
);

CREATE TABLE configuration_parameters (
    configuration_id VARCHAR(36) NOT NULL REFERENCES configurations (id),
    configuration_key VARCHAR(128) NOT NULL,
    configuration_value VARCHAR(128),
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP,
    PRIMARY KEY (configuration_id, configuration_key)
);

CREATE TABLE conductor_lastseen (
    instance_id VARCHAR(36) NOT NULL,
    method_name VARCHAR(36) NOT NULL,
    sent FLOAT(32),
    PRIMARY KEY (instance_id, method_name)
);

CREATE TABLE capabilities (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) UNIQUE,
    description VARCHAR(255) NOT NULL,
    enabled BOOLEAN
);

CREATE TABLE capability_overrides (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_version_id VARCHAR(36) REFERENCES datastore_versions (id),
    capability_id VARCHAR(36) REFERENCES capabilities (id),
    enabled BOOLEAN,
    CONSTRAINT idx_datastore_capabilities_enabled UNIQUE (datastore_version_id, capability_id)
);

CREATE TABLE backups (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    description VARCHAR(512),
    location VARCHAR(1024),
    backup_type VARCHAR(32),
    size REAL,
    tenant_id VARCHAR(36),
    state VARCHAR(32) NOT NULL,
    instance_id VARCHAR(36),
    checksum VARCHAR(32),
    backup_timestamp TIMESTAMP,
    deleted BOOLEAN,
    created TIMESTAMP,
    updated TIMESTAMP,
    deleted_at TIMESTAMP,
    parent_id VARCHAR(36),
    datastore_version_id VARCHAR(36),
    storage_driver TEXT,
    CONSTRAINT backups_ibfk_1 FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id)
);
CREATE INDEX backups_instance_id ON backups (instance_id);
CREATE INDEX backups_deleted ON backups (deleted);

CREATE TABLE clusters (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created TIMESTAMP NOT NULL,
    updated TIMESTAMP NOT NULL,
    name VARCHAR(255) NOT NULL,
    task_id INTEGER NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL,
    deleted BOOLEAN,
    deleted_at TIMESTAMP,
    configuration_id VARCHAR(36),
    CONSTRAINT clusters_ibfk_1 FOREIGN KEY (datastore_version_id) REFERENCES datastore_versions (id),
    CONSTRAINT clusters_ibfk_2 FOREIGN KEY (configuration_id) REFERENCES configurations (id)
);
CREATE INDEX clusters_tenant_id ON clusters (tenant_id);
CREATE INDEX clusters_deleted ON clusters (deleted);

CREATE TABLE instances (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    created TIMESTAMP,
    updated TIMESTAMP,
    name VARCHAR(255),
    hostname VARCHAR(255),
    compute_instance_id VARCHAR(36),
    task_id INTEGER,
    task_description VARCHAR(255),
    task_start_time TIMESTAMP,
    volume_id VARCHAR(36),
    flavor_id VARCHAR(255),
    volume_size INTEGER,
    tenant_id VARCHAR(36),
    server_status VARCHAR(64),
    deleted BOOLEAN,
    deleted_at TIMESTAMP,
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
    CONSTRAINT instances_ibfk_4 FOREIGN KEY (cluster_id) REFERENCES clusters (id)
);
CREATE INDEX instances_tenant_id ON instances (tenant_id);
CREATE INDEX instances_deleted ON instances (deleted);
CREATE INDEX instances_cluster_id ON instances (cluster_id);

CREATE TABLE security_group_instance_associations (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    security_group_id VARCHAR(36) REFERENCES security_groups (id) ON DELETE CASCADE ON UPDATE CASCADE,
    instance_id VARCHAR(36) REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE,
    created TIMESTAMP,
    updated TIMESTAMP,
    deleted BOOLEAN,
    deleted_at TIMESTAMP
);

CREATE TABLE datastore_configuration_parameters (
    id VARCHAR(36) NOT NULL,
    name VARCHAR(128) NOT NULL,
    datastore_version_id VARCHAR(36) NOT NULL REFERENCES datastore_versions (id),
    restart_required BOOLEAN NOT NULL,
    max_size VARCHAR(40),
    min_size VARCHAR(40),
    data_type VARCHAR(128) NOT NULL,
    PRIMARY KEY (id, name, datastore_version_id),
    CONSTRAINT "UQ_datastore_configuration_parameters_datastore_version_id_name" UNIQUE (datastore_version_id, name)
);

CREATE TABLE datastore_version_metadata (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    datastore_version_id VARCHAR(36) REFERENCES datastore_versions (id) ON DELETE CASCADE,
    "key" VARCHAR(128) NOT NULL,
    value VARCHAR(128),
    created TIMESTAMP NOT NULL,
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP,
    updated_at TIMESTAMP,
    CONSTRAINT "UQ_datastore_version_metadata_datastore_version_id_key_value" UNIQUE (datastore_version_id, "key", value)
);

CREATE TABLE modules (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    type VARCHAR(255) NOT NULL,
    contents TEXT NOT NULL,
    description VARCHAR(255),
    tenant_id VARCHAR(64),
    datastore_id VARCHAR(64),
    datastore_version_id VARCHAR(64),
    auto_apply BOOLEAN NOT NULL,
    visible BOOLEAN NOT NULL DEFAULT TRUE,
    live_update BOOLEAN NOT NULL,
    md5 VARCHAR(32) NOT NULL,
    created TIMESTAMP NOT NULL,
    updated TIMESTAMP NOT NULL,
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP,
    priority_apply BOOLEAN,
    apply_order INTEGER DEFAULT 5,
    is_admin BOOLEAN,
    CONSTRAINT "UQ_type_tenant_datastore_datastore_version_name"
        UNIQUE (type, tenant_id, datastore_id, datastore_version_id, name, deleted_at)
);

CREATE TABLE instance_modules (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(64) NOT NULL REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE,
    module_id VARCHAR(64) NOT NULL REFERENCES modules (id) ON DELETE CASCADE ON UPDATE CASCADE,
    md5 VARCHAR(32) NOT NULL,
    created TIMESTAMP NOT NULL,
    updated TIMESTAMP NOT NULL,
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP
);

CREATE TABLE instance_faults (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    instance_id VARCHAR(64) NOT NULL REFERENCES instances (id) ON DELETE CASCADE ON UPDATE CASCADE,
    message VARCHAR(255) NOT NULL,
    details TEXT NOT NULL,
    created TIMESTAMP NOT NULL,
    updated TIMESTAMP NOT NULL,
    deleted BOOLEAN NOT NULL,
    deleted_at TIMESTAMP
);

CREATE TABLE backup_strategy (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    tenant_id VARCHAR(36) NOT NULL,
    instance_id VARCHAR(36) NOT NULL DEFAULT '',
    backend VARCHAR(255) NOT NULL,
    swift_container VARCHAR(255),
    created TIMESTAMP,
    CONSTRAINT "UQ_backup_strategy_tenant_id_instance_id" UNIQUE (tenant_id, instance_id)
);
CREATE INDEX backup_strategy_tenant_id_instance_id ON backup_strategy (tenant_id, instance_id);
