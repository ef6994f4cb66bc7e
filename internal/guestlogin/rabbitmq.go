package guestlogin

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// closeWait bounds the wait for connections of a removed login to end.
	closeWait  = 5 * time.Second
	closePause = 5 * time.Millisecond
	// maxConnections and maxChannels bound what a login takes of the broker that
	// all share. An agent has one connection, two while it moves, and what a
	// broken network left half open.
	maxConnections = 16
	maxChannels    = 64
)

// RabbitMQ keeps the guests' logins in a RabbitMQ, as users without tags. It
// implements Keeper.
type RabbitMQ struct {
	api       *Management
	passwords Passwords
	place     Place
	url       string // where guests reach the broker
}

var _ Keeper = (*RabbitMQ)(nil)

// NewRabbitMQ makes a Keeper. transportURL is where guests reach the broker;
// its login, if it has one, is replaced by each guest's own.
func NewRabbitMQ(api *Management, p Passwords, place Place, transportURL string) (*RabbitMQ, error) {
	if _, err := amqp.WithLogin(transportURL, "guest", "guest"); err != nil {
		return nil, err
	}
	return &RabbitMQ{api: api, passwords: p, place: place, url: transportURL}, nil
}

// PerGuest implements Keeper.
func (r *RabbitMQ) PerGuest() bool { return true }

// Ensure implements Keeper. A login that is half made can do nothing: limits
// come before rights.
func (r *RabbitMQ) Ensure(ctx context.Context, instanceID string, generation int) (Credentials, error) {
	login := guest.Login(instanceID, generation)
	password := r.passwords.Of(login)
	u, err := amqp.WithLogin(r.url, login, password.Reveal())
	if err != nil {
		return Credentials{}, err
	}
	type object = map[string]any
	rights := RightsOf(r.place, instanceID)
	puts := []struct {
		path string
		body any
	}{{path("users", login), object{"password_hash": r.hash(login), "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": ""}}}
	for what, most := range map[string]int{"max-connections": maxConnections, "max-channels": maxChannels} {
		puts = append(puts, struct {
			path string
			body any
		}{path("user-limits", login, what), object{"value": most}})
	}
	for _, t := range rights.Topics {
		puts = append(puts, struct {
			path string
			body any
		}{path("topic-permissions", r.api.vhost, login), object{"exchange": t.Exchange, "write": t.Write, "read": t.Read}})
	}
	puts = append(puts, struct {
		path string
		body any
	}{path("permissions", r.api.vhost, login), object{"configure": rights.Configure, "write": rights.Write, "read": rights.Read}})
	for _, p := range puts {
		if err := r.api.do(ctx, http.MethodPut, p.path, p.body, nil); err != nil {
			return Credentials{}, r.unmade(err)
		}
	}
	return Credentials{Login: login, Password: password, TransportURL: u}, nil
}

func (r *RabbitMQ) unmade(err error) error {
	if errors.Is(err, errAbsent) {
		return r.api.noVirtualHost()
	}
	return err
}

// hash is how RabbitMQ keeps a password: four bytes of salt, then the digest of
// salt and password. The clear password is not told even to the broker. The
// salt is derived, so that a login made again is the same.
func (r *RabbitMQ) hash(login string) string {
	salt := r.passwords.derive("salt of " + login)[:4]
	digest := sha512.Sum512(append(salt[:4:4], r.passwords.Of(login).Reveal()...))
	return base64.StdEncoding.EncodeToString(append(salt, digest[:]...))
}

// Remove implements Keeper.
func (r *RabbitMQ) Remove(ctx context.Context, instanceID string, generations ...int) error {
	for _, g := range generations {
		if err := r.removeLogin(ctx, guest.Login(instanceID, g)); err != nil {
			return err
		}
	}
	return nil
}

// Connections counts the open connections of a login.
func (r *RabbitMQ) Connections(ctx context.Context, login string) (n int, err error) {
	err = r.api.names(ctx, path("connections", "username", login), func(string) { n++ })
	if errors.Is(err, errAbsent) {
		return 0, nil
	}
	return n, err
}

// removeLogin takes a login away and ends its connections.
func (r *RabbitMQ) removeLogin(ctx context.Context, login string) error {
	if err := r.api.do(ctx, http.MethodDelete, path("users", login), nil, nil); err != nil && !errors.Is(err, errAbsent) {
		return err
	}
	// RabbitMQ ends a removed user's connections itself, but not at once, and
	// would forget one that was opening just then.
	ctx, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	connections := path("connections", "username", login)
	for wait := closePause; ; wait = min(2*wait, time.Second) {
		var open []struct{ Name string }
		if err := r.api.do(ctx, http.MethodGet, connections, nil, &open); err != nil && !errors.Is(err, errAbsent) {
			return err
		}
		if len(open) == 0 {
			return nil
		}
		if err := r.api.do(ctx, http.MethodDelete, connections, nil, nil); err != nil && !errors.Is(err, errAbsent) {
			return err
		}
		if !pause(ctx, wait) {
			return trove.Errorf(trove.KindUnavailable, "Connections of the removed login %s are still open.", login)
		}
	}
}
