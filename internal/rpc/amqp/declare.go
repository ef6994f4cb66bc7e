package amqp

import (
	"fmt"
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
}

func (d Declarations) validate() error {
	if d.HA && (d.Quorum || d.TransientQuorum) {
		return fmt.Errorf("rabbit_ha_queues excludes rabbit_quorum_queue and rabbit_transient_quorum_queue")
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

// FanoutExchange declares the fanout exchange of a topic and gives its name.
func (d Declarations) FanoutExchange(ch *amqp091.Channel, topic string) (string, error) {
	name := FanoutName(topic)
	return name, ch.ExchangeDeclare(name, amqp091.ExchangeFanout, d.TransientQuorum, true, false, false, nil)
}

// FanoutName is the name of the fanout exchange of a topic.
func FanoutName(topic string) string { return topic + "_fanout" }

// Queue declares a queue of requests and binds it to exchange by its name.
func (d Declarations) Queue(ch *amqp091.Channel, name, exchange string) error {
	if _, err := ch.QueueDeclare(name, d.durable(), d.AutoDelete, false, false, d.arguments(d.Quorum)); err != nil {
		return err
	}
	return ch.QueueBind(name, name, exchange, false, nil)
}

// TransientQueue declares a queue for replies or fanouts: the broker removes
// it some time after its user is gone.
func (d Declarations) TransientQueue(ch *amqp091.Channel, name string) error {
	args := d.arguments(d.TransientQuorum)
	if !d.TransientNoExpiry {
		ttl := d.TransientTTL
		if ttl <= 0 {
			ttl = DefaultTransientTTL
		}
		args["x-expires"] = ttl.Milliseconds()
	}
	_, err := ch.QueueDeclare(name, d.TransientQuorum, false, false, false, args)
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
				args[key] = v
			}
		}
	}
	return args
}
