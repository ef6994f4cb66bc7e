package api_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// engineHarness has one healthy instance, id(1), with things in its engine.
func engineHarness(t *testing.T, configure ...func(*api.Config)) *harness {
	h := newHarness(t, configure...)
	h.instance(demo, id(1), mariadbVersion)
	h.guest.databases = []string{"d1", "d1.x", "d2", "information_schema", "a/b", "100%"}
	h.guest.add(trove.User{Name: "ann", Host: "%", Databases: []string{"d1", "d1.x"}})
	h.guest.add(trove.User{Name: "ann", Host: "10.0.0.1"})
	h.guest.add(trove.User{Name: "a.b", Host: "%"})
	h.guest.add(trove.User{Name: "a.json", Host: "%"})
	h.guest.add(trove.User{Name: "me@home", Host: "%"})
	h.guest.add(trove.User{Name: "tail@", Host: "%"})
	h.guest.add(trove.User{Name: "new", Host: "%"})
	h.guest.add(trove.User{Name: "a/b", Host: "%"})
	h.guest.add(trove.User{Name: "root", Host: "%"})
	return h
}

const below = "instances/00000001-0000-4000-8000-000000000000/"

// TestUserPaths holds how a segment names a user (contract: REST API 5.4).
func TestUserPaths(t *testing.T) {
	h := engineHarness(t)
	for _, c := range []struct{ segment, name, host string }{
		{"ann", "ann", "%"},
		{"ann@%25", "ann", "%"},
		{"ann%40%25", "ann", "%"},
		{"ann%2540%2525", "ann", "%"},
		{"ann@10.0.0.1", "ann", "10.0.0.1"},
		{"ann%4010%2e0%2e0%2e1", "ann", "10.0.0.1"},
		{"a.b", "a.b", "%"},
		{"a%2eb", "a.b", "%"},
		{"a%252eb", "a.b", "%"},
		{"a.json", "a.json", "%"},
		{"me@home@%25", "me@home", "%"},
		{"tail@", "tail@", "%"},
		{"tail%40", "tail@", "%"},
		{"new", "new", "%"},
		{"a%2Fb", "a/b", "%"},
	} {
		t.Run(c.segment, func(t *testing.T) {
			var body struct{ User struct{ Name, Host string } }
			h.want(200, demo, "GET", below+"users/"+c.segment, "").decode(t, &body)
			if body.User.Name != c.name || body.User.Host != c.host {
				t.Errorf("= %+v", body.User)
			}
		})
	}
}

