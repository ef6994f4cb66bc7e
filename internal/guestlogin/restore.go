package guestlogin

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// restoreEvery is for brokers of several nodes, of which one may forget its
	// queues while our connection is to another.
	restoreEvery = time.Minute
	// restoreAgain is the pause after a failure.
	restoreAgain = 2 * time.Second
	// restoreBatch bounds the instances whose queues are declared in one
	// dialogue.
	restoreBatch = 100
)

// Listening gives the instances whose agents need their queues: they are there,
// and nobody has begun to delete them.
type Listening func(ctx context.Context) (ids []string, err error)

// Restorer declares the queues of guests again that a broker forgot: guests may
// not do it themselves, and hear nothing until somebody has. One process does it
// at a time.
type Restorer struct {
	queues    Queues
	listening Listening
	connected <-chan struct{}
	log       *slog.Logger
}

// NewRestorer makes one that looks after each login to the broker, of which
// connected tells (amqp.Conn.Connected), and every minute.
func NewRestorer(q Queues, l Listening, connected <-chan struct{}, log *slog.Logger) *Restorer {
	return &Restorer{queues: q, listening: l, connected: connected, log: log}
}

// Run restores at once, and again whenever that may be needed, until ctx ends.
func (r *Restorer) Run(ctx context.Context) error {
	for {
		wait := restoreEvery/2 + rand.N(restoreEvery)
		if err := r.Restore(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "the queues of guests could not all be declared; it is tried again", "error", err)
			wait = restoreAgain/2 + rand.N(restoreAgain)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.connected:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Restore declares the queues of all guests. Those that are there stay as they
// are.
func (r *Restorer) Restore(ctx context.Context) error {
	ids, err := r.listening(ctx)
	if err != nil {
		return err
	}
	var failed error
	for batch := range slices.Chunk(ids, restoreBatch) {
		err := r.declare(ctx, batch)
		if err != nil && !trove.IsKind(err, trove.KindUnavailable) {
			// Of one of them, which others must not wait for.
			for _, id := range batch {
				if e := r.declare(ctx, []string{id}); e != nil {
					r.log.WarnContext(ctx, "the queues of a guest cannot be declared", "instance_id", id, "error", e)
				}
			}
			continue
		}
		if err != nil {
			failed = err
			break
		}
	}
	// A deletion that began meanwhile has perhaps removed the queues before they
	// were declared here.
	now, err := r.listening(ctx)
	if err != nil {
		return err
	}
	still := make(map[string]bool, len(now))
	for _, id := range now {
		still[id] = true
	}
	for _, id := range ids {
		if !still[id] {
			if err := r.queues.DeleteQueues(ctx, guest.Queues(id)...); err != nil {
				return err
			}
		}
	}
	return failed
}

func (r *Restorer) declare(ctx context.Context, ids []string) error {
	var names []string
	for _, id := range ids {
		names = append(names, guest.Queues(id)...)
	}
	return r.queues.DeclareGuestQueues(ctx, names...)
}
