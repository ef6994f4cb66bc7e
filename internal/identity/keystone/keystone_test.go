package keystone_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestAskedOnce(t *testing.T) {
	c := newCloud(t)
	v := c.open()
	for range 5 {
		c.good(v, "good")
		c.fails(v, "bad", trove.KindUnauthorized)
	}
	c.wantAsked("good", 1)
	c.wantAsked("bad", 1)
	c.pass(16 * time.Second)
	c.fails(v, "bad", trove.KindUnauthorized)
	c.wantAsked("bad", 2)
	c.good(v, "good")
	c.wantAsked("good", 1)
	c.pass(300 * time.Second)
	c.good(v, "good")
	c.wantAsked("good", 2)
	if logins, _ := c.count(""); logins != 1 {
		t.Errorf("%d logins", logins)
	}
	if s := v.Stats(); s.Hits != 5 || s.Refused != 4 || s.Entries != 1 || s.Stale != 0 || s.Failures != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestManyAskOnce(t *testing.T) {
	c := newCloud(t)
	v := c.open()
	hold := make(chan struct{})
	c.set(func() { c.silent = hold })
	// One who leaves does not take the others along.
	first, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := v.Validate(first, "good")
		left <- err
	}()
	leave()
	if err := <-left; !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("who left: %v", err)
	}
	var g sync.WaitGroup
	for range 50 {
		g.Go(func() {
			if _, err := v.Validate(t.Context(), "good"); err != nil {
				t.Error(err)
			}
		})
	}
	c.set(func() { c.silent = nil })
	close(hold)
	g.Wait()
	c.wantAsked("good", 1)
}

func TestWithoutCache(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.CacheTime = -1 })
	for range 3 {
		c.good(v, "good")
		c.fails(v, "bad", trove.KindUnauthorized)
	}
	c.wantAsked("good", 3)
	c.wantAsked("bad", 3)
	c.set(func() { c.status = 503 })
	c.fails(v, "good", trove.KindUnavailable)
}

func TestNoTokenOutlivesItsEnd(t *testing.T) {
	c := newCloud(t)
	v := c.open()
	c.set(func() { c.life = time.Minute })
	c.good(v, "good")
	c.set(func() { c.revoke["good"] = 404 })
	c.pass(59 * time.Second)
	c.good(v, "good")
	c.pass(time.Second)
	c.fails(v, "good", trove.KindUnauthorized)

	// Nor while Keystone is away.
	c.set(func() { c.revoke["good"] = 0; c.life = 10 * time.Minute })
	c.pass(20 * time.Second)
	c.good(v, "good")
	c.set(func() { c.status = 503 })
	c.pass(9 * time.Minute)
	c.good(v, "good")
	c.pass(time.Minute)
	c.fails(v, "good", trove.KindUnavailable)
	// Nor one that Keystone hands out with an end that has passed.
	c.set(func() { c.status, c.life = 0, -time.Second })
	c.pass(time.Minute)
	if err := c.fails(v, "good2", trove.KindUnavailable); !strings.Contains(trove.ActionOf(err), "clocks") {
		t.Errorf("our own token has passed: %v", err)
	}
}

// What Keystone says is of its clock, whichever of the two is wrong: a token
// lives as long as it does, no shorter and no longer.
func TestClocksDiffer(t *testing.T) {
	for _, behind := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		c := newCloud(t)
		c.behind = behind
		v := c.open()
		c.good(v, "good-too") // and our own, which lives an hour
		c.set(func() { c.life = 4 * time.Minute })
		c.good(v, "good")
		c.set(func() { c.revoke["good"] = 404 })
		c.pass(4*time.Minute - 3*time.Second)
		c.good(v, "good")
		c.wantAsked("good", 1)
		c.pass(4 * time.Second)
		c.fails(v, "good", trove.KindUnauthorized)
	}
}

func TestRevokedIsSeenAfterTheCacheTime(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.CacheTime = 10 * time.Second })
	c.good(v, "good")
	c.set(func() { c.revoke["good"] = 404 })
	c.pass(9 * time.Second)
	c.good(v, "good")
	c.pass(time.Second)
	c.fails(v, "good", trove.KindUnauthorized)
	// What Keystone took back does not count while it is away either.
	c.set(func() { c.status = 503 })
	c.pass(20 * time.Second)
	c.fails(v, "good", trove.KindUnavailable)
}

