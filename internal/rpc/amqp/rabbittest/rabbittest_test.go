package rabbittest_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

func TestStart(t *testing.T) {
	s := rabbittest.Start(t, rabbittest.Login{Name: "small", Password: "s3cret", Read: "^mine$"})
	c, err := amqp.Dial(s.URLFor("small", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("other", false, false, false, false, nil); err == nil {
		t.Error("a login without the right declared a queue")
	}
}
