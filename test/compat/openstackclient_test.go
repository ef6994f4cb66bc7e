package compat

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	openstackCommand = "/usr/bin/openstack"
	// clientTick is how often the client is asked again: a line of it costs a
	// tenth of a second of a processor.
	clientTick = 300 * time.Millisecond
)

// commands are what the client has and the lines that tests ran, for the
// account at the end.
type commands struct {
	all []string
	mu  sync.Mutex
	ran []string
}

// client runs lines of the stock client as one user, in a process that has it
// loaded already.
type client struct {
	t    *testing.T
	in   io.Writer
	out  *bufio.Reader
	seen *commands
}

func newClient(t *testing.T, who map[string]string, seen *commands) *client {
	t.Helper()
	script, err := filepath.Abs("testdata/client.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", script)
	cmd.Env, cmd.Dir = service.environ(who), t.TempDir()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return &client{t: t, in: in, out: bufio.NewReader(out), seen: seen}
}

type answer struct {
	Code        int
	Out, Errors string
}

// run runs one line.
func (c *client) run(args ...string) answer {
	c.t.Helper()
	c.seen.mu.Lock()
	c.seen.ran = append(c.seen.ran, strings.Join(args, " "))
	c.seen.mu.Unlock()
	line, err := json.Marshal(args)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		c.t.Fatal(err)
	}
	b, err := c.out.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("the client's process: %v", err)
	}
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		c.t.Fatalf("%v: %s", err, b)
	}
	return a
}

// do runs a line that must succeed, given as words that hold no blanks.
func (c *client) do(format string, args ...any) {
	c.t.Helper()
	line := fmt.Sprintf(format, args...)
	if a := c.run(strings.Fields(line)...); a.Code != 0 {
		c.t.Errorf("openstack %s: exit code %d\n%s%s", line, a.Code, a.Out, a.Errors)
	}
}

// get runs a line that must succeed and decodes what it prints.
func (c *client) get(to any, format string, args ...any) {
	c.t.Helper()
	line := fmt.Sprintf(format, args...)
	a := c.run(append(strings.Fields(line), "-f", "json")...)
	if a.Code != 0 {
		c.t.Fatalf("openstack %s: exit code %d\n%s%s", line, a.Code, a.Out, a.Errors)
	}
	if err := json.Unmarshal([]byte(a.Out), to); err != nil {
		c.t.Fatalf("openstack %s: %v\n%s", line, err, a.Out)
	}
}

// column is one column of a list.
func (c *client) column(name, format string, args ...any) []string {
	c.t.Helper()
	var rows []map[string]any
	c.get(&rows, format, args...)
	values := []string{}
	for _, r := range rows {
		values = append(values, fmt.Sprint(r[name]))
	}
	return values
}

func (c *client) equal(what string, got, want any) {
	c.t.Helper()
	if !reflect.DeepEqual(got, want) {
		c.t.Errorf("%s: %v instead of %v", what, got, want)
	}
}

// refused runs a line that must fail with a message a person can use.
func (c *client) refused(want, format string, args ...any) {
	c.t.Helper()
	line := fmt.Sprintf(format, args...)
	a := c.run(strings.Fields(line)...)
	said := a.Out + a.Errors
	if a.Code == 0 || !strings.Contains(said, want) || strings.Contains(said, "Traceback") {
		c.t.Errorf("openstack %s: exit code %d; wanted %q in\n%s", line, a.Code, want, said)
	}
}

// Every command that python-troveclient adds to the openstack command does what
// it says, or is refused with a clear message.
func TestOpenstackClient(t *testing.T) {
	needsEngines(t)
	if _, err := os.Stat(openstackCommand); err != nil {
		t.Skip("python3-openstackclient is not installed")
	}
	t.Parallel()
	seen := &commands{}
	t.Run("commands", func(t *testing.T) {
		for name, test := range map[string]func(*client){
			"catalog":    catalog,
			"mariadb":    func(c *client) { lifecycle(c, "mariadb") },
			"postgresql": func(c *client) { lifecycle(c, "postgresql") },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(newClient(t, service.admin, seen))
			})
		}
	})
	if len(seen.all) < 70 {
		t.Errorf("the client's commands: %v", seen.all)
	}
	for _, command := range seen.all {
		if !slices.ContainsFunc(seen.ran, func(line string) bool { return strings.HasPrefix(line+" ", command+" ") }) {
			t.Errorf("no test runs openstack %s", command)
		}
	}
}

