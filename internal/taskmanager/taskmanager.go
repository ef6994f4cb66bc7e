// Package taskmanager takes the requests of the API and turns them into work,
// keeps what is seen of servers fresh, and finds instances that nothing works
// on any more.
//
// It decides nothing about how an instance is made: that is in flow. A request
// is written down before it is acknowledged; after that this process may die.
package taskmanager

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// Acceptor writes work down (*work.Engine).
type Acceptor interface {
	Accept(ctx context.Context, kind, subject, requestID string, state any) (bool, error)
}

// Messages are those that the services keep until they are taken (*store.Store).
type Messages interface {
	// OutboxHas tells whether a message is still kept.
	OutboxHas(ctx context.Context, id string) (bool, error)
	// RejectOutbox ends one that cannot be carried out.
	RejectOutbox(ctx context.Context, id string, r store.Rejection) (bool, error)
}

// Server implements the requests of rpcapi/taskmanager.
type Server struct {
	work     Acceptor
	messages Messages
	log      *slog.Logger
}

var _ taskmanager.Server = (*Server)(nil)

// NewServer makes a Server that hands everything to w, and what nobody can do
// to m.
func NewServer(w Acceptor, m Messages, log *slog.Logger) *Server { return &Server{w, m, log} }

// otherVersions is how long a message that this version does not know, or fails
// over, is sent on: a task manager of another version may be on the same queue.
const otherVersions = 5 * time.Minute

// Handler serves the requests. One that will never be understood would come
// again for ever, and keep whatever looks after its instance waiting: it ends
// with a fault of the instance. One that its sender keeps until it is taken, and does
// not keep any more, was taken: it is dropped, whoever repeats it and whenever.
func (s *Server) Handler() rpc.Handler {
	serve := taskmanager.Handler(s)
	return rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
		if in.Kept {
			kept, err := s.messages.OutboxHas(ctx, in.UniqueID)
			if err != nil {
				return nil, err
			}
			if !kept {
				s.log.InfoContext(ctx, "a request that was taken before was dropped", "method", in.Method, "message_id", in.UniqueID)
				return nil, nil
			}
		}
		result, err := serve.Handle(ctx, in)
		if err == nil || in.Call || ctx.Err() != nil || trove.IsKind(err, trove.KindUnavailable) {
			return result, err
		}
		if failed := s.reject(ctx, in, err); failed != nil {
			return nil, failed
		}
		return nil, err
	})
}

func (s *Server) reject(ctx context.Context, in *rpc.Incoming, why error) error {
	if in.UniqueID == "" {
		return nil
	}
	r := store.Rejection{Cause: "The task manager does not understand the request " + in.Method + ".",
		Action: "Look at the task manager's log. If its version is not the API's, install the same, then ask again; a lost creation can only be deleted."}
	remote, ok := errors.AsType[*rpc.RemoteError](why)
	switch {
	case ok && remote.Class == "TypeError", trove.IsKind(why, trove.KindBadRequest): // it is wrong whoever reads it
	case ok:
		r.After = otherVersions
	default:
		r.Cause, r.After = "The task manager could not take the request "+in.Method+".", otherVersions
	}
	r.Uses = usesOf(in)
	done, err := s.messages.RejectOutbox(ctx, in.UniqueID, r)
	if done {
		s.log.ErrorContext(ctx, "a request is given up: it cannot be carried out", "method", in.Method, "message_id", in.UniqueID, "error", why)
	}
	return err
}

// usesOf is what a message tells of what its instance uses: of a resize, the flavor
// that it has.
func usesOf(in *rpc.Incoming) trove.QuotaDelta {
	var old rpcapi.Flavor
	if json.Unmarshal(in.Args["old_flavor"], &old) != nil || old.RAM <= 0 {
		return nil
	}
	return trove.QuotaDelta{trove.ResourceRAM: old.RAM}
}

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

// ResizeFlavor accepts a server of another flavor.
func (s *Server) ResizeFlavor(ctx context.Context, uniqueID string, r taskmanager.ResizeFlavor) error {
	return s.accept(ctx, flow.KindResizeFlavor, r.InstanceID, uniqueID, flow.ResizeFlavor{Request: r})
}

// ResizeVolume accepts a larger volume.
func (s *Server) ResizeVolume(ctx context.Context, uniqueID string, r taskmanager.ResizeVolume) error {
	return s.accept(ctx, flow.KindResizeVolume, r.InstanceID, uniqueID, flow.ResizeVolume{Request: r})
}

// UpdateAccess accepts a change of who may reach an instance.
func (s *Server) UpdateAccess(ctx context.Context, uniqueID string, r taskmanager.UpdateAccess) error {
	return s.accept(ctx, flow.KindUpdateAccess, r.InstanceID, uniqueID, flow.UpdateAccess{Request: r})
}

// RotateCredentials accepts a rotation of an agent's login and key.
func (s *Server) RotateCredentials(ctx context.Context, uniqueID string, r taskmanager.Instance) error {
	return s.accept(ctx, flow.KindRotate, r.InstanceID, uniqueID, flow.Rotate{})
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
