// Package conductor takes what guest agents say and writes it down.
//
// It believes no message about who sent it: an agent with a login of its own
// may speak for its own instance only, and everything else is dropped. It must
// not know flows, clouds or HTTP; what waits for a status is woken by the store.
package conductor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// Store is what the conductor needs of the store.
type Store interface {
	Heartbeat(ctx context.Context, id string, b store.Beat) (applied bool, err error)
	RecordStage(ctx context.Context, instanceID, message string, p *trove.Progress) error
	SetRoot(ctx context.Context, instanceID, user string, enabled bool) error
	RootHistory(ctx context.Context, instanceID string) (trove.RootHistory, error)
	SetFault(ctx context.Context, id string, f trove.Fault) error
}

// GuestOf tells which instance a sender may speak for; limited is false if that
// is any. The sender is empty if the message does not name its login.
type GuestOf func(sender string) (instanceID string, limited bool)

// Server implements rpcapi/conductor.
type Server struct {
	store   Store
	guestOf GuestOf
	log     *slog.Logger
}

var _ conductor.Server = (*Server)(nil)

// NewServer makes a Server.
func NewServer(s Store, guestOf GuestOf, log *slog.Logger) *Server { return &Server{s, guestOf, log} }

const (
	maxText  = 1 << 10 // of a message for people, in bytes
	maxTrace = 8 << 10
)

// Heartbeat records the status of an engine.
func (s *Server) Heartbeat(ctx context.Context, sender string, h conductor.Heartbeat) error {
	ctx, ok := s.admit(ctx, "heartbeat", sender, h.InstanceID)
	if !ok {
		return nil
	}
	beat := store.Beat{Sent: h.Sent, Done: h.Payload.Done}
	if d := h.Payload.ServiceStatus; d != "" {
		st, known := trove.ParseServiceStatus(d)
		if known {
			beat.Status = &st
		} else {
			s.log.WarnContext(ctx, "an agent reports a status that there is not", "service_status", clip(d, 64))
		}
	}
	applied, err := s.store.Heartbeat(ctx, h.InstanceID, beat)
	if err != nil {
		return s.judge(ctx, "heartbeat", err)
	}
	if !applied {
		s.log.DebugContext(ctx, "a heartbeat was not newer than the last")
	}
	if st := h.Payload.Stage; st != nil {
		text := clip(st.Message, maxText)
		if text == "" {
			text = clip(st.Name, maxText)
		}
		var p *trove.Progress
		if st.Total > 0 || st.Done > 0 {
			p = &trove.Progress{Done: st.Done, Total: st.Total, Unit: clip(st.Unit, 16)}
		}
		return s.judge(ctx, "heartbeat", s.store.RecordStage(ctx, h.InstanceID, text, p))
	}
	return nil
}

// ReportRoot records that root is enabled, unless that is known.
func (s *Server) ReportRoot(ctx context.Context, sender string, r conductor.RootReport) error {
	ctx, ok := s.admit(ctx, "report_root", sender, r.InstanceID)
	if !ok {
		return nil
	}
	known, err := s.store.RootHistory(ctx, r.InstanceID)
	if err != nil || known.IsEnabled() {
		return s.judge(ctx, "report_root", err)
	}
	user := reporter(r)
	return s.judge(ctx, "report_root", s.store.SetRoot(ctx, r.InstanceID, user, true))
}

func reporter(r conductor.RootReport) string {
	if r.User != nil {
		return clip(*r.User, 255)
	}
	return ""
}

// NotifyFailure records why an operation in the guest failed.
func (s *Server) NotifyFailure(ctx context.Context, sender string, f conductor.Failure) error {
	var n conductor.FailureNotification
	if err := json.Unmarshal(f.Notification, &n); err != nil {
		s.log.WarnContext(ctx, "the failure an agent reports cannot be read", "error", err)
		return nil
	}
	ctx, ok := s.admit(ctx, "notify_exc_info", sender, n.InstanceID)
	if !ok {
		return nil
	}
	s.log.WarnContext(ctx, "an operation failed in the guest", "operation", clip(n.Class, 100), "message", clip(f.Message, maxText))
	return s.judge(ctx, "notify_exc_info", s.store.SetFault(ctx, n.InstanceID, trove.Fault{
		Message: clip(f.Message, maxText), Details: clip(strings.Join(f.Exception, ""), maxTrace)}))
}

// admit says whether sender may speak for an instance.
func (s *Server) admit(ctx context.Context, method, sender, instanceID string) (context.Context, bool) {
	ctx = telemetry.With(ctx, telemetry.InstanceID, clip(instanceID, 64))
	if instanceID == "" {
		s.log.WarnContext(ctx, "a message about no instance was dropped", "method", method, "sender", sender)
		return ctx, false
	}
	if id, limited := s.guestOf(sender); limited && id != instanceID {
		s.log.WarnContext(ctx, "a guest spoke for another instance: dropped", "method", method, "sender", sender)
		return ctx, false
	}
	return ctx, true
}

// judge decides what becomes of a message that could not be written down: it
// comes again if the database is away, and is dropped if it can never be.
func (s *Server) judge(ctx context.Context, method string, err error) error {
	switch {
	case err == nil:
		return nil
	case trove.IsKind(err, trove.KindNotFound):
		s.log.InfoContext(ctx, "a message about an instance that is not there was dropped", "method", method)
		return nil
	case trove.IsKind(err, trove.KindUnavailable):
		return err
	}
	s.log.ErrorContext(ctx, "a message could not be written down", "method", method, "error", err)
	return fmt.Errorf("%s: %w", method, err)
}

// clip is s cut to at most n bytes of valid text.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
