package guestlogin

import (
	"context"
	"log/slog"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

// FromControlPlane hands to next what our own services sent, and nothing else:
// the broker vouches for a sender (user_id), and the sender is no guest. For a
// task manager, and for an agent, on a bus whose guests have logins of their
// own. The broker's rights are not enough: RabbitMQ before 3.13 routes a message
// by its header CC without looking at topic permissions.
func FromControlPlane(next rpc.Handler, log *slog.Logger) rpc.Handler {
	return rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
		if _, _, guest := InstanceOf(in.Sender); in.Sender == "" || guest {
			log.WarnContext(ctx, "a message that is not the control plane's was dropped", "method", in.Method, "sender", in.Sender)
			return nil, trove.Errorf(trove.KindForbidden, "Only the control plane may ask for %s.", in.Method)
		}
		return next.Handle(ctx, in)
	})
}
