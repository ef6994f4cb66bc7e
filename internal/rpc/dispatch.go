package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// pingMethod is answered without the handler, if the server is to be pinged.
const pingMethod = "oslo_rpc_server_ping"

// take handles one delivery to its end.
func (s *Server) take(listen, work context.Context, j job, waited time.Duration) {
	d := j.Delivery
	r, err := s.decode(d)
	if err != nil {
		s.log.WarnContext(listen, "rpc: request rejected", "error", err, "sender", d.UserId)
		s.acknowledged(d.Reject(false))
		return
	}
	opened, err := s.open(work, d.UserId, &r)
	if err != nil {
		s.refuse(listen, work, d, r, err)
		return
	}
	call := r.MsgID != ""
	id := keyOf(d.UserId, r.UniqueID)
	ctx := contextFromWire(r.Context).Logged(work)
	switch s.seen.begin(id) {
	case stateDone:
		if s.opt.Repeats && !call {
			break
		}
		s.log.DebugContext(ctx, "rpc: duplicate dropped", "method", r.Method, "unique_id", r.UniqueID)
		j.acks.handled(d.DeliveryTag)
		return
	case stateRunning:
		// Delivered again after a lost connection, while the first
		// delivery is still being handled: how that ends is not known yet.
		if call {
			s.acknowledged(d.Ack(false))
			return
		}
		s.requeue(listen, d)
		return
	case stateNew:
	}
	if call {
		if err := d.Ack(false); err != nil {
			// The broker will hand it out again.
			s.seen.end(id, false)
			return
		}
	}
	in := &Incoming{Method: r.Method, Version: r.Version, Namespace: r.Namespace, Args: r.Args,
		UniqueID: r.UniqueID, Call: call, CallID: r.MsgID, Sender: d.UserId, Sealed: opened.Sealed, SealedBy: opened.Instance, SealedNext: opened.Next, Kept: r.Kept}
	if r.Made != 0 {
		in.Made = time.UnixMicro(r.Made)
	}
	if call {
		s.serveCall(listen, ctx, r, in, opened.Reply, waited)
		s.seen.end(id, true)
		return
	}
	_, err = s.handle(ctx, in, waited)
	again := trove.IsKind(err, trove.KindUnavailable) || err != nil && work.Err() != nil
	s.seen.end(id, err == nil) // one that failed is no duplicate if its sender tries again
	switch {
	case again:
		s.log.WarnContext(ctx, "rpc: cast will be delivered again", "method", r.Method, "unique_id", r.UniqueID, "error", err)
		s.requeue(listen, d)
		return
	case err != nil:
		s.log.ErrorContext(ctx, "rpc: cast failed", "method", r.Method, "unique_id", r.UniqueID, "error", err)
	}
	j.acks.handled(d.DeliveryTag)
}

func (s *Server) serveCall(listen, ctx context.Context, r wire.Request, in *Incoming, seal ReplyCodec, waited time.Duration) {
	stop := s.replies.heartbeat(listen, ctx, r)
	result, err := s.handle(ctx, in, waited)
	stop()
	reply := wire.Reply{MsgID: r.MsgID, UniqueID: newID(), Ending: true}
	if err == nil {
		if reply.Result, err = json.Marshal(result); err != nil {
			err = fmt.Errorf("result of %s: %w", r.Method, err)
		}
	}
	if err != nil {
		s.log.InfoContext(ctx, "rpc: call failed", "method", r.Method, "unique_id", r.UniqueID, "error", err)
		reply.Result, reply.Failure = nil, failureOf(err)
	}
	if seal != nil {
		if err := seal(&reply); err != nil {
			s.log.ErrorContext(ctx, "rpc: reply dropped: it cannot be sealed", "method", r.Method, "error", err)
			return
		}
	}
	s.replies.send(listen, ctx, r.ReplyQueue, reply)
}

// handle calls the handler. One that panics fails its request, not the others.
func (s *Server) handle(ctx context.Context, in *Incoming, waited time.Duration) (result any, err error) {
	began := time.Now()
	defer func() {
		s.opt.Observer.RPCHandled(s.opt.Topic, methodOf(in.Method, err), outcomeOf(err), waited, time.Since(began))
	}()
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "rpc: handler panicked", "method", in.Method, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: panic", in.Method)
		}
	}()
	if s.opt.Ping && in.Method == pingMethod {
		return "pong", nil
	}
	return s.handler.Handle(ctx, in)
}

// requeue gives a delivery back after a while, without holding up a worker.
// The prefetch bounds how many wait; the end of listening ends their wait.
func (s *Server) requeue(listen context.Context, d amqp091.Delivery) {
	s.delayed.Go(func() {
		pause(listen, jitter(s.opt.RequeueDelay))
		s.acknowledged(d.Nack(false, true))
	})
}

// acknowledged logs that the broker could not be told: it will deliver again.
func (s *Server) acknowledged(err error) {
	if err != nil {
		s.log.Debug("rpc: not acknowledged, will be delivered again", "error", err)
	}
}