// The command itself, as a user types it, gives what the process with the
// loaded client gives.
func TestOpenstackCommand(t *testing.T) {
	needsEngines(t)
	if _, err := os.Stat(openstackCommand); err != nil {
		t.Skip("python3-openstackclient is not installed")
	}
	t.Parallel()
	for line, want := range map[string]string{
		"token issue -f value -c project_id": "other-id\n",
		"database flavor list -f value":      "1 db.tiny 512 1 0 0\n2 db.small 1024 1 0 0\n3 db.medium 2048 2 0 0\n4 db.large 4096 2 0 0\n",
	} {
		cmd := exec.CommandContext(t.Context(), openstackCommand, strings.Fields(line)...)
		cmd.Env = service.environ(service.member)
		var errs strings.Builder
		cmd.Stderr = &errs
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("openstack %s: %v\n%s%s", line, err, out, errs.String())
		}
	}
}

// catalog is what there is before there is an instance.
func catalog(c *client) {
	var groups []struct{ Commands []string }
	c.get(&groups, "command list --group openstack.database.v1")
	for _, g := range groups {
		c.seen.all = append(c.seen.all, g.Commands...)
	}
	var token struct {
		ProjectID string `json:"project_id"`
	}
	c.get(&token, "token issue")
	var services []struct {
		Type      string
		Endpoints []struct{ Interface, URL string }
	}
	c.get(&services, "catalog list")
	want := fmt.Sprintf("http://127.0.0.1:%d/v1.0/%s", service.api, token.ProjectID)
	found := false
	for _, s := range services {
		for _, e := range s.Endpoints {
			found = found || s.Type == "database" && e.Interface == "public" && e.URL == want
		}
	}
	if !found {
		c.t.Errorf("no public database endpoint %s in %+v", want, services)
	}

	c.equal("datastores", c.column("Name", "datastore list"), engines)
	for _, name := range engines {
		var versions []struct{ ID, Name, Version string }
		c.get(&versions, "datastore version list %s", name)
		if len(versions) != 1 {
			c.t.Fatalf("versions of %s: %+v", name, versions)
		}
		v := versions[0]
		var datastore map[string]string
		c.get(&datastore, "datastore show %s", name)
		c.equal("default version", datastore["default_version"], v.Name)
		c.equal("versions", datastore["versions (id)"], v.Name+" ("+v.ID+")")
		for _, line := range []string{v.ID, v.Name + " --datastore " + name, v.ID + " --datastore " + datastore["id"]} {
			var shown map[string]any
			c.get(&shown, "datastore version show %s", line)
			c.equal("version "+line, [3]any{shown["id"], shown["datastore"], shown["version"]}, [3]any{v.ID, datastore["id"], v.Version})
		}
		c.equal("flavors", c.column("Name", "database flavor list --datastore-type %s --datastore-version-id %s", name, v.ID),
			[]string{"db.tiny", "db.small", "db.medium", "db.large"})
	}
	c.refused("oracle", "datastore show oracle")
	c.refused("(HTTP 404)", "datastore version list oracle")
	c.refused("Delete its versions first. (HTTP 400)", "datastore delete mariadb")

	c.equal("flavors", c.column("ID", "database flavor list"), []string{"1", "2", "3", "4"})
	for _, f := range []string{"2", "db.small"} {
		var flavor map[string]any
		c.get(&flavor, "database flavor show %s", f)
		c.equal("flavor "+f, flavor, map[string]any{"id": 2., "name": "db.small", "ram": 1024., "vcpus": 1., "disk": 0., "ephemeral": 0.})
	}
	c.refused("No flavor with a name or ID of 'db.huge' exists.", "database flavor show db.huge")

	if a := c.run("database", "limit", "list"); a.Code != 0 || !strings.Contains(a.Out, "max_volumes") || !strings.Contains(a.Out, "MINUTE") {
		c.t.Errorf("limits: %+v", a)
	}
	c.do("database quota update demo volumes 90")
	var quotas []struct {
		Resource string
		Limit    int
	}
	c.get(&quotas, "database quota show demo")
	limits := map[string]int{}
	for _, q := range quotas {
		limits[q.Resource] = q.Limit
	}
	c.equal("quotas", limits, map[string]int{"instances": 30, "ram": -1, "volumes": 90, "backups": 50})
	c.refused("(HTTP 404)", "database quota update demo elephants 1")

	const create = "database instance create x --flavor db.tiny "
	c.refused("Datastore 'oracle' cannot be found. (HTTP 404)", create+"--size 1 --datastore oracle")
	c.refused("Datastore version '1' cannot be found. Versions of mariadb: 10", create+"--size 1 --datastore mariadb --datastore-version 1")
	c.refused("size of the volume was not specified. (HTTP 400)", create+"--datastore mariadb")
	c.refused("cannot exceed maximum of 10 GB, 99 cannot be accepted. (HTTP 413)", create+"--datastore mariadb --size 99")
	c.refused(`the only network of this machine is "local". (HTTP 400)`, create+"--datastore mariadb --size 1 --nic net-id=8a6c9a9e-4f6b-4d5c-a1de-d4cf25b8a1ea")
	c.refused("No instance with a name or ID of 'nothing' exists.", "database instance show nothing")
}

