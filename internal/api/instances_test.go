package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// refusal is a request that is refused.
type refusal struct {
	name, method, path, body string
	status                   int
	key, message             string // message: a part of it
}

func (h *harness) refuses(t *testing.T, token string, list []refusal) {
	t.Helper()
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) {
			a := h.do(token, c.method, c.path, c.body)
			key, message := a.fault()
			if a.status != c.status || key != c.key || !strings.Contains(message, c.message) {
				t.Errorf("%s %s\n got %d %s\nwant %d %s … %s", c.method, c.path, a.status, a.text, c.status, c.key, c.message)
			}
		})
	}
}

func TestCreateMessage(t *testing.T) {
	h := newHarness(t)
	var created struct{ Instance struct{ ID string } }
	h.want(200, demo, "POST", "instances", createBody).decode(t, &created)
	casts := h.casts()
	if len(casts) != 1 {
		t.Fatalf("%d messages", len(casts))
	}
	want := cast{Method: "create_instance", Topic: "taskmanager", Args: map[string]any{
		"instance_id": created.Instance.ID, "name": "g1",
		"flavor":   map[string]any{"id": "2", "name": "m1.small", "ram": 2048.0, "vcpus": 1.0, "disk": 20.0},
		"image_id": "", "datastore_manager": "mariadb", "ds_version": "10.11.6", "packages": nil, "volume_size": 1.0,
		"databases": []any{map[string]any{"_name": "app", "_character_set": "utf8", "_collate": "utf8_general_ci"}},
		"users": []any{map[string]any{"_name": "app", "_password": "it's; 😀", "_host": "%", "_is_root": false,
			"_databases": []any{map[string]any{"_name": "app", "_character_set": nil, "_collate": nil}}}},
		"nics": []any{map[string]any{"network_id": "local"}}, "access": map[string]any{"is_public": false, "allowed_cidrs": nil},
		"backup_id": nil, "availability_zone": nil, "root_password": nil, "overrides": nil, "slave_of_id": nil,
		"cluster_config": nil, "volume_type": nil, "modules": nil, "locality": nil,
	}}
	got := casts[0]
	got.Context = nil
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("message (-want +got)\n%s", d)
	}
	h.want(200, demo, "GET", "instances/"+created.Instance.ID, "")
	quotas := h.want(200, demo, "GET", "mgmt/quotas/demo", "").text
	for _, part := range []string{`"instances","in_use":1`, `"ram","in_use":2048`, `"volumes","in_use":1`} {
		if !strings.Contains(quotas, part) {
			t.Errorf("quotas do not have %s: %s", part, quotas)
		}
	}
}

// create makes a body that is right but for what change adds or replaces.
func create(members string) string {
	base := `"name":"g","flavorRef":1,"volume":{"size":1},"datastore":{"type":"mariadb"}`
	for part := range strings.SplitSeq(members, "|") {
		key, _, _ := strings.Cut(part, ":")
		switch key {
		case `"flavorRef"`:
			base = strings.Replace(base, `,"flavorRef":1`, "", 1)
		case `"volume"`:
			base = strings.Replace(base, `,"volume":{"size":1}`, "", 1)
		case `"datastore"`:
			base = strings.Replace(base, `,"datastore":{"type":"mariadb"}`, "", 1)
		}
	}
	members = strings.ReplaceAll(members, "|", ",")
	if members != "" && !strings.HasPrefix(members, "-") {
		base += "," + members
	}
	return `{"instance":{` + base + `}}`
}

