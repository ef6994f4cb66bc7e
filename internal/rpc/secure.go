package rpc

import (
	"context"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// Sealer keeps what a client says from being read on the bus. What is sealed
// how, and with which key, is its own affair: package rpc only says when.
type Sealer interface {
	// SealRequest seals the arguments and the context of r, which is complete,
	// before it goes to topic. It may leave them as they are.
	SealRequest(ctx context.Context, topic string, r *wire.Request) (ReplyCodec, error)
}

// Opener opens what a server gets.
type Opener interface {
	// OpenRequest opens the arguments and the context of r in place, which came
	// from a login the broker vouches for (it may be empty). An error of
	// KindUnavailable has the request delivered again; any other rejects it, and
	// its text is logged, so it must not quote what r says.
	OpenRequest(ctx context.Context, sender string, r *wire.Request) (Opened, error)
}

// Opened tells how a request was sealed.
type Opened struct {
	// Sealed is whether it was sealed at all.
	Sealed bool
	// Instance is the instance with whose key it was sealed; empty if that was
	// no instance's.
	Instance string
	// Next is whether that is not the key in use but the one to replace it.
	Next bool
	// Reply seals the reply.
	Reply ReplyCodec
}

// ReplyCodec seals or opens, in place, what a reply says. It is nil where
// replies travel as they are.
type ReplyCodec func(*wire.Reply) error

// seal readies r for topic.
func (c *Client) seal(ctx context.Context, m Message, r *wire.Request) (ReplyCodec, error) {
	if c.opt.Seal == nil {
		return nil, nil
	}
	open, err := c.opt.Seal.SealRequest(ctx, m.Topic, r)
	if err != nil {
		return nil, fmt.Errorf("%s to %s cannot be sealed: %w", m.Method, m.Topic, err)
	}
	return open, nil
}

// open opens r, if the server is to.
func (s *Server) open(ctx context.Context, sender string, r *wire.Request) (Opened, error) {
	if s.opt.Open == nil {
		return Opened{}, nil
	}
	return s.opt.Open.OpenRequest(ctx, sender, r)
}

// errUnread is the one answer to every request that could not be opened: it tells
// nothing of why.
var errUnread = trove.Errorf(trove.KindGuest, "the request could not be read: it is not sealed as its receiver expects").
	WithAction("Look at the receiver's log: the key of the sender or of the receiver may have changed.")

// refuse settles a request that could not be opened because of err.
func (s *Server) refuse(listen, work context.Context, d amqp091.Delivery, r wire.Request, err error) {
	log := s.log.With("method", r.Method, "unique_id", r.UniqueID, "sender", d.UserId, "error", err)
	if trove.IsKind(err, trove.KindUnavailable) {
		log.WarnContext(listen, "rpc: request cannot be opened now, it will be delivered again")
		s.requeue(listen, d)
		return
	}
	log.WarnContext(listen, "rpc: request refused")
	if err := d.Reject(false); err != nil {
		s.acknowledged(err)
		return
	}
	if r.MsgID != "" {
		s.replies.send(listen, work, r.ReplyQueue, wire.Reply{MsgID: r.MsgID, UniqueID: newID(), Ending: true, Failure: failureOf(errUnread)})
	}
}
