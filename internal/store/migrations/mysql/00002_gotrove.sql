-- gotrove's own tables beside the original's. Times are Unix microseconds.

-- +goose Up
-- Work: one row per operation that must be carried through (package work).
CREATE TABLE IF NOT EXISTS work (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    kind VARCHAR(64) NOT NULL,
    subject {{id}} NOT NULL,
    request_id VARCHAR(64) UNIQUE,       -- unique id of the message that asked; NULL for children
    rpc_context MEDIUMTEXT NOT NULL DEFAULT (''),
    step VARCHAR(64) NOT NULL,
    state LONGTEXT NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,   -- fences every write of the worker
    lease_owner VARCHAR(255) NOT NULL DEFAULT '',
    lease_until BIGINT NOT NULL DEFAULT 0,
    run_at BIGINT NOT NULL,
    deadline_at BIGINT NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    wakes BIGINT NOT NULL DEFAULT 0,     -- rises when something happened that a sleeping step waits for
    parent VARCHAR(36),
    wish VARCHAR(16) NOT NULL DEFAULT '',
    error MEDIUMTEXT NOT NULL DEFAULT (''),
    action MEDIUMTEXT NOT NULL DEFAULT (''),
    outcome VARCHAR(16) NOT NULL,        -- pending, running, done, failed, cancelled
    created BIGINT NOT NULL,
    ended BIGINT NOT NULL DEFAULT 0,
    KEY work_due (outcome, run_at),
    KEY work_subject (subject, outcome),
    KEY work_parent (parent)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- What people watch of the work, in the order it happened.
CREATE TABLE IF NOT EXISTS work_events (
    seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    work_id VARCHAR(36) NOT NULL,
    subject {{id}} NOT NULL,
    kind VARCHAR(64) NOT NULL,
    step VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    at BIGINT NOT NULL,
    message MEDIUMTEXT NOT NULL DEFAULT (''),
    progress_done BIGINT,
    progress_total BIGINT,
    progress_unit VARCHAR(16) NOT NULL DEFAULT '',
    cause MEDIUMTEXT NOT NULL DEFAULT (''),
    action MEDIUMTEXT NOT NULL DEFAULT (''),
    KEY work_events_subject (subject, seq),
    KEY work_events_work (work_id, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- Messages that must arrive: written with the change of state that caused
-- them, published again and again until the receiver has them.
CREATE TABLE IF NOT EXISTS outbox (
    seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    id VARCHAR(64) NOT NULL UNIQUE,      -- _unique_id of the message
    topic VARCHAR(255) NOT NULL,
    method VARCHAR(64) NOT NULL,
    subject {{id}} NOT NULL,             -- the instance it is about, '' if none
    instance_id {{id}} NOT NULL,         -- the guest that must acknowledge, '' if none
    body LONGBLOB NOT NULL,              -- holds passwords: never log it
    created BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, -- 0: never published yet
    deadline BIGINT NOT NULL,            -- 0: never given up
    KEY outbox_due (next_at),
    KEY outbox_subject (subject)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- What was last seen of each live instance's server.
CREATE TABLE IF NOT EXISTS observed (
    instance_id {{id}} NOT NULL PRIMARY KEY,
    server_status VARCHAR(64) NOT NULL,
    addresses MEDIUMTEXT NOT NULL,
    seen_at BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- What each live instance was charged of its project's quota, so that exactly
-- that is given back.
CREATE TABLE IF NOT EXISTS charges (
    instance_id {{id}} NOT NULL,
    resource VARCHAR(255) NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (instance_id, resource)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- What lists look up; MySQL itself makes indexes for foreign keys. There is no
-- one statement for all servers that leaves alone an index that is there.
SET @missing = (SELECT COUNT(*) = 0 FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'instances' AND index_name = 'instances_tenant_page');
SET @statement = IF(@missing, 'ALTER TABLE instances ADD INDEX instances_page (deleted, id), ADD INDEX instances_tenant_page (tenant_id, deleted, id)', 'DO 0');
PREPARE conditional FROM @statement;
EXECUTE conditional;
DEALLOCATE PREPARE conditional;
