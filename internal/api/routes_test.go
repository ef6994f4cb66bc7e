package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/gotrove/gotrove/internal/api/schema"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// withoutRule are the calls that no policy rule is for, by design: their
// handlers ask for an administrator, or choose the rule by the body.
var withoutRule = []string{"GET mgmt/quotas/{tenant}", "PUT mgmt/quotas/{tenant}", "POST instances/{id}/action"}

// good is for every call that is built one request that works.
var good = map[string]struct {
	token, path, body string
	status            int
	golden            string // file with the answer
}{
	"GET datastores":                                        {demo, "datastores", "", 200, "datastores"},
	"GET datastores/versions/{version}":                     {demo, "datastores/versions/" + mysqlVersion, "", 200, "version"},
	"GET datastores/{datastore}":                            {demo, "datastores/mariadb", "", 200, "datastore"},
	"DELETE datastores/{datastore}":                         {admin, "datastores/empty", "", 202, ""},
	"GET datastores/{datastore}/versions":                   {admin, "datastores/mariadb/versions", "", 200, "versions_admin"},
	"GET datastores/{datastore}/versions/{version}":         {demo, "datastores/mariadb/versions/10.3", "", 200, "version_inactive"},
	"GET datastores/{datastore}/versions/{version}/flavors": {demo, "datastores/x/versions/" + mysqlVersion + "/flavors", "", 200, ""},
	"GET flavors":                                             {demo, "flavors", "", 200, "flavors"},
	"GET flavors/{flavor}":                                    {demo, "flavors/db.tiny", "", 200, "flavor"},
	"GET limits":                                              {demo, "limits", "", 200, "limits"},
	"GET mgmt/quotas/{tenant}":                                {demo, "mgmt/quotas/demo", "", 200, "quotas"},
	"PUT mgmt/quotas/{tenant}":                                {admin, "mgmt/quotas/demo", `{"quotas":{"instances":7,"ram":null}}`, 200, "quotas_set"},
	"GET instances":                                           {demo, "instances?limit=1", "", 200, "instances"},
	"POST instances":                                          {demo, "instances", createBody, 200, "created"},
	"GET instances/detail":                                    {admin, "instances/detail", "", 200, "details_admin"},
	"GET instances/{id}":                                      {demo, "instances/" + id(1), "", 200, "instance"},
	"PUT instances/{id}":                                      {demo, "instances/" + id(1), `{"instance":{"name":"new"}}`, 202, ""},
	"PATCH instances/{id}":                                    {demo, "instances/" + id(1), `{"instance":{"name":"newer"}}`, 202, ""},
	"DELETE instances/{id}":                                   {demo, "instances/" + id(2), "", 202, ""},
	"POST instances/{id}/action":                              {demo, "instances/" + id(3), `{"restart":{}}`, 202, ""},
	"GET instances/{id}/operations":                           {demo, "instances/" + id(1) + "/operations", "", 200, "operations"},
	"GET instances/{id}/databases":                            {demo, "instances/" + id(1) + "/databases?limit=1", "", 200, "databases"},
	"POST instances/{id}/databases":                           {demo, "instances/" + id(1) + "/databases", `{"databases":[{"name":"d9","character_set":"utf8"}]}`, 202, ""},
	"DELETE instances/{id}/databases/{database}":              {demo, "instances/" + id(1) + "/databases/d1.x", "", 202, ""},
	"GET instances/{id}/users":                                {demo, "instances/" + id(1) + "/users?limit=1", "", 200, "users"},
	"POST instances/{id}/users":                               {demo, "instances/" + id(1) + "/users", `{"users":[{"name":"eve","password":"a'\";😀"}]}`, 202, ""},
	"PUT instances/{id}/users":                                {demo, "instances/" + id(1) + "/users", `{"users":[{"name":"ann","password":"x"}]}`, 202, ""},
	"GET instances/{id}/users/{user}":                         {demo, "instances/" + id(1) + "/users/ann", "", 200, "user"},
	"PUT instances/{id}/users/{user}":                         {demo, "instances/" + id(1) + "/users/ann@%25", `{"user":{"host":"10.0.0.%"}}`, 202, ""},
	"DELETE instances/{id}/users/{user}":                      {demo, "instances/" + id(1) + "/users/b%2eb%4010.1.1.1", "", 202, ""},
	"GET instances/{id}/users/{user}/databases":               {demo, "instances/" + id(1) + "/users/ann/databases", "", 200, "user_access"},
	"PUT instances/{id}/users/{user}/databases":               {demo, "instances/" + id(1) + "/users/ann/databases", `{"databases":[{"name":"d2"}]}`, 202, ""},
	"DELETE instances/{id}/users/{user}/databases/{database}": {demo, "instances/" + id(1) + "/users/ann/databases/d1.x", "", 202, ""},
	"GET instances/{id}/root":                                 {demo, "instances/" + id(1) + "/root", "", 200, "root_status"},
	"POST instances/{id}/root":                                {demo, "instances/" + id(1) + "/root", "", 200, "root"},
	"DELETE instances/{id}/root":                              {demo, "instances/" + id(4) + "/root", "", 204, ""},
}

