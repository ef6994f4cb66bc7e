package e2e

import (
	"fmt"
	"os"
	"testing"
)

var datastores = []string{"mariadb", "postgresql"}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	life(t, s, datastores...)
}

// TestLifecycleUnprivileged is the same without root: troved itself runs as
// somebody ordinary.
func TestLifecycleUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the other test does the same")
	}
	s := prepare(t)
	s.unprivileged()
	s.start()
	life(t, s, datastores...)
}

// life is one of an instance of each engine, by trovectl and the engines' own
// clients.
func life(t *testing.T, s *standalone, datastores ...string) {
	const password = `p'a"s\s;wörd 🐘`
	for _, datastore := range datastores {
		t.Run(datastore, func(t *testing.T) {
			s.t = t
			s.trovectl("instance", "create", "life-"+datastore, "--datastore", datastore, "--flavor", "db.tiny", "--database", "d",
				"--user", "u", "--password-file", s.secretFile(password), "--wait", "--timeout", patience.String())
			id := s.trovectl("instance", "show", "life-"+datastore, "-f", "value", "-c", "ID")
			i, err := s.show(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := i.serves(); err != nil {
				t.Fatal(err)
			}
			query := func(sql string) string {
				t.Helper()
				return s.trovectl("instance", "connect", id, "--user", "u", "--database", "d",
					"--password-file", s.secretFile(password), "--execute", sql)
			}
			query("CREATE TABLE t (n int)")
			query("INSERT INTO t VALUES (42)")

			s.trovectl("instance", "restart", id, "--wait")
			if got := query("SELECT n FROM t"); got != "42" {
				t.Errorf("after restart the table holds %q", got)
			}

			databases := func(want string) {
				t.Helper()
				s.eventually("databases", func() error { return is(s.trovectl("database", "list", id, "-f", "value"), want) })
			}
			s.trovectl("database", "create", id, "second.db", "third")
			databases("d\nsecond.db\nthird")
			s.trovectl("database", "delete", id, "second.db")
			databases("d\nthird")

			users := func(want string) {
				t.Helper()
				s.eventually("users", func() error {
					return is(s.trovectl("user", "list", id, "-f", "value", "-c", "Name", "-c", "Databases"), want)
				})
			}
			s.trovectl("user", "create", id, "v", "--database", "third")
			users("u d\nv third")
			s.trovectl("user", "grant", id, "v", "d")
			s.trovectl("user", "revoke", id, "v", "third")
			users("u d\nv d")
			s.trovectl("user", "delete", id, "v")
			users("u d")

			root := func(want string) {
				t.Helper()
				if got := s.trovectl("root", "show", id, "-f", "value"); got != want {
					t.Errorf("root enabled: %s", got)
				}
			}
			root("false")
			s.trovectl("root", "enable", id)
			root("true")
			s.trovectl("root", "disable", id)

			s.trovectl("instance", "delete", id, "--wait")
			s.deleted = append(s.deleted, id)
			if err := s.gone(id); err != nil {
				t.Error(err)
			}
		})
	}
	s.t = t
	s.exactly()
	s.quota(0)
}

func is(got, want string) error {
	if got != want {
		return fmt.Errorf("%q instead of %q", got, want)
	}
	return nil
}
