// Package guestlogin gives each guest agent a login of its own on the bus, and
// the queues it reads: what a stolen login can do ends at its own instance.
//
// Passwords are derived from one key, so that a login made again is the same
// and none is stored. Rights are data (Rights); who keeps logins is a Keeper:
// Logins for the embedded broker, RabbitMQ by its management API, Shared where
// all agents have the operator's one login. The package does not know
// instances, only their ids and the generation of their credentials.
package guestlogin

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// ControlPlane is the login of our own services on the embedded broker.
const ControlPlane = "trove"

// Name is the first login of an instance's guest agent, the one that the
// instance's user data carries: generation 0.
func Name(instanceID string) string { return guest.Login(instanceID, 0) }

// validID refuses what would mean something in a routing key, a login's name or
// a URL.
func validID(instanceID string) error {
	if !guest.ValidID(instanceID) {
		return trove.Errorf(trove.KindInternal, "%q cannot be part of a queue's name", instanceID)
	}
	return nil
}

// SpeaksFor is the instance that the sender of a message may speak for; limited
// is false if that is any, as for our own services. On a bus whose guests all
// have logins of their own, a sender who does not say who he is speaks for none.
func SpeaksFor(login string) (instanceID string, limited bool) {
	return Senders(ControlPlane)(login)
}

// Senders is SpeaksFor where our services have these logins.
func Senders(controlPlane ...string) func(login string) (instanceID string, limited bool) {
	return func(login string) (string, bool) {
		if login != "" && slices.Contains(controlPlane, login) {
			return "", false
		}
		if id, _, ok := guest.ParseLogin(login); ok {
			return id, true
		}
		return "", true
	}
}

// Anyone is SpeaksFor where guests share a login: its name proves nothing, so
// what limits a sender is the key of the payload. A login of a guest's own is
// limited all the same.
func Anyone(login string) (instanceID string, limited bool) {
	id, _, ok := guest.ParseLogin(login)
	return id, ok
}

// Passwords derives the passwords of logins from a key.
type Passwords struct{ key []byte }

// NewPasswords takes a key of at least 32 bytes.
func NewPasswords(key []byte) (Passwords, error) {
	if len(key) < 32 {
		return Passwords{}, trove.Errorf(trove.KindBadRequest, "the key of the guests' logins has %d bytes; it needs 32 or more", len(key))
	}
	return Passwords{key}, nil
}

// Of is the password of a login, the same each time.
func (p Passwords) Of(login string) secret.String {
	return secret.New(base64.RawURLEncoding.EncodeToString(p.derive("bus login " + login)))
}

func (p Passwords) derive(what string) []byte {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(what))
	return mac.Sum(nil)
}

// Rights are what a login may do, as RabbitMQ has them: regular expressions
// over names of queues and exchanges, and over routing keys of topic exchanges.
type Rights struct {
	Configure, Write, Read string
	Topics                 []TopicRight
}

// TopicRight limits the routing keys of one topic exchange.
type TopicRight struct{ Exchange, Write, Read string }

// nothing matches no name.
const nothing = "^$"

// Place is where on a bus guests may speak.
type Place struct {
	Exchange  string // control_exchange
	Conductor string // conductor_queue; the default if empty
}

func (p Place) conductor() string { return cmp.Or(p.Conductor, conductor.Topic) }

// RightsOf are what a guest may do: read its two queues, tell the conductor
// things, and answer calls under its own id. It declares, binds and deletes
// nothing, and has no right on the default exchange, by which one could write
// to any queue.
func RightsOf(p Place, instanceID string) Rights {
	reply := ReplyExchange(p.Exchange)
	return Rights{
		Configure: nothing,
		Write:     exactly(quoteAll(p.Exchange, reply)...),
		Read:      exactly(quoteAll(guest.Queues(instanceID)...)...),
		Topics: []TopicRight{
			{Exchange: p.Exchange, Write: exactly(regexp.QuoteMeta(p.conductor())), Read: nothing},
			{Exchange: reply, Write: exactly(regexp.QuoteMeta(instanceID) + `\.reply_[0-9a-f]+`), Read: nothing},
		},
	}
}

// exactly matches one of the alternatives and nothing else. The end is \z, not
// $: in RabbitMQ's PCRE that would match before a newline too. QuoteMeta's
// escapes mean the same in PCRE, which compares bytes as Go does.
func exactly(alternatives ...string) string {
	return "^(?:" + strings.Join(alternatives, "|") + `)\z`
}

func quoteAll(names ...string) []string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return quoted
}

// ReplyExchange is the topic exchange by which guests answer calls.
func ReplyExchange(controlExchange string) string { return controlExchange + "_reply" }