func TestCreateRefused(t *testing.T) {
	h := newHarness(t)
	source := h.instance(demo, id(1), mysqlVersion)
	if _, err := h.store.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "nodefault", Name: "1", Number: "1.0", Manager: "mysql", Active: true}, false); err != nil {
		t.Fatal(err)
	}
	for _, number := range []string{"8.0.1", "8.0.2"} {
		if _, err := h.store.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "twice", Name: "8", Number: number, Manager: "mysql", Active: true}, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.store.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "redis", Name: "7", Number: "7", Manager: "redis", Active: true}, true); err != nil {
		t.Fatal(err)
	}
	const absent = "99999999-0000-4000-8000-000000000000"
	var list []refusal
	for _, c := range []struct {
		name, members string
		status        int
		key, message  string
	}{
		{"no datastore", `"datastore":{}`, 400, "badRequest", "no default datastore"},
		{"unknown datastore", `"datastore":{"type":"oracle"}`, 404, "itemNotFound", "Datastore 'oracle' cannot be found."},
		{"unknown version name", `"datastore":{"type":"mariadb","version":"9"}`, 400, "badRequest", "Datastore version '9' cannot be found. Versions of mariadb: 10.11."},
		{"unknown version id", `"datastore":{"type":"mariadb","version":"` + absent + `"}`, 404, "itemNotFound", "cannot be found"},
		{"version of another datastore", `"datastore":{"type":"mariadb","version":"` + mysqlVersion + `"}`, 404, "itemNotFound", "cannot be found"},
		{"inactive version", `"datastore":{"type":"mariadb","version":"10.3"}`, 400, "badRequest", "is not active. Active versions of mariadb: 10.11."},
		{"no default version", `"datastore":{"type":"nodefault"}`, 400, "badRequest", "has no default version. It has 1."},
		{"ambiguous version", `"datastore":{"type":"twice","version":"8"}`, 400, "badRequest", "give version_number too"},
		{"no such number", `"datastore":{"type":"twice","version":"8","version_number":"8.0.3"}`, 400, "badRequest", "cannot be found"},
		{"unknown key of datastore", `"datastore":{"type":"mariadb","x":1}`, 400, "badRequest", "instance['datastore'] Additional properties"},
		{"users of an unknown manager", `"datastore":{"type":"redis"}|"users":[{"name":"u","password":"p"}]`, 400, "badRequest", "manager redis"},
		{"no flavor", `"flavorRef":""`, 400, "badRequest", "instance['flavorRef']"},
		{"flavor URL without an id", `"flavorRef":"http://x/flavors/"`, 400, "badRequest", "'flavorRef'"},
		{"unknown flavor", `"flavorRef":"999"`, 400, "badRequest", "Flavor 999 cannot be found. Flavors: 1 (m1.tiny), 2 (m1.small)"},
		{"no volume", `"volume":{}`, 400, "badRequest", "instance['volume'] 'size' is a required property"},
		{"volume too large", `"volume":{"size":11}`, 413, "overLimit", "Volume 'size' cannot exceed maximum of 10 GB, 11 cannot be accepted."},
		{"volume beyond numbers", `"volume":{"size":"99999999999999999999"}`, 413, "overLimit", "cannot be accepted"},
		{"reserved database", `"databases":[{"name":"MySQL"}]`, 400, "badRequest", `Database name "MySQL" is on the reserved list: ['mysql', 'information_schema', 'performance_schema', 'sys'].`},
		{"database twice", `"databases":[{"name":"a"},{"name":"a"}]`, 400, "badRequest", "same name are not allowed: a"},
		{"database name too long", `"databases":[{"name":"` + strings.Repeat("d", 65) + `"}]`, 400, "badRequest", "instance['databases'][0]['name'] '" + strings.Repeat("d", 64) + "…' is not a valid database name: it has 65 characters, MariaDB allows at most 64."},
		{"database name with a slash", `"databases":[{"name":"a/b"}]`, 400, "badRequest", "may not contain any of"},
		{"reserved user", `"users":[{"name":"root","password":"p"}]`, 400, "badRequest", `User name "root" is on the reserved list: ['os_admin', 'root'`},
		{"user twice", `"users":[{"name":"u","password":"p"},{"name":"u","password":"q","host":"%"}]`, 400, "badRequest", "same name and host are not allowed: u@%"},
		{"user of a database not made", `"users":[{"name":"u","password":"p","databases":[{"name":"x"}]}]`, 400, "badRequest", "instance['users'][0]['databases'][0] 'x' is not one of instance['databases']"},
		{"user without a password", `"users":[{"name":"u"}]`, 400, "badRequest", "instance['users'][0] 'password' is a required property"},
		{"user with an empty password", `"users":[{"name":"u","password":""}]`, 400, "badRequest", "instance['users'][0]['password'] the value is too short"},
		{"host", `"users":[{"name":"u","password":"p","host":"a/b"}]`, 400, "badRequest", "instance['users'][0]['host'] 'a/b' does not match"},
		{"unknown network", `"nics":[{"net-id":"` + absent + `"}]`, 400, "badRequest", "Network " + absent + " cannot be found."},
		{"empty nic", `"nics":[{}]`, 400, "badRequest", "needs a network_id or a subnet_id"},
		{"address without a subnet", `"nics":[{"network_id":"local","ip_address":"10.0.0.1"}]`, 400, "badRequest", "needs a subnet_id"},
		{"two nics", `"nics":[{"network_id":"local"},{"network_id":"local"}]`, 400, "badRequest", "instance['nics'] the list is too long"},
		{"another region", `"region_name":"Mars"`, 400, "badRequest", "it serves RegionOne"},
		{"count without a source", `"replica_count":2`, 400, "badRequest", "Replica count only valid for replica instances"},
		{"replica with a flavor", `"replica_of":"` + source + `"`, 400, "badRequest", "Cannot specify flavor when creating replicas."},
		{"restore", `"restorePoint":{"backupRef":"` + absent + `"}`, 501, "notImplemented", "restorePoint"},
		{"restore from a URL", `"restorePoint":{"backupRef":"http://x/` + absent + `"}`, 400, "badRequest", "instance['restorePoint']['backupRef']"},
		{"configuration", `"configuration":"` + absent + `"`, 501, "notImplemented", "configuration groups"},
		{"modules", `"modules":[{"id":"` + absent + `"}]`, 501, "notImplemented", "modules"},
		{"locality", `"locality":"affinity"`, 501, "notImplemented", "locality"},
	} {
		list = append(list, refusal{c.name, "POST", "instances", create(c.members), c.status, c.key, c.message})
	}
	list = append(list,
		refusal{"replica", "POST", "instances", `{"instance":{"name":"r","replica_of":"` + source + `"}}`, 501, "notImplemented", "replication"},
		refusal{"replica with users", "POST", "instances", `{"instance":{"name":"r","replica_of":"` + source + `","users":[{"name":"u","password":"p"}]}}`, 400, "badRequest", "Cannot create databases or users"},
		refusal{"no volume at all", "POST", "instances", `{"instance":{"name":"g","flavorRef":"1","datastore":{"type":"mariadb"}}}`, 400, "badRequest", "instance 'volume' is a required property"},
		refusal{"a PostgreSQL user with a host", "POST", "instances", create(`"datastore":{"type":"postgresql"}|"users":[{"name":"u","password":"p","host":"10.0.0.1"}]`), 400, "badRequest", "users of PostgreSQL are not bound to a host"},
		refusal{"a PostgreSQL user of the system", "POST", "instances", create(`"datastore":{"type":"postgresql"}|"users":[{"name":"PG_x","password":"p"}]`), 400, "badRequest", "names that begin with 'pg_'"},
		refusal{"a PostgreSQL name in bytes", "POST", "instances", create(`"datastore":{"type":"postgresql"}|"databases":[{"name":"` + strings.Repeat("ä", 32) + `"}]`), 400, "badRequest", "it has 64 bytes, PostgreSQL allows at most 63."},
		refusal{"an emoji in a MariaDB name", "POST", "instances", create(`"databases":[{"name":"a😀"}]`), 400, "badRequest", "emoji"},
	)
	h.refuses(t, demo, list)
	if n := len(h.casts()); n != 0 {
		t.Errorf("%d messages were written for refused requests", n)
	}
	// What one engine reserves another allows.
	h.want(200, demo, "POST", "instances", create(`"datastore":{"type":"postgresql"}|"databases":[{"name":"mysql"},{"name":"a😀"}]|"users":[{"name":"mysql","password":"p","host":"%"}]`))
	h.want(200, demo, "POST", "instances", create(`"datastore":{"type":"twice","version":"8","version_number":"8.0.2"}|"access":{"allowed_cidrs":["10.0.0.0/8"]}`))
}

