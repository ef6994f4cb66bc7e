package broker

import (
	"errors"
	"regexp"
)

// ErrRefused is what an Authenticator returns for a wrong user or password.
// Other errors are logged as failures of its own; the client hears the same.
var ErrRefused = errors.New("login refused")

// Authenticator checks logins. Login is called once per connection, from that
// connection's goroutine, and may be called concurrently.
type Authenticator interface {
	Login(user, password string) (Permissions, error)
}

// Permissions of one login, as RabbitMQ has them. An expression permits the
// names in which it matches anywhere, so write ^ and $; nil and the empty
// expression permit nothing. The default exchange is named amq.default.
type Permissions struct {
	Configure, Write, Read *regexp.Regexp
	// TopicWrite limits the routing keys of messages published to a topic
	// exchange. An exchange without an entry is not limited.
	TopicWrite map[string]*regexp.Regexp
	// TopicRead limits the routing keys of bindings to a topic exchange in the
	// same way.
	TopicRead map[string]*regexp.Regexp
}

// All permits everything: for the control plane's own login.
func All() Permissions {
	all := regexp.MustCompile(`.*`)
	return Permissions{Configure: all, Write: all, Read: all}
}

func permits(re *regexp.Regexp, name string) bool {
	return re != nil && re.String() != "" && re.MatchString(name)
}

func permitsTopic(m map[string]*regexp.Regexp, exchange, key string) bool {
	re, limited := m[exchange]
	return !limited || permits(re, key)
}

func (c *conn) refuse(kind, name string) error {
	return softErr(accessRefused, "access to %s '%s' in vhost '/' refused for user '%s'", kind, name, c.user)
}

func (c *conn) mayQueue(re *regexp.Regexp, name string) error {
	if !permits(re, name) {
		return c.refuse("queue", name)
	}
	return nil
}

func (c *conn) mayExchange(re *regexp.Regexp, name string) error {
	if name == "" {
		name = "amq.default"
	}
	if !permits(re, name) {
		return c.refuse("exchange", name)
	}
	return nil
}

// mayTopic checks a routing key where the exchange is a topic exchange.
func (c *conn) mayTopic(m map[string]*regexp.Regexp, x *exchange, key string) error {
	if x != nil && x.kind == kindTopic && !permitsTopic(m, x.name, key) {
		return softErr(accessRefused, "access to topic '%s' in exchange '%s' in vhost '/' refused for user '%s'",
			key, x.name, c.user)
	}
	return nil
}
