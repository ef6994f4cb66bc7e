-- gotrove's own tables beside the original's. Times are Unix microseconds.

-- +goose Up
-- Work: one row per operation that must be carried through (package work).
CREATE TABLE work (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    kind VARCHAR(64) NOT NULL,
    subject VARCHAR(36) NOT NULL,
    request_id VARCHAR(64) UNIQUE,       -- unique id of the message that asked; NULL for children
    rpc_context TEXT NOT NULL DEFAULT '',
    step VARCHAR(64) NOT NULL,
    state TEXT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,   -- fences every write of the worker
    lease_owner VARCHAR(255) NOT NULL DEFAULT '',
    lease_until BIGINT NOT NULL DEFAULT 0,
    run_at BIGINT NOT NULL,
    deadline_at BIGINT NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    wakes BIGINT NOT NULL DEFAULT 0,     -- rises when something happened that a sleeping step waits for
    parent VARCHAR(36),
    wish VARCHAR(16) NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    action TEXT NOT NULL DEFAULT '',
    outcome VARCHAR(16) NOT NULL,        -- pending, running, done, failed, cancelled
    created BIGINT NOT NULL,
    ended BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX work_due ON work (outcome, run_at);
CREATE INDEX work_subject ON work (subject, outcome);
CREATE INDEX work_parent ON work (parent);

-- What people watch of the work, in the order it happened.
CREATE TABLE work_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    work_id VARCHAR(36) NOT NULL,
    subject VARCHAR(36) NOT NULL,
    kind VARCHAR(64) NOT NULL,
    step VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    at BIGINT NOT NULL,
    message TEXT NOT NULL DEFAULT '',
    progress_done BIGINT,
    progress_total BIGINT,
    progress_unit VARCHAR(16) NOT NULL DEFAULT '',
    cause TEXT NOT NULL DEFAULT '',
    action TEXT NOT NULL DEFAULT ''
);
CREATE INDEX work_events_subject ON work_events (subject, seq);
CREATE INDEX work_events_work ON work_events (work_id, seq);

-- Messages that must arrive: written with the change of state that caused
-- them, published again and again until the receiver has them.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(64) NOT NULL UNIQUE,      -- _unique_id of the message
    topic VARCHAR(255) NOT NULL,
    method VARCHAR(64) NOT NULL,
    subject VARCHAR(36) NOT NULL,        -- the instance it is about, '' if none
    instance_id VARCHAR(36) NOT NULL,    -- the guest that must acknowledge, '' if none
    body BLOB NOT NULL,                  -- holds passwords: never log it
    created BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, -- 0: never published yet
    deadline BIGINT NOT NULL             -- 0: never given up
);
CREATE INDEX outbox_due ON outbox (next_at);
CREATE INDEX outbox_subject ON outbox (subject);

-- What was last seen of each live instance's server.
CREATE TABLE observed (
    instance_id VARCHAR(36) NOT NULL PRIMARY KEY,
    server_status VARCHAR(64) NOT NULL,
    addresses TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- What each live instance was charged of its project's quota, so that exactly
-- that is given back.
CREATE TABLE charges (
    instance_id VARCHAR(36) NOT NULL,
    resource VARCHAR(255) NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (instance_id, resource)
);

-- What lists and shows look up. Without these a show reads every instance and
-- every fault there ever was.
CREATE INDEX instances_page ON instances (deleted, id);
CREATE INDEX instances_tenant_page ON instances (tenant_id, deleted, id);
CREATE INDEX instances_replicas ON instances (slave_of_id, deleted);
CREATE INDEX instance_faults_instance ON instance_faults (instance_id, deleted);
CREATE INDEX backups_of_instance ON backups (instance_id, deleted);
