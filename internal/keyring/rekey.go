package keyring

import (
	"context"

	"github.com/gotrove/gotrove/internal/trove"
)

// Rows is what Rekey needs of the store.
type Rows interface {
	// RekeyInstances replaces each encrypted key by what change makes of it.
	RekeyInstances(ctx context.Context, change func(instanceID, encrypted string) string) (replaced int, err error)
	// Reseal seals anew what is not sealed with the newest key.
	Reseal(ctx context.Context) (resealed, failed int, err error)
}

// Rekeyed is what Rekey did.
type Rekeyed struct {
	Keys int // keys of instances encrypted anew
	Rows int // messages and pieces of work sealed anew
	// Failed are keys and rows that no master key opens: they stay as they are.
	Failed int
	// Instances are those of the failed keys, at most a hundred.
	Instances []string
}

// passes bounds Rekey: services that write meanwhile write with the new key, so
// the second pass finds next to nothing and the third nothing.
const passes = 10

// Rekey brings everything in the database under the newest master key, beside
// running services that know both. It may be interrupted and run again. It is
// done when nothing is left under another key; until then, and with an error,
// the old key must stay configured.
func (r *Ring) Rekey(ctx context.Context, rows Rows) (Rekeyed, error) {
	var done Rekeyed
	if len(r.masters) == 0 {
		return done, trove.Errorf(trove.KindBadRequest, "there is no key to change to").WithAction("set inst_rpc_key_encr_key")
	}
	for range passes {
		done.Failed, done.Instances = 0, nil
		keys, err := rows.RekeyInstances(ctx, func(id, encrypted string) string {
			text, by, err := r.decrypt(encrypted)
			switch {
			case err != nil:
				done.Failed++
				if len(done.Instances) < 100 {
					done.Instances = append(done.Instances, id)
				}
				return encrypted
			case by == 0:
				return encrypted
			}
			return r.encrypt(text)
		})
		done.Keys += keys
		if err != nil {
			return done, err
		}
		resealed, failed, err := rows.Reseal(ctx)
		done.Rows += resealed
		done.Failed += failed
		if err != nil {
			return done, err
		}
		if keys+resealed == 0 {
			return done, nil
		}
	}
	return done, trove.Errorf(trove.KindConflict, "rows under the old key keep appearing").
		WithAction("give every service the new key first, then run this again")
}

// Check makes sure that the master keys open the keys that the database holds,
// by looking at some: a service with a wrong key would be deaf to every agent.
func (r *Ring) Check(ctx context.Context, rows interface {
	SomeInstanceKeys(ctx context.Context, limit int) (map[string]string, error)
}) error {
	sample, err := rows.SomeInstanceKeys(ctx, 20)
	if err != nil {
		return err
	}
	wrong := ""
	for id, encrypted := range sample {
		if _, _, err := r.decrypt(encrypted); err == nil {
			return nil // one damaged row is no wrong key
		}
		wrong = id
	}
	if wrong == "" {
		return nil
	}
	return badKey(wrong)
}
