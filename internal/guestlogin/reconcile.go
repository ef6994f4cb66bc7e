package guestlogin

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
)

const (
	reconcileEvery = 10 * time.Minute
	// reconcileMost bounds what one pass removes.
	reconcileMost = 500
)

// Live gives the instances that are not deleted, with the newest generation of
// their credentials there may be.
type Live func(ctx context.Context) (map[string]int, error)

// Reconciler removes logins, and queues with them, of instances that are not
// there any more. A deletion removes both itself; what is found here was left
// by a database that was restored, or by hand. One process does it at a time.
type Reconciler struct {
	rabbit *RabbitMQ
	queues Queues
	live   Live
	log    *slog.Logger
	// before are the leftovers of the pass before this one. Only what is found
	// twice is removed.
	before map[string]bool
}

// NewReconciler makes one.
func NewReconciler(r *RabbitMQ, q Queues, live Live, log *slog.Logger) *Reconciler {
	return &Reconciler{rabbit: r, queues: q, live: live, log: log}
}

// Run looks at once and every ten minutes until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	for {
		if _, err := r.Reconcile(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "the search for logins left over failed", "error", err)
		}
		if !pause(ctx, reconcileEvery/2+rand.N(reconcileEvery)) {
			return nil
		}
	}
}

// Reconcile makes one pass and gives the logins it removed. It must not be
// called concurrently.
func (r *Reconciler) Reconcile(ctx context.Context) (removed []string, err error) {
	// The logins first: an instance is in the database before its login is made.
	var logins []string
	if err := r.rabbit.api.names(ctx, path("users"), func(name string) {
		if _, _, ok := guest.ParseLogin(name); ok {
			logins = append(logins, name)
		}
	}); err != nil {
		return nil, err
	}
	queues, err := r.guestQueues(ctx)
	if err != nil {
		return nil, err
	}
	live, err := r.live(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, login := range logins {
		id, generation, _ := guest.ParseLogin(login)
		// The next one too: its rotation may have begun just now. An old one
		// stays with its instance until a rotation removes it.
		if last, ok := live[id]; ok && generation <= last+1 {
			continue
		}
		found[login] = true
		if !r.before[login] || len(removed) == reconcileMost {
			continue
		}
		ours, err := r.ours(ctx, login)
		if err != nil {
			return removed, err
		}
		if !ours {
			continue
		}
		r.log.WarnContext(ctx, "a login is left over from an instance that is not there: removed", "login", login)
		if err := r.rabbit.removeLogin(ctx, login); err != nil {
			return removed, err
		}
		if _, ok := live[id]; !ok {
			if err := r.queues.DeleteQueues(ctx, guest.Queues(id)...); err != nil {
				return removed, err
			}
		}
		removed = append(removed, login)
	}
	if err := r.removeQueues(ctx, queues, live, found); err != nil {
		return removed, err
	}
	slices.Sort(removed)
	r.before = found
	return removed, nil
}

// guestQueues are the queues of agents that there are, by their instances.
func (r *Reconciler) guestQueues(ctx context.Context) (map[string][]string, error) {
	queues := map[string][]string{}
	err := r.rabbit.api.names(ctx, path("queues", r.rabbit.api.vhost), func(name string) {
		if rest, ok := strings.CutPrefix(name, guest.Topic("")); ok {
			id, _, _ := strings.Cut(rest, ".")
			if slices.Contains(guest.Queues(id), name) {
				queues[id] = append(queues[id], name)
			}
		}
	})
	return queues, err
}

// removeQueues removes the queues that are left over without a login: of a
// Restorer that was killed while it declared those of an instance whose deletion
// began.
func (r *Reconciler) removeQueues(ctx context.Context, queues map[string][]string, live map[string]int, found map[string]bool) error {
	for id, names := range queues {
		if _, ok := live[id]; ok {
			continue
		}
		for _, name := range names {
			found[name] = true
			if !r.before[name] {
				continue
			}
			r.log.WarnContext(ctx, "a queue is left over from an instance that is not there: removed", "queue", name)
			if err := r.queues.DeleteQueues(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// ours tells whether a login has rights in our virtual host only, or none at
// all: another region may have guests in another virtual host.
func (r *Reconciler) ours(ctx context.Context, login string) (bool, error) {
	var rights []struct{ VHost string }
	err := r.rabbit.api.do(ctx, http.MethodGet, path("users", login, "permissions"), nil, &rights)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	for _, p := range rights {
		if p.VHost != r.rabbit.api.vhost {
			return false, err
		}
	}
	return err == nil, err
}
