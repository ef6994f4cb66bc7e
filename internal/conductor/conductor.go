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
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// Store is what the conductor needs of the store.
type Store interface {
	Heartbeats(ctx context.Context, beats []store.InstanceBeat) []store.BeatResult
	RecordStage(ctx context.Context, instanceID, message string, p *trove.Progress) error
	SetRoot(ctx context.Context, instanceID, user string, enabled bool) error
	RootHistory(ctx context.Context, instanceID string) (trove.RootHistory, error)
	SetFault(ctx context.Context, id string, f trove.Fault) error
	LastBeat(ctx context.Context, instanceID string) (time.Time, error)
}

// GuestOf tells which instance a login may speak for; limited is false if that
// is any. The login is empty if the broker vouches for none.
type GuestOf func(login string) (instanceID string, limited bool)

// Keys tells which instances seal their messages.
type Keys interface {
	HasKey(ctx context.Context, instanceID string) (bool, error)
}

// Senders say who may speak for whom.
type Senders struct {
	GuestOf GuestOf
	// ControlPlane tells the logins that only our own services have: they may
	// speak in clear also for an instance whose agent seals. nil: none.
	ControlPlane func(login string) bool
	Keys         Keys // nil: nobody seals
}

// Server implements rpcapi/conductor.
type Server struct {
	store    Store
	beats    group
	senders  Senders
	log      *slog.Logger
	observer Observer
}

// Observer is told what became of each report. It must not wait.
type Observer interface {
	// Reported: applied, stale (not newer than the last), no_instance, failed,
	// again (the database was away), or refused_ and why.
	Reported(method, result string)
}

type noObserver struct{}

func (noObserver) Reported(string, string) {}

var _ conductor.Server = (*Server)(nil)

// NewServer makes a Server.
func NewServer(s Store, senders Senders, log *slog.Logger) *Server {
	return &Server{store: s, beats: group{write: s.Heartbeats}, senders: senders, log: log, observer: noObserver{}}
}

// Observed has o told of what s does from now on; before s is used.
func (s *Server) Observed(o Observer) *Server {
	s.observer = o
	return s
}

const (
	maxText  = 1 << 10 // of a message for people, in bytes
	maxTrace = 8 << 10
)

// MaxLate is how much older than the last heartbeat a report may be. Reports of one
// agent come nearly in the order they were made, also when a broker has kept them
// for long: one that is much older is repeated by somebody.
const MaxLate = time.Hour

