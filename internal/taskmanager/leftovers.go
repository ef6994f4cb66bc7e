package taskmanager

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/telemetry"
)

// LeftoversStore is what the search for leftovers needs of the store.
type LeftoversStore interface {
	// Deleted gives those of ids that have been deleted for longer than grace and
	// that nothing works on.
	Deleted(ctx context.Context, ids []string, grace time.Duration) ([]string, error)
}

// LeftoversCloud is what it needs of the cloud.
type LeftoversCloud interface {
	Tagged(ctx context.Context) ([]string, error)
	DeleteServer(ctx context.Context, o cloud.Owner) (gone bool, err error)
	DeletePorts(ctx context.Context, o cloud.Owner) error
	DeleteVolume(ctx context.Context, o cloud.Owner) (gone bool, err error)
	DeleteSecurityGroup(ctx context.Context, o cloud.Owner) error
}

const (
	leftoversEvery = 5 * time.Minute
	leftoversGrace = 5 * time.Minute
	// leftoversBound is how long one search may take, and leftoversMost of how many
	// instances it removes something: the next one goes on.
	leftoversBound = 4 * time.Minute
	leftoversMost  = 20
)

// Leftovers removes what the cloud still holds of instances that are deleted. A
// task manager that was frozen over a call to the cloud can make something when
// the instance, its flow in the hands of another, is long gone. What belongs to no
// instance that we know of stays. One process at a time looks.
type Leftovers struct {
	store   LeftoversStore
	cloud   LeftoversCloud
	removed func() // of one instance all was removed
	log     *slog.Logger
	// before is what the search before this one found. Only what two searches find
	// is left over, whatever a clock says.
	before map[string]bool
}

// NewLeftovers makes a Leftovers; removed is told of each instance of which
// something was removed.
func NewLeftovers(s LeftoversStore, c LeftoversCloud, removed func(), log *slog.Logger) *Leftovers {
	return &Leftovers{store: s, cloud: c, removed: removed, log: log}
}

// Run looks at once and every five minutes until ctx is done.
func (l *Leftovers) Run(ctx context.Context) error {
	l.before = nil // of an earlier run: another process has looked since
	return each(ctx, leftoversEvery, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, leftoversBound)
		defer cancel()
		if err := l.Sweep(ctx); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "the search for what deleted instances left behind failed", "error", err)
		}
	})
}

// Sweep looks once. It must not be called concurrently.
func (l *Leftovers) Sweep(ctx context.Context) error {
	tagged, err := l.cloud.Tagged(ctx)
	if err != nil || len(tagged) == 0 {
		l.before = nil
		return err
	}
	left, err := l.store.Deleted(ctx, tagged, leftoversGrace)
	if err != nil {
		return err
	}
	// In any order: twenty that cannot be removed must not keep the others.
	rand.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	found, tried := map[string]bool{}, 0
	for _, id := range left {
		found[id] = true
		if !l.before[id] || tried >= leftoversMost {
			continue
		}
		tried++
		l.remove(telemetry.With(ctx, telemetry.InstanceID, id), id)
	}
	l.before = found
	return nil
}

// remove takes away what carries an instance's tag, in the order of a deletion.
// What cannot go yet is found again.
func (l *Leftovers) remove(ctx context.Context, id string) {
	o := cloud.Owner{InstanceID: id}
	gone, err := l.cloud.DeleteServer(ctx, o)
	if err == nil && gone {
		err = l.cloud.DeletePorts(ctx, o)
	}
	if err == nil && gone {
		gone, err = l.cloud.DeleteVolume(ctx, o)
	}
	if err == nil && gone {
		err = l.cloud.DeleteSecurityGroup(ctx, o)
	}
	switch {
	case err != nil:
		l.log.WarnContext(ctx, "what a deleted instance left behind cannot be removed", "error", err)
	case !gone:
		l.log.InfoContext(ctx, "what a deleted instance left behind is on its way out")
	default:
		l.log.WarnContext(ctx, "removed what a deleted instance had left behind")
		l.removed()
	}
}