// member is what a user of another project and without the role admin gets,
// with the id of an instance that is not his.
func member(c *client, id string) {
	c.equal("instances of another project", slices.Contains(c.column("ID", "database instance list"), id), false)
	for _, command := range []string{"instance show", "db list", "user list"} {
		c.refused("No instance with a name or ID of '"+id+"' exists.", "database %s %s", command, id)
	}
	c.refused("(HTTP 404)", "database instance delete %s", id)
	c.equal("datastores", c.column("Name", "datastore list"), engines)
	var quotas []any
	c.get(&quotas, "database quota show other-id")
	c.refused("(HTTP 403)", "database quota show someone-elses")
	c.refused("(HTTP 401)", "database quota update other-id instances 100")
	c.refused("(HTTP 401)", "database instance list --all-projects")
	c.refused("(HTTP 403)", "datastore delete mariadb")
}

// shown is what the client prints of an instance.
type shown struct {
	ID, Name, Status, IP, Datastore, Flavor, Region, Created, Updated string

	Operating string `json:"operating_status"`
	Public    bool
	CIDRs     []string `json:"allowed_cidrs"`
	Volume    int
	Used      float64 `json:"volume_used"`
}

// healthy waits until an instance is ready to be used.
func (c *client) healthy(name string) (i shown) {
	c.t.Helper()
	eventually(c.t, name+" is healthy", clientTick, func() error {
		i = shown{}
		c.get(&i, "database instance show %s", name)
		if i.Status != "ACTIVE" || i.Operating != "HEALTHY" {
			return fmt.Errorf("%s/%s", i.Status, i.Operating)
		}
		return nil
	})
	return i
}

func (c *client) gone(name string) {
	c.t.Helper()
	eventually(c.t, name+" is gone", clientTick, func() error {
		if slices.Contains(c.column("Name", "database instance list"), name) {
			return errors.New("still listed")
		}
		return nil
	})
	c.refused("No instance with a name or ID of '"+name+"' exists.", "database instance show %s", name)
}