func TestQuotaIsRefusedAtomically(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.Quotas = trove.QuotaDelta{trove.ResourceInstances: 1} })
	h.want(200, demo, "POST", "instances", create(""))
	h.refuses(t, demo, []refusal{{"second", "POST", "instances", create(""), 413, "overLimit", "instances"}})
	h.want(200, admin, "PUT", "mgmt/quotas/demo", `{"quotas":{"instances":2}}`)
	h.want(200, demo, "POST", "instances", create(""))
	if n := len(h.casts()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

func TestBoundVolumeTypes(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.DefaultDatastore = "mariadb" })
	h.exec("INSERT INTO datastore_version_metadata (id, datastore_version_id, `key`, value, created, deleted) VALUES ('1', ?, 'volume_type', 'fast', ?, 0)", mariadbVersion, start)
	h.refuses(t, demo, []refusal{
		{"none named", "POST", "instances", `{"instance":{"name":"g","flavorRef":"2","volume":{"size":1}}}`, 400, "badRequest", "none is named: fast."},
		{"another", "POST", "instances", `{"instance":{"name":"g","flavorRef":"2","volume":{"size":1,"type":"slow"}}}`, 400, "badRequest", "The volume type slow is not valid for datastore mariadb version 10.11: fast."},
	})
	h.want(200, demo, "POST", "instances", `{"instance":{"name":"g","flavorRef":"2","volume":{"size":1,"type":"fast"}}}`)
}

