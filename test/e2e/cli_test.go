package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCommands has what trovectl can do beyond the life of one instance.
func TestCommands(t *testing.T) {
	t.Parallel()
	s := newStandalone(t)
	if got := s.trovectl("datastore", "list", "-f", "value", "-c", "Datastore", "-c", "Default"); got != "mariadb true\npostgresql true" {
		t.Errorf("datastores: %s", got)
	}
	if got := s.trovectl("flavor", "list", "-f", "value", "-c", "Name", "-c", "RAM (MiB)"); got != "db.tiny 512\ndb.small 1024\ndb.medium 2048\ndb.large 4096" {
		t.Errorf("flavors: %s", got)
	}
	if got := s.trovectl("limits", "-f", "value"); !strings.Contains(got, "instances 100") {
		t.Errorf("limits: %s", got)
	}
	if got := s.trovectl("endpoint"); !strings.HasPrefix(got, "http://127.0.0.1:") {
		t.Errorf("endpoint: %s", got)
	}

	// A password is made and told once; it works.
	_, errs, _, err := s.command("", "trovectl", "instance", "create", "shop", "--datastore", "postgresql", "--flavor", "db.tiny",
		"--database", "d", "--user", "u")
	_, made, found := strings.Cut(errs, "shown only now: ")
	if err != nil || !found {
		t.Fatalf("create: %v: %s", err, errs)
	}
	s.trovectl("instance", "wait", "shop", "--timeout", patience.String())
	sql := func(user, password, statement string) (string, int) {
		out, errs, code, _ := s.command(password+"\n", "trovectl", "instance", "connect", "shop", "--user", user, "--database", "d",
			"--password-file", "-", "--execute", statement)
		return strings.TrimSpace(out + errs), code
	}
	if got, code := sql("u", strings.TrimSpace(made), "SELECT 1"); got != "1" || code != 0 {
		t.Errorf("connect: exit code %d: %s", code, got)
	}
	if got, code := sql("u", "wrong", "SELECT 1"); code != 1 || !strings.Contains(got, "password authentication failed") {
		t.Errorf("connect with a wrong password: exit code %d: %s", code, got)
	}

	var list []map[string]any
	if err := json.Unmarshal([]byte(s.trovectl("instance", "list", "-f", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0]["Name"] != "shop" || list[0]["Status"] != "ACTIVE" {
		t.Errorf("list: %v", list)
	}
	if got := s.trovectl("instance", "show", "shop"); !strings.Contains(got, "HEALTHY") {
		t.Errorf("show: %s", got)
	}

	root := s.trovectl("root", "enable", "shop", "--password-file", s.secretFile("r00t"), "-f", "value", "-c", "Name")
	if got, code := sql(root, "r00t", "SELECT current_user"); got != root || code != 0 {
		t.Errorf("root: exit code %d: %s", code, got)
	}
	s.trovectl("root", "disable", "shop")
	if got, code := sql(root, "r00t", "SELECT 1"); code != 1 {
		t.Errorf("root, disabled: exit code %d: %s", code, got)
	}

	user := strings.Fields(s.trovectl("user", "create", "shop", "v", "--database", "d", "-f", "value"))
	if len(user) != 2 || user[0] != "v" {
		t.Fatalf("user create: %q", user)
	}
	s.eventually("user v can connect", func() error {
		got, _ := sql("v", user[1], "SELECT 2")
		return is(got, "2")
	})

	s.refuses(3, []string{"nowhere"}, "instance", "show", "nowhere")
	s.refuses(2, []string{"needs one of"}, "instance")
	s.refuses(2, []string{"flavor"}, "instance", "create", "x")
	s.refuses(6, []string{"waiting"}, "instance", "create", "slow", "--datastore", "mariadb", "--flavor", "db.tiny", "--wait", "--timeout", "1ms")
	s.openrc["OS_PASSWORD"] = "wrong"
	s.refuses(5, nil, "instance", "list")
}
