// Package taskmanager takes the requests of the API and turns them into work,
// keeps what is seen of servers fresh, and finds instances that nothing works
// on any more.
//
// It decides nothing about how an instance is made: that is in flow. A request
// is written down before it is acknowledged; after that this process may die.
package taskmanager

import (
	"context"
	"log/slog"

	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// Acceptor writes work down (*work.Engine).
type Acceptor interface {
	Accept(ctx context.Context, kind, subject, requestID string, state any) (bool, error)
}

// Server implements the requests of rpcapi/taskmanager.
type Server struct {
	work Acceptor
	log  *slog.Logger
}

var _ taskmanager.Server = (*Server)(nil)

// NewServer makes a Server that hands everything to w.
func NewServer(w Acceptor, log *slog.Logger) *Server { return &Server{w, log} }

// CreateInstance accepts a creation. Of a request for several, each instance
// fails with a cause of its own.
func (s *Server) CreateInstance(ctx context.Context, uniqueID string, r taskmanager.CreateInstance) error {
	for _, id := range r.More {
		if err := s.accept(ctx, flow.KindCreate, id, uniqueID+"."+id[:min(8, len(id))], flow.NewCreate(r)); err != nil {
			return err
		}
	}
	return s.accept(ctx, flow.KindCreate, r.InstanceID, uniqueID, flow.NewCreate(r))
}

// DeleteInstance accepts a deletion.
func (s *Server) DeleteInstance(ctx context.Context, uniqueID string, r taskmanager.Instance) error {
	return s.accept(ctx, flow.KindDelete, r.InstanceID, uniqueID, flow.Delete{})
}

// Restart accepts a restart of the engine.
func (s *Server) Restart(ctx context.Context, uniqueID string, r taskmanager.Instance) error {
	return s.accept(ctx, flow.KindRestart, r.InstanceID, uniqueID, flow.Restart{})
}

func (s *Server) accept(ctx context.Context, kind, id, uniqueID string, state any) error {
	ctx = telemetry.With(ctx, telemetry.InstanceID, id)
	if id == "" || uniqueID == "" {
		s.log.WarnContext(ctx, "a request without an instance or an id of its own was dropped", "kind", kind)
		return trove.Errorf(trove.KindBadRequest, "%s needs an instance_id and a unique id", kind)
	}
	first, err := s.work.Accept(ctx, kind, id, uniqueID, state)
	switch {
	case err != nil:
		s.log.ErrorContext(ctx, "a request was not accepted", "kind", kind, "error", err)
	case first:
		s.log.InfoContext(ctx, "accepted", "kind", kind)
	default:
		s.log.DebugContext(ctx, "accepted before", "kind", kind)
	}
	return err
}