func TestBoundFlavorsAndDefaultDatastore(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.DefaultDatastore = "mariadb"; c.NoVolumes = true })
	h.exec("INSERT INTO datastore_version_metadata (id, datastore_version_id, `key`, value, created, deleted) VALUES ('1', ?, 'flavor', '2', ?, 0)", mariadbVersion, start)
	h.refuses(t, demo, []refusal{
		{"flavor not bound", "POST", "instances", `{"instance":{"name":"g","flavorRef":"1"}}`, 400, "badRequest", "Flavor 1 is not supported for datastore mariadb version 10.11: 2."},
		{"volume where there are none", "POST", "instances", `{"instance":{"name":"g","flavorRef":"2","volume":{"size":1}}}`, 501, "notImplemented", "Volume support is not enabled."},
	})
	a := h.want(200, demo, "POST", "instances", `{"instance":{"name":"g","flavorRef":"2"}}`)
	if strings.Contains(a.text, `"volume"`) {
		t.Errorf("a volume is shown: %s", a.text)
	}
	if a := h.want(200, demo, "GET", "datastores/mariadb/versions/"+mariadbVersion+"/flavors", ""); strings.Count(a.text, `"str_id"`) != 1 {
		t.Errorf("flavors of the version: %s", a.text)
	}
}

func TestOwnership(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	h.guest.databases = []string{"d"}
	missing := "99999999-0000-4000-8000-000000000000"
	for _, c := range []struct{ method, path, body string }{
		{"GET", "", ""}, {"DELETE", "", ""}, {"PUT", "", `{"instance":{"name":"x"}}`}, {"POST", "/action", `{"restart":{}}`},
		{"GET", "/operations", ""}, {"GET", "/databases", ""}, {"GET", "/users", ""}, {"GET", "/root", ""}, {"POST", "/root", ""},
	} {
		for token, i := range map[string]string{other: id(1), demo: missing} {
			key, message := h.want(404, token, c.method, "instances/"+i+c.path, c.body).fault()
			if key != "itemNotFound" || message != "Resource "+i+" cannot be found." {
				t.Errorf("%s %s: %s %s", c.method, c.path, key, message)
			}
		}
	}
	// An administrator acts under his own project, and sees his own in links.
	golden(t, "instance_admin", h.want(200, admin, "GET", "instances/"+id(1), "").text)
	h.want(404, admin, "GET", "instances/"+id(1)+"/root", "") // root's is looked up by project too
	h.want(200, admin, "GET", "instances/"+id(1)+"/databases", "")
	if a := h.want(200, admin, "GET", "instances", ""); a.text != `{"instances":[]}` {
		t.Errorf("an administrator's list: %s", a.text)
	}
	h.want(200, "reader", "GET", "flavors", "")
	h.refuses(t, demo, []refusal{
		{"quotas of another", "GET", "mgmt/quotas/other", "", 403, "forbidden", "administrators"},
		{"setting quotas", "PUT", "mgmt/quotas/demo", `{"quotas":{"ram":1}}`, 401, "unauthorized", "User does not have admin privileges."},
		{"deleting a datastore", "DELETE", "datastores/mysql", "", 403, "forbidden", "Policy doesn't allow datastore:delete to be performed."},
	})
	h.want(200, admin, "GET", "mgmt/quotas/other", "")
	h.refuses(t, admin, []refusal{
		{"unknown resource", "PUT", "mgmt/quotas/demo", `{"quotas":{"ram":5,"x":1}}`, 404, "itemNotFound", "Quota resource x is unknown"},
		{"no quota", "PUT", "mgmt/quotas/demo", `{"quotas":{}}`, 400, "badRequest", "quotas the object does not have enough properties"},
		{"no body", "PUT", "mgmt/quotas/demo", ``, 400, "badRequest", "'quotas' is a required property"},
		{"too large", "PUT", "mgmt/quotas/demo", `{"quotas":{"ram":99999999999}}`, 400, "badRequest", "quotas['ram'] is larger than"},
		{"datastore with versions", "DELETE", "datastores/mysql", "", 400, "badRequest", "1 version"},
		{"unknown datastore", "DELETE", "datastores/x", "", 404, "itemNotFound", ""},
	})
	if a := h.want(200, demo, "GET", "mgmt/quotas/demo", ""); !strings.Contains(a.text, `"ram","in_use":0,"reserved":0,"limit":-1`) {
		t.Errorf("a refused change was kept: %s", a.text)
	}
}

