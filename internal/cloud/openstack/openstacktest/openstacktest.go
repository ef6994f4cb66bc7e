// Package openstacktest is an OpenStack in memory, over HTTP: of Keystone, Nova,
// Neutron, Cinder and Glance what a database service asks for, with the refusals
// and states of the real ones and with faults of one's choice.
//
// What takes the real services seconds takes it Delay. It knows no client.
package openstacktest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type obj = map[string]any

// What is there from the beginning.
const (
	User     = "trove"
	Password = "s3cret"
	Project  = "5e61ce00000000000000000000000001" // the service's
	Tenant   = "7e4a4700000000000000000000000002" // a user's
	Region   = "RegionOne"

	// Management is the service's network, UserNetwork the tenant's with UserSubnet
	// behind a router, Lonely another without one, Stranger another tenant's,
	// Public the external one.
	Management  = "aaaaaaaa-0000-4000-8000-000000000001"
	UserNetwork = "aaaaaaaa-0000-4000-8000-000000000002"
	UserSubnet  = "bbbbbbbb-0000-4000-8000-000000000002"
	Lonely      = "aaaaaaaa-0000-4000-8000-000000000003"
	LonelySub   = "bbbbbbbb-0000-4000-8000-000000000003"
	Stranger    = "aaaaaaaa-0000-4000-8000-000000000004"
	Public      = "aaaaaaaa-0000-4000-8000-000000000009"

	Image     = "cccccccc-0000-4000-8000-000000000001" // newest of tags trove, mariadb
	OldImage  = "cccccccc-0000-4000-8000-000000000002"
	DeadImage = "cccccccc-0000-4000-8000-000000000003" // newer, not active
)

// Fault is what happens to a request instead of, or beside, what it asks for.
type Fault int

// Faults.
const (
	None      Fault = iota
	TooMany         // 429 with Retry-After
	Internal        // 500
	Away            // 503 with Retry-After
	Lost            // carried out, and the connection ends without an answer
	Slow            // answered after Wait
	Forgotten       // 401: the token is not known any more
)

// Cloud is the fake. Its fields may be set before it is used.
type Cloud struct {
	Delay time.Duration // of whatever takes time
	Lag   time.Duration // how far lists are behind
	Wait  time.Duration // of Slow
	// Fail chooses what happens to a request; nil: nothing.
	Fail func(r *http.Request) Fault
	// RetryAfter is the header of TooMany and Away; "0".
	RetryAfter string
	// Break has a new server or volume end in error.
	Break func(kind string) bool
	// Quota is how many there may be: instances, ports, security_group,
	// floatingip, volumes, gigabytes; none: any number.
	Quota map[string]int
	// NovaMax and CinderMax are the newest microversions.
	NovaMax, CinderMax string
	// GrowsDetached: extending an attached volume fails, as with NFS.
	GrowsDetached bool
	// Full: no host has room for another flavor.
	Full bool
	// MostData is the longest user_data that Nova takes; 65535.
	MostData int
	// Console is what servers write.
	Console string
	// Roles are those of the service's user: admin if nil. Without admin and
	// member it may make nothing.
	Roles []string
	// Missing are types that the catalog does not have.
	Missing []string
	// Skew is how far the services' clocks are ahead.
	Skew time.Duration

	server *httptest.Server

	mu     sync.Mutex
	calls  map[string]int
	kinds  map[string][]*thing
	tokens map[string]bool
	later  []event
	nextIP int
}

// thing is a resource; those that are gone stay for lists that are behind.
type thing struct {
	obj
	made time.Time
	gone time.Time
}

type event struct {
	at time.Time
	do func()
}

// New starts a fake until the test ends.
func New(t testing.TB) *Cloud {
	c := &Cloud{Delay: 2 * time.Millisecond, RetryAfter: "0", NovaMax: "2.93", MostData: 65535, CinderMax: "3.70", Wait: 5 * time.Millisecond,
		calls: map[string]int{}, kinds: map[string][]*thing{}, tokens: map[string]bool{}}
	c.seed()
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	return c
}

// AuthURL is Keystone's.
func (c *Cloud) AuthURL() string { return c.server.URL + "/identity/v3" }

