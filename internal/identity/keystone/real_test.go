package keystone_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/identity/identitytest"
	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/identity/keystonetest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// real is a Keystone of Debian's, and a clock that can be put forward.
type real struct {
	*keystonetest.Server
	t   *testing.T
	ctx context.Context
	log lockedBuffer

	mu     sync.Mutex
	offset time.Duration
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (r *real) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.offset)
}

func (r *real) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offset += d
}

func (r *real) open(change ...func(*keystone.Options)) *keystone.Validator {
	r.t.Helper()
	o := keystone.Options{AuthURL: r.URL(), Username: keystonetest.ServiceName, Password: secret.New(keystonetest.Password),
		UserDomainID: "default", ProjectName: "service", ProjectDomainID: "default", Region: keystonetest.Region,
		Timeout: 60 * time.Second, Now: r.clock, Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	for _, f := range change {
		f(&o)
	}
	v, err := keystone.New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(v.Close)
	return v
}

// must gives a value, or ends the test.
func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (r *real) login(user string, scope any) string {
	r.t.Helper()
	token, err := r.Login(r.ctx, user, keystonetest.Password, scope)
	return must(r.t, token, err)
}

func (r *real) validate(v *keystone.Validator, token string) identity.Identity {
	r.t.Helper()
	id, err := v.Validate(r.ctx, token)
	return must(r.t, id, err)
}

// The tests share a Keystone: it takes a while to start.
func TestRealKeystone(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	s := keystonetest.Start(t, keystonetest.Options{DatabaseURL: "http://127.0.0.1:8779/v1.0"})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *real)
	}{
		{"Contract", testContract}, {"Scopes", testScopes}, {"Credentials", testCredentials}, {"OurLogins", testOurLogins},
		{"OpenStackClient", testOpenStackClient}, {"KilledAndBack", testKilledAndBack}, {"Frozen", testFrozen},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, &real{Server: s, t: t, ctx: ctx}) })
	}
}

func testContract(t *testing.T, r *real) {
	demo := keystonetest.Project(keystonetest.DemoProject)
	id := must2(r.ProjectID(r.ctx, keystonetest.DemoProject))(t)
	scoped := r.login(keystonetest.DemoName, demo)
	revoked := r.login(keystonetest.DemoName, demo)
	if err := r.Revoke(r.ctx, revoked); err != nil {
		t.Fatal(err)
	}
	userID := must2(r.AddUser(r.ctx, "leaver", "member", keystonetest.DemoProject))(t)
	disabled := r.login("leaver", demo)
	v := r.open()
	r.validate(v, disabled)
	if err := r.Disable(r.ctx, userID); err != nil {
		t.Fatal(err)
	}
	// One that expired while nobody looked: checked by the validator's clock.
	expired := r.login(keystonetest.DemoName, demo)
	late := &real{Server: r.Server, t: t, ctx: r.ctx}
	late.pass(59*time.Minute + 59*time.Second)
	lateValidator := late.open()
	_, lateErr := lateValidator.Validate(r.ctx, expired)
	late.pass(2 * time.Second)
	if _, err := lateValidator.Validate(r.ctx, expired); err == nil {
		t.Errorf("an expired token counts (before: %v)", lateErr)
	}
	who := r.validate(v, scoped)
	identitytest.Run(t, identitytest.Subject{
		// It asks again each time: what a cache adds is tested with its clock.
		Validator: r.open(func(o *keystone.Options) { o.CacheTime = -1 }),
		Scoped:    scoped,
		Want: identity.Identity{UserID: who.UserID, UserName: keystonetest.DemoName, UserDomainID: "default", UserDomainName: "Default",
			ProjectID: id, ProjectName: keystonetest.DemoProject, ProjectDomainID: "default", ProjectDomainName: "Default", Roles: []string{"member", "reader"}},
		Unscoped: r.login(keystonetest.DemoName, keystonetest.Unscoped()),
		Expired:  revoked, Revoked: revoked, Disabled: disabled,
		Revoke: func(t *testing.T) {
			if err := r.Revoke(r.ctx, scoped); err != nil {
				t.Fatal(err)
			}
		},
	})
	// The cache lets a token of a user who was disabled through until its time is over.
	r.validate(v, disabled)
	r.pass(301 * time.Second)
	if _, err := v.Validate(r.ctx, disabled); !trove.IsKind(err, trove.KindUnauthorized) {
		t.Errorf("a token of a disabled user: %v", err)
	}
}

func must2[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		return must(t, v, err)
	}
}

