package guest

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

const loginPrefix = "guest-"

var plainID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}\z`)

// ValidID reports whether an instance's id may be part of names on the bus: of
// queues, routing keys and logins.
func ValidID(instanceID string) bool { return plainID.MatchString(instanceID) }

// Login is the name of an agent's login on a bus whose guests have logins of
// their own. Generation 0 is the one that the instance's user data carried;
// each rotation counts one up.
func Login(instanceID string, generation int) string {
	if generation <= 0 {
		return loginPrefix + instanceID
	}
	return loginPrefix + instanceID + "+" + strconv.Itoa(generation)
}

// ParseLogin is the instance whose agent has this login, and the generation of
// its credentials; ok is false if the login is not an agent's.
func ParseLogin(login string) (instanceID string, generation int, ok bool) {
	rest, ok := strings.CutPrefix(login, loginPrefix)
	if !ok {
		return "", 0, false
	}
	id, number, rotated := strings.Cut(rest, "+")
	if rotated {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || strconv.Itoa(n) != number {
			return "", 0, false
		}
		generation = n
	}
	return id, generation, ValidID(id)
}

// FromControlPlane hands to next what our own services sent, and nothing else:
// the broker vouches for a sender, and the sender is no agent; or, with orSealed,
// the message was sealed with the receiver's key. For a task manager, which
// Python's API may speak to, and for an agent, on a bus whose guests have logins
// of their own. The broker's rights are not enough: a RabbitMQ routes a message
// by its header CC too, and looks only at the first key's topic permission (3.10
// was seen to).
func FromControlPlane(next rpc.Handler, orSealed bool, log *slog.Logger) rpc.Handler {
	return rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
		ours := in.Sender != "" && !strings.HasPrefix(in.Sender, loginPrefix)
		if !ours && !(orSealed && in.Sealed) {
			log.WarnContext(ctx, "a message that is not the control plane's was dropped", "method", in.Method, "sender", in.Sender)
			return nil, trove.Errorf(trove.KindForbidden, "Only the control plane may ask for that.")
		}
		return next.Handle(ctx, in)
	})
}
