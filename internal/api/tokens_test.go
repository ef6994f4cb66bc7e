package api_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/trove"
)

type validator func(token string) (identity.Identity, error)

func (v validator) Validate(_ context.Context, token string) (identity.Identity, error) {
	return v(token)
}

func (h *harness) validate(v validator, p *policy.Enforcer) {
	h.t.Helper()
	server, err := api.New(api.Config{AuthURI: authURI}, api.Deps{Store: h.store, Guest: h.guest, Cloud: h.cloud, Tokens: v, Policy: p, Clock: h.clock.now, Log: h.log()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.server = server
}

// An application credential with rules may make the calls they name.
func TestRestrictedTokens(t *testing.T) {
	h := newHarness(t)
	h.validate(func(string) (identity.Identity, error) {
		return identity.Identity{UserID: "u", ProjectID: demo, Roles: []string{"admin"}, Restricted: true, Services: []string{"database"},
			AccessRules: []identity.AccessRule{{Service: "database", Method: "GET", Path: "/v1.0/{project_id}/instances"}}}, nil
	}, nil)
	h.want(200, demo, "GET", "instances", "")
	for _, call := range [][2]string{{"GET", "instances/detail"}, {"GET", "flavors"}, {"POST", "instances"}, {"GET", "instances/"}, {"GET", "d%65mo/instances"}} {
		if a := h.want(401, demo, call[0], call[1], ""); a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%v: no challenge", call)
		}
	}
}

func TestIdentityServiceAway(t *testing.T) {
	h := newHarness(t)
	h.validate(func(string) (identity.Identity, error) {
		return identity.Identity{}, &trove.Error{Kind: trove.KindUnavailable, Message: "x", Err: &identity.Away{Retry: 1500 * time.Millisecond, Err: errors.New("dial")}}
	}, nil)
	if a := h.want(503, demo, "GET", "instances", ""); a.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After = %q", a.header.Get("Retry-After"))
	}
}

// What a token takes to be checked goes off the wait for an agent: the whole
// answer comes within a second.
func TestSlowTokenAndSilentAgent(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	var asked time.Time
	h.validate(func(string) (identity.Identity, error) {
		asked = time.Now()
		<-time.After(400 * time.Millisecond)
		return identity.Identity{UserID: "u", ProjectID: demo}, nil
	}, nil)
	h.guest.hang = true
	h.want(200, demo, "GET", "instances/"+id(1), "")
	if left := h.guest.deadline.Sub(asked); h.guest.deadline.IsZero() || left > 900*time.Millisecond {
		t.Errorf("the agent has until %s after the request came", left)
	}
}

// What policy rules may name of a token reaches them.
func TestTokenAttributesInPolicy(t *testing.T) {
	h := newHarness(t)
	rule, err := policy.Parse("user_domain_id:ud and project_domain_id:pd and is_admin_project:False")
	if err != nil {
		t.Fatal(err)
	}
	who := identity.Identity{UserID: "u", ProjectID: demo, UserDomainID: "ud", ProjectDomainID: "pd", NotAdminProject: true}
	h.validate(func(string) (identity.Identity, error) { return who, nil }, policy.New(map[string]policy.Check{"flavor:index": rule}))
	h.want(200, demo, "GET", "flavors", "")
	who.NotAdminProject = false
	h.want(403, demo, "GET", "flavors", "")
}
