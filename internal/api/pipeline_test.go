package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestVersionsAndNegotiation(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.TrustForwarded = true })
	golden(t, "versions", h.want(200, "", "GET", "/", "").text)
	forwarded := h.want(200, "", "GET", "/", "", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "db.example").text
	if !strings.Contains(forwarded, `"https://db.example/v1.0/"`) {
		t.Errorf("behind a proxy: %s", forwarded)
	}
	const accept = "application/vnd.openstack.trove+json;version="
	h.want(200, demo, "GET", "/demo/instances", "", "Accept", accept+"1.0")
	if key, _ := h.want(406, demo, "GET", "/demo/instances", "", "Accept", accept+"9").fault(); key != "notAcceptable" {
		t.Errorf("fault = %s", key)
	}
	h.want(403, demo, "GET", "/", "", "Accept", accept+"1.0")
	h.want(200, demo, "GET", "instances", "", "Accept", accept+"9") // the path says it already

	public := newHarness(t, func(c *api.Config) { c.PublicEndpoint = "https://public.example/db/" })
	if text := public.want(200, "", "GET", "/", "").text; !strings.Contains(text, `"https://public.example/db/v1.0/"`) {
		t.Errorf("with a public endpoint: %s", text)
	}
}

func TestHealthcheckTellsTheTruth(t *testing.T) {
	h := newHarness(t)
	if a := h.want(200, "", "GET", "/healthcheck", ""); a.text != `{"detailed":false,"reasons":["OK"]}` {
		t.Errorf("healthy: %s", a.text)
	}
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	h.clock.add(2 * time.Second) // an answer is given again for a moment
	if a := h.want(503, "", "GET", "/healthcheck", ""); strings.Contains(a.text, "OK") {
		t.Errorf("without a database: %s", a.text)
	}
}

func TestTokens(t *testing.T) {
	h := newHarness(t)
	for _, token := range []string{"", "expired"} {
		a := h.want(401, token, "GET", "/v1.0/demo/instances", "")
		if got := a.header.Get("WWW-Authenticate"); got != `Keystone uri="`+authURI+`"` {
			t.Errorf("WWW-Authenticate = %q", got)
		}
		if a.text != `{"error":{"code":401,"title":"Unauthorized","message":"The request you have made requires authentication."}}` {
			t.Errorf("body = %s", a.text)
		}
	}
	h.want(401, "", "GET", "/v1.0/", "") // before anything is said about the path
	for _, path := range []string{"/v1.0", "/v1.0/", "/v1.0/demo", "/v1.0/demo/", "/v1.0/other/instances", "/v1.0/DEMO/instances"} {
		if key, _ := h.want(403, demo, "GET", path, "").fault(); key != "forbidden" {
			t.Errorf("%s: fault = %s", path, key)
		}
	}
	h.want(403, admin, "GET", "/v1.0/demo/instances", "")
	h.want(403, "unscoped", "GET", "/v1.0//instances", "")
	h.want(200, demo, "GET", "/v1.0/d%65mo/instances", "")

	h.tokens.err = trove.Errorf(trove.KindUnavailable, "dial tcp: refused")
	if key, message := h.want(503, demo, "GET", "instances", "").fault(); key != "serviceUnavailable" || strings.Contains(message, "dial") {
		t.Errorf("without an identity service: %s: %s", key, message)
	}
}