func TestUnauthorizedFaultHasAChallenge(t *testing.T) {
	h := newHarness(t)
	if got := h.want(401, demo, "GET", "mgmt/instances", "").header.Get("WWW-Authenticate"); got != `Keystone uri="`+authURI+`"` {
		t.Errorf("WWW-Authenticate = %q", got)
	}
}

func TestPolicyIsAsked(t *testing.T) {
	h := newHarness(t)
	never := map[string]policy.Check{}
	for _, r := range h.server.Routes() {
		if r.Rule != "" {
			never[r.Rule] = policy.Never()
		}
	}
	for _, rule := range []string{"instance:restart", "instance:force_delete", "instance:resize_flavor", "instance:resize_volume", "instance:promote_to_replica_source"} {
		never[rule] = policy.Never()
	}
	closed, err := api.New(api.Config{RatePerMinute: -1}, api.Deps{Store: h.store, Guest: h.guest, Cloud: h.cloud, Tokens: h.tokens, Policy: policy.New(never), Clock: h.clock.now, Log: h.log()})
	if err != nil {
		t.Fatal(err)
	}
	furnish(t, h)
	h.server = closed
	for name, g := range good {
		method, path, _ := strings.Cut(name, " ")
		if strings.HasPrefix(path, "mgmt/") {
			continue
		}
		path = g.path
		if strings.HasSuffix(name, "/action") {
			path += "/action"
		}
		if key, message := h.want(403, g.token, method, path, g.body).fault(); key != "forbidden" || !strings.HasPrefix(message, "Policy doesn't allow ") {
			t.Errorf("%s: %s %s", name, key, message)
		}
	}
	for _, body := range []string{`{"reset_status":{"force_delete":1}}`, `{"resize":{"flavorRef":"1"}}`, `{"resize":{"volume":{"size":2}}}`, `{"promote_to_replica_source":{}}`} {
		h.want(403, admin, "POST", "instances/"+id(1)+"/action", body)
	}
}

