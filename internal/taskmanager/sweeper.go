package taskmanager

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// SweeperStore is what the sweeper needs of the store.
type SweeperStore interface {
	StuckInstances(ctx context.Context, grace time.Duration) ([]store.Stuck, error)
	Unstick(ctx context.Context, was store.Stuck, becomes trove.Task, f trove.Fault) (bool, error)
}

const (
	sweepEvery   = time.Minute
	defaultGrace = 2 * time.Minute
)

// Sweeper finds instances in a task that nothing works on: what should never
// be, and yet would stay so for ever. A deletion is begun anew; any other task
// ends with a fault. One process at a time sweeps.
type Sweeper struct {
	store   SweeperStore
	work    Acceptor
	waiting Waiting
	grace   time.Duration
	log     *slog.Logger
	// before holds what the sweep before this one found. Only what two sweeps
	// find, a minute apart whatever the clock says, is stuck.
	before map[store.Stuck]bool
}

// Waiting counts the messages for task managers that wait in the broker. Our own
// requests are in the outbox until they are work; those of another trove-api
// are only there.
type Waiting func(ctx context.Context) (int, error)

// NewSweeper makes a Sweeper; grace is how long an instance may be in a task
// that nothing works on, 2 min if 0.
func NewSweeper(s SweeperStore, w Acceptor, waiting Waiting, grace time.Duration, log *slog.Logger) *Sweeper {
	if grace <= 0 {
		grace = defaultGrace
	}
	return &Sweeper{store: s, work: w, waiting: waiting, grace: grace, log: log}
}

// Run sweeps at once and every minute until ctx is done.
func (s *Sweeper) Run(ctx context.Context) error {
	s.before = nil // of an earlier run: another process has swept since
	return each(ctx, sweepEvery, func(ctx context.Context) {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the search for stuck instances failed", "error", err)
		}
	})
}

// Sweep looks once. It must not be called concurrently.
func (s *Sweeper) Sweep(ctx context.Context) error {
	stuck, err := s.store.StuckInstances(ctx, s.grace)
	if err != nil {
		return err
	}
	if len(stuck) > 0 {
		n, err := s.waiting(ctx)
		if err != nil {
			return err
		}
		if n > 0 { // one of them may be what is missed here
			s.before = nil
			return nil
		}
	}
	found := map[store.Stuck]bool{}
	for _, one := range stuck {
		found[one] = true
		if !s.before[one] {
			continue
		}
		if err := s.free(telemetry.With(ctx, telemetry.InstanceID, one.ID), one); err != nil {
			return err
		}
	}
	s.before = found
	return nil
}

func (s *Sweeper) free(ctx context.Context, one store.Stuck) error {
	s.log.WarnContext(ctx, "nothing works on an instance's task", "task", one.Task.Description())
	if one.Task == trove.TaskDeleting {
		// The minute is in the id so that several task managers ask once.
		id := fmt.Sprintf("sweep-%s-%d", one.ID, time.Now().Unix()/60)
		_, err := s.work.Accept(ctx, flow.KindDelete, one.ID, id, flow.Delete{})
		return err
	}
	_, err := s.store.Unstick(ctx, one, one.Task.AfterLoss(), trove.Fault{
		Message: "The operation was lost: nothing works on it any more. (" + one.Task.Description() + ")",
		Details: "Its request never reached a task manager, or was taken by one that is not there any more. Ask for it again; a lost creation can only be deleted.",
		Created: time.Now().UTC(),
	})
	return err
}
