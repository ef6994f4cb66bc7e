// Package guestlogin gives each guest agent a login of its own on the bus, and
// the queues it reads: what a stolen login can do ends at its own instance.
//
// Passwords are derived from one key, so that nothing about a guest needs to be
// stored and a login made again is the same. The package knows the embedded
// broker's permissions; it does not know instances, only their ids.
package guestlogin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// ControlPlane is the login of our own services.
const ControlPlane = "trove"

const guestPrefix = "guest-"

// Name is the login of an instance's guest agent.
func Name(instanceID string) string { return guestPrefix + instanceID }

// InstanceOf is the instance whose guest agent has this login; ok is false if
// the login is not a guest's.
func InstanceOf(login string) (instanceID string, ok bool) {
	return strings.CutPrefix(login, guestPrefix)
}

// SpeaksFor is the instance that the sender of a message may speak for; limited
// is false if that is any, as for our own services. On a bus whose guests all
// have logins of their own, a sender who does not say who he is speaks for none.
func SpeaksFor(login string) (instanceID string, limited bool) {
	if login == ControlPlane {
		return "", false
	}
	if id, ok := InstanceOf(login); ok {
		return id, true
	}
	return "", true
}

// Queues declares and removes the queues of a guest agent. The control plane
// does it: a guest may not declare anything.
type Queues interface {
	DeclareGuestQueues(ctx context.Context, queues ...string) error
	DeleteQueues(ctx context.Context, queues ...string) error
}

// Logins are the logins of an embedded broker. It implements
// broker.Authenticator.
type Logins struct {
	key      []byte
	exchange string // control_exchange
	socket   string // where guests reach the broker

	mu     sync.Mutex
	guests map[string]bool // by instance id
}

// New makes logins out of a key of at least 32 bytes. socket is the broker's
// unix socket as guests see it.
func New(key []byte, exchange, socket string) *Logins {
	return &Logins{key: key, exchange: exchange, socket: socket, guests: map[string]bool{}}
}

// Restore admits the guests of these instances, before the broker listens.
func (l *Logins) Restore(instanceIDs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range instanceIDs {
		l.guests[id] = true
	}
}

// Guests counts the guests' logins.
func (l *Logins) Guests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.guests)
}

// URL is the transport URL of a login. It holds the password.
func (l *Logins) URL(login string) secret.String {
	u := url.URL{Scheme: "rabbit+unix", User: url.UserPassword(login, l.password(login)), Path: "/",
		RawQuery: url.Values{"socket": {l.socket}}.Encode()}
	return secret.New(u.String())
}

func (l *Logins) password(login string) string {
	mac := hmac.New(sha256.New, l.key)
	mac.Write([]byte("bus login " + login))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Login implements broker.Authenticator.
func (l *Logins) Login(login, password string) (broker.Permissions, error) {
	if !hmac.Equal([]byte(password), []byte(l.password(login))) {
		return broker.Permissions{}, broker.ErrRefused
	}
	if login == ControlPlane {
		return broker.All(), nil
	}
	id, ok := InstanceOf(login)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || !l.guests[id] {
		return broker.Permissions{}, broker.ErrRefused
	}
	return l.permissions(id), nil
}

// permissions are what a guest may do: read its two queues, tell the conductor
// things, and answer calls under its own id.
func (l *Logins) permissions(id string) broker.Permissions {
	var queues []string
	for _, q := range guest.Queues(id) {
		queues = append(queues, regexp.QuoteMeta(q))
	}
	exact := func(alternatives ...string) *regexp.Regexp {
		return regexp.MustCompile("^(" + strings.Join(alternatives, "|") + ")$")
	}
	reply := ReplyExchange(l.exchange)
	return broker.Permissions{
		Read:  exact(queues...),
		Write: exact(regexp.QuoteMeta(l.exchange), regexp.QuoteMeta(reply)),
		TopicWrite: map[string]*regexp.Regexp{
			l.exchange: exact(regexp.QuoteMeta(conductor.Topic)),
			reply:      exact(regexp.QuoteMeta(id) + `\.reply_[0-9a-f]+`),
		},
	}
}

// ReplyExchange is the topic exchange by which guests answer calls.
func ReplyExchange(controlExchange string) string { return controlExchange + "_reply" }

// Bus keeps logins and queues together, as the flows need them.
type Bus struct {
	logins *Logins
	queues Queues
	kick   func(login string)
}

// NewBus makes a Bus; kick closes the connections of a login.
func NewBus(logins *Logins, queues Queues, kick func(login string)) *Bus {
	return &Bus{logins, queues, kick}
}

// EnsureGuest makes the queues and the login of an instance's guest agent, or
// finds them, and gives the transport URL for it: the same each time.
func (b *Bus) EnsureGuest(ctx context.Context, instanceID string) (string, error) {
	if instanceID == "" || strings.ContainsAny(instanceID, ".*#@:/") {
		return "", trove.Errorf(trove.KindInternal, "%q cannot be part of a queue's name", instanceID)
	}
	if err := b.queues.DeclareGuestQueues(ctx, guest.Queues(instanceID)...); err != nil {
		return "", err
	}
	b.logins.Restore(instanceID)
	return b.logins.URL(Name(instanceID)).Reveal(), nil
}

// RemoveGuest takes the login and the queues of an instance's guest agent away
// and ends its connections.
func (b *Bus) RemoveGuest(ctx context.Context, instanceID string) error {
	b.logins.mu.Lock()
	delete(b.logins.guests, instanceID)
	b.logins.mu.Unlock()
	b.kick(Name(instanceID))
	return b.queues.DeleteQueues(ctx, guest.Queues(instanceID)...)
}