func TestUpdate(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	h.instance(demo, id(2), mysqlVersion)
	if err := h.store.SetTask(t.Context(), id(2), trove.TaskBuilding); err != nil {
		t.Fatal(err)
	}
	h.want(202, demo, "PUT", "instances/"+id(1), `{"instance":{"name":"one"}}`)
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"name":"one"`) {
		t.Errorf("not renamed: %s", a.text)
	}
	for _, body := range []string{`{"instance":{}}`, `{"instance":{"configuration":null}}`, `{"instance":{"configuration":null,"name":"two"}}`} {
		h.want(202, demo, "PUT", "instances/"+id(1), body)
	}
	h.refuses(t, demo, []refusal{
		{"building", "PUT", "instances/" + id(2), `{"instance":{"name":"x"}}`, 422, "unprocessableEntity", "is not ready. (Status is BUILD)."},
		{"two at once", "PUT", "instances/" + id(1), `{"instance":{"configuration":null,"replica_of":""}}`, 400, "badRequest", "one of configuration, replica_of"},
		{"upgrade", "PATCH", "instances/" + id(1), `{"instance":{"datastore_version":"11"}}`, 501, "notImplemented", "'datastore_version'"},
		{"detach", "PUT", "instances/" + id(1), `{"instance":{"name":"unseen","replica_of":null}}`, 501, "notImplemented", "'replica_of'"},
		{"attach", "PUT", "instances/" + id(1), `{"instance":{"configuration":"` + id(9) + `"}}`, 501, "notImplemented", "'configuration'"},
		{"no id", "PUT", "instances/" + id(1), `{"instance":{"configuration":"x"}}`, 400, "badRequest", "instance['configuration'] 'x' does not match"},
		{"no wrapper", "PATCH", "instances/" + id(1), `{"name":"x"}`, 400, "badRequest", "'instance' is a required property"},
	})
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"name":"two"`) {
		t.Errorf("a refused change renamed it: %s", a.text)
	}
}

func TestDelete(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	h.instance(demo, id(2), mysqlVersion, func(i *trove.Instance) { i.ReplicaOf = id(1) })
	h.cluster("c1")
	h.instance(demo, id(3), mysqlVersion, func(i *trove.Instance) { i.ClusterID = "c1" })
	h.refuses(t, demo, []refusal{
		{"source of a replica", "DELETE", "instances/" + id(1), "", 403, "forbidden", "without detaching its replicas: " + id(2)},
		{"member of a cluster", "DELETE", "instances/" + id(3), "", 501, "notImplemented", "part of a cluster"},
	})
	golden(t, "replica", h.want(200, demo, "GET", "instances/"+id(2), "").text)
	golden(t, "source", h.want(200, demo, "GET", "instances/"+id(1), "").text)
	var made struct{ Instance struct{ ID string } }
	h.want(200, demo, "POST", "instances", create("")).decode(t, &made)
	for range 2 { // BUILD can be deleted, and again
		h.want(202, demo, "DELETE", "instances/"+made.Instance.ID, "")
	}
	if a := h.want(200, demo, "GET", "instances/"+made.Instance.ID, ""); !strings.Contains(a.text, `"status":"SHUTDOWN","operating_status":""`) {
		t.Errorf("while deleting: %s", a.text)
	}
	var deletes int
	for _, c := range h.casts() {
		if c.Method == "delete_instance" && c.Args["instance_id"] == made.Instance.ID && c.InstanceID == "" {
			deletes++
		}
	}
	if deletes != 1 {
		t.Errorf("%d messages to delete, want 1", deletes)
	}
	if err := h.store.FinishDelete(t.Context(), made.Instance.ID); err != nil {
		t.Fatal(err)
	}
	h.want(404, demo, "GET", "instances/"+made.Instance.ID, "")
	h.want(404, demo, "DELETE", "instances/"+made.Instance.ID, "")
}