const createBody = `{"instance":{"name":"g1","flavorRef":"http://x/flavors/2","volume":{"size":"1","type":null},` +
	`"datastore":{"type":"mariadb","version":"10.11"},"nics":[{"network_id":"local"}],"access":{"is_public":false},` +
	`"databases":[{"name":"app","character_set":"utf8","collate":"utf8_general_ci"}],` +
	`"users":[{"name":"app","password":"it's; 😀","databases":[{"name":"app"}]}]}}`

// furnish puts into h what the good requests ask for.
func furnish(t *testing.T, h *harness) {
	t.Helper()
	for n := 1; n <= 4; n++ {
		h.instance(demo, id(n), mysqlVersion)
	}
	h.instance(admin, id(5), postgresVersion, func(i *trove.Instance) { i.Access = nil })
	h.cloud.flavors = append(h.cloud.flavors, trove.Flavor{ID: "db.tiny", Name: "db.tiny", RAM: 512, VCPUs: 1})
	h.guest.databases = []string{"d1.x", "d2", "d3", "mysql"}
	h.guest.add(trove.User{Name: "ann", Host: "%", Databases: []string{"d1.x"}})
	h.guest.add(trove.User{Name: "b.b", Host: "10.1.1.1"})
	h.guest.stats = guest.FilesystemStats{Total: 0.98, Used: 0.25, TotalBlocks: 300, AvailBlocks: 200, Extra: map[string]int64{"wal_size": 7}}
	ctx := t.Context()
	if err := h.store.SetRoot(ctx, id(4), "u", true); err != nil {
		t.Fatal(err)
	}
	// Nothing makes a datastore without versions yet; a database taken over
	// from the original may have one.
	h.exec("INSERT INTO datastores (id, name) VALUES ('empty-id', 'empty')")
}

// TestEveryRoute walks the table: each call has a policy rule, a schema where
// it takes a body, an operation in the OpenAPI document whose description its
// answer keeps to, and a request that works.
func TestEveryRoute(t *testing.T) {
	doc, operations := readOpenAPI(t)
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	rules := policy.New(nil)
	var served []string
	schemas := map[string]bool{}
	shared := newHarness(t)
	for _, route := range shared.server.Routes() {
		name := route.Method + " " + route.Path
		served = append(served, route.Method+" /v1.0/{project}/"+route.Path)
		t.Run(name, func(t *testing.T) {
			op := operations[route.Method+" /v1.0/{project}/"+route.Path]
			if op == nil {
				t.Fatal("api/openapi.yaml does not have it")
			}
			if op["x-missing"] == true != route.Missing {
				t.Errorf("x-missing in api/openapi.yaml is %v", op["x-missing"])
			}
			if route.Missing {
				h := shared
				h.t = t
				path := strings.NewReplacer("{id}", id(1)).Replace(route.Path)
				key, message := h.want(501, admin, route.Method, path, "").fault()
				if key != "notImplemented" || !strings.Contains(message, "does not support") {
					t.Errorf("fault = %s %q", key, message)
				}
				want := 501
				if route.Admin {
					want = 401
				}
				h.want(want, demo, route.Method, path, "")
				h.want(401, "", route.Method, "/v1.0/demo/"+path, "")
				return
			}
			if !rules.Has(route.Rule) && !slices.Contains(withoutRule, name) {
				t.Errorf("there is no policy rule %q", route.Rule)
			}
			takesBody := route.Method == "POST" || route.Method == "PUT" || route.Method == "PATCH"
			if takesBody != (route.Schema != "") {
				t.Errorf("schema = %q", route.Schema)
			}
			g, tested := good[name]
			if !tested {
				t.Fatal("no request tests it")
			}
			h := newHarness(t)
			furnish(t, h)
			path := g.path
			if strings.HasSuffix(route.Path, "/action") {
				path += "/action"
			}
			a := h.want(g.status, g.token, route.Method, path, g.body)
			if ct := a.header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("Content-Type = %q", ct)
			}
			if (a.text == "") != (g.status != 200) {
				t.Errorf("body of a %d: %q", g.status, a.text)
			}
			if g.golden != "" {
				golden(t, g.golden, a.text)
			}
			checkAnswer(t, doc, op, a)
			h.want(401, "", route.Method, "/v1.0/demo/"+path, g.body)
		})
		if route.Schema != "" {
			schemas[route.Schema] = true
		}
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(schemas)), set.Names()); d != "" {
		t.Errorf("schemas of the routes and files (-routes +files)\n%s", d)
	}
	var documented []string
	for name := range operations {
		if strings.Contains(name, "/v1.0/") {
			documented = append(documented, name)
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if d := cmp.Diff(served, documented); d != "" {
		t.Errorf("routes and api/openapi.yaml (-routes +document)\n%s", d)
	}
}

const document = "../../api/openapi.yaml"

// readOpenAPI gives the document and its operations by method and path.
func readOpenAPI(t *testing.T) (doc map[string]any, operations map[string]map[string]any) {
	t.Helper()
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := yaml.Unmarshal(b, &parsed); err != nil {
		t.Fatal(err)
	}
	// Through JSON, so that numbers are what the validator expects.
	if b, err = json.Marshal(parsed); err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	doc = v.(map[string]any)
	operations = map[string]map[string]any{}
	ids := map[string]bool{}
	for path, item := range doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			o := op.(map[string]any)
			operations[strings.ToUpper(method)+" "+path] = o
			id, _ := o["operationId"].(string)
			if id == "" || ids[id] {
				t.Errorf("operationId %q of %s %s is empty or there twice", id, method, path)
			}
			ids[id] = true
		}
	}
	return doc, operations
}

