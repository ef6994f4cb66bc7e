-- What several processes of each role on one database need.

-- +goose Up
-- Leases by name: what only one process at a time may do.
CREATE TABLE IF NOT EXISTS leases (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    owner VARCHAR(64) NOT NULL,
    expires BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {{exact}};

-- A row of the outbox belongs to who claimed it until next_at; then, or if
-- nobody has, next_at says when it is published again.
SET @missing = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'outbox' AND column_name = 'claimed_by');
SET @statement = IF(@missing, 'ALTER TABLE outbox ADD COLUMN claimed_by VARCHAR(64) NOT NULL DEFAULT "", ADD COLUMN published_at BIGINT NOT NULL DEFAULT 0, DROP INDEX outbox_subject, ADD INDEX outbox_order (subject, topic, seq), ADD INDEX outbox_claimed (claimed_by)', 'DO 0');
PREPARE conditional FROM @statement;
EXECUTE conditional;
DEALLOCATE PREPARE conditional;

-- The subject of work that has begun and is not finished, else NULL: however
-- many processes lease at once, one piece of work on a subject runs.
SET @missing = (SELECT COUNT(*) = 0 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'work' AND column_name = 'begun_on');
SET @statement = IF(@missing, 'ALTER TABLE work ADD COLUMN begun_on {{id}}, ADD UNIQUE INDEX work_begun (begun_on)', 'DO 0');
PREPARE conditional FROM @statement;
EXECUTE conditional;
DEALLOCATE PREPARE conditional;
