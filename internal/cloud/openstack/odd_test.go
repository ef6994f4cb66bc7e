package openstack

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// odd is a cloud that answers every request but the login with answer; the
// project of the login is project.
func odd(t *testing.T, project, answer string) *Cloud {
	t.Helper()
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/auth/tokens") {
			w.Header().Set("X-Subject-Token", "t")
			w.WriteHeader(http.StatusCreated)
			var entries []string
			for _, kind := range []string{"compute", "network", "volumev3", "image"} {
				entries = append(entries, `{"type":"`+kind+`","endpoints":[{"interface":"public","url":"`+s.URL+"/"+kind+`/v2"}]}`)
			}
			_, _ = io.WriteString(w, `{"token":{"expires_at":"2099-01-01T00:00:00.000000Z","project":{"id":"`+project+`"},"catalog":[`+strings.Join(entries, ",")+`]}}`)
			return
		}
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	c, err := New(Options{AuthURL: s.URL + "/v3", Username: "u", Password: secret.New("p"), ProjectName: "service", UserDomainID: "default", ProjectDomainID: "default"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An answer that says yes and holds nothing is a failure to be tried again, not
// the end of the process.
func TestAnswersWithNothing(t *testing.T) {
	c := odd(t, "p1", "{}")
	ctx := t.Context()
	s, err := c.session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	o := cloud.Owner{InstanceID: "i1", ProjectID: "p2"}
	_, flavor := c.Flavor(ctx, "1")
	_, subnet := c.subnetByID(ctx, s, "s1")
	group := c.EnsureSecurityGroup(ctx, o, nil)
	c.memory.note(aGroup, "i1", "g1")
	_, known := c.groups(ctx, s, o)
	for name, err := range map[string]error{"flavor": flavor, "subnet": subnet, "a new group": group, "a group": known} {
		if !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without a project's id lists would hold the things of all projects.
func TestLoginOfNoProject(t *testing.T) {
	if _, err := odd(t, "", "{}").session(t.Context()); !trove.IsKind(err, trove.KindBadRequest) {
		t.Error(err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	b := &bounded{io.NopCloser(strings.NewReader("123456789")), 8}
	if _, err := io.ReadAll(b); !trove.IsKind(err, trove.KindUnavailable) {
		t.Error(err)
	}
	b = &bounded{io.NopCloser(strings.NewReader("12345678")), 8}
	if text, err := io.ReadAll(b); string(text) != "12345678" || err != nil {
		t.Error(string(text), err)
	}
}

// A service whose clock is wrong does not lock us out for years.
func TestRetryAfterOfAnotherCentury(t *testing.T) {
	g := newGate(nil, nil)
	g.later("h", time.Now().Add(99*365*24*time.Hour).UTC().Format(http.TimeFormat))
	if d := time.Until(g.until["h"]); d > mostLater || d < mostLater-time.Minute {
		t.Error(d)
	}
	if err := g.wait(t.Context(), "h"); !trove.IsKind(err, trove.KindUnavailable) {
		t.Error(errors.Unwrap(err), err)
	}
}
