package conductor

import (
	"context"
	"log/slog"
	"sync"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// Rotations is where it is written down that an agent uses new credentials.
type Rotations interface {
	ConfirmRotation(ctx context.Context, instanceID string, generation int) error
}

// maxConfirmed bounds the senders of whom it is remembered that they are
// confirmed: forgetting one costs a question to the database.
const maxConfirmed = 16384

// Confirming tells the store of the first message of each agent under new
// credentials, and hands every message to next. One that is sealed says so by
// its key too: with the one before, or another's, it confirms nothing. parse
// takes a login apart; ok is false if it is no agent's.
func Confirming(next rpc.Handler, r Rotations, parse func(login string) (instanceID string, generation int, ok bool), log *slog.Logger) rpc.Handler {
	var mu sync.Mutex
	confirmed := map[string]bool{}
	return rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
		id, generation, ok := parse(in.Sender)
		if ok && generation > 0 && (!in.Sealed || in.SealedNext && in.SealedBy == id) {
			mu.Lock()
			known := confirmed[in.Sender]
			mu.Unlock()
			if !known {
				ctx := telemetry.With(ctx, telemetry.InstanceID, id)
				switch err := r.ConfirmRotation(ctx, id, generation); {
				case trove.IsKind(err, trove.KindUnavailable):
					return nil, err // it comes again
				case err != nil:
					log.ErrorContext(ctx, "that an agent uses its new credentials could not be written down", "error", err)
				default:
					log.InfoContext(ctx, "an agent uses its new credentials", "generation", generation)
					mu.Lock()
					if len(confirmed) >= maxConfirmed {
						clear(confirmed)
					}
					confirmed[in.Sender] = true
					mu.Unlock()
				}
			}
		}
		return next.Handle(ctx, in)
	})
}
