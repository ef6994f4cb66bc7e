package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// take handles one delivery to its end.
func (l *listener) take(listen, work context.Context, d amqp091.Delivery) {
	r, err := l.decode(d)
	if err != nil {
		l.log.WarnContext(listen, "rpc: request rejected", "error", err, "sender", d.UserId)
		l.acknowledged(d.Reject(false))
		return
	}
	call := r.MsgID != ""
	ctx := WithContext(work, contextFromWire(r.Context))
	switch l.seen.begin(r.UniqueID) {
	case stateDone:
		l.log.DebugContext(ctx, "rpc: duplicate dropped", "method", r.Method, "unique_id", r.UniqueID)
		l.acknowledged(d.Ack(false))
		return
	case stateRunning:
		// Delivered again after a lost connection, while the first
		// delivery is still being handled: how that ends is not known yet.
		if call {
			l.acknowledged(d.Ack(false))
			return
		}
		l.requeue(listen, d)
		return
	case stateNew:
	}
	if call {
		if err := d.Ack(false); err != nil {
			// The broker will hand it out again.
			l.seen.end(r.UniqueID, false)
			return
		}
	}
	in := &Incoming{Method: r.Method, Version: r.Version, Namespace: r.Namespace, Args: r.Args,
		UniqueID: r.UniqueID, Call: call, Sender: d.UserId}
	if call {
		l.serveCall(listen, ctx, r, in)
		return
	}
	_, err = l.handle(ctx, in)
	again := trove.IsKind(err, trove.KindUnavailable) || err != nil && work.Err() != nil
	l.seen.end(r.UniqueID, !again)
	switch {
	case again:
		l.log.WarnContext(ctx, "rpc: cast will be delivered again", "method", r.Method, "unique_id", r.UniqueID, "error", err)
		l.requeue(listen, d)
		return
	case err != nil:
		l.log.ErrorContext(ctx, "rpc: cast failed", "method", r.Method, "unique_id", r.UniqueID, "error", err)
	}
	l.acknowledged(d.Ack(false))
}

func (l *listener) serveCall(listen, ctx context.Context, r wire.Request, in *Incoming) {
	stop := l.replies.heartbeat(listen, ctx, r)
	result, err := l.handle(ctx, in)
	stop()
	l.seen.end(r.UniqueID, true)
	reply := wire.Reply{MsgID: r.MsgID, UniqueID: newID(), Ending: true}
	if err == nil {
		if reply.Result, err = json.Marshal(result); err != nil {
			err = fmt.Errorf("result of %s: %w", r.Method, err)
		}
	}
	if err != nil {
		l.log.InfoContext(ctx, "rpc: call failed", "method", r.Method, "unique_id", r.UniqueID, "error", err)
		reply.Result, reply.Failure = nil, failureOf(err)
	}
	l.replies.send(listen, ctx, r.ReplyQueue, reply)
}

// handle calls the handler. One that panics fails its request, not the others.
func (l *listener) handle(ctx context.Context, in *Incoming) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			l.log.ErrorContext(ctx, "rpc: handler panicked", "method", in.Method, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: panic", in.Method)
		}
	}()
	return l.handler.Handle(ctx, in)
}

// requeue gives a delivery back after a while, without holding up a worker.
// The prefetch bounds how many wait; the end of listening ends their wait.
func (l *listener) requeue(listen context.Context, d amqp091.Delivery) {
	l.delayed.Go(func() {
		pause(listen, jitter(l.opt.RequeueDelay))
		l.acknowledged(d.Nack(false, true))
	})
}

// acknowledged logs that the broker could not be told: it will deliver again.
func (l *listener) acknowledged(err error) {
	if err != nil {
		l.log.Debug("rpc: not acknowledged, will be delivered again", "error", err)
	}
}
