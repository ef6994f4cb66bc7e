package store

import (
	"context"
	"database/sql"
)

// GuestCredentials say which generation of an instance's login and key counts.
// The key that counts is the instance's EncryptedKey.
type GuestCredentials struct {
	Generation int // 0: what the user data carried
	// Pending is the generation that is to replace it, 0 if none is. Until the
	// agent has spoken under it, both are good.
	Pending    int
	PendingKey string // encrypted as EncryptedKey is
}

// Last is the newest generation there may be anything of.
func (c GuestCredentials) Last() int { return max(c.Generation, c.Pending) }

// GuestCredentials gives those of an instance, zero if they were never rotated.
func (s *Store) GuestCredentials(ctx context.Context, instanceID string) (c GuestCredentials, err error) {
	err = s.read(ctx, func(ctx context.Context, q session) error {
		c, err = q.guestCredentials(ctx, instanceID)
		return err
	})
	return c, err
}

func (c session) guestCredentials(ctx context.Context, instanceID string) (g GuestCredentials, err error) {
	_, err = c.one(ctx, "SELECT generation, pending, pending_key FROM guest_credentials WHERE instance_id = ?",
		[]any{instanceID}, &g.Generation, &g.Pending, &g.PendingKey)
	return g, err
}

// RotatedCredentials gives those of all instances that are not as at first.
func (s *Store) RotatedCredentials(ctx context.Context) (map[string]GuestCredentials, error) {
	all := map[string]GuestCredentials{}
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, "SELECT instance_id, generation, pending, pending_key FROM guest_credentials", nil, func(r *sql.Rows) error {
			var id string
			var g GuestCredentials
			err := r.Scan(&id, &g.Generation, &g.Pending, &g.PendingKey)
			all[id] = g
			return err
		})
	})
	return all, err
}

// BeginRotation makes credentials of the next generation pending, with a key
// (encrypted; empty for none). Those that are pending already stay: the answer
// tells which are. KindNotFound if there is no such instance.
func (s *Store) BeginRotation(ctx context.Context, instanceID, encryptedKey string) (c GuestCredentials, err error) {
	if err := fits(field{"instance key", encryptedKey, 255}); err != nil {
		return c, err
	}
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		if _, live, err := t.lock(ctx, instanceID); err != nil {
			return err
		} else if !live {
			return notFound(instanceID)
		}
		if c, err = t.guestCredentials(ctx, instanceID); err != nil || c.Pending > 0 {
			return err
		}
		c.Pending, c.PendingKey = c.Generation+1, encryptedKey
		_, err := t.exec(ctx, s.d.upsert("guest_credentials", []string{"instance_id"}, []string{"generation", "pending", "pending_key"}),
			instanceID, c.Generation, c.Pending, c.PendingKey)
		return err
	})
	return c, err
}

// ConfirmRotation makes pending credentials of this generation the ones that
// count: their key is the instance's, the one before is forgotten, and work
// that waits for it goes on. If they are not pending nothing happens.
func (s *Store) ConfirmRotation(ctx context.Context, instanceID string, generation int) error {
	if generation <= 0 {
		return nil
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if _, live, err := t.lock(ctx, instanceID); err != nil || !live {
			return err
		}
		c, err := t.guestCredentials(ctx, instanceID)
		if err != nil || c.Pending != generation {
			return err
		}
		if _, err := t.exec(ctx, "UPDATE guest_credentials SET generation = ?, pending = ?, pending_key = ? WHERE instance_id = ?",
			generation, 0, "", instanceID); err != nil {
			return err
		}
		if c.PendingKey != "" {
			if _, err := t.exec(ctx, "UPDATE instances SET encrypted_key = ? WHERE id = ? AND deleted = ?",
				c.PendingKey, instanceID, false); err != nil {
				return err
			}
		}
		return t.wake(ctx, instanceID)
	})
}
