package embedded_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity/embedded"
	"github.com/gotrove/gotrove/internal/trove"
)

// world is a running identity service whose clock can be moved.
type world struct {
	*embedded.Server
	t   *testing.T
	dir string
	url string
	// serving is Server for the goroutines of httptest.
	serving atomic.Pointer[embedded.Server]

	mu     sync.Mutex
	offset time.Duration
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

func (w *world) open() {
	w.t.Helper()
	s, err := embedded.Open(context.Background(), embedded.Options{
		Dir: filepath.Join(w.dir, "identity"), OpenRC: filepath.Join(w.dir, "openrc"), PublicURL: w.url, Now: w.now,
		Services: []embedded.Service{{Type: "database", Name: "trove", URL: "http://127.0.0.1:8779/v1.0/{project_id}"}},
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Server = s
	w.serving.Store(s)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.serving.Load().ServeHTTP(rw, r) }))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.open()
	return w
}

// env reads the openrc.
func (w *world) env() map[string]string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "openrc"))
	if err != nil {
		w.t.Fatal(err)
	}
	env := map[string]string{}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "export "), "="); ok {
			env[k] = strings.Trim(v, "'")
		}
	}
	return env
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (w *world) do(method, path, token, subject, body string) answer {
	w.t.Helper()
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	if subject != "" {
		req.Header.Set("X-Subject-Token", subject)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &a.body); err != nil {
			w.t.Fatalf("%s %s: body is not JSON: %s", method, path, b)
		}
	}
	return a
}

func (w *world) password(name, password, scope string) answer {
	return w.do("POST", "/v3/auth/tokens", "", "", fmt.Sprintf(`{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":%q,"domain":{"name":"Default"},"password":%q}}}%s}}`, name, password, scope))
}

const inDemo = `,"scope":{"project":{"name":"demo","domain":{"id":"default"}}}`

func (w *world) token() string {
	w.t.Helper()
	a := w.password("admin", w.env()["OS_PASSWORD"], inDemo)
	if a.status != 201 {
		w.t.Fatalf("login: %d %v", a.status, a.body)
	}
	return a.header.Get("X-Subject-Token")
}

