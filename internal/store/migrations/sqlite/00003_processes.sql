-- What several processes of each role on one database need.

-- +goose Up
-- Leases by name: what only one process at a time may do.
CREATE TABLE leases (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    owner VARCHAR(64) NOT NULL,
    expires BIGINT NOT NULL
);

-- A row of the outbox belongs to who claimed it until next_at; then, or if
-- nobody has, next_at says when it is published again.
ALTER TABLE outbox ADD COLUMN claimed_by VARCHAR(64) NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN published_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX outbox_subject;
CREATE INDEX outbox_order ON outbox (subject, topic, seq);
CREATE INDEX outbox_claimed ON outbox (claimed_by);

-- The subject of work that has begun and is not finished, else NULL: however
-- many processes lease at once, one piece of work on a subject runs.
ALTER TABLE work ADD COLUMN begun_on VARCHAR(36);
CREATE UNIQUE INDEX work_begun ON work (begun_on);