func TestRequestID(t *testing.T) {
	h := newHarness(t)
	const global = "req-11111111-2222-3333-4444-555555555555"
	pattern := regexp.MustCompile(`^req-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)
	a := h.want(200, demo, "GET", "instances", "", "X-OpenStack-Request-ID", global)
	got := a.header.Get("x-openstack-request-id")
	if !pattern.MatchString(got) || got == global {
		t.Errorf("request id = %q", got)
	}
	h.want(200, demo, "GET", "instances", "", "X-OpenStack-Request-ID", "req-x\ninjected")

	h.instance(demo, id(1), mysqlVersion)
	a = h.want(202, demo, "DELETE", "instances/"+id(1), "")
	if c := h.casts()[0].Context; c["request_id"] != a.header.Get("x-openstack-request-id") || c["user"] != "u-demo" ||
		c["project_id"] != demo || c["auth_token"] != nil {
		t.Errorf("context of the message = %v", c)
	}
}

func TestPanicIsAFault(t *testing.T) {
	h := newHarness(t)
	server, err := api.New(api.Config{}, api.Deps{Store: panicking{h.store}, Guest: h.guest, Cloud: h.cloud, Tokens: h.tokens, Log: h.log()})
	if err != nil {
		t.Fatal(err)
	}
	h.server = server
	a := h.want(500, demo, "GET", "datastores", "")
	key, message := a.fault()
	if key != "instanceFault" || !regexp.MustCompile(`\([0-9a-f-]{36}\)\.$`).MatchString(message) || strings.Contains(a.text, "secret") {
		t.Errorf("fault = %s", a.text)
	}
}

type panicking struct{ api.Store }

func (panicking) Datastores(context.Context) ([]trove.Datastore, error) {
	panic("secret of the inside")
}

func TestInternalErrorsStayInside(t *testing.T) {
	h := newHarness(t)
	h.cloud.err = errors.New("secret of the inside")
	a := h.want(500, demo, "GET", "flavors", "")
	key, message := a.fault()
	if key != "instanceFault" || strings.Contains(message, "secret") {
		t.Errorf("fault = %s", a.text)
	}
	id := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(message)
	if log := h.logs.String(); id == "" || !strings.Contains(log, id) || !strings.Contains(log, "secret of the inside") {
		t.Errorf("the log does not have the fault %s: %s", id, log)
	}
	h.cloud.err = trove.Errorf(trove.KindUnavailable, "The cloud does not answer.").WithAction("Try again.")
	if key, message := h.want(503, demo, "GET", "flavors", "").fault(); key != "serviceUnavailable" || message != "The cloud does not answer. Try again." {
		t.Errorf("unavailable: %s %q", key, message)
	}
}

func TestBodies(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.MaxBody = 1000 })
	for _, c := range []struct {
		name, body, contentType string
		status                  int
		key, message            string
	}{
		{"not JSON", `{"instance":`, "application/json", 400, "badRequest", "not valid JSON"},
		{"two documents", `{} {}`, "application/json", 400, "badRequest", "not valid JSON"},
		{"not UTF-8", "{\"instance\":{\"name\":\"\xff\"}}", "application/json", 400, "badRequest", "UTF-8"},
		{"a form", `a=b`, "application/x-www-form-urlencoded", 415, "badMediaType", "application/json"},
		{"XML", `<instance/>`, "application/xml", 415, "badMediaType", ""},
		{"too large", `{"instance":{"name":"` + strings.Repeat("x", 1000) + `"}}`, "application/json", 413, "overLimit", "1000 bytes"},
		{"parameters of the type", `[]`, "application/json; charset=utf-8", 400, "badRequest", "not of type 'object'"},
		{"no type", `[]`, "", 400, "badRequest", "not of type 'object'"},
		{"nothing", ``, "application/json", 400, "badRequest", "'instance' is a required property"},
		{"another case of a key", `{"instance":{"NAME":"x"}}`, "application/json", 400, "badRequest", "'name' is a required property"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.do(demo, "POST", "instances", c.body, "Content-Type", c.contentType)
			key, message := a.fault()
			if a.status != c.status || key != c.key || !strings.Contains(message, c.message) {
				t.Errorf("= %d %s", a.status, a.text)
			}
		})
	}
}

func TestRateLimit(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.RatePerMinute = 3; c.RateBuckets = 2 })
	for range 3 {
		h.want(200, demo, "GET", "flavors", "")
	}
	a := h.want(413, demo, "GET", "flavors", "")
	if got := a.header.Get("Retry-After"); got != "20" {
		t.Errorf("Retry-After = %q", got)
	}
	golden(t, "rate_limited", a.text)
	h.want(404, demo, "PATCH", "flavors", "") // not limited
	h.want(404, demo, "PUT", "flavors", "")   // counted on its own
	h.want(200, admin, "GET", "flavors", "")  // another project; and one bucket had to go
	h.clock.add(20 * time.Second)
	h.want(200, admin, "GET", "limits", "")
	golden(t, "limits_with_rates", h.want(200, admin, "GET", "limits", "").text)
}

func TestRateLimitComesBack(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.RatePerMinute = 60 })
	for range 60 {
		h.want(200, demo, "GET", "flavors", "")
	}
	h.want(413, demo, "GET", "flavors", "")
	h.clock.add(time.Second)
	h.want(200, demo, "GET", "flavors", "")
	h.want(413, demo, "GET", "flavors", "")
	h.clock.add(time.Hour)
	for range 60 {
		h.want(200, demo, "GET", "flavors", "")
	}
	h.want(413, demo, "GET", "flavors", "")
	// A clock that is set back, or forth, locks nobody out.
	for _, jump := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		h.clock.add(jump)
		h.want(200, demo, "GET", "flavors", "")
	}
}

func TestCORS(t *testing.T) {
	off := newHarness(t)
	if a := off.want(200, "", "OPTIONS", "/v1.0/demo/instances", "", "Origin", "https://console.example"); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("CORS is on by default")
	}
	h := newHarness(t, func(c *api.Config) { c.CORSOrigins = []string{"https://console.example"} })
	a := h.want(200, "", "OPTIONS", "/v1.0/demo/instances", "", "Origin", "https://console.example", "Access-Control-Request-Method", "PUT")
	if a.header.Get("Access-Control-Allow-Origin") != "https://console.example" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "X-Auth-Token") ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "PATCH") {
		t.Errorf("preflight = %v", a.header)
	}
	a = h.want(401, "", "GET", "/v1.0/demo/instances", "", "Origin", "https://console.example")
	if a.header.Get("Access-Control-Allow-Origin") == "" || !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "X-OpenStack-Request-ID") {
		t.Errorf("refused, but readable: %v", a.header)
	}
	a = h.want(200, "", "OPTIONS", "/", "", "Origin", "https://evil.example")
	if a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another origin is allowed")
	}
}

// TestSlowBody holds that a caller who sends nothing does not keep a
// connection, and that one who waits for a slow answer does.
func TestSlowBody(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.ReadTimeout = 100 * time.Millisecond })
	server := httptest.NewServer(h.server)
	defer server.Close()
	reader, writer := newPipe()
	defer writer.close()
	r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/v1.0/demo/instances", reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", demo)
	r.Header.Set("Content-Type", "application/json")
	res, err := server.Client().Do(r)
	if err != nil {
		return // cut is well too
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("status = %d", res.StatusCode)
	}
}

// pipe is a body that gives one byte and then nothing until it is closed.
type pipe struct {
	closed chan struct{}
	begun  bool
}

func newPipe() (*pipe, *pipe) { p := &pipe{closed: make(chan struct{})}; return p, p }

func (p *pipe) close() { close(p.closed) }

func (p *pipe) Read(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		b[0] = '{'
		return 1, nil
	}
	<-p.closed
	return 0, errors.New("closed")
}

func TestPages(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.PageSize = 3 })
	for n := 1; n <= 7; n++ {
		h.instance(demo, id(n), mysqlVersion)
		h.clock.add(time.Second)
	}
	for _, c := range []struct{ query, want string }{
		{"limit=0", "'limit'"}, {"limit=-1", "'limit'"}, {"limit=x", "'limit'"}, {"limit=", "'limit'"}, {"limit=1.5", "'limit'"},
		{"marker=x", "'marker'"}, {"marker=" + strings.Repeat("a", 2000), "'marker'"}, {"marker=%ff", "'marker'"},
	} {
		if key, message := h.want(400, demo, "GET", "instances?"+c.query, "").fault(); key != "badRequest" || !strings.Contains(message, c.want) {
			t.Errorf("%s: %s %q", c.query, key, message)
		}
	}
	var seen []string
	path := "instances?include_clustered=False&limit=1000&x=a%20b"
	for pages := 0; path != ""; pages++ {
		if pages > 5 {
			t.Fatal("no end")
		}
		a := h.want(200, demo, "GET", path, "")
		var body struct {
			Instances []struct{ ID, Name string }
			Links     []struct{ Href, Rel string }
			Alias     []struct{ Href, Rel string } `json:"instances_links"`
		}
		a.decode(t, &body)
		if len(body.Instances) > 3 {
			t.Fatalf("%d on a page of 3", len(body.Instances))
		}
		for _, i := range body.Instances {
			seen = append(seen, i.ID)
		}
		if path = ""; len(body.Links) > 0 {
			const self = "://" + host + "/v1.0/demo/instances?include_clustered=False&limit=1000&x=a%20b&marker="
			if body.Links[0].Rel != "next" || !strings.HasPrefix(body.Links[0].Href, "https"+self) || !strings.HasPrefix(body.Alias[0].Href, "http"+self) {
				t.Fatalf("links = %v, %v", body.Links, body.Alias)
			}
			path = strings.TrimPrefix(body.Alias[0].Href, "http://"+host)
		}
	}
	// Cut by id, and newest first within a page.
	want := []string{id(3), id(2), id(1), id(6), id(5), id(4), id(7)}
	if strings.Join(seen, ",") != strings.Join(want, ",") {
		t.Errorf("seen %v", seen)
	}
}

func TestListIsAFixedNumberOfQueries(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.PageSize = 100 })
	count := func(n int) uint64 {
		before := h.store.Stats().Statements
		a := h.want(200, demo, "GET", "instances/detail?limit="+strconv.Itoa(n), "")
		if got := strings.Count(a.text, `"operating_status"`); got != n {
			t.Fatalf("%d listed, want %d", got, n)
		}
		return h.store.Stats().Statements - before
	}
	for n := 1; n <= 50; n++ {
		h.instance(demo, id(n), mysqlVersion)
	}
	if one, all := count(1), count(50); one != all {
		t.Errorf("%d queries for one instance, %d for 50", one, all)
	}
}
