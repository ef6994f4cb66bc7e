package rpc

import (
	"context"
	"errors"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
)

// QueueState is a queue as it is now.
type QueueState struct {
	There     bool
	Messages  int // that wait for a consumer
	Consumers int
}

// Look looks at a queue. One that is not there is no error.
func Look(ctx context.Context, conn *amqp.Conn, queue string) (state QueueState, err error) {
	err = onSession(ctx, conn, func(ch *amqp091.Channel) error {
		// Nothing but the name counts when it is only looked at.
		q, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
		state = QueueState{There: err == nil, Messages: q.Messages, Consumers: q.Consumers}
		return err
	})
	if e, ok := errors.AsType[*amqp091.Error](err); ok && e.Code == amqp091.NotFound {
		return QueueState{}, nil
	}
	return state, err
}

// Waiting counts the messages that wait in a queue for a consumer. A queue that
// is not there holds none.
func Waiting(ctx context.Context, conn *amqp.Conn, queue string) (int, error) {
	state, err := Look(ctx, conn, queue)
	return state.Messages, err
}