// lifecycle is an instance from its creation to its end. Much is carried out
// after the API has accepted it; what is read through the API next has waited
// for that, a login has not.
func lifecycle(c *client, datastore string) {
	name := "osc-" + datastore
	var made shown
	c.get(&made, "database instance create %s --flavor db.tiny --size 1 --datastore %s --databases app d.two --users alice:first bob:second"+
		" --nic net-id=local --is-public --allowed-cidr 127.0.0.0/8", name, datastore)
	created, err := time.Parse("2006-01-02T15:04:05", made.Created)
	if err != nil || time.Since(created).Abs() > 10*time.Minute {
		c.t.Errorf("created %q: %v", made.Created, err)
	}
	made.IP = "" // it may have one already
	c.equal("made", made, shown{ID: made.ID, Name: name, Status: "BUILD", Datastore: datastore, Flavor: "1", Region: "RegionOne",
		Created: made.Created, Updated: made.Created, Public: true, CIDRs: []string{"127.0.0.0/8"}, Volume: 1})
	i := c.healthy(name)
	if i.ID != made.ID || i.Used <= 0 {
		c.t.Errorf("ready: %+v", i)
	}
	can := func(user, password, database string) {
		c.t.Helper()
		if err := login(c.t, datastore, i.IP, user, password, database); err != nil {
			c.t.Errorf("%s cannot log in to %s: %v", user, database, err)
		}
	}
	cannot := func(user, password, database string) {
		c.t.Helper()
		if err := login(c.t, datastore, i.IP, user, password, database); err == nil {
			c.t.Errorf("%s can log in to %s", user, database)
		}
	}
	can("alice", "first", "app")
	can("bob", "second", "d.two")
	c.equal("the listed instance", slices.Contains(c.column("ID", "database instance list"), i.ID), true)
	c.equal("a page of one", len(c.column("ID", "database instance list --limit 1")), 1)

	// Databases.
	charset, reserved := "--character_set utf8mb4 --collate utf8mb4_bin", "mysql"
	if datastore == "postgresql" {
		charset, reserved = "--character_set UTF8", "postgres"
	}
	c.do("database db create %s third.db %s", name, charset)
	c.do("database db create %s app2", i.ID)
	c.equal("databases", c.column("Name", "database db list %s", name), []string{"app", "app2", "d.two", "third.db"})
	c.refused("already exists. (HTTP 400)", "database db create %s app", name)
	c.refused("is on the reserved list", "database db create %s %s", name, reserved)
	c.refused("cannot be found on the instance. (HTTP 404)", "database db delete %s third", name)
	c.do("database db delete %s third.db", name)
	c.do("database db delete %s app2", name)
	c.equal("databases", c.column("Name", "database db list %s", name), []string{"app", "d.two"})

	// Users and what they may use.
	c.do("database user create %s carol.x third --databases app", name)
	c.equal("users", c.column("Name", "database user list %s", name), []string{"alice", "bob", "carol.x"})
	c.equal("their databases", c.column("Databases", "database user list %s", name), []string{"app, d.two", "app, d.two", "app"})
	var user struct {
		Name, Host string
		Databases  []struct{ Name string }
	}
	c.get(&user, "database user show %s carol.x", name)
	if user.Name != "carol.x" || user.Host != "%" || len(user.Databases) != 1 || user.Databases[0].Name != "app" {
		c.t.Errorf("carol.x: %+v", user)
	}
	cannot("carol.x", "third", "d.two")
	c.do("database user grant access %s carol.x d.two", name)
	c.equal("access", c.column("Name", "database user show access %s carol.x", name), []string{"app", "d.two"})
	can("carol.x", "third", "d.two")
	c.do("database user revoke access %s carol.x d.two", name)
	c.equal("access", c.column("Name", "database user show access %s carol.x", name), []string{"app"})
	cannot("carol.x", "third", "d.two")
	c.refused("(HTTP 404)", "database user revoke access %s carol.x d.two", name)
	c.do("database user update attributes %s carol.x --new_name dora --new_password fourth", name)
	c.equal("access", c.column("Name", "database user show access %s dora", name), []string{"app"})
	can("dora", "fourth", "app")
	cannot("carol.x", "third", "app")
	c.refused("User carol.x@% cannot be found on the instance. (HTTP 404)", "database user show %s carol.x", name)
	c.refused("already exists", "database user create %s dora x", name)
	c.refused("is on the reserved list", "database user create %s os_admin x", name)
	if datastore == "mariadb" {
		c.do("database user create %s erna p --host 127.%% --databases app", name)
		c.refused("(HTTP 404)", "database user show %s erna", name)
		c.do("database user show %s erna --host 127.%%", name)
		can("erna", "p", "app")
		c.do("database user update attributes %s erna --host 127.%% --new_host %%", name)
		c.do("database user show %s erna", name)
		c.do("database user delete %s erna", name)
	} else {
		c.refused("users of PostgreSQL are not bound to a host", "database user create %s erna p --host 127.%%", name)
	}
	c.do("database user delete %s dora", name)
	c.refused("(HTTP 404)", "database user delete %s dora", name)
	c.equal("users", c.column("Name", "database user list %s", name), []string{"alice", "bob"})

	// Root.
	var root struct {
		Name, Password string
		Enabled        bool `json:"is_root_enabled"`
	}
	c.get(&root, "database root show %s", name)
	c.equal("root at first", root.Enabled, false)
	c.get(&root, "database root enable %s", name)
	can(root.Name, root.Password, "app")
	c.get(&root, "database root enable %s --root_password geheim", name)
	can(root.Name, "geheim", "app")
	c.get(&root, "database root show %s", name)
	c.equal("root enabled", root.Enabled, true)
	c.do("database root disable %s", name)
	c.get(&root, "database root show %s", name)
	c.equal("root disabled", root.Enabled, false)
	cannot(root.Name, "geheim", "app")
	c.refused("Root is not enabled", "database root disable %s", name)

	if datastore == "postgresql" {
		notBuilt(c, name, i.ID)
	} else {
		member(newClient(c.t, service.member, c.seen), i.ID)
	}

	// The instance itself.
	c.do("database instance update %s --name %s-renamed", name, name)
	name += "-renamed"
	c.do("database instance restart %s", name)
	c.healthy(name)
	can("alice", "first", "app")
	c.do("database instance reset status %s", name)
	c.healthy(name)
	c.do("database instance resize flavor %s 2", name)
	c.equal("flavor", c.healthy(name).Flavor, "2")
	c.do("database instance resize volume %s 2", name)
	c.equal("volume", c.healthy(name).Volume, 2)
	c.do("database instance update %s --is-public --allowed-cidr 127.0.0.0/8 --allowed-cidr 192.0.2.0/24", name)
	reached := c.healthy(name)
	c.equal("public", reached.Public, true)
	c.equal("networks", reached.CIDRs, []string{"127.0.0.0/8", "192.0.2.0/24"})
	can("alice", "first", "app")
	switch datastore {
	case "mariadb":
		var doomed shown // before it is ready
		c.get(&doomed, "database instance create doomed --flavor 1 --size 1 --datastore mariadb")
		c.do("database instance delete doomed %s", i.ID)
		c.gone("doomed")
	default:
		c.do("database instance delete --force %s", name)
		c.do("database instance create doomed-pg --flavor 1 --size 1 --datastore postgresql")
		c.do("database instance force delete doomed-pg")
		c.gone("doomed-pg")
	}
	c.gone(name)
	c.refused("Failed to get database instance", "database instance delete %s", name)
}

