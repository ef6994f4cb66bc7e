package guest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// rootPasswordLength is the original's default_password_length.
const rootPasswordLength = 36

// engineAttempts bounds how often an operation is begun on an engine that ends
// in the middle of it.
const engineAttempts = 3

// withEngine does an operation on what is in the engine, alone and when the
// engine serves. What the engine says without a kind is KindGuest.
func (a *Agent) withEngine(ctx context.Context, do func(ctx context.Context) error) error {
	// Callers wait no longer than this, whatever their message says.
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.CastLimit)
	defer cancel()
	for attempt := 1; ; attempt++ {
		// The lock is not held while waiting: whoever restarts the engine needs it.
		if err := a.awaitServing(ctx); err != nil {
			return err
		}
		err := a.exclusively(ctx, do)
		switch trove.KindOf(err) {
		case trove.KindInternal, trove.KindUnavailable, trove.KindGuest:
		default:
			return err
		}
		// What failed because the engine ended in the middle is done again when
		// it is back: engines look before they act.
		if err == nil || attempt == engineAttempts || a.ready(ctx) == nil {
			if trove.IsKind(err, trove.KindInternal) {
				return trove.Errorf(trove.KindGuest, "%w", err)
			}
			return err
		}
	}
}

// exclusively does one attempt of an operation.
func (a *Agent) exclusively(ctx context.Context, do func(ctx context.Context) error) error {
	if err := a.beginPrepared(ctx); err != nil {
		return err
	}
	defer a.unlock()
	return do(ctx)
}

// awaitServing waits for an engine that is about to answer: it was just
// started, or ended and is being restarted.
func (a *Agent) awaitServing(ctx context.Context) error {
	poll := pollFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return a.notServing(ctx.Err())
		case <-timer.C:
		}
		switch s := a.state.get(); {
		case s.Phase != phasePrepared:
			return errNotPrepared()
		case !s.ShouldRun:
			return a.notServing(nil)
		}
		if err := a.ready(ctx); err == nil {
			return nil
		}
		timer.Reset(poll)
		poll = min(poll*2, pollMost)
	}
}

func (a *Agent) notServing(cause error) error {
	return &trove.Error{Kind: trove.KindGuest, Err: cause,
		Message: "The database service is not running; its status is " + a.pulse.current().Description + ".",
		Action:  "Restart the instance, or wait until its operating status is HEALTHY."}
}

// CreateDatabases creates databases; those that are there stay.
func (a *Agent) CreateDatabases(ctx context.Context, dbs []trove.Database) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return each(dbs, func(d trove.Database) error { return a.cfg.Engine.CreateDatabase(ctx, d) })
	})
}

// DeleteDatabase drops a database with what is in it.
func (a *Agent) DeleteDatabase(ctx context.Context, name string) error {
	return a.withEngine(ctx, func(ctx context.Context) error { return a.cfg.Engine.DropDatabase(ctx, name) })
}

// ListDatabases gives a page of databases by name.
func (a *Agent) ListDatabases(ctx context.Context, l guestapi.List) (guestapi.Page[rpcapi.Database], error) {
	var dbs []trove.Database
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		dbs, err = a.cfg.Engine.Databases(ctx)
		return err
	})
	items, next := page(dbs, l, func(d trove.Database) string { return d.Name })
	return guestapi.Page[rpcapi.Database]{Items: rpcapi.Databases(items), Next: next}, err
}

// CreateUsers creates users with their grants.
func (a *Agent) CreateUsers(ctx context.Context, users []trove.User) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return each(users, func(u trove.User) error { return a.cfg.Engine.CreateUser(ctx, u) })
	})
}

// DeleteUser drops a user.
func (a *Agent) DeleteUser(ctx context.Context, name, host string) error {
	return a.withEngine(ctx, func(ctx context.Context) error { return a.cfg.Engine.DropUser(ctx, name, anyHost(host)) })
}

// GetUser gives a user without password, nil if there is none.
func (a *Agent) GetUser(ctx context.Context, name, host string) (*rpcapi.User, error) {
	var u trove.User
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		u, err = a.cfg.Engine.User(ctx, name, anyHost(host))
		return err
	})
	if trove.IsKind(err, trove.KindNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &rpcapi.Users([]trove.User{u})[0], nil
}

