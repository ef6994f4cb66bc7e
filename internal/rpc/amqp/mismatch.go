package amqp

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/trove"
)

// Mismatch is an exchange or a queue that exists and has another form than we
// declare it with: the broker's 406. Someone on the bus has other options.
type Mismatch struct {
	Object string // "queue" or "exchange"
	Name   string
	Host   string // the virtual host
	Flag   string // as the broker names it: durable, auto_delete, x-expires, …
	Ours   string // the value we declare, "none" for none
	Theirs string // the value it has
	Option string // of [oslo_messaging_rabbit], that decides on the flag; may be empty

	cause error
}

// Error names object, flag and both values.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("%s %q has %s %s and not %s as our configuration has it", m.Object, m.Name, m.Flag, m.Theirs, m.Ours)
}

// Unwrap gives the broker's own error.
func (m *Mismatch) Unwrap() error { return m.cause }

// action says what to do about it.
func (m *Mismatch) action() string {
	where := "set the options of [oslo_messaging_rabbit] to the same values in every trove.conf and trove-guestagent.conf"
	if m.Option != "" {
		where = fmt.Sprintf("set [oslo_messaging_rabbit] %s to the same value in every trove.conf and trove-guestagent.conf", m.Option)
	}
	if m.Object == "queue" {
		return where + "; if ours is the right one, stop who uses the queue and delete it (rabbitmqctl delete_queue --vhost " + m.Host + " " + m.Name + "): it is declared anew"
	}
	return where + "; if ours is the right one, stop who uses the exchange and delete it (rabbitmqadmin --vhost=" + m.Host + " delete exchange name=" + m.Name + "): it is declared anew"
}

// inequivalent is how RabbitMQ tells it. There is no other place to learn which
// flag it is about; where the text is another one, the error stays the broker's.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']*)' for (queue|exchange) '(.*)' in vhost '(.*)': received (.*) but current is (.*)$`)

// explain makes the broker's refusal of a declaration one that tells what to
// change. Other errors stay as they are.
func explain(err error) error {
	e, ok := errors.AsType[*amqp091.Error](err)
	if !ok || e.Code != amqp091.PreconditionFailed {
		return err
	}
	p := inequivalent.FindStringSubmatch(e.Reason)
	if p == nil {
		return err
	}
	m := &Mismatch{Flag: p[1], Object: p[2], Name: p[3], Host: p[4], Ours: plain(p[5]), Theirs: plain(p[6]), cause: err}
	m.Option = optionOf(m.Flag, strings.HasPrefix(m.Name, "reply_") || strings.Contains(m.Name, "_fanout"))
	return trove.Errorf(trove.KindConflict, "message bus: %w", m).WithAction("%s", m.action())
}

// plain takes the broker's words around a value off: 'true', the value 'quorum'
// of type 'longstr', none.
func plain(s string) string {
	s = strings.TrimPrefix(s, "the value ")
	s, _, _ = strings.Cut(s, " of type ")
	return strings.Trim(s, "'")
}

func optionOf(flag string, transient bool) string {
	switch flag {
	case "durable":
		if transient {
			return "rabbit_transient_quorum_queue"
		}
		return "amqp_durable_queues (or rabbit_quorum_queue)"
	case "auto_delete":
		return "amqp_auto_delete"
	case "x-queue-type":
		if transient {
			return "rabbit_transient_quorum_queue (or rabbit_stream_fanout)"
		}
		return "rabbit_quorum_queue"
	case "x-expires", "x-max-age":
		return "rabbit_transient_queues_ttl"
	case "x-ha-policy":
		return "rabbit_ha_queues"
	case "x-delivery-limit":
		return "rabbit_quorum_delivery_limit"
	case "x-max-in-memory-length":
		return "rabbit_quorum_max_memory_length"
	case "x-max-in-memory-bytes":
		return "rabbit_quorum_max_memory_bytes"
	}
	return ""
}
