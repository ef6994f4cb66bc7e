package amqp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
)

// endpoint is one broker of a transport URL.
type endpoint struct {
	network, address string
	login, password  string
	serverName       string // for TLS
}

// String names the endpoint in logs: never its password.
func (e endpoint) String() string { return e.network + ":" + e.address }

// target is a transport URL taken apart.
type target struct {
	endpoints []endpoint
	vhost     string
	tls       bool
}

const (
	defaultPort    = "5672"
	defaultPortTLS = "5671"
)

// errURL never quotes the URL, which holds a password.
var errURL = errors.New("transport URL")

// parseURL reads
//
//	rabbit://user:password@host:port[,user:password@host2:port]/vhost?options
//	amqp://…                      the same; amqps:// or ?ssl=true with TLS
//	rabbit+unix://user:password@/vhost?socket=/path
//
// An empty vhost is "/". In an amqp or amqps URL with a path, as in the AMQP
// URI, "/" alone is the default too. Credentials left out in a later host are those of the one before.
// Other options are oslo.messaging's and not for us.
func parseURL(s string) (target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return target{}, fmt.Errorf("%w: no scheme; want rabbit://user:password@host:port/vhost", errURL)
	}
	rest, rawQuery, _ := strings.Cut(rest, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return target{}, fmt.Errorf("%w: malformed options", errURL)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	vhost, err := url.PathUnescape(path)
	if err != nil {
		return target{}, fmt.Errorf("%w: malformed virtual host", errURL)
	}
	t := target{vhost: vhost}
	if t.vhost == "" {
		t.vhost = "/"
	}
	port := defaultPort
	switch scheme {
	case "rabbit", "amqp", "kombu":
		t.tls = query.Get("ssl") == "true" || query.Get("ssl") == "1"
	case "amqps":
		t.tls, port = true, defaultPortTLS
	case "rabbit+unix", "amqp+unix":
		return t.unix(hosts, query.Get("socket"))
	default:
		return target{}, fmt.Errorf("%w: unknown scheme %.20q; want rabbit, amqp, amqps or rabbit+unix", errURL, scheme)
	}
	for h := range strings.SplitSeq(hosts, ",") {
		e, err := parseHost(h, port)
		if err != nil {
			return target{}, err
		}
		if n := len(t.endpoints); e.login == "" && n > 0 {
			e.login, e.password = t.endpoints[n-1].login, t.endpoints[n-1].password
		}
		t.endpoints = append(t.endpoints, e)
	}
	// Not all clients should try the same broker first.
	shuffle(t.endpoints)
	return t, nil
}

func shuffle(e []endpoint) { rand.Shuffle(len(e), func(i, j int) { e[i], e[j] = e[j], e[i] }) }

func (t target) unix(userinfo, socket string) (target, error) {
	if socket == "" {
		return target{}, fmt.Errorf("%w: rabbit+unix needs ?socket=/path", errURL)
	}
	e := endpoint{network: "unix", address: socket, serverName: "localhost"}
	userinfo, host, ok := cutLast(userinfo, "@")
	if ok && host != "" {
		return target{}, fmt.Errorf("%w: rabbit+unix takes no host", errURL)
	}
	if err := e.setLogin(userinfo); err != nil {
		return target{}, err
	}
	t.endpoints = []endpoint{e}
	return t, nil
}

func parseHost(s, port string) (endpoint, error) {
	e := endpoint{network: "tcp"}
	userinfo, host, ok := cutLast(s, "@")
	if !ok {
		userinfo, host = "", s
	}
	if err := e.setLogin(userinfo); err != nil {
		return endpoint{}, err
	}
	if host == "" {
		host = "localhost"
	}
	u, err := url.Parse("//" + host)
	if err != nil || u.Hostname() == "" || u.Path != "" {
		return endpoint{}, fmt.Errorf("%w: malformed host or port", errURL)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	e.serverName = u.Hostname()
	e.address = net.JoinHostPort(u.Hostname(), port)
	return e, nil
}

func (e *endpoint) setLogin(userinfo string) error {
	user, password, _ := strings.Cut(userinfo, ":")
	var err1, err2 error
	e.login, err1 = url.PathUnescape(user)
	e.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("%w: malformed user or password (percent-encode special characters)", errURL)
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