func TestKeystoneAway(t *testing.T) {
	for _, status := range []int{500, 503, 302, 429, cut} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c := newCloud(t)
			v := c.open(func(o *keystone.Options) { o.Grace = 30 * time.Minute })
			c.good(v, "good")
			c.set(func() { c.status = status })
			err := c.fails(v, "good-but-new", trove.KindUnavailable)
			away, ok := errors.AsType[*identity.Away](err)
			if !ok || away.Retry <= 0 || away.Retry > 15*time.Second {
				t.Errorf("%v tells %+v", err, away)
			}
			before := v.Stats().Requests
			for range 100 {
				c.fails(v, "good-but-new", trove.KindUnavailable)
			}
			if n := v.Stats().Requests - before; n > 1 {
				t.Errorf("%d requests to a Keystone that is away", n)
			}
			c.pass(300*time.Second + 29*time.Minute)
			c.good(v, "good")
			if v.Stats().Stale != 1 {
				t.Errorf("stats: %+v", v.Stats())
			}
			c.pass(2 * time.Minute)
			c.fails(v, "good", trove.KindUnavailable)
			if log := c.logged(); strings.Count(log, "Keystone is away") != 1 || strings.Contains(log, "good") {
				t.Errorf("log:\n%s", log)
			}
			c.set(func() { c.status = 0 })
			c.pass(time.Minute)
			c.good(v, "good")
			if !strings.Contains(c.logged(), "Keystone is back") {
				t.Errorf("log:\n%s", c.logged())
			}
		})
	}
}

func TestKeystoneSilent(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.Timeout = 5 * time.Second })
	c.good(v, "good")
	hold := make(chan struct{})
	defer close(hold)
	c.set(func() { c.silent = hold })
	c.pass(301 * time.Second)
	started := time.Now()
	c.good(v, "good") // when the time for an answer is over
	if took := time.Since(started); took < 5*time.Second || took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	started = time.Now()
	c.good(v, "good") // at once
	c.pass(3 * time.Second)
	c.good(v, "good") // asks again, without much patience
	if took := time.Since(started); took > 4500*time.Millisecond {
		t.Errorf("a token that was good had to wait %v", took)
	}
	started = time.Now()
	c.fails(v, "good-but-new", trove.KindUnavailable)
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("unbounded: %v", took)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c.pass(time.Minute)
	if _, err := v.Validate(short, "good-but-newer"); !trove.IsKind(err, trove.KindUnavailable) {
		t.Error(err)
	}
	closed := make(chan struct{})
	go func() { v.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("Close waits for Keystone")
	}
	c.fails(v, "good-but-late", trove.KindUnavailable)
}

func TestSlowIsNotAway(t *testing.T) {
	c := newCloud(t)
	v := c.open()
	c.good(v, "good")
	c.pass(20 * time.Minute)
	hold := make(chan struct{})
	c.set(func() { c.silent, c.revoke["good"] = hold, 404 })
	timer := time.AfterFunc(time.Second, func() { close(hold) }) // twice the patience
	defer timer.Stop()
	c.fails(v, "good", trove.KindUnauthorized)
}

func TestOwnTokenIsRenewed(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.CacheTime = -1 })
	c.good(v, "good")
	c.pass(40 * time.Minute)
	c.good(v, "good")
	if logins, _ := c.count(""); logins != 1 {
		t.Fatalf("%d logins", logins)
	}
	c.pass(11 * time.Minute) // nine minutes before its end
	c.good(v, "good")
	if logins, _ := c.count(""); logins != 2 {
		t.Fatalf("%d logins", logins)
	}
	// Keystone has forgotten it.
	c.set(func() { c.own += 10 })
	c.good(v, "good")
	if logins, _ := c.count(""); logins != 3 {
		t.Fatalf("%d logins", logins)
	}
}

func TestOurLoginIsRefused(t *testing.T) {
	for status, want := range map[int]string{401: "username, password", 403: "role service"} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c := newCloud(t)
			v := c.open()
			c.set(func() {
				if status == 401 {
					c.status = 401
				}
				c.revoke["good"] = 403
			})
			err := c.fails(v, "good", trove.KindUnavailable)
			if !strings.Contains(trove.ActionOf(err), want) {
				t.Errorf("action: %q", trove.ActionOf(err))
			}
			n := v.Stats().Requests
			logins, _ := c.count("")
			c.pass(5 * time.Second)
			c.fails(v, "good", trove.KindUnavailable)
			if l, _ := c.count(""); v.Stats().Requests != n || l != logins {
				t.Error("a password that was refused is tried at each request: that locks users")
			}
			if err := v.Ping(t.Context()); status == 401 && err == nil {
				t.Error("Ping sees nothing")
			}
			if log := c.logged(); strings.Contains(log, "s3cret") || !strings.Contains(log, "does not let the service") {
				t.Errorf("log:\n%s", log)
			}
			c.set(func() { c.status, c.revoke["good"] = 0, 0 })
			c.pass(16 * time.Second)
			c.good(v, "good")
			c.set(func() { c.revoke = map[string]int{} })
		})
	}
}

