package amqp

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// WithLogin is a transport URL with another login at each of its hosts.
func WithLogin(transportURL, login, password string) (secret.String, error) {
	if _, err := parseURL(transportURL); err != nil {
		return secret.String{}, trove.Errorf(trove.KindBadRequest, "%w", err)
	}
	scheme, rest, _ := strings.Cut(transportURL, "://")
	rest, query, hasQuery := strings.Cut(rest, "?")
	hosts, path, hasPath := strings.Cut(rest, "/")
	user := url.UserPassword(login, password).String()
	all := strings.Split(hosts, ",")
	for i, h := range all {
		if _, host, ok := cutLast(h, "@"); ok {
			h = host
		}
		all[i] = user + "@" + h
	}
	out := scheme + "://" + strings.Join(all, ",")
	if hasPath {
		out += "/" + path
	}
	if hasQuery {
		out += "?" + query
	}
	return secret.New(out), nil
}

// Logins are the names in a transport URL: more than one if its hosts have
// their own.
func Logins(transportURL string) ([]string, error) {
	t, err := parseURL(transportURL)
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%w", err)
	}
	var names []string
	for _, e := range t.endpoints {
		if !slices.Contains(names, e.login) {
			names = append(names, e.login)
		}
	}
	return names, nil
}

// Admitted waits until there is a connection, as Ready does, but no longer than
// until a broker has refused the login: KindUnauthorized.
func (c *Conn) Admitted(ctx context.Context) error {
	for {
		c.mu.Lock()
		s, changed, closed, lastErr := c.session, c.changed, c.closed, c.lastErr
		c.mu.Unlock()
		switch {
		case s != nil && !s.ended():
			return nil
		case refused(lastErr):
			return trove.Errorf(trove.KindUnauthorized, "message bus: the login %s is refused", c.Login())
		case closed:
			return trove.Errorf(trove.KindUnavailable, "message bus: %w", amqp091.ErrClosed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return trove.Errorf(trove.KindUnavailable, "no connection to the message bus: %w", because(ctx.Err(), lastErr))
		}
	}
}

// unopened is an attempt to connect that did not succeed, and why.
type unopened struct {
	at  endpoint
	err error
}

func (u *unopened) Error() string { return u.at.String() + ": " + u.err.Error() }
func (u *unopened) Unwrap() error { return u.err }

// refused reports whether a broker did not take the login, or does not let it
// into the virtual host: there is none, or the login has no right on it, or as many
// connections as it may. A connection that was lost later, be it for the same code,
// had been let in.
func refused(err error) bool {
	attempt, ok := errors.AsType[*unopened](err)
	if !ok {
		return false
	}
	if errors.Is(attempt.err, amqp091.ErrCredentials) || errors.Is(attempt.err, amqp091.ErrSASL) || errors.Is(attempt.err, amqp091.ErrVhost) {
		return true
	}
	e, ok := errors.AsType[*amqp091.Error](attempt.err)
	return ok && (e.Code == amqp091.AccessRefused || e.Code == amqp091.NotAllowed)
}
