// Package broker is an AMQP 0-9-1 broker inside the process: the subset of
// RabbitMQ that oslo.messaging and gotrove use, for one machine. It owns
// connections, logins' permissions, exchanges, queues and their bounds, and
// answers 540 (not implemented) to what it leaves out: transactions, headers
// exchanges, exchange-to-exchange bindings, dead-lettering, priorities, quorum
// queues and streams.
//
// All state is in memory. Durable and persistent are accepted and compared as
// RabbitMQ does, and a restart forgets everything all the same: whoever needs
// a message to survive keeps it until it was handled, not until it was
// confirmed.
//
// Everything is bounded (Limits). A queue over its bound refuses the new
// message: basic.nack where the publisher asked for confirms, else it is
// dropped and counted. A consumer that reads slowly gets nothing more until it
// has read, and holds up nobody else.
//
// The package must not know what travels in the messages, nor who the users
// are: an Authenticator tells.
package broker