func TestManyBadTokensTakeLittle(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.CacheBytes = 100 << 10 })
	c.good(v, "good")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 10_500 {
		c.fails(v, fmt.Sprintf("%07000d", i), trove.KindUnauthorized)
		if i%1000 == 0 {
			c.set(func() { c.asked = map[string]int{} })
		}
	}
	c.set(func() { c.asked = map[string]int{} })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 6<<20 {
		t.Errorf("10,500 bad tokens took %d bytes", grown)
	}
	c.good(v, "good")
	c.wantAsked("good", 0) // they did not drive out a good one
	// Good ones go by what they take, the least used first.
	for i := range 200 {
		c.good(v, fmt.Sprintf("good%d", i))
		c.good(v, "good")
	}
	if s := v.Stats(); s.Entries < 10 || s.Entries > 50 || s.Bytes > 100<<10 {
		t.Errorf("stats: %+v", s)
	}
	c.wantAsked("good", 0)
	c.good(v, "good0")
	c.wantAsked("good0", 2)
}

func TestWhatIsSent(t *testing.T) {
	c := newCloud(t)
	v := c.open(func(o *keystone.Options) { o.WithoutCatalog = true })
	c.good(v, "good")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Header.Get("Openstack-Identity-Access-Rules") == "" || c.last.URL.RawQuery != "nocatalog" {
		t.Errorf("%v %v", c.last.URL, c.last.Header)
	}
	var body map[string]any
	if err := json.Unmarshal(c.body, &body); err != nil {
		t.Fatal(err)
	}
	want := `{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"Default"},"name":"trove","password":"s3cret"}}},"scope":{"project":{"domain":{"name":"Default"},"name":"service"}}}}`
	if got, _ := json.Marshal(body); string(got) != want {
		t.Errorf("login: %s", got)
	}
}

func TestAnotherPath(t *testing.T) {
	c := newCloud(t)
	c.prefix = "/identity"
	for _, end := range []string{"", "/", "/v3", "/v3/", "/v2.0"} {
		v := c.open(func(o *keystone.Options) { o.AuthURL += end })
		c.good(v, "good")
	}
}

func TestTLS(t *testing.T) {
	c := newCloud(t)
	secure := httptest.NewUnstartedServer(c)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(o *keystone.Options) { o.AuthURL = secure.URL }
	c.fails(c.open(at), "good", trove.KindUnavailable)
	c.good(c.open(at, func(o *keystone.Options) { o.CAFile = ca }), "good")
	c.good(c.open(at, func(o *keystone.Options) { o.Insecure = true }), "good")
	if !strings.Contains(c.logged(), "insecure") {
		t.Error("insecure is not told")
	}
	// The certificate is of 127.0.0.1 and example.com.
	other := strings.Replace(secure.URL, "127.0.0.1", "localhost", 1)
	c.fails(c.open(func(o *keystone.Options) { o.AuthURL, o.CAFile = other, ca }), "good", trove.KindUnavailable)
}

func TestWrongOptions(t *testing.T) {
	c := newCloud(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*keystone.Options){
		"auth_url":            func(o *keystone.Options) { o.AuthURL = "keystone.example:5000" },
		"username":            func(o *keystone.Options) { o.Username = "" },
		"password":            func(o *keystone.Options) { o.Password = secret.String{} },
		"user_domain_name":    func(o *keystone.Options) { o.UserDomainName = "" },
		"project_name":        func(o *keystone.Options) { o.ProjectName = "" },
		"project_domain_name": func(o *keystone.Options) { o.ProjectDomainName = "" },
		"_secret":             func(o *keystone.Options) { o.CredentialID = "x" },
		"interface":           func(o *keystone.Options) { o.Interface = "inside" },
		"cafile":              func(o *keystone.Options) { o.CAFile = empty },
		"certfile":            func(o *keystone.Options) { o.CertFile = empty },
	} {
		o := c.options()
		change(&o)
		v, err := keystone.New(o)
		if !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", want, err)
		}
		if v != nil {
			v.Close()
		}
	}
}

func TestOddAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "no JSON": "<html>", "no token": "{}", "no user": `{"token":{"expires_at":"2099-01-01T00:00:00Z"}}`,
		"no end": `{"token":{"user":{"id":"u"}}}`, "too much": `{"token":{"x":"` + strings.Repeat("x", 5<<20) + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			v := c.open()
			c.set(func() { c.odd = &answer })
			c.fails(v, "good", trove.KindUnavailable)
		})
	}
}