// ListUsers gives a page of users by name@host.
func (a *Agent) ListUsers(ctx context.Context, l guestapi.List) (guestapi.Page[rpcapi.User], error) {
	var users []trove.User
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		users, err = a.cfg.Engine.Users(ctx)
		return err
	})
	items, next := page(users, l, func(u trove.User) string { return u.Name + "@" + u.Host })
	return guestapi.Page[rpcapi.User]{Items: rpcapi.Users(items), Next: next}, err
}

// page cuts a list, by key, as the original does: at most limit items after the
// marker (or from it), and the last one's key as the next marker if more follow.
func page[T any](items []T, l guestapi.List, key func(T) string) ([]T, *string) {
	items = slices.Clone(items)
	slices.SortFunc(items, func(x, y T) int { return cmp.Compare(key(x), key(y)) })
	if l.Marker != nil && *l.Marker != "" {
		from, found := slices.BinarySearchFunc(items, *l.Marker, func(t T, m string) int { return cmp.Compare(key(t), m) })
		if found && !l.IncludeMarker {
			from++
		}
		items = items[from:]
	}
	if l.Limit == nil || *l.Limit <= 0 || len(items) <= *l.Limit {
		return items, nil
	}
	items = items[:*l.Limit]
	next := key(items[len(items)-1])
	return items, &next
}

// ChangePasswords sets users' passwords.
func (a *Agent) ChangePasswords(ctx context.Context, changes []guestapi.PasswordChange) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return each(changes, func(c guestapi.PasswordChange) error {
			return a.cfg.Engine.AlterUser(ctx, c.Name, anyHost(c.Host), trove.UserAttributes{Password: &c.Password})
		})
	})
}

// UpdateAttributes changes a user's name, password or host.
func (a *Agent) UpdateAttributes(ctx context.Context, name, host string, at guestapi.Attributes) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return a.cfg.Engine.AlterUser(ctx, name, anyHost(host), trove.UserAttributes(at))
	})
}

// ListAccess gives the databases a user may use.
func (a *Agent) ListAccess(ctx context.Context, name, host string) ([]rpcapi.Database, error) {
	var u trove.User
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		u, err = a.cfg.Engine.User(ctx, name, anyHost(host))
		return err
	})
	return rpcapi.Users([]trove.User{u})[0].Databases, err
}

// GrantAccess lets a user use databases.
func (a *Agent) GrantAccess(ctx context.Context, name, host string, databases []string) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return a.cfg.Engine.Grant(ctx, name, anyHost(host), databases)
	})
}

// RevokeAccess takes a database from a user.
func (a *Agent) RevokeAccess(ctx context.Context, name, host, database string) error {
	return a.withEngine(ctx, func(ctx context.Context) error {
		return a.cfg.Engine.Revoke(ctx, name, anyHost(host), database)
	})
}

// EnableRoot enables root with a password, or one made here, and returns it.
func (a *Agent) EnableRoot(ctx context.Context, password string) (rpcapi.User, error) {
	if password == "" {
		password = secret.Password(rootPasswordLength, secret.Alphanumeric).Reveal()
	}
	var u trove.User
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		u, err = a.cfg.Engine.EnableRoot(ctx, password)
		return err
	})
	if err != nil {
		return rpcapi.User{}, err
	}
	u.Password = password
	wire := rpcapi.Users([]trove.User{u})[0]
	wire.IsRoot = true
	return wire, nil
}

// DisableRoot makes root's password unknown to everyone.
func (a *Agent) DisableRoot(ctx context.Context) error {
	return a.withEngine(ctx, a.cfg.Engine.DisableRoot)
}

// IsRootEnabled asks the engine whether root may connect from outside.
func (a *Agent) IsRootEnabled(ctx context.Context) (bool, error) {
	var enabled bool
	err := a.withEngine(ctx, func(ctx context.Context) (err error) {
		enabled, err = a.cfg.Engine.RootEnabled(ctx)
		return err
	})
	return enabled, err
}

// Ping answers while the agent lives, whatever the engine does.
func (a *Agent) Ping(context.Context) (bool, error) { return true, nil }

// FilesystemStats tells the use of the volume. It waits for no operation.
func (a *Agent) FilesystemStats(ctx context.Context) (guestapi.FilesystemStats, error) {
	s, err := a.usage.stats(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		a.log.Warn("cannot measure the volume", "error", err)
	}
	return s, err
}

func anyHost(host string) string {
	if host == "" {
		return trove.AnyHost
	}
	return host
}
