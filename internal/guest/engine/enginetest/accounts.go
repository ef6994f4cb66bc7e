package enginetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/trove"
)

// twice calls f two times: what is asked again, as after a lost answer, must
// succeed again.
func twice(t *testing.T, what string, f func() error) {
	t.Helper()
	for range 2 {
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func wantKind(t *testing.T, what string, err error, kind trove.Kind) {
	t.Helper()
	if !trove.IsKind(err, kind) {
		t.Errorf("%s gives %v (%v), want %v", what, err, trove.KindOf(err), kind)
	}
}

func (i *instance) databaseNames(t *testing.T) []string {
	t.Helper()
	all, err := i.engine.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, d := range all {
		names = append(names, d.Name)
	}
	return names
}

func (i *instance) wantDatabases(t *testing.T, want ...string) {
	t.Helper()
	if d := cmp.Diff(append([]string{}, want...), i.databaseNames(t)); d != "" {
		t.Errorf("databases differ: %s", d)
	}
}

func (i *instance) wantUsers(t *testing.T, want ...trove.User) {
	t.Helper()
	got, err := i.engine.Users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	normal := func(users []trove.User) []trove.User {
		users = slices.Clone(users)
		for n := range users {
			users[n].Password = ""
			users[n].Databases = append([]string{}, users[n].Databases...)
		}
		return users
	}
	for _, u := range got {
		if u.Password != "" {
			t.Errorf("the password of %s is listed", u.Name)
		}
	}
	if d := cmp.Diff(normal(want), normal(got)); d != "" {
		t.Errorf("users differ: %s", d)
	}
}

func databases(t *testing.T, s *suite) {
	i := s.started(t)
	i.wantDatabases(t)
	for _, name := range []string{"zoo", "ant", "bee"} {
		twice(t, "CreateDatabase", func() error { return i.engine.CreateDatabase(t.Context(), trove.Database{Name: name}) })
	}
	i.wantDatabases(t, "ant", "bee", "zoo")
	if err := i.engine.DropDatabase(t.Context(), "bee"); err != nil {
		t.Fatal(err)
	}
	i.wantDatabases(t, "ant", "zoo")
	wantKind(t, "DropDatabase of none", i.engine.DropDatabase(t.Context(), "bee"), trove.KindNotFound)
	wantKind(t, "a database without a name", i.engine.CreateDatabase(t.Context(), trove.Database{}), trove.KindBadRequest)
	wantKind(t, "a name too long", i.engine.CreateDatabase(t.Context(), trove.Database{Name: strings.Repeat("x", 65)}), trove.KindBadRequest)
	wantKind(t, "an unknown character set",
		i.engine.CreateDatabase(t.Context(), trove.Database{Name: "odd", CharacterSet: "klingon"}), trove.KindBadRequest)
	i.wantDatabases(t, "ant", "zoo")

	// A database in use is dropped all the same.
	u := trove.User{Name: "user", Password: "Passw0rd-1", Host: trove.AnyHost, Databases: []string{"zoo"}}
	if err := i.engine.CreateUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	db := i.mayConnect(t, i.target(u.Name, u.Password, "zoo"))
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := i.engine.DropDatabase(t.Context(), "zoo"); err != nil {
		t.Fatalf("DropDatabase of one in use: %v", err)
	}
	i.wantDatabases(t, "ant")
}

func users(t *testing.T, s *suite) {
	i := s.started(t)
	i.wantUsers(t)
	for _, d := range []string{"shop", "other"} {
		if err := i.engine.CreateDatabase(t.Context(), trove.Database{Name: d}); err != nil {
			t.Fatal(err)
		}
	}
	twice(t, "CreateUser", func() error { return i.engine.CreateUser(t.Context(), app) })
	i.wantUsers(t, app)
	i.mayUse(t, i.target(app.Name, app.Password, "shop"))
	i.mayNotConnect(t, i.target(app.Name, "wrong", "shop"))
	i.mayNotConnect(t, i.target(app.Name, "", "shop"))

	// Created again, it has the new password and the new grants.
	changed := app
	changed.Password, changed.Databases = "changed-Passw0rd", []string{"other", "shop"}
	if err := i.engine.CreateUser(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	i.wantUsers(t, changed)
	i.mayUse(t, i.target(app.Name, changed.Password, "other"))
	i.mayNotConnect(t, i.target(app.Name, app.Password, "shop"))
	changed.Databases = []string{"shop"}
	if err := i.engine.CreateUser(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	i.wantUsers(t, changed)

	// Password, then name.
	password, name := "third-Passw0rd", "renamed"
	twice(t, "AlterUser", func() error {
		return i.engine.AlterUser(t.Context(), app.Name, app.Host, trove.UserAttributes{Password: &password})
	})
	i.mayUse(t, i.target(app.Name, password, "shop"))
	if err := i.engine.AlterUser(t.Context(), app.Name, app.Host, trove.UserAttributes{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if got, err := i.engine.User(t.Context(), name, trove.AnyHost); err != nil || !slices.Equal(got.Databases, []string{"shop"}) {
		t.Errorf("the renamed user is %+v, %v", got, err)
	}
	i.mayUse(t, i.target(name, password, "shop"))
	i.mayNotConnect(t, i.target(app.Name, password, "shop"))
	second := trove.User{Name: "second", Password: "second-Passw0rd", Host: trove.AnyHost}
	if err := i.engine.CreateUser(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "a name that is taken",
		i.engine.AlterUser(t.Context(), "second", trove.AnyHost, trove.UserAttributes{Name: &name}), trove.KindBadRequest)
	i.mayUse(t, i.target(name, password, "shop"))

	if err := i.engine.DropUser(t.Context(), name, trove.AnyHost); err != nil {
		t.Fatal(err)
	}
	i.wantUsers(t, second)
	i.mayNotConnect(t, i.target(name, password, "shop"))
	i.wantDatabases(t, "other", "shop") // with what the user made in it

	empty := ""
	for what, err := range map[string]error{
		"DropUser of none":  i.engine.DropUser(t.Context(), "none", trove.AnyHost),
		"AlterUser of none": i.engine.AlterUser(t.Context(), "none", trove.AnyHost, trove.UserAttributes{Password: &password}),
		"Grant to none":     i.engine.Grant(t.Context(), "none", trove.AnyHost, []string{"shop"}),
		"Revoke from none":  i.engine.Revoke(t.Context(), "none", trove.AnyHost, "shop"),
	} {
		wantKind(t, what, err, trove.KindNotFound)
	}
	_, err := i.engine.User(t.Context(), "none", trove.AnyHost)
	wantKind(t, "User of none", err, trove.KindNotFound)
	for what, u := range map[string]trove.User{
		"no name":     {Password: "x-Passw0rd"},
		"no password": {Name: "bare"},
		"long name":   {Name: strings.Repeat("x", 200), Password: "x-Passw0rd"},
	} {
		wantKind(t, what, i.engine.CreateUser(t.Context(), u), trove.KindBadRequest)
	}
	wantKind(t, "an empty password", i.engine.AlterUser(t.Context(), "second", trove.AnyHost, trove.UserAttributes{Password: &empty}), trove.KindBadRequest)
	i.wantUsers(t, second)
}

func grants(t *testing.T, s *suite) {
	i := s.started(t)
	for _, d := range []string{"one", "two", "three"} {
		if err := i.engine.CreateDatabase(t.Context(), trove.Database{Name: d}); err != nil {
			t.Fatal(err)
		}
	}
	u := trove.User{Name: "user", Password: "user-Passw0rd", Host: trove.AnyHost}
	if err := i.engine.CreateUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	i.mayNotConnect(t, i.target(u.Name, u.Password, "one"))
	twice(t, "Grant", func() error { return i.engine.Grant(t.Context(), u.Name, u.Host, []string{"two", "one"}) })
	u.Databases = []string{"one", "two"}
	i.wantUsers(t, u)
	i.mayUse(t, i.target(u.Name, u.Password, "one"))
	i.mayUse(t, i.target(u.Name, u.Password, "two"))
	i.mayNotConnect(t, i.target(u.Name, u.Password, "three"))
	if err := i.engine.Revoke(t.Context(), u.Name, u.Host, "one"); err != nil {
		t.Fatal(err)
	}
	u.Databases = []string{"two"}
	i.wantUsers(t, u)
	i.mayNotConnect(t, i.target(u.Name, u.Password, "one"))
	i.mayUse(t, i.target(u.Name, u.Password, "two"))
	wantKind(t, "Revoke of what is not granted", i.engine.Revoke(t.Context(), u.Name, u.Host, "one"), trove.KindNotFound)

	// A second user of the same database sees what the first made there.
	other := trove.User{Name: "other", Password: "other-Passw0rd", Host: trove.AnyHost, Databases: []string{"two"}}
	if err := i.engine.CreateUser(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	i.mayUse(t, i.target(other.Name, other.Password, "two"))
	// Rights end with the database: one made again has none of the old.
	if err := i.engine.DropDatabase(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if got, err := i.engine.User(t.Context(), u.Name, u.Host); err != nil || len(got.Databases) != 0 {
		t.Errorf("after the database is gone the user has %v, %v", got.Databases, err)
	}
}

func root(t *testing.T, s *suite) {
	i := s.started(t)
	is := func(want bool) {
		t.Helper()
		if got, err := i.engine.RootEnabled(t.Context()); err != nil || got != want {
			t.Errorf("RootEnabled is %v, %v, want %v", got, err, want)
		}
	}
	is(false)
	if err := i.engine.DisableRoot(t.Context()); err != nil {
		t.Errorf("DisableRoot of one never enabled: %v", err)
	}
	is(false)
	const password = `r00t's "pass\word;🔑`
	twice(t, "EnableRoot", func() error {
		u, err := i.engine.EnableRoot(t.Context(), password)
		if err == nil && (u.Name != "root" || u.Password != password) {
			t.Errorf("EnableRoot gives %+v", u)
		}
		return err
	})
	is(true)
	i.wantUsers(t)
	if err := i.engine.CreateDatabase(t.Context(), trove.Database{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	i.mayUse(t, i.target("root", password, "shop"))
	db := i.mayConnect(t, i.target("root", password, ""))
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE byroot"); err != nil {
		t.Errorf("root cannot make a database: %v", err)
	}
	i.stop(t)
	i.start(t)
	is(true)
	i.mayConnect(t, i.target("root", password, ""))
	if _, err := i.engine.EnableRoot(t.Context(), "another-Passw0rd"); err != nil {
		t.Fatal(err)
	}
	i.mayNotConnect(t, i.target("root", password, ""))
	i.mayConnect(t, i.target("root", "another-Passw0rd", ""))
	twice(t, "DisableRoot", func() error { return i.engine.DisableRoot(t.Context()) })
	is(false)
	i.mayNotConnect(t, i.target("root", "another-Passw0rd", ""))
	i.stop(t)
	i.start(t)
	is(false)
	if _, err := i.engine.EnableRoot(t.Context(), password); err != nil {
		t.Fatal(err)
	}
	is(true)
	i.mayConnect(t, i.target("root", password, ""))
	_, err := i.engine.EnableRoot(t.Context(), "")
	wantKind(t, "root without a password", err, trove.KindBadRequest)
}

func hosts(t *testing.T, s *suite) {
	i := s.started(t)
	if !s.Hosts {
		u := app
		u.Databases = nil
		if err := i.engine.CreateUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		got, err := i.engine.User(t.Context(), u.Name, "")
		if err != nil || got.Host != trove.AnyHost {
			t.Errorf("a user without a host is %+v, %v", got, err)
		}
		return
	}
	if err := i.engine.CreateDatabase(t.Context(), trove.Database{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	here := trove.User{Name: "app", Password: "here-Passw0rd", Host: "127.%", Databases: []string{"shop"}}
	there := trove.User{Name: "app", Password: "there-Passw0rd", Host: "192.0.2.7"}
	for _, u := range []trove.User{there, here} {
		if err := i.engine.CreateUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	i.wantUsers(t, here, there)
	i.mayUse(t, i.target("app", here.Password, "shop"))
	i.mayNotConnect(t, i.target("app", there.Password, ""))
	_, err := i.engine.User(t.Context(), "app", "")
	wantKind(t, "the user of any host", err, trove.KindNotFound)
	elsewhere := "192.0.2.8"
	if err := i.engine.AlterUser(t.Context(), "app", here.Host, trove.UserAttributes{Host: &elsewhere}); err != nil {
		t.Fatal(err)
	}
	i.mayNotConnect(t, i.target("app", here.Password, "shop"))
	if err := i.engine.DropUser(t.Context(), "app", there.Host); err != nil {
		t.Fatal(err)
	}
	here.Host = elsewhere
	i.wantUsers(t, here)
	for _, host := range []string{"localhost", "no host", "a'b", "300.1.1.1"} {
		u := app
		u.Host = host
		wantKind(t, "host "+host, i.engine.CreateUser(t.Context(), u), trove.KindBadRequest)
	}
}

func nasty(t *testing.T, s *suite) {
	i := s.started(t)
	// Names that are patterns, or quotes, for one engine or another. Each comes
	// with one it would also mean if it were taken for a pattern.
	dbs := []string{"a_b", "axb", "c%d", "cxyzd", "with space", "semi;colon", "quo'te", `dou"ble`, "back`tick", "da-sh", "UPPER", "d$llar", "ünï"}
	passwords := []string{"qu'ote", `dou"ble`, "semi;colon", `back\slash`, `end\`, "tick`", "emoji 🔑🐬", " spaces ", "-- x", "%s%d", "ümläut", "日本語", "a'||'b", "$1 ? :x"}
	for _, name := range dbs {
		twice(t, "CreateDatabase "+name, func() error { return i.engine.CreateDatabase(t.Context(), trove.Database{Name: name}) })
	}
	sorted := slices.Sorted(slices.Values(dbs))
	got := slices.Sorted(slices.Values(i.databaseNames(t)))
	if d := cmp.Diff(sorted, got); d != "" {
		t.Errorf("databases differ: %s", d)
	}
	for n, password := range passwords {
		db := dbs[n%len(dbs)]
		u := trove.User{Name: []string{"o'brien", `us"er`, "semi;us", "per%cent", "under_score", "sp ace", "back`tick", "UPPER", "ü", "da-sh"}[n%10],
			Password: password, Host: trove.AnyHost, Databases: []string{db}}
		twice(t, "CreateUser with password "+password, func() error { return i.engine.CreateUser(t.Context(), u) })
		i.mayUse(t, i.target(u.Name, password, db))
		i.mayNotConnect(t, i.target(u.Name, password+"x", db))
		if got, err := i.engine.User(t.Context(), u.Name, u.Host); err != nil || !slices.Equal(got.Databases, u.Databases) {
			t.Errorf("user %s has %v, %v, want %v", u.Name, got.Databases, err, u.Databases)
		}
		for _, other := range dbs {
			if other != db && (strings.HasPrefix(db, other[:1])) {
				i.mayNotConnect(t, i.target(u.Name, password, other))
			}
		}
		again := password + "'"
		if err := i.engine.AlterUser(t.Context(), u.Name, u.Host, trove.UserAttributes{Password: &again}); err != nil {
			t.Fatal(err)
		}
		i.mayConnect(t, i.target(u.Name, again, db))
		if err := i.engine.Revoke(t.Context(), u.Name, u.Host, db); err != nil {
			t.Fatalf("Revoke of %q from %q: %v", db, u.Name, err)
		}
		i.mayNotConnect(t, i.target(u.Name, again, db))
		if err := i.engine.DropUser(t.Context(), u.Name, u.Host); err != nil {
			t.Fatal(err)
		}
	}
	i.wantUsers(t)
	for _, name := range dbs {
		if err := i.engine.DropDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	i.wantDatabases(t)
	for _, name := range []string{"nul\x00", "new\nline", "bad\xffutf8"} {
		wantKind(t, "a database of that name", i.engine.CreateDatabase(t.Context(), trove.Database{Name: name}), trove.KindBadRequest)
		wantKind(t, "a user of that name", i.engine.CreateUser(t.Context(), trove.User{Name: name, Password: "x-Passw0rd"}), trove.KindBadRequest)
	}
	wantKind(t, "a password with NUL", i.engine.CreateUser(t.Context(), trove.User{Name: "nul", Password: "x\x00y"}), trove.KindBadRequest)
}

func reserved(t *testing.T, s *suite) {
	i := s.started(t)
	twice(t, "CreateUser", func() error {
		return i.engine.CreateUser(t.Context(), trove.User{Name: "user", Password: "x-Passw0rd"})
	})
	name := "name"
	for _, d := range s.ReservedDatabases {
		wantKind(t, "CreateDatabase "+d, i.engine.CreateDatabase(t.Context(), trove.Database{Name: d}), trove.KindBadRequest)
		wantKind(t, "DropDatabase "+d, i.engine.DropDatabase(t.Context(), d), trove.KindBadRequest)
		wantKind(t, "Grant "+d, i.engine.Grant(t.Context(), "user", trove.AnyHost, []string{d}), trove.KindBadRequest)
		wantKind(t, "Revoke "+d, i.engine.Revoke(t.Context(), "user", trove.AnyHost, d), trove.KindBadRequest)
	}
	for _, u := range s.ReservedUsers {
		wantKind(t, "CreateUser "+u, i.engine.CreateUser(t.Context(), trove.User{Name: u, Password: "x-Passw0rd"}), trove.KindBadRequest)
		wantKind(t, "DropUser "+u, i.engine.DropUser(t.Context(), u, trove.AnyHost), trove.KindBadRequest)
		wantKind(t, "AlterUser "+u, i.engine.AlterUser(t.Context(), u, trove.AnyHost, trove.UserAttributes{Name: &name}), trove.KindBadRequest)
		wantKind(t, "AlterUser to "+u, i.engine.AlterUser(t.Context(), "user", trove.AnyHost, trove.UserAttributes{Name: &u}), trove.KindBadRequest)
		wantKind(t, "Grant to "+u, i.engine.Grant(t.Context(), u, trove.AnyHost, []string{"x"}), trove.KindBadRequest)
		_, err := i.engine.User(t.Context(), u, trove.AnyHost)
		wantKind(t, "User "+u, err, trove.KindBadRequest)
	}
	i.wantDatabases(t)
	i.wantUsers(t, trove.User{Name: "user", Host: trove.AnyHost})
	if err := i.engine.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
}
