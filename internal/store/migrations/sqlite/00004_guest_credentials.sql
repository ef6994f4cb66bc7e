-- The credentials of guest agents: login and key of each instance.

-- +goose Up
-- Generation 0 is what the user data carried, and needs no row. Logins and
-- passwords are derived from the generation; the key that counts is in
-- instances.encrypted_key, the one that is to replace it is here.
CREATE TABLE guest_credentials (
    instance_id VARCHAR(36) NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,            -- of the credentials that count
    pending INTEGER NOT NULL DEFAULT 0,     -- of those that are to replace them, 0 if none are
    pending_key VARCHAR(255) NOT NULL DEFAULT '' -- encrypted like instances.encrypted_key
);
