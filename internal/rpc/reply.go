package rpc

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpc/wire"
)

const (
	defaultReplyTimeout = 60 * time.Second
	replyPause          = 250 * time.Millisecond
	// maxLateReplies bounds the replies that are being tried again.
	maxLateReplies = 64
	// A caller may ask to be shown that its call is at work at intervals from
	// minHeartbeat to maxHeartbeat.
	minHeartbeat = time.Second
	maxHeartbeat = time.Hour
)

// replier sends replies.
type replier struct {
	conn     *amqp.Conn
	exchange amqp.Exchange
	prefix   string // of routing keys
	timeout  time.Duration
	log      *slog.Logger
	late     chan struct{} // one element for each reply that is tried again
	running  sync.WaitGroup
}

func newReplier(conn *amqp.Conn, o ServerOptions, log *slog.Logger) *replier {
	r := &replier{conn: cmp.Or(o.ReplyConn, conn), timeout: cmp.Or(max(0, o.ReplyTimeout), defaultReplyTimeout), log: log, late: make(chan struct{}, maxLateReplies)}
	if o.ReplyExchange != "" {
		r.exchange = amqp.Exchange{Name: o.ReplyExchange, Passive: o.Passive}
		r.prefix = o.ReplyPrefix + "."
	}
	return r
}

// finish waits for the replies that are tried again.
func (r *replier) finish() { r.running.Wait() }

// send publishes a reply. If its queue is not there it is tried on in the
// background, for its timeout and while listen lasts; replies are nobody's
// record, so then it is dropped.
func (r *replier) send(listen, ctx context.Context, queue string, reply wire.Reply) {
	// A queue of requests must not be written to on a sender's word.
	if !strings.HasPrefix(queue, amqp.ReplyPrefix) {
		r.log.WarnContext(ctx, "rpc: reply dropped: the caller named a queue that is not one for replies")
		return
	}
	body, err := wire.EncodeReply(reply)
	if err != nil {
		r.log.ErrorContext(ctx, "rpc: reply dropped", "error", err)
		return
	}
	p := amqp.Publishing{
		Exchange: r.exchange, Key: r.prefix + queue,
		ContentType: wire.ContentType, ContentEncoding: wire.ContentEncoding,
		Body: body, Mandatory: true,
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	err = r.conn.Publish(ctx, p)
	if !errors.Is(err, amqp.ErrUnroutable) || !reply.Ending || !r.sendLate(listen, ctx, cancel, p, reply.MsgID) {
		cancel()
		if err != nil {
			r.log.WarnContext(ctx, "rpc: reply dropped", "msg_id", reply.MsgID, "error", err)
		}
	}
}

// sendLate tries p again until it arrives or ctx or listen ends; false means
// that there are too many such already.
func (r *replier) sendLate(listen, ctx context.Context, cancel context.CancelFunc, p amqp.Publishing, id string) bool {
	select {
	case r.late <- struct{}{}:
	default:
		return false
	}
	r.running.Go(func() {
		defer func() { <-r.late }()
		defer cancel()
		defer context.AfterFunc(listen, cancel)()
		err := error(amqp.ErrUnroutable)
		for errors.Is(err, amqp.ErrUnroutable) && pause(ctx, jitter(replyPause)) {
			err = r.conn.Publish(ctx, p)
		}
		if err != nil {
			r.log.WarnContext(ctx, "rpc: reply dropped", "msg_id", id, "error", err)
		}
	})
	return true
}

// heartbeat shows the caller of r, if it asked for that, every half of its
// timeout that the call is at work. stop ends that and waits for its end, so
// that nothing follows the final reply.
func (r *replier) heartbeat(listen, ctx context.Context, req wire.Request) (stop func()) {
	interval := time.Duration(min(req.Timeout, maxHeartbeat.Seconds()) / 2 * float64(time.Second))
	if interval < minHeartbeat {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() {
		for pause(ctx, interval) {
			r.send(listen, ctx, req.ReplyQueue, wire.Reply{MsgID: req.MsgID, UniqueID: newID()})
		}
	})
	return func() {
		cancel()
		g.Wait()
	}
}
