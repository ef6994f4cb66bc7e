package api_test

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Tokens of the test identity; each is also the name of its project.
const (
	demo  = "demo"
	other = "other"
	admin = "admin"
)

const (
	host    = "trove.example:8779"
	authURI = "http://identity.example:5000/v3"
)

var start = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type tokens struct{ err error }

func (t *tokens) Validate(_ context.Context, token string) (identity.Identity, error) {
	if t.err != nil {
		return identity.Identity{}, t.err
	}
	who := identity.Identity{UserID: "u-" + token, ProjectID: token, Roles: []string{"member"}}
	switch token {
	case demo, other, "reader":
	case admin:
		who.Roles = []string{"admin", "member"}
	case "unscoped":
		who.ProjectID = ""
	default:
		return identity.Identity{}, trove.Errorf(trove.KindUnauthorized, "no such token")
	}
	return who, nil
}

// guests is a guest agent of every instance at once, with what is inside its
// engine in memory.
type guests struct {
	mu        sync.Mutex
	databases []string
	users     map[string]*rpcapi.User // by name@host
	stats     guest.FilesystemStats
	hang      bool      // FilesystemStats waits for its deadline
	deadline  time.Time // of the last FilesystemStats
	err       error
	calls     []string
}

func (g *guests) call(format string, args ...any) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, fmt.Sprintf(format, args...))
	return g.err
}

func (g *guests) add(u trove.User) {
	w := rpcapi.Users([]trove.User{u})[0]
	g.users[w.Name+"@"+w.Host] = &w
}

func (g *guests) FilesystemStats(ctx context.Context, _ string) (guest.FilesystemStats, error) {
	err := g.call("stats")
	g.deadline, _ = ctx.Deadline()
	if g.hang {
		<-ctx.Done()
		return guest.FilesystemStats{}, ctx.Err()
	}
	return g.stats, err
}

// cut gives the page of keys that l asks for, as agents do.
func cut(keys []string, l guest.List) ([]string, *string) {
	slices.Sort(keys)
	if l.Marker != nil {
		keys = slices.DeleteFunc(keys, func(k string) bool {
			return k < *l.Marker || (k == *l.Marker && !l.IncludeMarker)
		})
	}
	if l.Limit == nil || *l.Limit == 0 || len(keys) <= *l.Limit {
		return keys, nil
	}
	keys = keys[:*l.Limit]
	return keys, &keys[len(keys)-1]
}

func (g *guests) ListDatabases(_ context.Context, _ string, l guest.List) (guest.Page[rpcapi.Database], error) {
	if err := g.call("list databases"); err != nil {
		return guest.Page[rpcapi.Database]{}, err
	}
	var p guest.Page[rpcapi.Database]
	var names []string
	names, p.Next = cut(slices.Clone(g.databases), l)
	for _, n := range names {
		p.Items = append(p.Items, rpcapi.Database{Name: n})
	}
	return p, nil
}

func (g *guests) ListUsers(_ context.Context, _ string, l guest.List) (guest.Page[rpcapi.User], error) {
	if err := g.call("list users"); err != nil {
		return guest.Page[rpcapi.User]{}, err
	}
	var p guest.Page[rpcapi.User]
	var keys []string
	for k := range g.users {
		keys = append(keys, k)
	}
	keys, p.Next = cut(keys, l)
	for _, k := range keys {
		p.Items = append(p.Items, *g.users[k])
	}
	return p, nil
}

func (g *guests) GetUser(_ context.Context, _, name, host string) (*rpcapi.User, error) {
	if err := g.call("get user %s@%s", name, host); err != nil {
		return nil, err
	}
	return g.users[name+"@"+host], nil
}

func (g *guests) ListAccess(_ context.Context, _, name, host string) ([]rpcapi.Database, error) {
	if err := g.call("list access %s@%s", name, host); err != nil {
		return nil, err
	}
	return g.users[name+"@"+host].Databases, nil
}

func (g *guests) GrantAccess(_ context.Context, _, name, host string, databases []string) error {
	return g.call("grant %s@%s %v", name, host, databases)
}

func (g *guests) RevokeAccess(_ context.Context, _, name, host, database string) error {
	return g.call("revoke %s@%s %s", name, host, database)
}

func (g *guests) EnableRoot(_ context.Context, _, password string) (trove.User, error) {
	err := g.call("enable root")
	return trove.User{Name: "root", Password: cmp.Or(password, "made-by-agent")}, err
}

func (g *guests) DisableRoot(context.Context, string) error { return g.call("disable root") }

type fakeCloud struct {
	flavors []trove.Flavor
	err     error
}

