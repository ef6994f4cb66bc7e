package work

import (
	"context"
	"log/slog"
	"time"
)

// Pruner forgets finished work that is old. One process at a time is enough.
type Pruner struct {
	store PruneStore
	log   *slog.Logger
}

// PruneStore is what a Pruner needs of the store.
type PruneStore interface {
	// PruneWork deletes finished rows older than keep.
	PruneWork(ctx context.Context, keep time.Duration) error
}

const (
	// remembered is how long finished work is kept.
	remembered = 7 * 24 * time.Hour
	pruneEvery = time.Hour
)

// NewPruner makes a Pruner.
func NewPruner(s PruneStore, log *slog.Logger) *Pruner { return &Pruner{s, log} }

// Run prunes after a minute and every hour until ctx ends.
func (p *Pruner) Run(ctx context.Context) error {
	t := time.NewTimer(jitter(time.Minute))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := p.store.PruneWork(ctx, remembered); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "cannot prune finished work", "error", err)
		}
		t.Reset(jitter(pruneEvery))
	}
}
