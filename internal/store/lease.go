package store

import (
	"context"
	"time"
)

// ClaimLease makes owner the holder of a named lease for ttl from now, by the
// database's clock, if nobody holds it or owner already does. Only looking
// costs anything while another holds it.
func (s *Store) ClaimLease(ctx context.Context, name, owner string, ttl time.Duration) (held bool, err error) {
	if err := fits(field{"name of a lease", name, 64}, field{"owner of a lease", owner, 64}); err != nil {
		return false, err
	}
	var now, expires int64
	var holder string
	var found bool
	if err := s.read(ctx, func(ctx context.Context, c session) (err error) {
		found, err = c.one(ctx, "SELECT "+s.d.nowMicros+", expires, owner FROM leases WHERE name = ?", []any{name}, &now, &expires, &holder)
		return err
	}); err != nil {
		return false, err
	}
	if found && holder != owner && now < expires {
		return false, nil
	}
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		held = false
		if !found {
			// Whoever is second to write it finds it held below.
			if _, err := t.exec(ctx, s.d.upsert("leases", []string{"name"}, nil, "owner", "expires"), name, "", 0); err != nil {
				return err
			}
		}
		n, err := t.exec(ctx, "UPDATE leases SET owner = ?, expires = "+s.d.nowMicros+" + ? WHERE name = ? AND (owner = ? OR expires <= "+
			s.d.nowMicros+")", owner, ttl.Microseconds(), name, owner)
		held = n > 0
		return err
	})
	return held && err == nil, err
}

// ReleaseLease gives a lease back, if owner holds it.
func (s *Store) ReleaseLease(ctx context.Context, name, owner string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.exec(ctx, "UPDATE leases SET expires = 0 WHERE name = ? AND owner = ?", name, owner)
		return err
	})
}
