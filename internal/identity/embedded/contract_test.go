package embedded_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/identity/identitytest"
)

// leaver puts a second user into the users file, with the first one's roles and
// password.
func (w *world) leaver(enabled bool) {
	w.t.Helper()
	path := filepath.Join(w.dir, "identity", "users.json")
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var d struct {
		Users    []map[string]any `json:"users"`
		Projects json.RawMessage  `json:"projects"`
		Roles    json.RawMessage  `json:"roles"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		w.t.Fatal(err)
	}
	second := map[string]any{}
	for k, v := range d.Users[0] {
		second[k] = v
	}
	second["id"], second["name"], second["enabled"] = "leaver-id", "leaver", enabled
	d.Users = append(d.Users[:1], second)
	if b, err = json.Marshal(d); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func TestContract(t *testing.T) {
	w := newWorld(t)
	password := w.env()["OS_PASSWORD"]
	get := func(user, scope string) string {
		t.Helper()
		a := w.password(user, password, scope)
		if a.status != 201 {
			t.Fatalf("login: %d %v", a.status, a.body)
		}
		return a.header.Get("X-Subject-Token")
	}
	shift := func(d time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.offset = d
	}
	w.leaver(true)
	s := identitytest.Subject{Scoped: get("admin", inDemo), Unscoped: get("admin", `,"scope":"unscoped"`), Revoked: get("admin", inDemo),
		Disabled: get("leaver", inDemo)}
	shift(-2 * time.Hour)
	s.Expired = get("admin", inDemo)
	shift(0)
	revoke := func(t *testing.T, token string) {
		if a := w.do("DELETE", "/v3/auth/tokens", s.Unscoped, token, ""); a.status != 204 {
			t.Fatalf("revoke: %d %v", a.status, a.body)
		}
	}
	revoke(t, s.Revoked)
	w.leaver(false)
	s.Validator, s.Revoke = w, func(t *testing.T) { revoke(t, s.Scoped) }
	who, err := w.Validate(t.Context(), s.Scoped)
	if err != nil {
		t.Fatal(err)
	}
	s.Want = identity.Identity{UserID: who.UserID, UserName: "admin", UserDomainID: "default", UserDomainName: "Default",
		ProjectID: who.ProjectID, ProjectName: "demo", ProjectDomainID: "default", ProjectDomainName: "Default", Roles: []string{"admin", "member", "reader"}}
	identitytest.Run(t, s)
}