// Heartbeat records the status of an engine.
func (s *Server) Heartbeat(ctx context.Context, from conductor.Sender, h conductor.Heartbeat) error {
	ctx, ok, err := s.admit(ctx, "heartbeat", from, h.InstanceID)
	if !ok {
		return err
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
	applied, err := s.beats.add(ctx, store.InstanceBeat{InstanceID: h.InstanceID, Beat: beat})
	if err != nil {
		return s.judge(ctx, "heartbeat", err)
	}
	if applied {
		s.observer.Reported("heartbeat", "applied")
	} else {
		s.observer.Reported("heartbeat", "stale")
		s.log.DebugContext(ctx, "a heartbeat was not newer than the last")
	}
	if st := h.Payload.Stage; st != nil {
		if !applied {
			if ok, err := s.inTime(ctx, "heartbeat", from, h.InstanceID); !ok {
				return err
			}
		}
		s.log.DebugContext(ctx, "an agent reports a stage", "stage", clip(st.Name, 64))
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
func (s *Server) ReportRoot(ctx context.Context, from conductor.Sender, r conductor.RootReport) error {
	ctx, ok, err := s.admit(ctx, "report_root", from, r.InstanceID)
	if !ok {
		return err
	}
	if ok, err := s.inTime(ctx, "report_root", from, r.InstanceID); !ok {
		return err
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
func (s *Server) NotifyFailure(ctx context.Context, from conductor.Sender, f conductor.Failure) error {
	var n conductor.FailureNotification
	if err := json.Unmarshal(f.Notification, &n); err != nil {
		s.log.WarnContext(ctx, "the failure an agent reports cannot be read", "error", err)
		return nil
	}
	ctx, ok, err := s.admit(ctx, "notify_exc_info", from, n.InstanceID)
	if !ok {
		return err
	}
	if ok, err := s.inTime(ctx, "notify_exc_info", from, n.InstanceID); !ok {
		return err
	}
	s.log.WarnContext(ctx, "an operation failed in the guest", "operation", clip(n.Class, 100), "message", clip(f.Message, maxText))
	return s.judge(ctx, "notify_exc_info", s.store.SetFault(ctx, n.InstanceID, trove.Fault{
		Message: clip(f.Message, maxText), Details: clip(strings.Join(f.Exception, ""), maxTrace)}))
}

// admit says whether who sent a message may speak for an instance: the login,
// the key that sealed the message and the message itself must all name it. One
// that may not is dropped; err is of KindUnavailable if that cannot be told now.
func (s *Server) admit(ctx context.Context, method string, from conductor.Sender, instanceID string) (_ context.Context, ok bool, err error) {
	ctx = telemetry.With(ctx, telemetry.InstanceID, clip(instanceID, 64))
	drop := func(result, why string) (context.Context, bool, error) {
		s.observer.Reported(method, result)
		s.log.WarnContext(ctx, why+": dropped", "method", method, "sender", from.Login, "sealed_by", clip(from.SealedBy, 64))
		return ctx, false, nil
	}
	if instanceID == "" {
		return drop("refused_no_id", "a message about no instance")
	}
	id, limited := s.senders.GuestOf(from.Login)
	if from.Sealed {
		switch {
		case from.SealedBy != instanceID:
			return drop("refused_seal", "a message sealed by one guest spoke for another instance")
		case from.Login != "" && limited && id != instanceID:
			return drop("refused_login", "a guest spoke for another instance")
		}
		return ctx, true, nil // a key says as much as a login
	}
	if limited && id != instanceID {
		return drop("refused_login", "a guest spoke for another instance")
	}
	if s.senders.Keys == nil || s.senders.ControlPlane != nil && s.senders.ControlPlane(from.Login) {
		return ctx, true, nil
	}
	switch must, err := s.senders.Keys.HasKey(ctx, instanceID); {
	case err != nil:
		return ctx, false, s.judge(ctx, method, err)
	case must:
		return drop("refused_clear", "a message in clear about an instance whose agent has a key")
	}
	return ctx, true, nil
}

// inTime says whether a report is not much older than the last heartbeat of the
// same agent, both by the agent's clock. One whose seal does not tell is. err is of
// KindUnavailable if that cannot be told now.
func (s *Server) inTime(ctx context.Context, method string, from conductor.Sender, instanceID string) (bool, error) {
	if from.Made.IsZero() {
		return true, nil
	}
	last, err := s.store.LastBeat(ctx, instanceID)
	if err != nil {
		return false, s.judge(ctx, method, err)
	}
	if late := last.Sub(from.Made); !last.IsZero() && late > MaxLate {
		s.observer.Reported(method, "stale")
		s.log.WarnContext(ctx, "a report that is much older than the agent's last heartbeat was dropped", "method", method, "late", late)
		return false, nil
	}
	return true, nil
}

// judge decides what becomes of a message that could not be written down: it
// comes again if the database is away, and is dropped if it can never be.
func (s *Server) judge(ctx context.Context, method string, err error) error {
	switch {
	case err == nil:
		return nil
	case trove.IsKind(err, trove.KindNotFound):
		s.observer.Reported(method, "no_instance")
		s.log.InfoContext(ctx, "a message about an instance that is not there was dropped", "method", method)
		return nil
	case trove.IsKind(err, trove.KindUnavailable):
		s.observer.Reported(method, "again")
		return err
	}
	s.observer.Reported(method, "failed")
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
