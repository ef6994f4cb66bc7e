package guestlogin

import (
	"context"
	"net/url"
	"regexp"
	"sync"

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
)

// Logins are the logins of an embedded broker, kept in memory: after a restart
// they are restored from the list of live instances. It implements
// broker.Authenticator and Keeper.
type Logins struct {
	passwords Passwords
	place     Place
	socket    string // where guests reach the broker

	mu     sync.Mutex
	guests map[string]string // instance id by login
	kick   func(login string)
}

var (
	_ broker.Authenticator = (*Logins)(nil)
	_ Keeper               = (*Logins)(nil)
)

// New makes logins out of a key of at least 32 bytes. socket is the broker's
// unix socket as guests see it.
func New(key []byte, place Place, socket string) *Logins {
	return &Logins{passwords: Passwords{key}, place: place, socket: socket, guests: map[string]string{}, kick: func(string) {}}
}

// Restore admits the guests of these instances with their first credentials,
// before the broker listens.
func (l *Logins) Restore(instanceIDs ...string) {
	for _, id := range instanceIDs {
		l.Admit(id, 0)
	}
}

// Admit admits the guest of an instance with credentials of a generation.
func (l *Logins) Admit(instanceID string, generation int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guests[guest.Login(instanceID, generation)] = instanceID
}

// Guests counts the guests' logins.
func (l *Logins) Guests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.guests)
}

// URL is the transport URL of a login. It holds the password.
func (l *Logins) URL(login string) secret.String {
	u := url.URL{Scheme: "rabbit+unix", User: url.UserPassword(login, l.passwords.Of(login).Reveal()), Path: "/",
		RawQuery: url.Values{"socket": {l.socket}}.Encode()}
	return secret.New(u.String())
}

// Ensure implements Keeper.
func (l *Logins) Ensure(_ context.Context, instanceID string, generation int) (Credentials, error) {
	l.Admit(instanceID, generation)
	login := guest.Login(instanceID, generation)
	return Credentials{Login: login, Password: l.passwords.Of(login), TransportURL: l.URL(login)}, nil
}

// Remove implements Keeper.
func (l *Logins) Remove(_ context.Context, instanceID string, generations ...int) error {
	for _, g := range generations {
		login := guest.Login(instanceID, g)
		l.mu.Lock()
		delete(l.guests, login)
		kick := l.kick
		l.mu.Unlock()
		kick(login)
	}
	return nil
}

// PerGuest implements Keeper.
func (l *Logins) PerGuest() bool { return true }

// Login implements broker.Authenticator.
func (l *Logins) Login(login, password string) (broker.Permissions, error) {
	if !l.passwords.Of(login).Equal(password) {
		return broker.Permissions{}, broker.ErrRefused
	}
	if login == ControlPlane {
		return broker.All(), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok := l.guests[login]
	if !ok {
		return broker.Permissions{}, broker.ErrRefused
	}
	return compile(RightsOf(l.place, id)), nil
}

// compile gives rights as the embedded broker takes them.
func compile(r Rights) broker.Permissions {
	expression := func(s string) *regexp.Regexp {
		if s == nothing {
			return nil
		}
		return regexp.MustCompile(s)
	}
	p := broker.Permissions{Configure: expression(r.Configure), Write: expression(r.Write), Read: expression(r.Read),
		TopicWrite: map[string]*regexp.Regexp{}, TopicRead: map[string]*regexp.Regexp{}}
	for _, t := range r.Topics {
		p.TopicWrite[t.Exchange], p.TopicRead[t.Exchange] = expression(t.Write), expression(t.Read)
	}
	return p
}
