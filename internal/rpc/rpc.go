// Package rpc gives oslo.messaging's remote procedure calls over AMQP 0-9-1:
// call, cast and fanout, replies, request contexts and remote errors, byte for
// byte as Python's oslo.messaging sends and expects them.
//
// The envelope codec is in wire, the connection in amqp. The package knows no
// method of any service: those are in rpcapi. It must not import anything above
// the standard library, packages trove and telemetry, and the AMQP client.
package rpc

import (
	"context"
	"encoding/json"
	"time"
)

// Message is a request to one topic before it is sent: what an outbox keeps.
type Message struct {
	Topic   string
	Server  string // empty: any server of the topic
	Fanout  bool
	Method  string
	Version string         // RPC API version asked for, "1.0"
	Args    map[string]any // keyword arguments
	// UniqueID detects duplicates; one is made if it is empty. An outbox sets
	// it, so that a message published twice is one message.
	UniqueID string
	// CallID names a call, 32 hexadecimal digits; one is made if it is empty. A
	// caller that does not know whether its call was carried out repeats it under
	// the same id, one at a time. Python's servers ignore it: unlike UniqueID, by
	// which they drop a repeat without an answer.
	CallID string
	// Mandatory makes a cast fail with KindUnavailable if no queue is bound.
	Mandatory bool
	// Made is when the message was made; zero is when it is sent. Copies of one
	// have the same.
	Made time.Time
	// Kept: the sender sends it again until it hears that it was taken, so that
	// its receiver may refuse what nobody keeps any more. Made and Kept are told
	// to receivers of our own sealing only.
	Kept bool
}

// Caller sends messages. *Client implements it; a fake may.
type Caller interface {
	// Call sends m, waits for the reply and decodes its result into result
	// (nil: ignored). ctx must have a deadline: it is the timeout and the
	// message's time to live. A failure raised by the server is a
	// *RemoteError; no answer in time is KindGuestTimeout; no broker is
	// KindUnavailable.
	Call(ctx context.Context, m Message, result any) error
	// Cast sends m and returns when the broker has confirmed it.
	Cast(ctx context.Context, m Message) error
}

// Incoming is a request as a server got it.
type Incoming struct {
	Method    string
	Version   string
	Namespace string
	Args      map[string]json.RawMessage
	UniqueID  string
	Call      bool   // the sender waits for a reply
	CallID    string // of a call: a repeat has the same
	Sender    string // the login the broker vouches for (user_id), may be empty
	Sealed    bool   // it was sealed, and an Opener opened it
	SealedBy  string // the instance whose key it was sealed with; empty if that was no instance's
	// Made and Kept are those of the Message, if its seal is one that carries them.
	Made time.Time
	Kept bool
	// SealedNext is whether that key is the one that is to replace the one in use.
	SealedNext bool
}

// Handler answers requests. For a cast the request is acknowledged only after
// Handler returned without error of KindUnavailable; such a cast is delivered
// again. For a call it is acknowledged before, and what Handler returns is the
// reply. The request's Context is in ctx (ContextFrom).
type Handler interface {
	Handle(ctx context.Context, in *Incoming) (any, error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, in *Incoming) (any, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, in *Incoming) (any, error) { return f(ctx, in) }

// Context is who asked, as every message carries it.
type Context struct {
	RequestID string `json:"request_id,omitempty"`
	// GlobalRequestID is the id that the caller of the API gave, for who follows
	// a request through several services.
	GlobalRequestID string `json:"global_request_id,omitempty"`

	User           string          `json:"user,omitempty"`
	ProjectID      string          `json:"project_id,omitempty"`
	IsAdmin        bool            `json:"is_admin"`
	Roles          []string        `json:"roles"`
	AuthToken      string          `json:"auth_token,omitempty"`
	ServiceCatalog json.RawMessage `json:"service_catalog,omitempty"`
	// Notification is the payload of the API notification that Python
	// services need in a context; passed on as it came, nil if there was none.
	Notification json.RawMessage `json:"trove_notification,omitempty"`
}

type contextKey struct{}

// WithContext returns a ctx that carries c to every message sent with it.
func WithContext(ctx context.Context, c Context) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// ContextFrom returns the request context that ctx carries, zero if none.
func ContextFrom(ctx context.Context) Context {
	c, _ := ctx.Value(contextKey{}).(Context)
	return c
}
