package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// invoke runs a command line of a program.
func invoke(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = Main("test", args, &o, &e)
	return code, o.String(), e.String()
}

func newKey() string { return seal.MakeKey(seal.Authenticated).Reveal() }

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// manageConf is a configuration with a database and keys.
func manageConf(t *testing.T, url string) string {
	t.Helper()
	return writeFile(t, "trove.conf", "[DEFAULT]\ntaskmanager_rpc_encr_key = "+newKey()+"\ninst_rpc_key_encr_key = "+newKey()+
		"\n[database]\nconnection = "+strings.ReplaceAll(url, "$", "$$")+"\n")
}

func TestManage(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		testManage(t, "sqlite:///"+filepath.Join(t.TempDir(), "trove.db"), "trove.db")
	})
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			url := dbtest.Start(t, e).Database(t)
			testManage(t, url, databaseOf(url))
		})
	}
}

func testManage(t *testing.T, url, database string) {
	conf := manageConf(t, url)
	rules := writeFile(t, "validation-rules.json", `{"configuration-parameters": [
		{"name": "max_connections", "restart_required": false, "min": 1, "max": 100000, "type": "integer"},
		{"name": "sql_mode", "restart_required": true, "type": "string"}]}`)
	for _, step := range []struct {
		args string // without program and configuration
		code int
		out  string // in the output, or for a failure in the errors
	}{
		{"datastore_update mysql ", 1, "run trove-manage db_sync"},
		{"db_sync", 0, "at version"},
		{"db_upgrade --version head", 0, "at version"},
		{"db_upgrade --version 48", 2, "leave --version out"},
		{"datastore_update mysql ", 0, "Datastore 'mysql' updated."},
		{"datastore_update mysql 8.4", 1, "cannot be found"},
		{"datastore_version_update nosuch 8.4 mysql image  1", 1, "datastore_update"},
		{"datastore_version_update mysql 8.4 mysql image a,b 2", 2, "active is 0 or 1"},
		{"datastore_version_update mysql 8.4 mysql image  1 --image-tags trove,mysql --version 8.4.3", 0, "Datastore version '8.4(8.4.3)' updated."},
		{"datastore_version_update mysql 8.0 mysql image  1", 0, "Datastore version '8.0(8.0)' updated."},
		{"datastore_version_update mysql 8.4", 2, "usage: trove-manage datastore_version_update"},
		{"datastore_update mysql 8.4", 0, "updated"},
		{"db_load_datastore_config_parameters mysql 8.4 " + rules, 0, "Loaded 2 config parameters"},
		{"db_load_datastore_config_parameters mysql 8.4 /nowhere", 1, "cannot read the validation rules"},
		{"db_load_datastore_config_parameters mysql 8.4 " + conf, 1, "not JSON"},
		{"db_remove_datastore_config_parameters mysql 8.4 --version 8.4.3", 0, "Removed 2 config parameters"},
		{"db_remove_datastore_config_parameters mysql 8.4 --version 7", 1, "cannot be found"},
		{"datastore_version_flavor_add mysql 8.4 1,2", 0, "Added flavors '1,2' to the 'mysql' '8.4'."},
		{"datastore_version_flavor_add mysql 8.4 1", 1, "bound to flavor 1 already"},
		{"datastore_version_flavor_delete mysql 8.4 2", 0, "Deleted flavor '2' from 'mysql' '8.4'."},
		{"datastore_version_flavor_delete mysql 8.4 2", 1, "not bound"},
		{"datastore_version_flavor_list mysql 8.4", 0, "Datastore: mysql, Version: 8.4, Flavor: 1\n"},
		{"datastore_version_volume_type_add mysql 8.4 fast --version 8.4.3", 0, "Added volume types 'fast'"},
		{"datastore_version_volume_type_list mysql 8.4", 0, "Datastore: mysql, Version: 8.4, Volume type: fast\n"},
		{"datastore_version_volume_type_delete mysql 8.4 fast", 0, "Deleted volume type 'fast'"},
		{"datastore_version_volume_type_list mysql 8.4", 0, "may have any"},
		{"rekey", 0, "Nothing is left under another key"},
		{"rotate-credentials", 2, "name instances, or give --all"},
		{"rotate-credentials --all", 0, "credentials of 0 instances"},
		{"rotate-credentials nosuch", 1, "there is no instance"},
		{"db_wipe", 1, "type " + database},
		{"db_recreate --yes", 0, "at version"},
		{"datastore_version_flavor_list mysql 8.4", 1, "cannot be found"},
		{"db_wipe --yes", 0, "no tables of Trove"},
		{"rekey", 1, "trove-manage db_sync"},
	} {
		// An empty word is an empty argument, as '' is to a shell.
		args := strings.Split(step.args, " ")
		code, out, errs := invoke(append([]string{"trove-manage", "--config-file", conf}, args...)...)
		told := out
		if step.code != 0 {
			told = errs
		}
		if code != step.code || !strings.Contains(strings.ToLower(told), strings.ToLower(step.out)) {
			t.Errorf("%s: code %d, want %d; %q is to be in\n%s%s", step.args, code, step.code, step.out, out, errs)
		}
		if strings.Contains(out+errs, "panic") || strings.Count(errs, "\n") > 3 {
			t.Errorf("%s tells too much:\n%s", step.args, errs)
		}
	}
}

