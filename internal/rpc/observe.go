package rpc

import (
	"context"
	"errors"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// ClientObserver is told of each message that a client sent, and how that ended:
// ok, refused (the server answered with a failure), timeout, unavailable,
// cancelled or error. It must not wait.
type ClientObserver interface {
	RPCCalled(method, outcome string, took time.Duration) // until the answer
	RPCCast(method, outcome string, took time.Duration)   // until the broker's confirm
}

// ServerObserver is told of each request that a server handled: with what
// outcome, how long it waited for a free worker once it was the next of its
// queue, and how long it was handled. A method that the server does not have, or
// that it does not let the sender ask for, is "unknown" or "forbidden": senders
// choose names. It must not wait.
type ServerObserver interface {
	RPCHandled(topic, method, outcome string, waited, took time.Duration)
}

type noObserver struct{}

func (noObserver) RPCCalled(string, string, time.Duration)                         {}
func (noObserver) RPCCast(string, string, time.Duration)                           {}
func (noObserver) RPCHandled(string, string, string, time.Duration, time.Duration) {}

func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	if _, ok := errors.AsType[*RemoteError](err); ok {
		return "refused"
	}
	switch trove.KindOf(err) {
	case trove.KindGuestTimeout:
		return "timeout"
	case trove.KindUnavailable:
		return "unavailable"
	}
	if errors.Is(err, context.Canceled) {
		return "cancelled"
	}
	return "error"
}

// methodOf names a request's method for an observer.
func methodOf(method string, err error) string {
	if remote, ok := errors.AsType[*RemoteError](err); ok && remote.Module == dispatcherModule {
		return "unknown"
	}
	if trove.IsKind(err, trove.KindForbidden) {
		return "forbidden"
	}
	return method
}
