package policy_test

import (
	"testing"

	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestDefaults(t *testing.T) {
	owner := policy.Creds{ProjectID: "p1", Roles: []string{"member"}}
	reader := policy.Creds{ProjectID: "p1", Roles: []string{"reader"}}
	stranger := policy.Creds{ProjectID: "p2", Roles: []string{"member"}}
	admin := policy.Creds{ProjectID: "p2", Roles: []string{"Admin"}}
	flagged := policy.Creds{ProjectID: "p2", IsAdmin: true}
	spaced := policy.Creds{ProjectID: "p2", Roles: []string{" admin"}}
	tests := []struct {
		name  string
		rule  string
		creds policy.Creds
		allow bool
	}{
		{"an owner may show", "instance:show", owner, true},
		{"roles do not split readers off", "instance:delete", reader, true},
		{"a stranger may not", "instance:show", stranger, false},
		{"an admin may, whatever the case of the role", "instance:show", admin, true},
		{"is_admin is enough", "instance:show", flagged, true},
		{"a role is not trimmed", "instance:show", spaced, false},
		{"reset_status is for admins", "instance:reset_status", owner, false},
		{"reset_status for an admin", "instance:reset_status", admin, true},
		{"force_delete is the owner's", "instance:force_delete", owner, true},
		{"flavors are for everyone", "flavor:index", stranger, true},
		{"datastore:delete is for admins", "datastore:delete", owner, false},
		{"all_projects asks for the role itself", "backup:index:all_projects", flagged, false},
		{"an unknown rule is the default rule", "instance:new_thing", owner, true},
		{"and refuses strangers", "instance:new_thing", stranger, false},
	}
	e := policy.New(nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := e.Enforce(tt.rule, tt.creds, policy.Owned("p1"))
			if (err == nil) != tt.allow {
				t.Fatalf("Enforce(%s) = %v, want allowed %v", tt.rule, err, tt.allow)
			}
			if err != nil && !trove.IsKind(err, trove.KindForbidden) {
				t.Errorf("kind = %v, want forbidden", trove.KindOf(err))
			}
		})
	}
}

func parse(t *testing.T, text string) policy.Check {
	t.Helper()
	c, err := policy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRulesLaidOverTheDefaults(t *testing.T) {
	e := policy.New(map[string]policy.Check{
		"context_is_admin": parse(t, "role:dbadmin"),
		"instance:delete":  policy.Never(),
		"instance:index":   parse(t, "not rule:admin_or_owner"),
	})
	creds := policy.Creds{ProjectID: "p1", Roles: []string{"dbadmin"}}
	if !e.Admin(creds) {
		t.Error("context_is_admin was not replaced")
	}
	for _, rule := range []string{"instance:delete", "instance:index"} {
		if e.Enforce(rule, creds, policy.Owned("p1")) == nil {
			t.Errorf("%s was allowed", rule)
		}
	}
	if e.Enforce("instance:show", creds, policy.Owned("p1")) != nil {
		t.Error("a default not named was lost")
	}
	if !policy.New(nil).Has("instance:delete") || e.Has("nope") {
		t.Error("Has is wrong")
	}
}

func TestEmptyTargetOwnsNothing(t *testing.T) {
	if policy.New(nil).Enforce("instance:show", policy.Creds{}, policy.Target{}) == nil {
		t.Error("a caller without project owns a target without owner")
	}
}
