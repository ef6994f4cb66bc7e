package store

import (
	"cmp"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// engine is a kind of database.
type engine string

const (
	engineSQLite   engine = "sqlite"
	engineMySQL    engine = "mysql"
	enginePostgres engine = "postgresql"
)

// schemes are the names that SQLAlchemy has for our engines, without the
// driver after a plus sign, which is always our own.
var schemes = map[string]engine{
	"sqlite": engineSQLite, "mysql": engineMySQL, "mariadb": engineMySQL, "postgresql": enginePostgres, "postgres": enginePostgres,
}

// target is where a database is.
type target struct {
	engine   engine
	user     string
	password secret.String
	host     string // empty: the engine's default
	port     string
	database string
	path     string // of SQLite
	options  map[string]string
}

// String names it, without what is secret.
func (t target) String() string {
	if t.engine == engineSQLite {
		return t.path
	}
	return string(t.engine) + "://" + t.address() + "/" + t.database
}

func (t target) address() string {
	if s := t.socket(); s != "" {
		return s
	}
	return net.JoinHostPort(cmp.Or(t.host, "127.0.0.1"), cmp.Or(t.port, map[engine]string{engineMySQL: "3306", enginePostgres: "5432"}[t.engine]))
}

// socket is the path of a Unix socket, empty if TCP is used.
func (t target) socket() string {
	if t.engine == enginePostgres {
		if h := cmp.Or(t.options["host"], t.host); strings.HasPrefix(h, "/") {
			return h
		}
		return ""
	}
	return t.options["unix_socket"]
}

func badURL(format string, args ...any) error {
	return trove.Errorf(trove.KindBadRequest, "[database] connection: "+format, args...).
		WithAction("Write it as mysql+pymysql://user:password@host:port/database, postgresql://user:password@host:port/database or sqlite:////path.")
}

// parseURL reads a URL as SQLAlchemy writes it: like any, but a password may
// hold everything except @ unquoted. No error tells what is in the URL, for the
// password may be anywhere in one that is wrong.
func parseURL(s string) (target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return target{}, badURL("this is not a URL")
	}
	kind, _, _ := strings.Cut(scheme, "+")
	t := target{engine: schemes[strings.ToLower(kind)], options: map[string]string{}}
	if t.engine == "" {
		return target{}, badURL("gotrove knows mysql, mariadb, postgresql and sqlite")
	}
	// The login ends with the first @: a password that holds one is quoted.
	if at := strings.Index(rest, "@"); at >= 0 && t.engine != engineSQLite {
		user, password, _ := strings.Cut(rest[:at], ":")
		name, err := url.PathUnescape(user)
		word, err2 := url.PathUnescape(password)
		if err != nil || err2 != nil {
			return target{}, badURL("user or password hold a %% that begins no escape; write it as %%25")
		}
		t.user, t.password, rest = name, secret.New(word), rest[at+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	options, err := url.ParseQuery(query)
	if err != nil {
		return target{}, badURL("the options after the question mark cannot be read")
	}
	for name, values := range options {
		t.options[name] = values[len(values)-1]
	}
	host, path, _ := strings.Cut(rest, "/")
	if t.engine == engineSQLite {
		if host != "" || path == "" || path == ":memory:" {
			return target{}, badURL("an SQLite database needs the path of a file: sqlite:////path")
		}
		if t.path, err = filepath.Abs(path); err != nil {
			return target{}, badURL("%w", err)
		}
		return t, nil
	}
	if err := t.setHost(host); err != nil {
		return target{}, err
	}
	if t.database, err = url.PathUnescape(path); err != nil || t.database == "" {
		return target{}, badURL("the name of the database is missing")
	}
	return t, nil
}

func (t *target) setHost(host string) error {
	var err error
	switch {
	case strings.HasPrefix(host, "["), strings.Count(host, ":") == 1:
		if strings.HasSuffix(host, "]") {
			t.host = strings.Trim(host, "[]")
			return nil
		}
		if t.host, t.port, err = net.SplitHostPort(host); err != nil {
			return badURL("host and port cannot be read")
		}
	case strings.Contains(host, ":"):
		return badURL("an IPv6 address is written in brackets")
	default:
		t.host = host
	}
	for _, c := range t.port {
		if c < '0' || c > '9' {
			return badURL("the port is not a number")
		}
	}
	if t.host, err = url.PathUnescape(t.host); err != nil {
		return badURL("host and port cannot be read")
	}
	return nil
}
