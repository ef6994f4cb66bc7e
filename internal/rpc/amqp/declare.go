package amqp

import (
	"cmp"
	"errors"
	"strconv"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// DefaultTransientTTL is how long a broker keeps a reply or fanout queue that
// nobody uses (option rabbit_transient_queues_ttl).
const DefaultTransientTTL = 1800 * time.Second

// Declarations says how exchanges and queues are declared. Everyone on a bus,
// Python services and guests too, must have the same values: a broker refuses
// a second declaration that differs. The zero value is oslo.messaging's
// default. The names are those of section [oslo_messaging_rabbit].
type Declarations struct {
	Durable           bool          // amqp_durable_queues
	AutoDelete        bool          // amqp_auto_delete
	HA                bool          // rabbit_ha_queues
	Quorum            bool          // rabbit_quorum_queue
	DeliveryLimit     int           // rabbit_quorum_delivery_limit, 0 is none
	MaxMemoryLength   int           // rabbit_quorum_max_memory_length, 0 is none
	MaxMemoryBytes    int           // rabbit_quorum_max_memory_bytes, 0 is none
	TransientQuorum   bool          // rabbit_transient_quorum_queue
	TransientTTL      time.Duration // rabbit_transient_queues_ttl, 0 is DefaultTransientTTL
	TransientNoExpiry bool          // rabbit_transient_queues_ttl = 0
	StreamFanout      bool          // rabbit_stream_fanout
	CancelOnFailover  bool          // enable_cancel_on_failover
	// Names, of use_queue_manager, makes the names of reply and fanout queues;
	// nil makes random ones.
	Names *QueueNames
}

func (d Declarations) validate() error {
	if d.HA && (d.Quorum || d.TransientQuorum) {
		return errors.New("rabbit_ha_queues excludes rabbit_quorum_queue and rabbit_transient_quorum_queue")
	}
	if d.StreamFanout && !d.TransientQuorum {
		return errors.New("rabbit_stream_fanout needs rabbit_transient_quorum_queue")
	}
	return nil
}

func (d Declarations) durable() bool { return d.Durable || d.Quorum }

// Exchange declares a topic exchange of the bus.
func (d Declarations) Exchange(ch *amqp091.Channel, name string) error {
	return ch.ExchangeDeclare(name, amqp091.ExchangeTopic, d.durable(), d.AutoDelete, false, false, nil)
}

// PassiveExchange checks that an exchange is there. It needs no right.
func PassiveExchange(ch *amqp091.Channel, name string) error {
	return ch.ExchangeDeclarePassive(name, amqp091.ExchangeTopic, false, false, false, false, nil)
}

// FanoutExchange declares the fanout exchange of a topic.
func (d Declarations) FanoutExchange(ch *amqp091.Channel, topic string) error {
	return ch.ExchangeDeclare(FanoutName(topic), amqp091.ExchangeFanout, d.TransientQuorum, true, false, false, nil)
}

// FanoutName is the name of the fanout exchange of a topic.
func FanoutName(topic string) string { return topic + "_fanout" }

// Queue declares a queue of requests and binds it to exchange by its name.
func (d Declarations) Queue(ch *amqp091.Channel, name, exchange string) error {
	if err := d.OnlyQueue(ch, name); err != nil {
		return err
	}
	return ch.QueueBind(name, name, exchange, false, nil)
}

// OnlyQueue declares a queue of requests and does not bind it.
func (d Declarations) OnlyQueue(ch *amqp091.Channel, name string) error {
	return declareQueue(ch, name, d.durable(), d.AutoDelete, d.arguments(d.Quorum))
}

// ReplyQueue declares a queue for replies, to which the broker's default
// exchange routes, and gives its name.
func (d Declarations) ReplyQueue(ch *amqp091.Channel) (string, error) {
	unique, err := d.Names.next()
	if err != nil {
		return "", err
	}
	name := ReplyPrefix + unique
	return name, d.transientQueue(ch, name)
}

// ReplyPrefix is how the name of every reply queue begins.
const ReplyPrefix = "reply_"

// FanoutQueue declares a queue for fanouts of a topic with the exchange, binds
// it and gives its name.
func (d Declarations) FanoutQueue(ch *amqp091.Channel, topic string) (string, error) {
	if err := d.FanoutExchange(ch, topic); err != nil {
		return "", err
	}
	name, err := d.fanoutQueue(ch, topic)
	if err != nil {
		return "", err
	}
	return name, ch.QueueBind(name, topic, FanoutName(topic), false, nil)
}

func (d Declarations) fanoutQueue(ch *amqp091.Channel, topic string) (string, error) {
	name := FanoutName(topic)
	if d.StreamFanout {
		// One for all, which everyone reads at a place of his own.
		args := amqp091.Table{"x-queue-type": "stream"}
		if ttl := d.ttl(); ttl > 0 {
			args["x-max-age"] = strconv.FormatInt(int64(ttl.Seconds()), 10) + "s"
		}
		return name, declareQueue(ch, name, true, false, args)
	}
	unique, err := d.Names.next()
	if err != nil {
		return "", err
	}
	name += "_" + unique
	return name, d.transientQueue(ch, name)
}

// Transient tells whether reply and fanout queues are of one session, which
// deletes them at its end. Those with names of their own are found again.
func (d Declarations) Transient() bool { return d.Names == nil }

// ConsumerArguments are those of every consumer; each call gives a new table.
func (d Declarations) ConsumerArguments() amqp091.Table {
	if d.CancelOnFailover {
		return amqp091.Table{"x-cancel-on-ha-failover": true}
	}
	return amqp091.Table{}
}

// transientQueue declares a queue that the broker removes some time after its
// user is gone.
func (d Declarations) transientQueue(ch *amqp091.Channel, name string) error {
	args := d.arguments(d.TransientQuorum)
	if ttl := d.ttl(); ttl > 0 {
		args["x-expires"] = ttl.Milliseconds()
	}
	return declareQueue(ch, name, d.TransientQuorum, false, args)
}

// ttl is 0 for ever.
func (d Declarations) ttl() time.Duration {
	if d.TransientNoExpiry {
		return 0
	}
	return cmp.Or(max(0, d.TransientTTL), DefaultTransientTTL)
}

// UnreachableQueue is a queue that exists on a node that is down: the broker's
// 404 to a declaration. Only deleting it helps.
type UnreachableQueue struct {
	Name  string
	cause error
}

// Error tells the queue and what the broker said.
func (e *UnreachableQueue) Error() string { return "queue " + e.Name + ": " + e.cause.Error() }

// Unwrap gives the broker's error.
func (e *UnreachableQueue) Unwrap() error { return e.cause }

func declareQueue(ch *amqp091.Channel, name string, durable, autoDelete bool, args amqp091.Table) error {
	_, err := ch.QueueDeclare(name, durable, autoDelete, false, false, args)
	if e, ok := errors.AsType[*amqp091.Error](err); ok && e.Code == amqp091.NotFound {
		return &UnreachableQueue{name, err}
	}
	return err
}

func (d Declarations) arguments(quorum bool) amqp091.Table {
	args := amqp091.Table{}
	if d.HA {
		args["x-ha-policy"] = "all"
	}
	if quorum {
		args["x-queue-type"] = "quorum"
		for key, v := range map[string]int{
			"x-delivery-limit":       d.DeliveryLimit,
			"x-max-in-memory-length": d.MaxMemoryLength,
			"x-max-in-memory-bytes":  d.MaxMemoryBytes,
		} {
			if v > 0 {
				args[key] = int64(v) // the library cuts an int to 32 bits
			}
		}
	}
	return args
}
