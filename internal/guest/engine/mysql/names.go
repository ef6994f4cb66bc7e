package mysql

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gotrove/gotrove/internal/trove"
)

// maxDatabase is the longest name, in characters.
const maxDatabase = 64

var reservedDatabases = []string{"mysql", "information_schema", "performance_schema", "sys"}

func oneOf(list []string, name string) bool {
	return slices.ContainsFunc(list, func(r string) bool { return strings.EqualFold(r, name) })
}

// quoteName quotes an identifier: what cannot be given to the server as a
// value. It is the only function that does.
func quoteName(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// grantPattern is the pattern that means exactly one database: in a grant _
// and % stand for others.
func grantPattern(database string) string {
	return strings.NewReplacer(`\`, `\\`, `_`, `\_`, `%`, `\%`).Replace(database)
}

// grantedDatabase is the database a pattern means.
func grantedDatabase(pattern string) string {
	var b strings.Builder
	escaped := false
	for _, r := range pattern {
		if r == '\\' && !escaped {
			escaped = true
			continue
		}
		b.WriteRune(r)
		escaped = false
	}
	return b.String()
}

// checkName says what is wrong with the name of a field, by the server's rules.
func checkName(field, name string, longest int) error {
	switch {
	case name == "":
		return trove.Errorf(trove.KindBadRequest, "%s is missing", field)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r > 0xffff }):
		return trove.Errorf(trove.KindBadRequest, "%s %q holds characters that are not possible in names", field, name)
	case utf8.RuneCountInString(name) > longest:
		return trove.Errorf(trove.KindBadRequest, "%s %q has %d characters, at most %d are possible", field, name, utf8.RuneCountInString(name), longest)
	case strings.TrimSpace(name) != name:
		return trove.Errorf(trove.KindBadRequest, "%s %q begins or ends with a blank", field, name)
	}
	return nil
}

func checkDatabase(name string) error {
	if err := checkName("database name", name, maxDatabase); err != nil {
		return err
	}
	if oneOf(reservedDatabases, name) || strings.HasPrefix(name, "#mysql50#") {
		return trove.Errorf(trove.KindBadRequest, "database name %q is reserved for the server itself", name)
	}
	return nil
}

func checkDatabases(names []string) error {
	for _, name := range names {
		if err := checkDatabase(name); err != nil {
			return err
		}
	}
	return nil
}

// checkUser checks a user's name and host and gives the host as the server
// has it: any host when none is given.
func (d *Dialect) checkUser(name, host string) (string, error) {
	if err := checkName("user name", name, d.MaxUser); err != nil {
		return "", err
	}
	if oneOf(d.ReservedUsers, name) {
		return "", trove.Errorf(trove.KindBadRequest, "user name %q is reserved for the service", name)
	}
	return checkHost(host)
}

var hostPattern = regexp.MustCompile(`^((25[0-5]|2[0-4]\d|1?\d?\d)\.){1,3}%$|^([0-9a-f]{1,4}:){1,7}%$`)

// checkHost accepts what can match a client's address. Names of hosts cannot:
// the server looks none up.
func checkHost(host string) (string, error) {
	if host == "" || host == trove.AnyHost {
		return trove.AnyHost, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return host, nil
	}
	if base, mask, ok := strings.Cut(host, "/"); ok {
		a, errA := netip.ParseAddr(base)
		m, errM := netip.ParseAddr(mask)
		if errA == nil && errM == nil && a.Is4() && m.Is4() {
			return host, nil
		}
	}
	if hostPattern.MatchString(host) {
		return host, nil
	}
	return "", trove.Errorf(trove.KindBadRequest, "host %q is not possible: give %%, an IP address, one with a network mask (192.0.2.0/255.255.255.0) or a beginning (192.0.2.%%)", host)
}

func checkPassword(password string) error {
	switch {
	case password == "":
		return trove.Errorf(trove.KindBadRequest, "password is missing")
	case !utf8.ValidString(password) || strings.ContainsRune(password, 0):
		return trove.Errorf(trove.KindBadRequest, "password holds bytes that are no text")
	}
	return nil
}

var charsetName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

func checkCharset(field, name string) error {
	if name != "" && !charsetName.MatchString(name) {
		return trove.Errorf(trove.KindBadRequest, "%s %q is unknown", field, name)
	}
	return nil
}