// checkAnswer holds an answer against the schema that the operation gives it.
func checkAnswer(t *testing.T, doc map[string]any, op map[string]any, a answer) {
	t.Helper()
	response, found := op["responses"].(map[string]any)[fmt.Sprint(a.status)].(map[string]any)
	if !found {
		t.Fatalf("api/openapi.yaml does not have the status %d", a.status)
	}
	content, has := response["content"].(map[string]any)
	if has != (a.text != "") {
		t.Fatalf("api/openapi.yaml and the answer disagree whether there is a body: %q", a.text)
	}
	if !has {
		return
	}
	ref := content["application/json"].(map[string]any)["schema"].(map[string]any)["$ref"].(string)
	c := jsonschema.NewCompiler()
	if err := c.AddResource("doc:///openapi", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("doc:///openapi" + ref)
	if err != nil {
		t.Fatal(err)
	}
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(a.text))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(body); err != nil {
		t.Errorf("the answer is not what api/openapi.yaml says: %v\n%s", err, a.text)
	}
}

// TestOpenAPIReferences finds references that lead nowhere, files included.
func TestOpenAPIReferences(t *testing.T) {
	doc, _ := readOpenAPI(t)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if !strings.HasPrefix(ref, "#") {
					if _, err := os.Stat("../../api/" + ref); err != nil {
						t.Errorf("%s: %v", ref, err)
					}
					return
				}
				var at any = doc
				for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[part]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, m := range v {
				walk(m)
			}
		case []any:
			for _, m := range v {
				walk(m)
			}
		}
	}
	walk(doc)
}

// TestWhatIsNotThere holds for paths and methods that no route is for.
func TestWhatIsNotThere(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	for _, c := range []struct{ method, path string }{
		{"GET", "/v1.0/demo/nothing"},
		{"GET", "/v1.0/demo/instances/"},
		{"GET", "/v1.0/demo//instances"},
		{"GET", "/v1.0/demo/./instances"},
		{"GET", "/v1.0/demo/instances/../flavors"},
		{"GET", "/v1.0/demo/instances/%2e%2e/flavors"},
		{"HEAD", "/v1.0/demo/instances"},
		{"PUT", "/v1.0/demo/flavors"},
		{"PATCH", "/v1.0/demo/instances"},
		{"DELETE", "/v1.0/demo/mgmt/quotas/demo"},
		{"POST", "/v1.0/demo/mgmt/instances"},
		{"PUT", "/v1.0/demo/mgmt/instances/x"},
		{"POST", "/v1.0/demo/mgmt/instances/x/upgrade"},
		{"DELETE", "/v1.0/demo/clusters/x/root"},
		{"GET", "/v1.0/demo/security-groups"},
		{"GET", "/v1.0/demo/mgmt/hosts"},
		{"GET", "/v1.0/demo/instances.json"},
		{"GET", "/v1.0/demo/datastores/versions/" + mysqlVersion + "/x"},
		{"POST", "/"},
		{"HEAD", "/"},
		{"GET", "/favicon.ico"},
		{"GET", "/v1.0x/demo/instances"},
		{"GET", "/v2.0/demo/instances"},
		{"POST", "/healthcheck"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			a := h.want(404, demo, c.method, c.path, "")
			if key, _ := a.fault(); c.method != "HEAD" && key != "itemNotFound" {
				t.Errorf("fault = %s", a.text)
			}
			if a.header.Get("X-Openstack-Request-Id") == "" {
				t.Error("no request id")
			}
		})
	}
	for _, path := range []string{"/", "/v1.0/demo/instances", "/nothing"} {
		if a := h.want(http.StatusOK, "", "OPTIONS", path, ""); a.text != "" {
			t.Errorf("OPTIONS %s answers %q", path, a.text)
		}
	}
}
