package e2e

import (
	"fmt"
	"testing"
)

var datastores = []string{"mariadb", "postgresql"}

func TestLifecycle(t *testing.T) {
	s := newStandalone(t)
	const password = `p'a"s\s;wörd 🐘`
	for _, datastore := range datastores {
		t.Run(datastore, func(t *testing.T) {
			s.t = t
			i := s.create("life-"+datastore, datastore, password)
			if i.Status != "ACTIVE" || i.Operating != "HEALTHY" || i.Address == "" {
				t.Fatalf("after create: %+v", i)
			}
			s.mustQuery(i, password, "CREATE TABLE t (n int)")
			s.mustQuery(i, password, "INSERT INTO t VALUES (42)")

			s.must("trovectl", "instance", "restart", i.ID, "--wait")
			if got := s.mustQuery(i, password, "SELECT n FROM t"); got != "42" {
				t.Errorf("after restart the table holds %q", got)
			}

			s.must("trovectl", "database", "create", i.ID, "second.db", "third")
			s.eventually("databases", func() error { return is(s.must("trovectl", "database", "list", i.ID, "-f", "value"), "d\nsecond.db\nthird") })
			s.must("trovectl", "database", "delete", i.ID, "second.db")
			s.eventually("databases", func() error { return is(s.must("trovectl", "database", "list", i.ID, "-f", "value"), "d\nthird") })

			s.must("trovectl", "user", "create", i.ID, "v", "--database", "third")
			s.eventually("users", func() error {
				return is(s.must("trovectl", "user", "list", i.ID, "-f", "value", "-c", "Name", "-c", "Databases"), "u d\nv third")
			})
			s.must("trovectl", "user", "grant", i.ID, "v", "d")
			s.must("trovectl", "user", "revoke", i.ID, "v", "third")
			s.eventually("users", func() error {
				return is(s.must("trovectl", "user", "list", i.ID, "-f", "value", "-c", "Name", "-c", "Databases"), "u d\nv d")
			})
			s.must("trovectl", "user", "delete", i.ID, "v")
			s.eventually("users", func() error { return is(s.must("trovectl", "user", "list", i.ID, "-f", "value", "-c", "Name"), "u") })

			if got := s.must("trovectl", "root", "show", i.ID, "-f", "value"); got != "false" {
				t.Errorf("root before: %s", got)
			}
			s.must("trovectl", "root", "enable", i.ID)
			if got := s.must("trovectl", "root", "show", i.ID, "-f", "value"); got != "true" {
				t.Errorf("root enabled: %s", got)
			}
			s.must("trovectl", "root", "disable", i.ID)

			s.must("trovectl", "instance", "delete", i.ID, "--wait")
			if _, err := s.show(i.ID); err == nil {
				t.Error("the instance is still there")
			}
		})
	}
	s.t = t
	s.nothingLeft()
}

func is(got, want string) error {
	if got != want {
		return fmt.Errorf("%q instead of %q", got, want)
	}
	return nil
}

// nothingLeft checks that deleted instances left no process, directory, address
// or control group behind.
func (s *standalone) nothingLeft() {
	s.t.Helper()
	s.eventually("no process is left", func() error {
		if pids := s.processes(); len(pids) > 0 {
			return fmt.Errorf("processes %v", pids)
		}
		return nil
	})
	for _, pattern := range []string{s.home + "/instances/*", s.home + "/addresses/*", s.run + "/*/*"} {
		if found := glob(pattern); len(found) > 0 {
			s.t.Errorf("left behind: %v", found)
		}
	}
}
