// Package identitytest is what every identity.Validator must keep to, as a
// suite of tests. It is for tests only.
package identitytest

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/trove"
)

// Subject is a validator with tokens of the sorts that there are.
type Subject struct {
	identity.Validator

	Scoped   string            // a token of a project
	Want     identity.Identity // of Scoped; the catalog and the end are not compared
	Unscoped string            // a token of the same user, of no project
	Expired  string
	Revoked  string
	Disabled string // a token of a user who was disabled
	// Revoke makes Scoped invalid. The suite calls it last.
	Revoke func(t *testing.T)
}

// Run tests the subject.
func Run(t *testing.T, s Subject) {
	ctx := t.Context()
	t.Run("a token of a project", func(t *testing.T) {
		got, err := s.Validate(ctx, s.Scoped)
		if err != nil {
			t.Fatal(err)
		}
		want := s.Want
		if got.UserID != want.UserID || got.UserName != want.UserName || got.ProjectID != want.ProjectID || got.ProjectName != want.ProjectName ||
			got.UserDomainID != want.UserDomainID || got.UserDomainName != want.UserDomainName ||
			got.ProjectDomainID != want.ProjectDomainID || got.ProjectDomainName != want.ProjectDomainName {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
		slices.Sort(got.Roles)
		if !slices.Equal(got.Roles, want.Roles) {
			t.Errorf("roles %q, want %q", got.Roles, want.Roles)
		}
		if got.ExpiresAt.IsZero() || got.System || got.Restricted || got.NotAdminProject {
			t.Errorf("got %+v", got)
		}
		var catalog []struct {
			Type      string
			Endpoints []struct{ Interface, Region, URL string }
		}
		if err := json.Unmarshal(got.Catalog, &catalog); err != nil {
			t.Fatalf("catalog: %v", err)
		}
		found := false
		for _, service := range catalog {
			for _, e := range service.Endpoints {
				found = found || service.Type == "database" && e.Interface == "public" && strings.HasSuffix(e.URL, "/"+want.ProjectID)
			}
		}
		if !found {
			t.Errorf("the catalog has no database for the project: %s", got.Catalog)
		}
		if !got.Permits("database", "DELETE", "/v1.0/x/instances/y") {
			t.Error("a token without rules is restricted")
		}
	})
	t.Run("spaces around it", func(t *testing.T) {
		if _, err := s.Validate(ctx, " "+s.Scoped+" "); err != nil {
			t.Error(err)
		}
	})
	t.Run("a token of no project", func(t *testing.T) {
		got, err := s.Validate(ctx, s.Unscoped)
		if err != nil || got.UserID != s.Want.UserID || got.ProjectID != "" || len(got.Roles) > 0 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("asked by many at once", func(t *testing.T) {
		var g sync.WaitGroup
		for range 20 {
			g.Go(func() {
				if got, err := s.Validate(ctx, s.Scoped); err != nil || got.UserID != s.Want.UserID {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		}
		g.Wait()
	})
	bad := map[string]string{
		"none": "", "a word": "nonsense", "one that is too long": strings.Repeat("x", 100_000),
		"one with a line break": "a\r\nX-Subject-Token: " + s.Scoped, "bytes": "\x00\xff", "two": s.Scoped + " " + s.Scoped,
		"one with another end": s.Scoped[:len(s.Scoped)-6] + "AAAAAA", "half of one": s.Scoped[:len(s.Scoped)/2],
		"one that has expired": s.Expired, "one that was revoked": s.Revoked, "one of a disabled user": s.Disabled,
	}
	for name, token := range bad {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				got, err := s.Validate(ctx, token)
				if !trove.IsKind(err, trove.KindUnauthorized) || got.UserID != "" {
					t.Errorf("got %+v, %v", got, err)
				}
				if err != nil && token != "" && strings.Contains(err.Error(), token) {
					t.Errorf("the error holds the token: %v", err)
				}
			}
		})
	}
	t.Run("revoked in between", func(t *testing.T) {
		s.Revoke(t)
		if got, err := s.Validate(ctx, s.Scoped); !trove.IsKind(err, trove.KindUnauthorized) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