func testScopes(t *testing.T, r *real) {
	v := r.open()
	id := r.validate(v, r.login(keystonetest.AdminName, keystonetest.System()))
	if !id.System || id.ProjectID != "" || len(id.Roles) == 0 {
		t.Errorf("system: %+v", id)
	}
	id = r.validate(v, r.login(keystonetest.AdminName, keystonetest.Project(keystonetest.OtherProject)))
	if id.System || id.ProjectName != keystonetest.OtherProject || strings.Join(id.Roles, " ") == "" {
		t.Errorf("project: %+v", id)
	}
}

func testCredentials(t *testing.T, r *real) {
	v := r.open()
	token := r.login(keystonetest.DemoName, keystonetest.Project(keystonetest.DemoProject))
	id, key, err := r.AddCredential(r.ctx, token, "free", nil)
	if err != nil {
		t.Fatal(err)
	}
	who := r.validate(v, must2(r.LoginWith(r.ctx, id, key))(t))
	if who.Restricted || who.ProjectName != keystonetest.DemoProject || !who.Permits("database", "DELETE", "/v1.0/x/instances/1") {
		t.Errorf("free: %+v", who)
	}
	id, key, err = r.AddCredential(r.ctx, token, "reader", []keystonetest.AccessRule{
		{Service: "database", Method: "GET", Path: "/v1.0/{project_id}/instances/**"},
		{Service: "identity", Method: "GET", Path: "/v3/**"}})
	if err != nil {
		t.Fatal(err)
	}
	who = r.validate(v, must2(r.LoginWith(r.ctx, id, key))(t))
	if !who.Restricted || len(who.AccessRules) != 2 {
		t.Errorf("restricted: %+v", who)
	}
	for call, want := range map[[3]string]bool{
		{"database", "GET", "/v1.0/x/instances/1"}:        true,
		{"database", "GET", "/v1.0/x/instances/1/backup"}: true,
		{"database", "GET", "/v1.0/x/backups"}:            false,
		{"database", "DELETE", "/v1.0/x/instances/1"}:     false,
		{"identity", "GET", "/v1.0/x/instances/1"}:        false,
		{"", "GET", "/v1.0/x/instances/1"}:                false,
	} {
		if who.Permits(call[0], call[1], call[2]) != want {
			t.Errorf("%v permitted: %v", call, !want)
		}
	}
}

func testOurLogins(t *testing.T, r *real) {
	token := r.login(keystonetest.DemoName, keystonetest.Project(keystonetest.DemoProject))
	own := r.login(keystonetest.ServiceName, keystonetest.Project("service"))
	id, key, err := r.AddCredential(r.ctx, own, "validator", nil)
	if err != nil {
		t.Fatal(err)
	}
	nobody := func(o *keystone.Options) {
		o.Username, o.Password, o.ProjectName, o.UserDomainID, o.ProjectDomainID = "", secret.String{}, "", "", ""
	}
	project := must2(r.ProjectID(r.ctx, "service"))(t)
	for name, change := range map[string]func(*keystone.Options){
		"application credential": func(o *keystone.Options) {
			nobody(o)
			o.CredentialID, o.CredentialSecret = id, secret.New(key)
		},
		"its name": func(o *keystone.Options) {
			nobody(o)
			o.CredentialName, o.CredentialSecret, o.Username, o.UserDomainName = "validator", secret.New(key), keystonetest.ServiceName, "Default"
		},
		"project id":       func(o *keystone.Options) { o.ProjectName, o.ProjectID = "", project },
		"an administrator": func(o *keystone.Options) { o.Username, o.ProjectName = keystonetest.AdminName, "admin" },
		"no version":       func(o *keystone.Options) { o.AuthURL = strings.TrimSuffix(o.AuthURL, "/v3") },
		"public":           func(o *keystone.Options) { o.Interface = "public" },
		"unknown region":   func(o *keystone.Options) { o.Region = "Atlantis" },
	} {
		v := r.open(change)
		if err := v.Ping(r.ctx); err != nil {
			t.Errorf("%s: %v (%s)", name, err, trove.ActionOf(err))
			continue
		}
		r.validate(v, token)
	}
	for name, change := range map[string]func(*keystone.Options){
		"wrong password":           func(o *keystone.Options) { o.Password = secret.New("wrong") },
		"wrong secret":             func(o *keystone.Options) { nobody(o); o.CredentialID, o.CredentialSecret = id, secret.New("wrong") },
		"a user without the right": func(o *keystone.Options) { o.Username, o.ProjectName = keystonetest.DemoName, keystonetest.DemoProject },
	} {
		// Who has no right to check tokens may check their own.
		_, err := r.open(change).Validate(r.ctx, r.login(keystonetest.AdminName, keystonetest.Project("admin")))
		if !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, trove.ActionOf(err))
		}
	}
}