func TestEngineCalls(t *testing.T) {
	h := engineHarness(t)
	users, dbs := below+"users", below+"databases"
	for _, c := range []struct {
		name, method, path, body string
		want                     cast
	}{
		{"create databases", "POST", dbs, `{"databases":[{"name":"n1","character_set":"latin1"},{"name":"n2"}]}`,
			cast{Method: "create_database", Args: map[string]any{"databases": []any{
				map[string]any{"_name": "n1", "_character_set": "latin1", "_collate": nil},
				map[string]any{"_name": "n2", "_character_set": nil, "_collate": nil}}}}},
		{"delete a database with a dot", "DELETE", dbs + "/d1.x", "",
			cast{Method: "delete_database", Args: map[string]any{"database": map[string]any{"_name": "d1.x", "_character_set": nil, "_collate": nil}}}},
		{"delete a database with a percent sign", "DELETE", dbs + "/100%25", "",
			cast{Method: "delete_database", Args: map[string]any{"database": map[string]any{"_name": "100%", "_character_set": nil, "_collate": nil}}}},
		{"delete a database with a slash", "DELETE", dbs + "/a%2fb", "",
			cast{Method: "delete_database", Args: map[string]any{"database": map[string]any{"_name": "a/b", "_character_set": nil, "_collate": nil}}}},
		{"create users", "POST", users, `{"users":[{"name":"bob","password":"a'\";--😀","databases":[{"name":"any"},{"name":"any"}]},{"name":"bob","password":"x","host":"10.%"}]}`,
			cast{Method: "create_user", Args: map[string]any{"users": []any{
				map[string]any{"_name": "bob", "_host": "%", "_password": "a'\";--😀", "_is_root": false,
					"_databases": []any{map[string]any{"_name": "any", "_character_set": nil, "_collate": nil}}},
				map[string]any{"_name": "bob", "_host": "10.%", "_password": "x", "_is_root": false, "_databases": []any{}}}}}},
		{"change passwords", "PUT", users, `{"users":[{"name":"ann","host":"10.0.0.1","password":"p"},{"name":"a.b","password":"q"}]}`,
			cast{Method: "change_passwords", Args: map[string]any{"users": []any{
				map[string]any{"name": "ann", "host": "10.0.0.1", "password": "p"}, map[string]any{"name": "a.b", "host": "%", "password": "q"}}}}},
		{"update a user", "PUT", users + "/a.b", `{"user":{"name":"c.d","password":"p"}}`,
			cast{Method: "update_attributes", Args: map[string]any{"username": "a.b", "hostname": "%", "user_attrs": map[string]any{"name": "c.d", "password": "p"}}}},
		{"update a user to the host it has", "PUT", users + "/a.b", `{"user":{"host":"%","password":"p"}}`,
			cast{Method: "update_attributes", Args: map[string]any{"username": "a.b", "hostname": "%", "user_attrs": map[string]any{"host": "%", "password": "p"}}}},
		{"delete a user", "DELETE", users + "/ann@10.0.0.1", "",
			cast{Method: "delete_user", Args: map[string]any{"user": map[string]any{"_name": "ann", "_host": "10.0.0.1", "_password": nil, "_is_root": false, "_databases": []any{}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(h.casts())
			if a := h.want(202, demo, c.method, c.path, c.body); a.text != "" {
				t.Errorf("body = %q", a.text)
			}
			got := h.casts()[before:]
			if len(got) != 1 {
				t.Fatalf("%d messages", len(got))
			}
			got[0].Context = nil
			c.want.Topic, c.want.InstanceID = "guestagent."+id(1), id(1)
			if d := cmp.Diff(c.want, got[0]); d != "" {
				t.Errorf("message (-want +got)\n%s", d)
			}
		})
	}
	before := len(h.casts())
	for _, c := range []struct{ method, path, body string }{
		{"POST", users, `{"users":[]}`}, {"POST", dbs, `{"databases":[]}`}, {"PUT", users, `{"users":[]}`}, {"PUT", users + "/ann/databases", `{"databases":[]}`},
	} {
		h.want(202, demo, c.method, c.path, c.body)
	}
	h.guest.calls = nil
	h.want(202, demo, "PUT", users+"/ann/databases", `{"databases":[{"name":"d2"},{"name":"d 3"}]}`)
	h.want(202, demo, "DELETE", users+"/ann@%25/databases/d1.x", "")
	want := []string{"get user ann@%", "grant ann@% [d2 d 3]", "get user ann@%", "list access ann@%", "revoke ann@% d1.x"}
	if !slices.Equal(h.guest.calls, want) {
		t.Errorf("calls = %q", h.guest.calls)
	}
	if n := len(h.casts()) - before; n != 0 {
		t.Errorf("%d messages for nothing to do or what was done at once", n)
	}
}

func TestEngineRefused(t *testing.T) {
	h := engineHarness(t)
	users, dbs := below+"users", below+"databases"
	h.refuses(t, demo, []refusal{
		{"database exists", "POST", dbs, `{"databases":[{"name":"new"},{"name":"d1"}]}`, 400, "badRequest", `A database with the name "d1" already exists.`},
		{"reserved database", "POST", dbs, `{"databases":[{"name":"sys"}]}`, 400, "badRequest", "is on the reserved list"},
		{"databases missing", "POST", dbs, `{}`, 400, "badRequest", "'databases' is a required property"},
		{"database without a name", "POST", dbs, `{"databases":[{}]}`, 400, "badRequest", "databases[0] 'name' is a required property"},
		{"trailing space", "POST", dbs, `{"databases":[{"name":"a "}]}`, 400, "badRequest", "begins or ends with white space"},
		{"control character", "POST", dbs, `{"databases":[{"name":"a\u0000b"}]}`, 400, "badRequest", "control characters"},
		{"delete an unknown database", "DELETE", dbs + "/nope", "", 404, "itemNotFound", "Database nope cannot be found"},
		{"delete a reserved database", "DELETE", dbs + "/mysql", "", 400, "badRequest", "reserved"},
		{"limit", "GET", dbs + "?limit=0", "", 400, "badRequest", "'limit'"},
		{"user exists", "POST", users, `{"users":[{"name":"ann","password":"p"}]}`, 400, "badRequest", `A user with the name "ann" already exists on host "%".`},
		{"one of two exists", "POST", users, `{"users":[{"name":"x","password":"p"},{"name":"ann","password":"p"}]}`, 400, "badRequest", "already exists"},
		{"reserved user", "POST", users, `{"users":[{"name":"OS_ADMIN","password":"p"}]}`, 400, "badRequest", "reserved"},
		{"user of a reserved database", "POST", users, `{"users":[{"name":"x","password":"p","databases":[{"name":"mysql"}]}]}`, 400, "badRequest", "reserved"},
		{"zero in a password", "POST", users, `{"users":[{"name":"x","password":"a\u0000b"}]}`, 400, "badRequest", "zero character"},
		{"zero in a new password", "PUT", users + "/ann", `{"user":{"password":"\u0000"}}`, 400, "badRequest", "zero character"},
		{"no password", "POST", users, `{"users":[{"name":"x"}]}`, 400, "badRequest", "users[0] 'password' is a required property"},
		{"name too long", "POST", users, `{"users":[{"name":"` + strings.Repeat("u", 81) + `","password":"p"}]}`, 400, "badRequest", "it has 81 characters, MariaDB allows at most 80"},
		{"password of an unknown user", "PUT", users, `{"users":[{"name":"ann","password":"p"},{"name":"x","password":"p"}]}`, 404, "itemNotFound", "User x@% cannot be found"},
		{"show an unknown user", "GET", users + "/x", "", 404, "itemNotFound", "User x@% cannot be found"},
		{"show a reserved user", "GET", users + "/root", "", 400, "badRequest", "reserved"},
		{"nothing to update", "PUT", users + "/ann", `{"user":{}}`, 400, "badRequest", "user the object does not have enough properties"},
		{"nothing known to update", "PUT", users + "/ann", `{"user":{"x":1}}`, 400, "badRequest", "needs one of"},
		{"rename to one that exists", "PUT", users + "/ann", `{"user":{"name":"a.b"}}`, 400, "badRequest", "already exists"},
		{"move to a host that is taken", "PUT", users + "/ann", `{"user":{"host":"10.0.0.1"}}`, 400, "badRequest", "already exists"},
		{"rename to a reserved name", "PUT", users + "/ann", `{"user":{"name":"root"}}`, 400, "badRequest", "reserved"},
		{"update an unknown user", "PUT", users + "/x", `{"user":{"password":"p"}}`, 404, "itemNotFound", ""},
		{"delete an unknown user", "DELETE", users + "/ann@10.0.0.2", "", 404, "itemNotFound", "User ann@10.0.0.2 cannot be found"},
		{"delete a reserved user", "DELETE", users + "/os_admin", "", 400, "badRequest", "reserved"},
		{"access of an unknown user", "GET", users + "/x/databases", "", 404, "itemNotFound", ""},
		{"grant without databases", "PUT", users + "/ann/databases", `{}`, 400, "badRequest", "'databases' is a required property"},
		{"grant of strings", "PUT", users + "/ann/databases", `{"databases":["d1"]}`, 400, "badRequest", "databases[0] 'd1' is not of type 'object'"},
		{"grant of a reserved database", "PUT", users + "/ann/databases", `{"databases":[{"name":"mysql"}]}`, 400, "badRequest", "reserved"},
		{"revoke what is not granted", "DELETE", users + "/ann/databases/d2", "", 404, "itemNotFound", "Database d2 cannot be found among those that user ann@% may use."},
		{"revoke from an unknown user", "DELETE", users + "/x/databases/d1", "", 404, "itemNotFound", "User x@%"},
		{"root with an empty password", "POST", below + "root", `{"password":""}`, 400, "badRequest", "password the value is not valid"},
		{"root that is not enabled", "DELETE", below + "root", "", 404, "itemNotFound", "Root is not enabled"},
	})
	if n := len(h.casts()); n != 0 {
		t.Errorf("%d messages were written for refused requests", n)
	}
	if log := h.logs.String(); strings.Contains(log, "password") {
		t.Errorf("a password was logged: %s", log)
	}
}

func TestEngineNotServing(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mariadbVersion, func(i *trove.Instance) { i.Service = trove.ServiceShutdown })
	h.instance(demo, id(2), mariadbVersion, func(i *trove.Instance) { i.Task = trove.TaskDeleting })
	if _, err := h.store.EnsureVersion(t.Context(), trove.DatastoreVersion{ID: id(99), DatastoreName: "redis", Name: "7", Number: "7", Manager: "redis", Active: true}, true); err != nil {
		t.Fatal(err)
	}
	h.instance(demo, id(3), id(99))
	for n, message := range map[int]string{1: "is shutdown", 2: "(Status is SHUTDOWN)", 3: "is not MySQL, MariaDB or PostgreSQL"} {
		for _, c := range []string{"databases", "users", "users/x", "users/x/databases", "root"} {
			key, got := h.want(422, demo, "GET", "instances/"+id(n)+"/"+c, "").fault()
			if key != "unprocessableEntity" || !strings.Contains(got, message) {
				t.Errorf("%d %s: %s %s", n, c, key, got)
			}
		}
	}
	if len(h.guest.calls) != 0 {
		t.Errorf("calls = %v", h.guest.calls)
	}
}

func TestGuestFails(t *testing.T) {
	h := engineHarness(t)
	for _, c := range []struct {
		err     error
		status  int
		key     string
		message string
	}{
		{trove.Errorf(trove.KindGuestTimeout, "x"), 400, "badRequest", "did not answer in time"},
		{trove.Errorf(trove.KindGuest, "disk full"), 400, "badRequest", "communicating with the guest: disk full"},
		{trove.Errorf(trove.KindUnprocessable, "busy"), 400, "badRequest", "communicating with the guest: busy"},
		{trove.Errorf(trove.KindInternal, "inside"), 400, "badRequest", "communicating with the guest. See its log."},
		{trove.Errorf(trove.KindUnavailable, "The message bus is away."), 503, "serviceUnavailable", "The message bus is away."},
	} {
		h.guest.err = c.err
		for _, r := range []struct{ method, path, body string }{
			{"GET", "databases", ""}, {"POST", "databases", `{"databases":[{"name":"n"}]}`}, {"GET", "users", ""}, {"GET", "users/ann", ""},
			{"POST", "users", `{"users":[{"name":"n","password":"p"}]}`}, {"POST", "root", ""},
		} {
			a := h.do(demo, r.method, below+r.path, r.body)
			key, message := a.fault()
			if a.status != c.status || key != c.key || !strings.Contains(message, c.message) {
				t.Errorf("%v, %s %s: %d %s", c.err, r.method, r.path, a.status, a.text)
			}
		}
	}
	h.guest.err = trove.Errorf(trove.KindNotFound, "gone")
	h.want(404, demo, "GET", below+"users/ann", "")
	h.want(202, demo, "POST", below+"users", `{"users":[{"name":"ann","password":"p"}]}`)
}

func TestRoot(t *testing.T) {
	h := engineHarness(t)
	enabled := func(want string) {
		t.Helper()
		if a := h.want(200, demo, "GET", below+"root", ""); a.text != `{"rootEnabled":`+want+`}` {
			t.Errorf("= %s", a.text)
		}
	}
	enabled("false")
	for body, password := range map[string]string{``: "made-by-agent", `{}`: "made-by-agent", `{"password":null}`: "made-by-agent", `{"password":"o'w\";n"}`: `o'w\";n`} {
		if a := h.want(200, demo, "POST", below+"root", body); a.text != `{"user":{"name":"root","password":"`+password+`"}}` {
			t.Errorf("%s: %s", body, a.text)
		}
		enabled("true")
	}
	h.clock.add(1e9)
	if a := h.want(204, demo, "DELETE", below+"root", ""); a.header.Get("Content-Length") != "" {
		t.Error("a 204 has a length")
	}
	enabled("false")
	h.want(404, demo, "DELETE", below+"root", "")
	h.clock.add(1e9)
	h.want(200, demo, "POST", below+"root", "")
	enabled("true")
	// What the guest did not do is not written down.
	h.guest.err = trove.Errorf(trove.KindGuest, "no")
	h.want(400, demo, "DELETE", below+"root", "")
	enabled("true")
}

// TestEnginePages follows the links of the lists of users and databases as
// gophercloud does, and as python-troveclient does, which unquotes the marker
// and sends it back as it is.
func TestEnginePages(t *testing.T) {
	h := engineHarness(t, func(c *api.Config) { c.PageSize = 2 })
	h.guest.add(trove.User{Name: "x y+z", Host: "10.%"})
	h.guest.add(trove.User{Name: "zz", Host: "%"})
	h.guest.databases = []string{"a b", "a+b", "d1.x", "mysql", "z"}
	var allUsers []string
	for key := range h.guest.users {
		if key != "root@%" {
			allUsers = append(allUsers, key)
		}
	}
	slices.Sort(allUsers)
	for _, list := range []struct {
		collection string
		want       []string
	}{{"users", allUsers}, {"databases", []string{"a b", "a+b", "d1.x", "z"}}} {
		for _, client := range []string{"gophercloud", "python-troveclient", "twice quoted"} {
			if client == "twice quoted" && list.collection == "databases" {
				continue
			}
			t.Run(list.collection+" "+client, func(t *testing.T) {
				var seen []string
				query := "limit=100"
				for pages := 0; query != ""; pages++ {
					if pages > 20 {
						t.Fatal("no end")
					}
					var body struct {
						Users, Databases []struct{ Name, Host string }
						Links            []struct{ Href string }
					}
					h.want(200, demo, "GET", below+list.collection+"?"+query, "").decode(t, &body)
					for _, u := range body.Users {
						seen = append(seen, u.Name+"@"+u.Host)
					}
					for _, d := range body.Databases {
						seen = append(seen, d.Name)
					}
					if query = ""; len(body.Links) == 0 {
						break
					}
					_, query, _ = strings.Cut(body.Links[0].Href, "?")
					_, marker, _ := strings.Cut(query, "marker=")
					plain, err := url.PathUnescape(marker)
					if err != nil {
						t.Fatal(err)
					}
					switch client {
					case "python-troveclient":
						// Its HTTP library quotes what cannot stand in a URL at all.
						query = "limit=100&marker=" + strings.ReplaceAll(plain, " ", "%20")
					case "twice quoted":
						query = "limit=100&marker=" + url.PathEscape(strings.ReplaceAll(marker, "@", "%40"))
					}
				}
				if !slices.Equal(seen, list.want) {
					t.Errorf("seen %q\nwant %q", seen, list.want)
				}
			})
		}
	}
}

func FuzzUserPath(f *testing.F) {
	for _, s := range []string{"a", "a.b", "a%2eb", "a@%", "a%40%25", "@", "a@", "@@", "%", "%zz", "a%2fb", "é@h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, segment string) {
		name, host := api.ParseAccount(segment)
		if host == "" || (name == "" && segment != "" && !strings.Contains(segment, "@") && !strings.Contains(segment, "%40")) {
			t.Fatalf("%q is user %q of host %q", segment, name, host)
		}
		// What a client makes of a name and host comes back as they were.
		if name == "" || strings.Contains(host, "@") {
			return
		}
		full := name + "@" + host
		once := strings.NewReplacer("%", "%25", "@", "%40").Replace(full)
		if n, hst := api.ParseAccount(once); n != name || hst != host {
			t.Errorf("%q, quoted %q, is %q of %q", full, once, n, hst)
		}
		if m := api.ParseUserMarker(full); m != full {
			t.Errorf("marker %q became %q", full, m)
		}
		if m := api.ParseUserMarker(once); m != full {
			t.Errorf("marker %q became %q, want %q", once, m, full)
		}
	})
}