func TestActions(t *testing.T) {
	h := newHarness(t)
	path := "instances/" + h.instance(demo, id(1), mysqlVersion) + "/action"
	h.want(202, demo, "POST", path, `{"restart":{}}`)
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"status":"REBOOT","operating_status":""`) {
		t.Errorf("after restart: %s", a.text)
	}
	i, err := h.store.Instance(t.Context(), id(1))
	if err != nil || i.Service != trove.ServiceRestarting {
		t.Errorf("service = %v, %v", i.Service, err)
	}
	h.refuses(t, demo, []refusal{
		{"restart twice", "POST", path, `{"restart":{}}`, 422, "unprocessableEntity", "is not ready"},
		{"reset_status is for admins", "POST", path, `{"reset_status":{}}`, 403, "forbidden", "Policy doesn't allow instance:reset_status to be performed."},
		{"unknown", "POST", path, `{"explode":{}}`, 400, "badRequest", "'explode' is not an action; restart, resize"},
		{"nothing", "POST", path, `{}`, 400, "badRequest", "does not have enough properties"},
		{"no body", "POST", path, ``, 400, "badRequest", "does not have enough properties"},
		{"list", "POST", path, `[]`, 400, "badRequest", "not of type 'object'"},
		{"two", "POST", path, `{"restart":{},"reset_status":{}}`, 400, "badRequest", "too many properties"},
		{"restart of a string", "POST", path, `{"restart":"x"}`, 400, "badRequest", "restart 'x' is not of type 'object'"},
		{"resize of nothing", "POST", path, `{"resize":{}}`, 400, "badRequest", "resize the object does not have enough properties"},
		{"promote", "POST", path, `{"promote_to_replica_source":{}}`, 501, "notImplemented", "replication"},
		{"eject", "POST", path, `{"eject_replica_source":null}`, 501, "notImplemented", "replication"},
	})
	h.want(202, demo, "POST", path, `{"reset_status":{"force_delete":1}}`)
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"status":"ACTIVE","operating_status":"ERROR"`) {
		t.Errorf("after reset_status: %s", a.text)
	}
	h.want(202, admin, "POST", path, `{"reset_status":{}}`)
	h.cluster("c1")
	member := h.instance(demo, id(2), mysqlVersion, func(i *trove.Instance) { i.ClusterID = "c1" })
	h.want(501, demo, "POST", "instances/"+member+"/action", `{"restart":{}}`)
	h.want(202, admin, "POST", "instances/"+member+"/action", `{"restart":{}}`)
}

// TestShowDoesNotWait holds that a show is not held up by an agent that hangs,
// and does not ask one that cannot answer.
func TestShowDoesNotWait(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.UsageTimeout = 50 * time.Millisecond })
	h.instance(demo, id(1), mysqlVersion)
	h.guest.hang = true
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"volume":{"size":1}`) {
		t.Errorf("volume: %s", a.text)
	}
	if len(h.guest.calls) != 1 {
		t.Fatalf("calls = %v", h.guest.calls)
	}
	h.guest.hang = false
	h.guest.err = trove.Errorf(trove.KindGuest, "no")
	h.want(200, demo, "GET", "instances/"+id(1), "")
	h.guest.calls = nil
	h.clock.add(91 * time.Second) // no heartbeat since
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"status":"ACTIVE","operating_status":"ERROR"`) {
		t.Errorf("without heartbeats: %s", a.text)
	}
	h.instance(demo, id(2), mysqlVersion, func(i *trove.Instance) { i.Task = trove.TaskRebooting })
	h.want(200, demo, "GET", "instances/"+id(2), "")
	if len(h.guest.calls) != 0 {
		t.Errorf("an agent was asked in vain: %v", h.guest.calls)
	}
}

func TestFailedInstance(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), postgresVersion, func(i *trove.Instance) { i.Task = trove.TaskErrorServer; i.Access = nil })
	if err := h.store.SetFault(t.Context(), id(1), trove.Fault{Message: "The disk is full.", Details: "traceback", Created: h.clock.now()}); err != nil {
		t.Fatal(err)
	}
	if err := h.store.Observe(t.Context(), map[string]trove.ServerObservation{id(1): {Status: trove.ServerActive, SeenAt: h.clock.now(), Addresses: []trove.Address{
		{Address: "172.24.4.9", Type: trove.AddressPublic}, {Address: "10.0.0.7", Type: trove.AddressPrivate, Network: network}, {Address: "fd00::1", Type: trove.AddressPrivate, Network: network},
	}}}); err != nil {
		t.Fatal(err)
	}
	golden(t, "failed", h.want(200, demo, "GET", "instances/"+id(1), "").text)
	golden(t, "failed_admin", h.want(200, admin, "GET", "instances/"+id(1), "").text)
}

func TestClosedStoreIsAFault(t *testing.T) {
	h := newHarness(t)
	_ = h.store.Close()
	for _, path := range []string{"instances", "datastores", "instances/" + id(1), "limits"} {
		if a := h.do(demo, "GET", path, ""); a.status < 500 {
			t.Errorf("%s = %d %s", path, a.status, a.text)
		}
	}
	var _ api.Store = (*store.Store)(nil)
}
