package taskmanager

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// ObserverStore is what the observer needs of the store.
type ObserverStore interface {
	LiveInstances(ctx context.Context) ([]store.InstanceRef, error)
	Observe(ctx context.Context, seen map[string]trove.ServerObservation) error
}

// Servers lists all servers of ours, by instance id, in one call.
type Servers interface {
	Servers(ctx context.Context) (map[string]cloud.Server, error)
}

// Observer writes down what is seen of servers, so that no view asks the cloud.
// One process at a time observes.
type Observer struct {
	store ObserverStore
	cloud Servers
	every time.Duration
	log   *slog.Logger
}

// DefaultObserve is how often servers are looked at, by default. Together with
// the time a look takes it stays under the 10 s that a view may be behind.
const DefaultObserve = 5 * time.Second

// NewObserver makes an Observer that looks every so often (DefaultObserve if 0).
func NewObserver(s ObserverStore, c Servers, every time.Duration, log *slog.Logger) *Observer {
	if every <= 0 {
		every = DefaultObserve
	}
	return &Observer{s, c, every, log}
}

// Run looks until ctx is done. What fails is logged and tried again.
func (o *Observer) Run(ctx context.Context) error {
	return each(ctx, o.every, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, max(o.every, 30*time.Second))
		defer cancel()
		if err := o.Look(ctx); err != nil && ctx.Err() == nil {
			o.log.WarnContext(ctx, "the servers could not be observed", "error", err)
		}
	})
}

// Look looks once.
func (o *Observer) Look(ctx context.Context) error {
	// The instances first: one whose server is made meanwhile is not missed.
	live, err := o.store.LiveInstances(ctx)
	if err != nil || len(live) == 0 {
		return err
	}
	servers, err := o.cloud.Servers(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	seen := map[string]trove.ServerObservation{}
	for _, i := range live {
		s, there := servers[i.ID]
		switch {
		case there && (len(s.Addresses) > 0 || i.Task != trove.TaskBuilding):
			seen[i.ID] = trove.ServerObservation{Status: s.Status, Addresses: s.Addresses, SeenAt: now}
		case !there && i.ComputeID != "" && i.Task != trove.TaskBuilding:
			// While it is built, the flow that builds it knows better.
			seen[i.ID] = trove.ServerObservation{Status: trove.ServerShutdown, SeenAt: now}
		}
	}
	return o.store.Observe(ctx, seen)
}

// each calls f now and then every so often, jittered by a tenth, until ctx is
// done.
func each(ctx context.Context, every time.Duration, f func(context.Context)) error {
	for {
		f(ctx)
		t := time.NewTimer(every - every/10 + rand.N(every/5+1))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}