func (c *Cloud) seed() {
	old := time.Now().Add(-time.Hour)
	put := func(kind string, o obj) {
		c.kinds[kind] = append(c.kinds[kind], &thing{obj: o, made: old})
	}
	for i, name := range []string{"db.tiny", "db.small", "db.large"} {
		put("flavors", obj{"id": fmt.Sprint(i + 1), "name": name, "ram": 512 << i, "vcpus": 1 + i/2, "disk": 5, "swap": "",
			"OS-FLV-EXT-DATA:ephemeral": 0, "os-flavor-access:is_public": true, "rxtx_factor": 1.0})
	}
	network := func(id, name, project string, subnet, cidr string, external bool) {
		put("networks", obj{"id": id, "name": name, "project_id": project, "tenant_id": project, "shared": false,
			"router:external": external, "subnets": []string{subnet}, "status": "ACTIVE", "admin_state_up": true})
		put("subnets", obj{"id": subnet, "name": name, "network_id": id, "cidr": cidr, "ip_version": 4, "project_id": project, "enable_dhcp": true})
	}
	network(Management, "management", Project, "bbbbbbbb-0000-4000-8000-000000000001", "10.9.0.0/16", false)
	network(UserNetwork, "mine", Tenant, UserSubnet, "10.1.0.0/16", false)
	network(Lonely, "lonely", Tenant, LonelySub, "10.3.0.0/16", false)
	network(Stranger, "hers", "another", "bbbbbbbb-0000-4000-8000-000000000004", "10.4.0.0/16", false)
	network(Public, "public", "admin", "bbbbbbbb-0000-4000-8000-000000000009", "203.0.113.0/24", true)
	put("ports", obj{"id": "dddddddd-0000-4000-8000-000000000001", "name": "", "network_id": UserNetwork, "device_owner": "network:router_interface",
		"project_id": Tenant, "fixed_ips": []obj{{"subnet_id": UserSubnet, "ip_address": "10.1.0.1"}}, "mac_address": "fa:16:3e:ff:ff:ff"})
	for i, o := range []obj{{"id": OldImage, "status": "active"}, {"id": Image, "status": "active"}, {"id": DeadImage, "status": "queued"}} {
		o["name"], o["tags"], o["created_at"] = "guest", []string{"trove", "mariadb"}, fmt.Sprintf("2026-01-0%dT00:00:00Z", i+1)
		put("images", o)
	}
}

// Calls gives how often each call was made since the last ResetCalls, by method,
// service and path with {id} for ids.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// ResetCalls forgets the calls.
func (c *Cloud) ResetCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.calls)
}

// Revoke forgets all tokens.
func (c *Cloud) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
}

// Left lists what is there that has an instance's id in it.
func (c *Cloud) Left(id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
		for _, t := range c.kinds[kind] {
			if b, _ := json.Marshal(t.obj); t.gone.IsZero() && strings.Contains(string(b), id) {
				out = append(out, fmt.Sprintf("%s %v %v %v", kind, t.obj["id"], t.obj["name"], t.obj["status"]))
			}
		}
	}
	return out
}

// Made counts what there ever was of a kind in the service's project.
func (c *Cloud) Made(kind string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.kinds[kind] {
		if t.obj["project_id"] == Project {
			n++
		}
	}
	return n
}

// All gives the things of a kind (servers, ports, security-groups, volumes,
// floatingips) as the services show them.
func (c *Cloud) All(kind string) []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	var out []map[string]any
	for _, t := range c.kinds[kind] {
		if t.gone.IsZero() {
			out = append(out, maps.Clone(t.obj))
		}
	}
	return out
}

// Put adds a thing as somebody else made it; it gets an id and a project unless
// it has them.
func (c *Cloud) Put(kind string, o map[string]any) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, _ := c.add(kind, o)["id"].(string)
	return id
}

// Remove takes a thing away, without a trace.
func (c *Cloud) Remove(kind, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[kind] = slices.DeleteFunc(c.kinds[kind], func(t *thing) bool { return t.obj["id"] == id })
}