func FuzzPath(f *testing.F) {
	h := &harness{}
	f.Add("instances")
	f.Add("instances/x/users/a%2fb/databases/d%2ex")
	f.Add("datastores/versions/x")
	f.Add("//")
	f.Add("%")
	f.Fuzz(func(t *testing.T, path string) {
		if h.server == nil {
			h = newHarness(t)
		}
		u, err := url.Parse("http://" + host + "/v1.0/demo/" + path)
		if err != nil || strings.ContainsAny(path, " \t\r\n#?\x00\x7f") || u.Host != host {
			return
		}
		h.t = t
		a := h.do(demo, "PUT", u.RequestURI(), "")
		if a.status >= 500 && a.status != 501 {
			t.Errorf("%q = %d %s", path, a.status, a.text)
		}
		if key, message := a.fault(); a.status >= 400 && key == "" {
			t.Errorf("%q = %d %s", path, a.status, message)
		}
	})
}

// TestSettle holds that who made something finds it afterwards, as gophercloud's
// acceptance tests expect: a guest is asked when it has handled what was cast
// to it before.
func TestSettle(t *testing.T) {
	const longer = 60 * time.Second
	h := newHarness(t, func(c *api.Config) { c.SettleTimeout = longer })
	h.instance(demo, id(1), mariadbVersion)
	h.want(202, demo, "POST", below+"databases", `{"databases":[{"name":"made"}]}`)
	listed := make(chan answer, 1)
	go func() { listed <- h.do(demo, "GET", below+"databases", "") }()
	select {
	case a := <-listed:
		t.Fatalf("listed before the guest had made it: %s", a.text)
	case <-time.After(100 * time.Millisecond):
	}

	rows, err := h.store.Outbox(t.Context(), 0, 10)
	if err != nil || len(rows) != 1 {
		t.Fatalf("outbox: %v, %v", rows, err)
	}
	h.guest.mu.Lock()
	h.guest.databases = append(h.guest.databases, "made")
	h.guest.mu.Unlock()
	if _, err := h.store.Heartbeat(t.Context(), id(1), store.Beat{Done: []string{rows[0].ID}}); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-listed:
		if a.status != 200 || !strings.Contains(a.text, `"made"`) {
			t.Errorf("%d %s", a.status, a.text)
		}
	case <-time.After(longer / 2):
		t.Error("an acknowledgement is not noticed")
	}
}