func (c *fakeCloud) Flavors(context.Context) ([]trove.Flavor, error) { return c.flavors, c.err }

func (c *fakeCloud) Flavor(_ context.Context, id string) (trove.Flavor, error) {
	for _, f := range c.flavors {
		if f.ID == id {
			return f, c.err
		}
	}
	return trove.Flavor{}, cmp.Or(c.err, error(trove.Errorf(trove.KindNotFound, "no flavor %s", id)))
}

const network = "11111111-1111-1111-1111-111111111111"

func (c *fakeCloud) CheckNICs(_ context.Context, nics []trove.NIC) error {
	for _, n := range nics {
		if n.NetworkID != network && n.NetworkID != "local" {
			return trove.Errorf(trove.KindBadRequest, "Network %s cannot be found.", n.NetworkID)
		}
	}
	return nil
}

// api under test with a real store.
type harness struct {
	t      *testing.T
	server *api.Server
	store  *store.Store
	guest  *guests
	cloud  *fakeCloud
	tokens *tokens
	clock  *clock
	logs   *logs
	audit  *logs
	path   string // the database's file
}

// logs is what the service logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const (
	mysqlVersion    = "2a5b0077-28c6-4238-859b-ae3727b9f2b9"
	mariadbVersion  = "2a5b0077-28c6-4238-859b-ae3727b9f2ba"
	postgresVersion = "2a5b0077-28c6-4238-859b-ae3727b9f2bb"
	oldVersion      = "2a5b0077-28c6-4238-859b-ae3727b9f2bc" // inactive
)