func TestWipeAsks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "trove.db")
	conf := manageConf(t, "sqlite:///"+path)
	if code, _, errs := invoke("trove-manage", "--config-file", conf, "db_sync"); code != 0 {
		t.Fatal(errs)
	}
	wipe := func(typed string) error {
		cmd := manageCommand()
		cmd.SetArgs([]string{"--config-file", conf, "db_wipe"})
		cmd.SetIn(strings.NewReader(typed))
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetErr(&bytes.Buffer{})
		return cmd.ExecuteContext(t.Context())
	}
	synced := func() bool {
		s, err := store.Open(t.Context(), store.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.CheckSchema(t.Context()) == nil
	}
	for _, typed := range []string{"", "\n", "trove\n", "TROVE.DB\n"} {
		if err := wipe(typed); !trove.IsKind(err, trove.KindBadRequest) || !synced() {
			t.Errorf("%q was taken: %v", typed, err)
		}
	}
	if err := wipe("trove.db\n"); err != nil || synced() {
		t.Errorf("the database's name was not taken: %v", err)
	}
}

func TestMove(t *testing.T) {
	t.Parallel()
	from := filepath.Join(t.TempDir(), databaseName)
	s, err := store.Open(t.Context(), store.Config{Path: from})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateDatastore(t.Context(), "mysql", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	url := dbtest.Start(t, dbtest.MariaDB).Database(t)
	conf := manageConf(t, url)
	if code, _, errs := invoke("trove-manage", "--config-file", conf, "move", "--from", from+".not"); code != 1 || !strings.Contains(errs, "there is no database") {
		t.Errorf("code %d, %s", code, errs)
	}
	if _, err := os.Stat(from + ".not"); err == nil {
		t.Error("a missing database was made")
	}
	code, out, errs := invoke("trove-manage", "--config-file", conf, "move", "--from", from)
	if code != 0 || !strings.Contains(out, "datastores") || !strings.Contains(out, "is as it was") {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	if code, _, errs := invoke("trove-manage", "--config-file", conf, "move", "--from", from); code != 1 || !strings.Contains(errs, "not empty") {
		t.Errorf("a second time: code %d, %s", code, errs)
	}
	to, err := store.Open(t.Context(), store.Config{URL: secret.New(url)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := to.Datastore(t.Context(), "mysql"); err != nil {
		t.Error(err)
	}
}

func TestManageFiles(t *testing.T) {
	t.Parallel()
	sample := func() string {
		_, out, _ := invoke("trove-manage", "config", "sample")
		return out
	}()
	// The sample is a configuration, with its options on or off.
	conf := writeFile(t, "sample.conf", sample)
	if code, out, errs := invoke("trove-manage", "--config-file", conf, "config", "check"); code != 0 || !strings.Contains(out, "Read 1 files") {
		t.Errorf("code %d\n%s%s", code, out, errs)
	}
	odd := writeFile(t, "odd.conf", "[DEFAULT]\nodd = 1\ntrove_api_workers = 4\nvolume_fstype = ext3\nmax_instances_per_user = 4\n[redis]\nx = 1\n")
	_, out, _ := invoke("trove-manage", "--config-file", odd, "config", "check")
	for _, want := range []string{odd + ":2: option [DEFAULT] odd is not known", odd + ":3: option [DEFAULT] trove_api_workers has no effect: one process", ":5: option [DEFAULT] max_instances_per_user is now called", ":7: option [redis] x has no effect", "; 4 lines"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	wrong := writeFile(t, "wrong.conf", "[DEFAULT]\nbind_port = many\n")
	if code, _, errs := invoke("trove-manage", "--config-file", wrong, "config", "check"); code != 1 || !strings.Contains(errs, wrong+":2: ") {
		t.Errorf("code %d, %s", code, errs)
	}
	if code, out, _ := invoke("trove-manage", "policy", "sample"); code != 0 || !strings.Contains(out, "instance:create") {
		t.Errorf("code %d, %.200s", code, out)
	}
	rules := writeFile(t, "policy.yaml", "\"instance:create\": \"role:creator\"\n")
	p := writeFile(t, "p.conf", "[oslo_policy]\npolicy_file = "+rules+"\n")
	if code, out, errs := invoke("trove-manage", "--config-file", p, "policy", "check", "--changed"); code != 0 || !strings.Contains(out, "role:creator") || strings.Contains(out, "instance:delete") {
		t.Errorf("code %d\n%s%s", code, out, errs)
	}
	_, a, _ := invoke("trove-manage", "key")
	_, b, _ := invoke("trove-manage", "key")
	_, c, _ := invoke("trove-manage", "key", "--original")
	if len(a) < 32 || a == b || !strings.HasPrefix(a, "v2.") || strings.HasPrefix(c, "v2.") || len(c) < 32 {
		t.Errorf("keys %q, %q and %q", a, b, c)
	}
}