// Set changes a field of a thing.
func (c *Cloud) Set(kind, id, field string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.get(kind, id); o != nil {
		o[field] = value
	}
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func stamp() string { return time.Now().UTC().Format("2006-01-02T15:04:05Z") }

// add makes a thing. All of c.mu is held.
func (c *Cloud) add(kind string, o obj) obj {
	now := stamp()
	if kind == "volumes" {
		now = strings.TrimSuffix(now, "Z") + ".000000" // Cinder's way
	}
	for k, v := range (obj{"id": newID(), "project_id": Project, "created_at": now, "updated_at": now}) {
		if o[k] == nil {
			o[k] = v
		}
	}
	c.kinds[kind] = append(c.kinds[kind], &thing{obj: o, made: time.Now()})
	return o
}

func (c *Cloud) get(kind string, id any) obj {
	for _, t := range c.kinds[kind] {
		if t.gone.IsZero() && t.obj["id"] == id {
			return t.obj
		}
	}
	return nil
}

func (c *Cloud) remove(kind string, id any) {
	for _, t := range c.kinds[kind] {
		if t.gone.IsZero() && t.obj["id"] == id {
			t.gone = time.Now()
		}
	}
}

// live counts things of ours.
func (c *Cloud) live(kind string) (n int) {
	for _, t := range c.kinds[kind] {
		if t.gone.IsZero() && t.obj["project_id"] == Project {
			n++
		}
	}
	return n
}

// seen lists things as a copy that is Lag behind has them.
func (c *Cloud) seen(kind string) (out []obj) {
	out = []obj{}
	behind := time.Now().Add(-c.Lag)
	for _, t := range c.kinds[kind] {
		if c.Lag == 0 && t.gone.IsZero() || c.Lag > 0 && !t.made.After(behind) && (t.gone.IsZero() || t.gone.After(behind)) {
			out = append(out, t.obj)
		}
	}
	return out
}

func (c *Cloud) after(do func()) { c.later = append(c.later, event{time.Now().Add(c.Delay), do}) }

// advance does what is due by now.
func (c *Cloud) advance() {
	now := time.Now()
	for i := 0; i < len(c.later); {
		if e := c.later[i]; !e.at.After(now) {
			c.later = slices.Delete(c.later, i, i+1)
			e.do()
			continue
		}
		i++
	}
}

// answer is what a service says.
type answer struct {
	status int
	body   any
	header http.Header
}

func ok(body any) answer { return answer{http.StatusOK, body, nil} }

func done(status int) answer { return answer{status, nil, nil} }

// no is a refusal in the words of Nova and Cinder.
func no(status int, word, format string, args ...any) answer {
	return answer{status, obj{word: obj{"code": status, "message": fmt.Sprintf(format, args...)}}, nil}
}

// neutronNo is one in those of Neutron.
func neutronNo(status int, word, format string, args ...any) answer {
	return answer{status, obj{"NeutronError": obj{"type": word, "message": fmt.Sprintf(format, args...), "detail": ""}}, nil}
}

// ServeHTTP is all services, each under a path of its own.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	fault := None
	if c.Fail != nil {
		fault = c.Fail(r)
	}
	if fault == Slow {
		select {
		case <-time.After(c.Wait):
		case <-r.Context().Done():
			return
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	a := c.carryOut(r, path, body, fault)
	if fault == Lost {
		if h, is := w.(http.Hijacker); is {
			if conn, _, err := h.Hijack(); err == nil {
				conn.Close()
				return
			}
		}
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Date", time.Now().Add(c.Skew).UTC().Format(http.TimeFormat))
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body)
	}
}

func (c *Cloud) carryOut(r *http.Request, path []string, raw []byte, fault Fault) answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[callName(r, path)]++
	c.advance()
	header := http.Header{"Retry-After": {c.RetryAfter}}
	switch fault {
	case TooMany:
		return answer{http.StatusTooManyRequests, obj{"overLimit": obj{"code": 429, "message": "Too many requests."}}, header}
	case Internal:
		return no(http.StatusInternalServerError, "computeFault", "Unexpected API Error.")
	case Away:
		return answer{http.StatusServiceUnavailable, nil, header}
	case Forgotten:
		clear(c.tokens)
	}
	body := obj{}
	if len(raw) > 0 && json.Unmarshal(raw, &body) != nil {
		return no(http.StatusBadRequest, "badRequest", "Malformed request body")
	}
	if path[0] == "identity" {
		return c.keystone(r, body)
	}
	if !c.tokens[r.Header.Get("X-Auth-Token")] {
		return no(http.StatusUnauthorized, "error", "The request you have made requires authentication.")
	}
	out, looked := c.look(r, path, body)
	switch {
	case looked:
	case path[0] == "compute":
		out = c.nova(r, path[1:], body)
	case path[0] == "network":
		out = c.neutron(r, path[1:], body)
	case path[0] == "volume":
		out = c.cinder(r, path[1:], body)
	case path[0] == "image":
		out = c.glance(r, path[1:])
	default:
		return no(http.StatusNotFound, "itemNotFound", "Not found.")
	}
	if out.body != nil { // not to be changed while it is written
		b, _ := json.Marshal(out.body)
		out.body = json.RawMessage(b)
	}
	return out
}