func TestFirstStart(t *testing.T) {
	w := newWorld(t)
	env := w.env()
	if env["OS_AUTH_URL"] != w.url+"/v3" || env["OS_USERNAME"] != "admin" || env["OS_PROJECT_NAME"] != "demo" || len(env["OS_PASSWORD"]) < 20 || env["OS_REGION_NAME"] != "RegionOne" || env["OS_IDENTITY_API_VERSION"] != "3" {
		t.Errorf("openrc is %v", env)
	}
	_ = filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if st, _ := d.Info(); !d.IsDir() && st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
		if b, _ := os.ReadFile(path); strings.Contains(string(b), env["OS_PASSWORD"]) && d.Name() != "openrc" {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
}

func TestTokensOutliveARestart(t *testing.T) {
	w := newWorld(t)
	kept, revoked := w.token(), w.token()
	if a := w.do("DELETE", "/v3/auth/tokens", kept, revoked, ""); a.status != 204 {
		t.Fatalf("revoke: %d %v", a.status, a.body)
	}
	password := w.env()["OS_PASSWORD"]
	w.open()
	if w.env()["OS_PASSWORD"] != password {
		t.Error("a restart made a new password")
	}
	id, err := w.Validate(t.Context(), kept)
	if err != nil || id.UserName != "admin" || id.ProjectName != "demo" || len(id.Roles) != 3 || !strings.Contains(string(id.Catalog), "/v1.0/"+id.ProjectID) {
		t.Errorf("kept token: %+v, %v", id, err)
	}
	if _, err := w.Validate(t.Context(), revoked); !trove.IsKind(err, trove.KindUnauthorized) {
		t.Errorf("revoked token: %v", err)
	}
	w.mu.Lock()
	w.offset = time.Hour
	w.mu.Unlock()
	if _, err := w.Validate(t.Context(), kept); !trove.IsKind(err, trove.KindUnauthorized) {
		t.Errorf("expired token: %v", err)
	}
}

func TestForgedTokens(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	good := w.token()
	cut := strings.LastIndexByte(good, '.')
	for name, bad := range map[string]string{
		"none": "", "junk": "junk", "no signature": good[:cut], "empty signature": good[:cut+1],
		"other key": other.token(), "changed": good[:10] + "A" + good[11:], "long": "gt1." + strings.Repeat("a", 1<<16) + ".x",
	} {
		if _, err := w.Validate(t.Context(), bad); !trove.IsKind(err, trove.KindUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	pw := w.env()["OS_PASSWORD"]
	for name, c := range map[string]struct {
		name, password, scope string
		status                int
		scoped                bool
	}{
		"project by name":    {"admin", pw, inDemo, 201, true},
		"default project":    {"admin", pw, "", 201, true},
		"unscoped":           {"admin", pw, `,"scope":"unscoped"`, 201, false},
		"unscoped object":    {"admin", pw, `,"scope":{"unscoped":{}}`, 201, false},
		"wrong password":     {"admin", "x", inDemo, 401, false},
		"no password":        {"admin", "", inDemo, 401, false},
		"unknown user":       {"nobody", pw, inDemo, 401, false},
		"unknown project":    {"admin", pw, `,"scope":{"project":{"name":"x","domain":{"id":"default"}}}`, 401, false},
		"other domain":       {"admin", pw, `,"scope":{"project":{"name":"demo","domain":{"id":"x"}}}`, 401, false},
		"system":             {"admin", pw, `,"scope":{"system":{"all":true}}`, 401, false},
		"senseless scope":    {"admin", pw, `,"scope":7`, 400, false},
		"project, no domain": {"admin", pw, `,"scope":{"project":{"name":"demo"}}`, 401, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.password(c.name, c.password, c.scope)
			if a.status != c.status {
				t.Fatalf("%d %v, want %d", a.status, a.body, c.status)
			}
			if a.status != 201 {
				e, _ := a.body["error"].(map[string]any)
				if e["code"] != float64(c.status) || e["message"] == "" || e["title"] == "" {
					t.Errorf("error body: %v", a.body)
				}
				return
			}
			tok := a.body["token"].(map[string]any)
			if _, ok := tok["project"]; ok != c.scoped {
				t.Errorf("scoped is %v: %v", ok, tok)
			}
			if _, ok := tok["catalog"]; ok != c.scoped {
				t.Errorf("catalog is %v: %v", ok, tok)
			}
		})
	}
	for _, body := range []string{"", "{", `{"auth":{}}`, `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"admin","password":7}}}}}`, `{"x":"` + strings.Repeat("a", 100<<10) + `"}`} {
		if a := w.do("POST", "/v3/auth/tokens", "", "", body); a.status != 400 {
			t.Errorf("%.40s: %d, want 400", body, a.status)
		}
	}
	if a := w.do("POST", "/v3/auth/tokens", "", "", `{"auth":{"identity":{"methods":["totp"]}}}`); a.status != 401 {
		t.Errorf("unknown method: %d", a.status)
	}
}

func TestRescope(t *testing.T) {
	w := newWorld(t)
	a := w.password("admin", w.env()["OS_PASSWORD"], `,"scope":"unscoped"`)
	first := a.body["token"].(map[string]any)
	w.mu.Lock()
	w.offset = 10 * time.Minute
	w.mu.Unlock()
	b := w.do("POST", "/v3/auth/tokens", "", "", fmt.Sprintf(`{"auth":{"identity":{"methods":["token"],"token":{"id":%q}}%s}}`, a.header.Get("X-Subject-Token"), inDemo))
	if b.status != 201 {
		t.Fatalf("%d %v", b.status, b.body)
	}
	second := b.body["token"].(map[string]any)
	if second["expires_at"] != first["expires_at"] {
		t.Errorf("a token got by a token lives longer: %v, %v", first["expires_at"], second["expires_at"])
	}
	if got := fmt.Sprint(second["methods"]); got != "[password token]" {
		t.Errorf("methods are %v", got)
	}
	if chain := second["audit_ids"].([]any); len(chain) != 2 || chain[1] != first["audit_ids"].([]any)[0] {
		t.Errorf("audit ids are %v after %v", chain, first["audit_ids"])
	}
}

func TestReads(t *testing.T) {
	w := newWorld(t)
	token := w.token()
	id, err := w.Validate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	for path, key := range map[string]string{
		"/v3/auth/catalog": "catalog", "/v3/auth/projects": "projects", "/v3/auth/domains": "domains", "/v3/auth/system": "system",
		"/v3/projects": "projects", "/v3/projects/" + id.ProjectID: "project", "/v3/users": "users", "/v3/users/" + id.UserID: "user",
		"/v3/users/" + id.UserID + "/projects": "projects", "/v3/domains": "domains", "/v3/domains/default": "domain",
		"/v3/roles": "roles", "/v3/services": "services", "/v3/endpoints": "endpoints", "/v3/regions/RegionOne": "region",
	} {
		if a := w.do("GET", path, token, "", ""); a.status != 200 || a.body[key] == nil {
			t.Errorf("%s: %d %v", path, a.status, a.body)
		}
		if a := w.do("GET", path, "", "", ""); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s without token: %d", path, a.status)
		}
	}
	if a := w.do("GET", "/v3/projects?name=other", token, "", ""); len(a.body["projects"].([]any)) != 0 {
		t.Errorf("filter by name: %v", a.body)
	}
	for path, status := range map[string]int{"/": 300, "/v3": 200, "/v3/": 200, "/v3/nothing": 404, "/v2.0": 404} {
		if a := w.do("GET", path, token, "", ""); a.status != status {
			t.Errorf("GET %s: %d, want %d", path, a.status, status)
		}
	}
	for path, status := range map[string]int{"/v3/projects/x": 404, "/v3/users/x": 404, "/v3/roles/x": 404} {
		if a := w.do("GET", path, token, "", ""); a.status != status {
			t.Errorf("GET %s: %d, want %d", path, a.status, status)
		}
	}
	if a := w.do("POST", "/v3/users", token, "", `{}`); a.status != 403 {
		t.Errorf("POST /v3/users: %d", a.status)
	}
	if a := w.do("HEAD", "/v3/auth/tokens", token, token, ""); a.status != 200 {
		t.Errorf("HEAD token: %d", a.status)
	}
	if a := w.do("GET", "/v3/auth/tokens?nocatalog", token, token, ""); a.status != 200 || a.body["token"].(map[string]any)["catalog"] != nil {
		t.Errorf("GET token: %d %v", a.status, a.body)
	}
	if a := w.do("GET", "/v3/auth/tokens", token, "junk", ""); a.status != 404 {
		t.Errorf("GET junk token: %d", a.status)
	}
}

// A member sees himself and his projects only.
func TestMember(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "identity", "users.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d map[string][]map[string]any
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	admin := d["users"][0]
	d["users"] = append(d["users"], map[string]any{"id": "bob-id", "name": "bob", "enabled": true, "password_hash": admin["password_hash"],
		"assignments": []any{map[string]any{"project_id": d["projects"][0]["id"], "roles": []string{"member"}}}})
	b, _ = json.Marshal(d)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	token := w.token()
	w.open()
	bob := w.password("bob", w.env()["OS_PASSWORD"], inDemo).header.Get("X-Subject-Token")
	for _, path := range []string{"/v3/users", "/v3/projects", "/v3/users/" + admin["id"].(string)} {
		if a := w.do("GET", path, bob, "", ""); a.status != 403 {
			t.Errorf("%s: %d, want 403", path, a.status)
		}
	}
	if a := w.do("GET", "/v3/users/bob-id/projects", bob, "", ""); a.status != 200 {
		t.Errorf("own projects: %d", a.status)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := w.do(method, "/v3/auth/tokens", bob, token, ""); a.status != 403 {
			t.Errorf("%s of another's token: %d, want 403", method, a.status)
		}
	}
	// Without the user his tokens are worth nothing.
	d["users"] = d["users"][:1]
	b, _ = json.Marshal(d)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, err := w.Validate(t.Context(), bob); !trove.IsKind(err, trove.KindUnauthorized) {
		t.Errorf("token of a removed user: %v", err)
	}
}

func TestDamagedFilesAreNamed(t *testing.T) {
	for file, text := range map[string]string{"users.json": `{"users":[{"id":"a","name":"a","password_hash":"x"},{"id":"a","name":"b"}]}`, "token.key": "short", "revoked.json": "["} {
		w := newWorld(t)
		path := filepath.Join(w.dir, "identity", file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := embedded.Open(t.Context(), embedded.Options{Dir: filepath.Dir(path), OpenRC: filepath.Join(w.dir, "openrc"), PublicURL: w.url})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestFloodOfLoginsIsRefused(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			resp, err := http.Post(w.url+"/v3/auth/tokens", "application/json", strings.NewReader(`{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"x","password":"y"}}}}}`))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			got[resp.StatusCode]++
		})
	}
	wg.Wait()
	if got[401] == 0 || got[429] == 0 || got[401]+got[429] != 60 {
		t.Errorf("answers were %v, want some 401 and some 429", got)
	}
}

func TestMovedAddressReachesTheOpenRC(t *testing.T) {
	w := newWorld(t)
	before := w.env()["OS_PASSWORD"]
	w.url = "http://127.0.0.1:1"
	w.open()
	if env := w.env(); env["OS_AUTH_URL"] != "http://127.0.0.1:1/v3" || env["OS_PASSWORD"] != before {
		t.Errorf("openrc is %v", env)
	}
}
