package keystone_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// cloud is a Keystone of a few lines, which counts and does what it is told.
type cloud struct {
	t      *testing.T
	server *httptest.Server
	prefix string

	mu     sync.Mutex
	now    time.Time
	own    int            // the number of the last token it gave the service
	revoke map[string]int // status for a token
	logins int
	asked  map[string]int // by subject
	last   *http.Request
	body   []byte        // of the last login
	status int           // of every answer, if not 0
	odd    *string       // the answer about every token, if not nil
	silent chan struct{} // until it is closed, if not nil
	life   time.Duration
	behind time.Duration // its clock is behind that of the service
	log    bytes.Buffer
}

// cut is the status of an answer that is none: the connection ends.
const cut = 1

func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, now: time.Now(), asked: map[string]int{}, revoke: map[string]int{}, life: time.Hour}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	return c
}

func (c *cloud) Write(b []byte) (int, error) { // the log
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

func (c *cloud) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

func (c *cloud) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cloud) count(subject string) (logins, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logins, c.asked[subject]
}

func (c *cloud) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *cloud) options() keystone.Options {
	return keystone.Options{AuthURL: c.server.URL + c.prefix, Username: "trove", Password: secret.New("s3cret"), UserDomainName: "Default",
		ProjectName: "service", ProjectDomainName: "Default", Timeout: 20 * time.Second, Now: c.clock,
		Log: slog.New(slog.NewTextHandler(c, nil))}
}

func (c *cloud) open(change ...func(*keystone.Options)) *keystone.Validator {
	c.t.Helper()
	o := c.options()
	for _, f := range change {
		f(&o)
	}
	v, err := keystone.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(v.Close)
	return v
}

// ServeHTTP answers as Keystone: tokens "good…" are good.
func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	silent, status := c.silent, c.status
	c.mu.Unlock()
	if silent != nil {
		select {
		case <-silent:
		case <-r.Context().Done():
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = r
	if status == cut {
		panic(http.ErrAbortHandler)
	}
	if status != 0 {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(status)
		return
	}
	if r.URL.Path != c.prefix+"/v3/auth/tokens" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Date", c.now.Add(-c.behind).UTC().Format(http.TimeFormat))
	expires := c.now.Add(c.life - c.behind).UTC().Format("2006-01-02T15:04:05.000000Z")
	if r.Method == http.MethodPost {
		c.body, _ = io.ReadAll(r.Body)
		c.logins++
		c.own++
		w.Header().Set("X-Subject-Token", fmt.Sprintf("own-%d", c.own))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token":{"expires_at":%q,"user":{"id":"s"},"catalog":[]}}`, expires)
		return
	}
	if c.odd != nil {
		_, _ = io.WriteString(w, *c.odd)
		return
	}
	subject := r.Header.Get("X-Subject-Token")
	c.asked[subject]++
	switch {
	case r.Header.Get("X-Auth-Token") != fmt.Sprintf("own-%d", c.own):
		w.WriteHeader(http.StatusUnauthorized)
	case c.revoke[subject] != 0:
		w.WriteHeader(c.revoke[subject])
	case !strings.HasPrefix(subject, "good"):
		w.WriteHeader(http.StatusNotFound)
	default:
		fmt.Fprintf(w, `{"token":{"expires_at":%q,"user":{"id":"u-%s","name":"n","domain":{"id":"d","name":"D"}},
			"project":{"id":"p","name":"P","domain":{"id":"d","name":"D"}},"roles":[{"id":"1","name":"member"}],"catalog":[{"type":"database"}]}}`, expires, subject)
	}
}

func (c *cloud) good(v *keystone.Validator, token string) {
	c.t.Helper()
	id, err := v.Validate(c.t.Context(), token)
	if err != nil || id.UserID != "u-"+token {
		c.t.Fatalf("%s: %+v, %v", token, id, err)
	}
}

func (c *cloud) fails(v *keystone.Validator, token string, kind trove.Kind) error {
	c.t.Helper()
	_, err := v.Validate(c.t.Context(), token)
	if !trove.IsKind(err, kind) {
		c.t.Fatalf("%s: %v, want %v", token, err, kind)
	}
	return err
}

func (c *cloud) wantAsked(subject string, want int) {
	c.t.Helper()
	if _, asked := c.count(subject); asked != want {
		c.t.Errorf("asked %d times about %s, want %d", asked, subject, want)
	}
}
