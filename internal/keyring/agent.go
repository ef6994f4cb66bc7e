package keyring

import (
	"context"
	"sync/atomic"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/secret"
)

// Agent are the keys of one guest agent. It implements rpc.Sealer, for what the
// agent tells the conductor, and rpc.Opener, for what it is asked. It is safe
// for concurrent use.
type Agent struct {
	instanceID string
	keys       atomic.Pointer[[]*seal.Key]
}

// NewAgent makes the keys of an instance's agent; see Set.
func NewAgent(instanceID string, keys ...secret.String) (*Agent, error) {
	a := &Agent{instanceID: instanceID}
	return a, a.Set(keys...)
}

// Set replaces the keys: the first seals, all of them open. With none, or
// empty ones only, nothing is sealed, and what is sealed is refused; with one,
// what is in clear is.
func (a *Agent) Set(texts ...secret.String) error {
	var some []secret.String
	for _, t := range texts {
		if !t.IsZero() {
			some = append(some, t)
		}
	}
	ready, err := keys(some)
	if err == nil {
		a.keys.Store(&ready)
	}
	return err
}

// SealRequest implements rpc.Sealer.
func (a *Agent) SealRequest(_ context.Context, _ string, q *wire.Request) (rpc.ReplyCodec, error) {
	keys := *a.keys.Load()
	if len(keys) == 0 {
		return nil, nil
	}
	return keys[0].SealRequest(seal.ToConductor, a.instanceID, q)
}

// OpenRequest implements rpc.Opener.
func (a *Agent) OpenRequest(_ context.Context, _ string, q *wire.Request) (rpc.Opened, error) {
	return openWith(*a.keys.Load(), seal.ToGuest, a.instanceID, q)
}
