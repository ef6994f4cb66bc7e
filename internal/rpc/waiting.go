package rpc

import (
	"context"
	"errors"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
)

// Waiting counts the messages that wait in a queue for a consumer. A queue that
// is not there holds none.
func Waiting(ctx context.Context, conn *amqp.Conn, queue string) (n int, err error) {
	err = onSession(ctx, conn, func(ch *amqp091.Channel) error {
		// Nothing but the name counts when it is only looked at.
		q, err := ch.QueueDeclarePassive(queue, false, false, false, false, nil)
		n = q.Messages
		return err
	})
	if e, ok := errors.AsType[*amqp091.Error](err); ok && e.Code == amqp091.NotFound {
		return 0, nil
	}
	return n, err
}