// callName is a call without what differs between two of a kind: with the names
// of what it filters by.
func callName(r *http.Request, path []string) string {
	out := slices.Clone(path)
	for i, p := range out {
		if len(p) >= 32 || i > 0 && out[i-1] == "flavors" && p != "detail" {
			out[i] = "{id}"
		}
	}
	name := r.Method + " " + strings.Join(slices.DeleteFunc(out, func(p string) bool {
		return p == "v2.1" || p == "v2.0" || p == "v3" || p == "v2" || p == "{id}" && path[0] == "volume" && len(path) > 2 && p == out[2]
	}), "/")
	q := r.URL.Query()
	for _, k := range []string{"fields", "limit", "marker", "sort", "project_id"} {
		q.Del(k)
	}
	if len(q) > 0 {
		name += "?" + strings.Join(slices.Sorted(maps.Keys(q)), "&")
	}
	return name
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https://"
	}
	return "http://"
}

func (c *Cloud) keystone(r *http.Request, body obj) answer {
	if r.Method != http.MethodPost {
		return ok(obj{"version": obj{"id": "v3.14", "status": "stable"}})
	}
	b, _ := json.Marshal(body)
	if !strings.Contains(string(b), `"password":"`+Password+`"`) && !strings.Contains(string(b), `"secret":"`+Password+`"`) {
		return no(http.StatusUnauthorized, "error", "The request you have made requires authentication.")
	}
	token := newID()
	c.tokens[token] = true
	entry := func(kind, path string) obj {
		var all []obj
		for _, iface := range []string{"public", "internal"} {
			all = append(all, obj{"id": newID(), "interface": iface, "region": Region, "region_id": Region, "url": scheme(r) + r.Host + path})
		}
		return obj{"type": kind, "name": kind, "id": newID(), "endpoints": all}
	}
	return answer{http.StatusCreated, obj{"token": obj{
		"expires_at": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z"), "issued_at": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
		"methods": []string{"password"}, "user": obj{"id": "u", "name": User, "domain": obj{"id": "default", "name": "Default"}},
		"project": obj{"id": Project, "name": "service", "domain": obj{"id": "default", "name": "Default"}},
		"roles":   c.roles(),
		"catalog": slices.DeleteFunc([]obj{entry("compute", "/compute/v2.1"), entry("network", "/network"), entry("volumev3", "/volume/v3/"+Project), entry("image", "/image")},
			func(e obj) bool { return slices.Contains(c.Missing, text(e, "type")) }),
	}}, http.Header{"X-Subject-Token": {token}}}
}

func (c *Cloud) glance(r *http.Request, path []string) answer {
	if len(path) < 2 || path[1] != "images" {
		return no(http.StatusNotFound, "itemNotFound", "Not found.")
	}
	out := []obj{}
	q := r.URL.Query()
	for _, i := range c.seen("images") {
		has := q.Get("status") == "" || i["status"] == q.Get("status")
		for _, tag := range q["tag"] {
			tags, _ := i["tags"].([]string)
			has = has && slices.Contains(tags, tag)
		}
		if has {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b obj) int { return strings.Compare(text(b, "created_at"), text(a, "created_at")) })
	if q.Get("limit") == "1" && len(out) > 1 {
		out = out[:1]
	}
	return ok(obj{"images": out})
}

func text(o obj, k string) string {
	s, _ := o[k].(string)
	return s
}

func sub(o obj, k string) obj {
	m, _ := o[k].(map[string]any)
	return m
}

func num(o obj, k string) int {
	switch n := o[k].(type) {
	case float64:
		return int(n)
	case int:
		return n
	}
	return 0
}