// notBuilt is what the client can ask for and this service does not do yet.
func notBuilt(c *client, name, id string) {
	for _, line := range []string{
		"database backup create b --instance " + name,
		"database backup delete b", "database backup list", "database backup list instance " + name, "database backup show b",
		"database backup strategy create --swift-container c", "database backup strategy delete", "database backup strategy list",

		"database cluster create c mariadb 10.11 --instance flavor=1,volume=1", "database cluster delete " + id,
		"database cluster force delete " + id, "database cluster grow " + id + " --instance flavor=1,volume=1", "database cluster list",
		"database cluster list instances " + id, "database cluster modules " + id, "database cluster reset status " + id,
		"database cluster show " + id, "database cluster shrink " + id + " " + name, "database cluster upgrade " + id + " 11",

		"database configuration attach " + name + " " + id, `database configuration create c {"max_connections":200} --datastore mariadb`,
		"database configuration default " + name, "database configuration delete " + id, "database configuration instances " + id,
		"database configuration list", "database configuration parameter list 10.11 --datastore mariadb",
		"database configuration parameter list " + id, `database configuration parameter set ` + id + ` {"a":1}`,
		"database configuration parameter show 10.11 max_connections --datastore mariadb",
		`database configuration set ` + id + ` {"a":1}`, "database configuration show " + id,

		"database instance detach " + name, "database instance eject " + name, "database instance promote " + name,
		"database instance create r --replica-of " + name,
		"database instance create r --flavor 1 --size 1 --datastore mariadb --backup " + id,
		"database instance create r --flavor 1 --size 1 --datastore mariadb --locality affinity",
		// By id: the client puts an object's whole text into the URL when it is given a name.
		"database instance reboot " + id, "database instance rebuild " + id + " " + id,
		"database instance upgrade " + name + " 15",
		"database instance list --all-projects",

		"database log list " + name, "database log set " + name + " general --enable", "database log show " + name + " general",

		"datastore version create n mariadb mariadb x", "datastore version delete " + id, "datastore version set " + id + " --enable",
	} {
		a := c.run(strings.Fields(line)...)
		said := a.Out + a.Errors
		if a.Code != 1 || !strings.Contains(said, "This service does not support ") || !strings.Contains(said, " yet. (HTTP 501)") || strings.Contains(said, "Traceback") {
			c.t.Errorf("openstack %s: exit code %d\n%s", line, a.Code, said)
		}
	}
	// These two print the reason and succeed nevertheless.
	for _, line := range []string{"database log save " + name + " general", "database log tail " + name + " general"} {
		if a := c.run(strings.Fields(line)...); !strings.Contains(a.Out, "This service does not support guest logs yet.") {
			c.t.Errorf("openstack %s: %+v", line, a)
		}
	}
	// Nothing is attached: nothing to do.
	c.do("database configuration detach %s", name)
	// This one is for another service, which the catalog does not have.
	c.refused("", "database backup execution delete %s", id)
}
