package api

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gotrove/gotrove/internal/trove"
)

// engineNames are the rules that an engine has for names. The original used
// MySQL's lists for every datastore, and let a name that an engine refuses fail
// unseen in the guest.
type engineNames struct {
	engine    string
	users     []string // reserved, without regard to case
	databases []string
	prefix    string // reserved beginning of user names; empty: none
	longest   struct{ user, database int }
	bytes     bool // lengths are in bytes, not in characters
	bmp       bool // no characters outside Unicode's basic plane, as emoji are
	hosts     bool // users belong to a host
}

var (
	mariadbNames = engineNames{
		engine:    "MariaDB",
		users:     []string{"os_admin", "root", "mariadb.sys", "mysql"},
		databases: []string{"mysql", "information_schema", "performance_schema", "sys"},
		longest:   struct{ user, database int }{80, 64},
		bmp:       true, hosts: true,
	}
	mysqlNames = engineNames{
		engine:    "MySQL",
		users:     []string{"os_admin", "root", "mysql.sys", "mysql.session", "mysql.infoschema"},
		databases: []string{"mysql", "information_schema", "performance_schema", "sys"},
		longest:   struct{ user, database int }{32, 64},
		bmp:       true, hosts: true,
	}
	postgresNames = engineNames{
		engine:    "PostgreSQL",
		users:     []string{"postgres", "os_admin", "root", "replicator", "public", "none"},
		databases: []string{"postgres", "os_admin", "template0", "template1"},
		prefix:    "pg_",
		longest:   struct{ user, database int }{63, 63},
		bytes:     true,
	}
)

// namesOf gives the rules for a datastore manager, or false for one whose
// users and databases cannot be managed.
func namesOf(manager string) (engineNames, bool) {
	switch manager {
	case "mariadb":
		return mariadbNames, true
	case "mysql":
		return mysqlNames, true
	case "postgresql":
		return postgresNames, true
	}
	return engineNames{}, false
}

// reservedUser and reservedDatabase report whether lists hide a name.
func (e engineNames) reservedUser(name string) bool {
	return reserved(e.users, name) ||
		(e.prefix != "" && strings.HasPrefix(strings.ToLower(name), e.prefix))
}

func (e engineNames) reservedDatabase(name string) bool { return reserved(e.databases, name) }

func reserved(list []string, name string) bool {
	return slices.ContainsFunc(list, func(r string) bool { return strings.EqualFold(r, name) })
}

// checkUser refuses, by KindBadRequest, a name that the engine or we do not
// allow; field says where it stood.
func (e engineNames) checkUser(field, name string) error {
	if e.reservedUser(name) {
		list := quoteList(e.users)
		if e.prefix != "" {
			list += ", and names that begin with '" + e.prefix + "'"
		}
		return trove.Errorf(trove.KindBadRequest, "User name \"%s\" is on the reserved list: %s.", name, list)
	}
	return e.check(field, name, e.longest.user, "user")
}

func (e engineNames) checkDatabase(field, name string) error {
	if e.reservedDatabase(name) {
		return trove.Errorf(trove.KindBadRequest, "Database name \"%s\" is on the reserved list: %s.",
			name, quoteList(e.databases))
	}
	return e.check(field, name, e.longest.database, "database")
}

// forbidden are characters that no name may hold: they were never usable in the
// original either, and each is a trap in some client's quoting.
const forbidden = "'\"`;,/\\"

func (e engineNames) check(field, name string, longest int, what string) error {
	bad := func(format string, args ...any) error {
		return trove.Errorf(trove.KindBadRequest, "Validation error: %s '%s' is not a valid %s name: %s",
			field, shorten(name), what, fmt.Sprintf(format, args...))
	}
	length, unit := utf8.RuneCountInString(name), "characters"
	if e.bytes {
		length, unit = len(name), "bytes"
	}
	switch {
	case name == "":
		return bad("it is empty.")
	case length > longest:
		return bad("it has %d %s, %s allows at most %d.", length, unit, e.engine, longest)
	case strings.TrimSpace(name) != name:
		return bad("it begins or ends with white space.")
	case strings.ContainsAny(name, forbidden):
		return bad("it may not contain any of %s", forbidden)
	case strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name):
		return bad("it may not contain control characters.")
	case name == "." || name == "..":
		return bad("it cannot be used in a path.")
	case e.bmp && strings.ContainsFunc(name, func(r rune) bool { return r > 0xffff }):
		return bad("%s does not allow characters such as emoji in it.", e.engine)
	}
	return nil
}

// checkHost refuses a host where the engine knows none.
func (e engineNames) checkHost(field, host string) error {
	if host == "" || host == trove.AnyHost || e.hosts {
		return nil
	}
	return trove.Errorf(trove.KindBadRequest,
		"Validation error: %s '%s' cannot be kept: users of %s are not bound to a host. Leave it out, or give '%s'.",
		field, shorten(host), e.engine, trove.AnyHost)
}

func quoteList(list []string) string { return "['" + strings.Join(list, "', '") + "']" }

// shorten keeps messages readable; names may come long.
func shorten(s string) string {
	const most = 64
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// parseAccount splits a path segment, decoded once by the router, into user
// name and host: what is after the last "@" is the host. Clients quote the
// segment once or twice ("a%2eb", "a%252eb"), so it is decoded once more. A "@"
// at the end belongs to the name.
func parseAccount(segment string) (name, host string) {
	segment = unescape(segment)
	at := strings.LastIndexByte(segment, '@')
	if at < 0 || at == len(segment)-1 {
		return segment, trove.AnyHost
	}
	return segment[:at], segment[at+1:]
}

// parseUserMarker undoes a second quoting of a marker in a list of users, which
// is always name@host: where no "@" is seen, it is still quoted.
func parseUserMarker(marker string) string {
	if !strings.Contains(marker, "@") && strings.Contains(marker, "%40") {
		return unescape(marker)
	}
	return marker
}
