package store

import (
	"context"
	"database/sql"

	"github.com/gotrove/gotrove/internal/trove"
)

// RootHistory tells when root was enabled; the zero history if never.
func (s *Store) RootHistory(ctx context.Context, instanceID string) (trove.RootHistory, error) {
	var h trove.RootHistory
	err := s.read(ctx, func(ctx context.Context, c session) error {
		var user sql.NullString
		var enabled, disabled sql.NullTime
		_, err := c.one(ctx, "SELECT h.user, h.created, h.deleted_at FROM root_enabled_history h WHERE h.id = ?",
			[]any{instanceID}, &user, &enabled, &disabled)
		h.User = user.String
		if enabled.Valid {
			h.Enabled = enabled.Time.UTC()
		}
		if disabled.Valid {
			h.Disabled = disabled.Time.UTC()
		}
		return err
	})
	return h, err
}

// SetRoot records that root was enabled by user, or disabled. KindNotFound if
// there is no such instance, or nothing to disable.
func (s *Store) SetRoot(ctx context.Context, instanceID, user string, enabled bool) error {
	if err := fits(field{"user", user, 255}); err != nil {
		return err
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if live, err := t.live(ctx, instanceID); err != nil {
			return err
		} else if !live {
			return notFound(instanceID)
		}
		if enabled {
			// Times are whole seconds: a disabling kept beside an enabling in
			// the same second would win, so it goes.
			_, err := t.exec(ctx, s.d.upsert("root_enabled_history", []string{"id"}, []string{"user", "created", "deleted_at"}),
				instanceID, null(user), s.now(), nil)
			return err
		}
		n, err := t.exec(ctx, "UPDATE root_enabled_history SET deleted_at = ? WHERE id = ?", s.now(), instanceID)
		if err == nil && n == 0 {
			return trove.Errorf(trove.KindNotFound, "Root was never enabled on instance %s.", instanceID)
		}
		return err
	})
}
