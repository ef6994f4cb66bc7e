// Package conductor is what guest agents say to trove-conductor: casts only.
package conductor

import (
	"context"
	"encoding/json"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
)

// Topic is the default of the option conductor_queue.
const Topic = "trove-conductor"

// Version of the API the server speaks.
const Version = "1.0"

// v10 is that of messages, which a conductor older than their sender must take.
const v10 = "1.0"

// Heartbeat tells the state of an instance's engine.
type Heartbeat struct {
	InstanceID string  `json:"instance_id"`
	Payload    Payload `json:"payload"`
	// Sent is the sender's clock, Unix seconds; nil when it is not known.
	Sent *float64 `json:"sent,omitempty"`
}

// Payload is what a heartbeat carries. Python's conductor reads only
// service_status; the rest is ours.
type Payload struct {
	ServiceStatus string `json:"service_status,omitempty"` // description, as in trove.ServiceStatus
	// Stage is the part of prepare the agent is at, for people who watch.
	Stage *Stage `json:"stage,omitempty"`
	// Done are the unique ids of casts the agent has handled since it last said
	// so: the control plane keeps each of them until then.
	Done []string `json:"done,omitempty"`
	// AgentVersion is the agent's build.
	AgentVersion string `json:"agent_version,omitempty"`
}

// Stage is one part of a longer work in the guest.
type Stage struct {
	Name    string `json:"name"`
	Message string `json:"message,omitempty"`
	Done    int64  `json:"done,omitempty"`
	Total   int64  `json:"total,omitempty"`
	Unit    string `json:"unit,omitempty"`
}

// RootReport tells that root is enabled in the engine.
type RootReport struct {
	InstanceID string  `json:"instance_id"`
	User       *string `json:"user,omitempty"`
}

// Failure tells that an operation failed in the guest (notify_exc_info).
type Failure struct {
	Notification json.RawMessage `json:"serialized_notification"`
	Message      string          `json:"message"`
	Exception    []string        `json:"exception"`
}

// FailureNotification is the part of Failure.Notification that the conductor
// reads.
type FailureNotification struct {
	InstanceID string `json:"instance_id"`
	Class      string `json:"notification_classname"`
	ServerType string `json:"server_type"`
	RequestID  string `json:"request_id"`
}

// Server is what trove-conductor implements.
type Server interface {
	Heartbeat(ctx context.Context, from Sender, h Heartbeat) error
	ReportRoot(ctx context.Context, from Sender, r RootReport) error
	NotifyFailure(ctx context.Context, from Sender, f Failure) error
}

// Handler serves s. A failure to reach the database has KindUnavailable, and
// the message comes again.
func Handler(s Server) rpc.Handler {
	return rpc.Router{Version: Version, Methods: map[string]rpc.Method{
		"heartbeat":       bindSender(s.Heartbeat),
		"report_root":     bindSender(s.ReportRoot),
		"notify_exc_info": bindSender(s.NotifyFailure),
		"notify_end":      func(context.Context, *rpc.Incoming) (any, error) { return nil, nil },
	}}
}

// Sender is what is known of who sent a message, beside what it says itself.
type Sender struct {
	// Login is what the broker vouches for; empty if it vouches for nothing.
	Login string
	// Sealed is whether the message was sealed, SealedBy the instance whose key
	// that takes.
	Sealed   bool
	SealedBy string
	// Made is when it was made by the agent's clock; zero if the seal does not tell.
	Made time.Time
}

// bindSender is rpc.BindCast for a procedure that must know who sent the
// message.
func bindSender[A any](f func(context.Context, Sender, A) error) rpc.Method {
	return func(ctx context.Context, in *rpc.Incoming) (any, error) {
		return rpc.BindCast(func(ctx context.Context, a A) error {
			return f(ctx, Sender{in.Sender, in.Sealed, in.SealedBy, in.Made}, a)
		})(ctx, in)
	}
}

// Client casts to the conductor.
type Client struct {
	rpc   rpc.Caller
	topic string
}

// NewClient casts to topic (option conductor_queue).
func NewClient(c rpc.Caller, topic string) *Client { return &Client{c, topic} }

// Heartbeat casts h.
func (c *Client) Heartbeat(ctx context.Context, h Heartbeat) error {
	args := map[string]any{"instance_id": h.InstanceID, "payload": h.Payload}
	if h.Sent != nil {
		args["sent"] = *h.Sent
	}
	return c.cast(ctx, "heartbeat", args)
}

// ReportRoot casts that root is enabled.
func (c *Client) ReportRoot(ctx context.Context, instanceID string) error {
	return c.cast(ctx, "report_root", map[string]any{"instance_id": instanceID})
}

// NotifyFailure casts that an operation failed.
func (c *Client) NotifyFailure(ctx context.Context, n FailureNotification, message string, exception []string) error {
	return c.cast(ctx, "notify_exc_info", map[string]any{
		"serialized_notification": n, "message": message, "exception": exception})
}

func (c *Client) cast(ctx context.Context, method string, args map[string]any) error {
	return c.rpc.Cast(ctx, rpc.Message{Topic: c.topic, Method: method, Version: v10, Args: args})
}