func newHarness(t *testing.T, configure ...func(*api.Config)) *harness {
	t.Helper()
	h := &harness{
		t: t, clock: &clock{t: start}, tokens: &tokens{}, logs: &logs{}, audit: &logs{}, path: filepath.Join(t.TempDir(), "trove.sqlite"),
		guest: &guests{users: map[string]*rpcapi.User{}},
		cloud: &fakeCloud{flavors: []trove.Flavor{
			{ID: "1", Name: "m1.tiny", RAM: 512, VCPUs: 1, Disk: 1},
			{ID: "2", Name: "m1.small", RAM: 2048, VCPUs: 1, Disk: 20},
			{ID: "3", Name: "m1.medium", RAM: 4096, VCPUs: 2, Disk: 40},
			{ID: "4", Name: "m1.large", RAM: 8192, VCPUs: 4, Disk: 80},
			{ID: "5", Name: "m1.xlarge", RAM: 16384, VCPUs: 8, Disk: 160},
		}},
	}
	ctx := t.Context()
	var err error
	if h.store, err = store.Open(ctx, store.Config{Path: h.path, Clock: h.clock.now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.store.Close() })
	if err := h.store.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	for _, v := range []trove.DatastoreVersion{
		{ID: mysqlVersion, DatastoreName: "mysql", Name: "5.7.29", Number: "5.7.29", Manager: "mysql", Active: true},
		{ID: mariadbVersion, DatastoreName: "mariadb", Name: "10.11", Number: "10.11.6", Manager: "mariadb", Active: true},
		{ID: oldVersion, DatastoreName: "mariadb", Name: "10.3", Number: "10.3.1", Manager: "mariadb"},
		{ID: postgresVersion, DatastoreName: "postgresql", Name: "15", Number: "15.14", Manager: "postgresql", Active: true},
	} {
		if _, err := h.store.EnsureVersion(ctx, v, v.Active); err != nil {
			t.Fatal(err)
		}
	}
	// Most tests have no agent that would handle what is cast.
	config := api.Config{AuthURI: authURI, RatePerMinute: -1, StreamPoll: 20 * time.Millisecond, SettleTimeout: time.Millisecond}
	for _, f := range configure {
		f(&config)
	}
	audit, err := telemetry.NewLogger(h.audit, telemetry.Options{Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	h.server, err = api.New(config, api.Deps{Store: h.store, Guest: h.guest, Cloud: h.cloud, Tokens: h.tokens, Clock: h.clock.now,
		Log: h.log(), Audit: audit})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	text   string
}

// fault gives the key and message of a fault body.
func (a answer) fault() (key, message string) {
	var body map[string]struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(a.text), &body) != nil || len(body) != 1 {
		return "", a.text
	}
	for key, f := range body {
		if f.Code != a.status {
			return key, fmt.Sprintf("code %d in the body of a %d", f.Code, a.status)
		}
		return key, f.Message
	}
	return "", ""
}

// do sends a request as the project and user of token ("" sends none). A path
// without a leading slash is below /v1.0/<token>/.
func (h *harness) do(token, method, path, body string, headers ...string) answer {
	h.t.Helper()
	if !strings.HasPrefix(path, "/") {
		path = "/v1.0/" + token + "/" + path
	}
	r := httptest.NewRequestWithContext(h.t.Context(), method, "http://"+host+path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{w.Code, w.Result().Header, string(b)}
}

// want fails the test unless the request has this status.
func (h *harness) want(status int, token, method, path, body string, headers ...string) answer {
	h.t.Helper()
	a := h.do(token, method, path, body, headers...)
	if a.status != status {
		h.t.Fatalf("%s %s = %d %s, want %d", method, path, a.status, a.text, status)
	}
	return a
}

// instance writes an instance of the project, healthy, into the store.
func (h *harness) instance(project, id, versionID string, change ...func(*trove.Instance)) string {
	h.t.Helper()
	ctx := h.t.Context()
	i := &trove.Instance{ID: id, Name: "db-" + id[:4], TenantID: project, FlavorID: "2", VolumeSize: 1, Task: trove.TaskBuilding,
		Version: trove.DatastoreVersion{ID: versionID}, Access: &trove.Access{}, RegionID: "RegionOne"}
	for _, f := range change {
		f(i)
	}
	task, service := i.Task, i.Service
	i.Task = trove.TaskBuilding
	if err := h.store.CreateInstance(ctx, store.NewInstance{Instance: i, Cost: trove.QuotaDelta{},
		Limits: trove.QuotaDelta{trove.ResourceInstances: trove.Unlimited}}); err != nil {
		h.t.Fatal(err)
	}
	if service == (trove.ServiceStatus{}) {
		service = trove.ServiceHealthy
	}
	if task == trove.TaskBuilding {
		task = trove.TaskNone
	}
	for _, err := range []error{
		h.store.SetServiceStatus(ctx, id, service),
		h.store.Observe(ctx, map[string]trove.ServerObservation{id: {Status: trove.ServerActive, SeenAt: h.clock.now(),
			Addresses: []trove.Address{{Address: "10.0.0.7", Type: trove.AddressPrivate, Network: network}}}}),
		h.store.SetTask(ctx, id, task),
	} {
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return id
}

// id makes the id of the n-th instance of a test.
func id(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }

// cast is a message in the outbox.
type cast struct {
	Method     string
	Topic      string
	InstanceID string
	Args       map[string]any
	Context    map[string]any
}

func (h *harness) casts() []cast {
	h.t.Helper()
	rows, err := h.store.Outbox(h.t.Context(), 0, 1000)
	if err != nil {
		h.t.Fatal(err)
	}
	var out []cast
	for _, r := range rows {
		c := cast{Method: r.Method, Topic: r.Topic, InstanceID: r.InstanceID}
		if err := json.Unmarshal(r.Body, &c); err != nil {
			h.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// known ids stay as they are in golden files.
var known = regexp.MustCompile(`^(\d{8}-0000-4000-8000-0{12}|2a5b0077-.*|1{8}-.*)$`)

// normalise makes random ids the same in every run, and indents.
func normalise(t *testing.T, text string) string {
	t.Helper()
	n, seen := 0, map[string]string{}
	text = anyUUID.ReplaceAllStringFunc(text, func(u string) string {
		if known.MatchString(u) {
			return u
		}
		if seen[u] == "" {
			n++
			seen[u] = fmt.Sprintf("<id%d>", n)
		}
		return seen[u]
	})
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		t.Fatalf("not JSON: %s", text)
	}
	return b.String() + "\n"
}

// golden compares text with testdata/<name>.json.
func golden(t *testing.T, name, text string) {
	t.Helper()
	got := normalise(t, text)
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update if it is meant\n got %s\nwant %s", name, got, want)
	}
}

func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.text), v); err != nil {
		t.Fatalf("%v: %s", err, a.text)
	}
}

// exec writes what only the original wrote, past the store.
func (h *harness) exec(query string, args ...any) {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(h.t.Context(), query, args...); err != nil {
		h.t.Fatal(err)
	}
}

// cluster makes a cluster that instances may be members of.
func (h *harness) cluster(id string) {
	h.t.Helper()
	h.exec("INSERT INTO clusters (id, created, updated, name, task_id, tenant_id, datastore_version_id, deleted) VALUES (?, ?, ?, 'c', 1, 'demo', ?, 0)",
		id, start, start, mysqlVersion)
}

func (h *harness) log() *slog.Logger { return slog.New(slog.NewTextHandler(h.logs, nil)) }