// Debian's client finds the service in the catalog.
func testOpenStackClient(t *testing.T, r *real) {
	if _, err := exec.LookPath("openstack"); err != nil {
		t.Fatal(err)
	}
	run := func(arguments ...string) string {
		c := exec.CommandContext(r.ctx, "openstack", arguments...)
		c.Env = append(os.Environ(), "OS_AUTH_URL="+r.URL(), "OS_USERNAME="+keystonetest.DemoName, "OS_PASSWORD="+keystonetest.Password,
			"OS_PROJECT_NAME="+keystonetest.DemoProject, "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
			"OS_IDENTITY_API_VERSION=3", "OS_REGION_NAME="+keystonetest.Region, "PYTHONDONTWRITEBYTECODE=1")
		out, err := c.Output()
		if err != nil {
			t.Fatalf("openstack %v: %v\n%s", arguments, err, out)
		}
		return string(out)
	}
	project := must2(r.ProjectID(r.ctx, keystonetest.DemoProject))(t)
	if out := run("catalog", "show", "database", "-f", "value", "-c", "endpoints"); !strings.Contains(out, "http://127.0.0.1:8779/v1.0/"+project) {
		t.Errorf("catalog: %s", out)
	}
	token := strings.TrimSpace(run("token", "issue", "-f", "value", "-c", "id"))
	if id := r.validate(r.open(), token); id.ProjectID != project || id.UserName != keystonetest.DemoName {
		t.Errorf("got %+v", id)
	}
}

func testKilledAndBack(t *testing.T, r *real) {
	v := r.open()
	token := r.login(keystonetest.DemoName, keystonetest.Project(keystonetest.DemoProject))
	fresh := r.login(keystonetest.DemoName, keystonetest.Project(keystonetest.DemoProject))
	r.validate(v, token)
	requests := v.Stats().Requests
	for range 1000 {
		r.validate(v, token)
	}
	if n := v.Stats().Requests; n != requests {
		t.Errorf("%d requests for a token that is known", n-requests)
	}
	r.Stop()
	r.pass(10 * time.Minute)
	r.validate(v, token)
	if _, err := v.Validate(r.ctx, fresh); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("an unknown token: %v", err)
	}
	if v.Stats().Stale == 0 {
		t.Errorf("stats: %+v", v.Stats())
	}
	if err := r.Start(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Minute)
	r.validate(v, fresh)
	r.validate(v, token)
	if log := r.log.String(); !strings.Contains(log, "Keystone is away") || !strings.Contains(log, "Keystone is back") || strings.Contains(log, token) {
		t.Errorf("log:\n%s", log)
	}
}

func testFrozen(t *testing.T, r *real) {
	v := r.open(func(o *keystone.Options) { o.Timeout = 5 * time.Second })
	var tokens []string
	for range 3 {
		tokens = append(tokens, r.login(keystonetest.DemoName, keystonetest.Project(keystonetest.DemoProject)))
	}
	deadline := time.Now().Add(2 * time.Minute)
	for { // the machine may be slow
		if _, err := v.Validate(r.ctx, tokens[0]); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		r.pass(time.Minute)
	}
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	defer r.Resume()
	r.pass(6 * time.Minute)
	started := time.Now()
	r.validate(v, tokens[0])
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("unbounded: %v", took)
	}
	started = time.Now()
	r.validate(v, tokens[0])
	if took := time.Since(started); took > 4*time.Second {
		t.Errorf("a token that was good waited %v", took)
	}
	var g sync.WaitGroup
	for i := range 20 {
		g.Go(func() {
			if _, err := v.Validate(r.ctx, fmt.Sprintf("%s%d", tokens[1], i)); !trove.IsKind(err, trove.KindUnavailable) {
				t.Errorf("an unknown token: %v", err)
			}
		})
	}
	g.Wait()
	if took := time.Since(started); took > 40*time.Second {
		t.Errorf("unbounded: %v", took)
	}
	r.Resume()
	r.pass(time.Minute)
	deadline = time.Now().Add(2 * time.Minute)
	for {
		if _, err := v.Validate(r.ctx, tokens[2]); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		r.pass(time.Minute)
	}
}
