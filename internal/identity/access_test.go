package identity_test

import (
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/identity"
)

func TestPermits(t *testing.T) {
	for _, tt := range []struct {
		path, call string
		want       bool
	}{
		{"/v1.0/p/instances", "/v1.0/p/instances", true},
		{"/v1.0/p/instances", "/v1.0/p/instances/", false},
		{"/v1.0/p/instances", "/v1.0/p/instance", false},
		{"/v1.0/{project_id}/instances", "/v1.0/p/instances", true},
		{"/v1.0/{project_id}/instances", "/v1.0/p/q/instances", false},
		{"/v1.0/{project_id}/instances", "/v1.0//instances", false},
		{"/v1.0/*/instances/*", "/v1.0/p/instances/1", true},
		{"/v1.0/*/instances/*", "/v1.0/p/instances/1/action", false},
		{"/v1.0/**", "/v1.0/p/instances/1/action", true},
		{"/v1.0/**", "/v1.0/", true},
		{"/v1.0/**", "/v1.0", false},
		{"/**/action", "/v1.0/p/instances/1/action", true},
		{"/**/action", "/v1.0/p/instances/1/action/more", false},
		{"/v1.0/pre-*", "/v1.0/pre-1", true},
		{"/v1.0/pre-*", "/v1.0/pre-", false},
		{"/v1x0/p", "/v1.0/p", false},
		{"/v1.0/p", "/v1x0/p", false}, // a dot is a dot
		{"/v1.0/{", "/v1.0/{", true},
		{"/v1.0/[a]", "/v1.0/a", false},
		{"", "", true},
		{"", "/", false},
		{strings.Repeat("**", 200) + "x", strings.Repeat("a/", 2000), false}, // in no time
	} {
		who := identity.Identity{Restricted: true, Services: []string{"database"},
			AccessRules: []identity.AccessRule{{Service: "database", Method: "GET", Path: tt.path}}}
		if got := who.Permits("database", "GET", tt.call); got != tt.want {
			t.Errorf("%.40q permits %.40q: %v", tt.path, tt.call, got)
		}
		if who.Permits("database", "POST", tt.call) || who.Permits("compute", "GET", tt.call) {
			t.Errorf("%.40q permits another method or service", tt.path)
		}
		who.Services = nil
		if who.Permits("database", "GET", tt.call) {
			t.Error("a service that is not in the catalog")
		}
	}
	if (identity.Identity{Restricted: true, Services: []string{"database"}}).Permits("database", "GET", "/") {
		t.Error("no rules permit nothing")
	}
	if !(identity.Identity{}).Permits("database", "DELETE", "/") {
		t.Error("a token without rules is restricted")
	}
}
