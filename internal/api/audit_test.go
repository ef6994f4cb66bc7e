package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/trove"
)

// audited gives the audit's lines.
func (h *harness) audited() (lines []map[string]any) {
	h.t.Helper()
	for line := range strings.Lines(h.audit.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			h.t.Fatalf("%v in %s", err, line)
		}
		if v["audit"] != true {
			h.t.Errorf("a line without its mark: %s", line)
		}
		lines = append(lines, v)
	}
	return lines
}

// Every call of the table that changes something, whatever comes of it, is one
// line; what only reads is none.
func TestEveryMutatingRouteIsAudited(t *testing.T) {
	for _, route := range newHarness(t).server.Routes() {
		t.Run(route.Method+" "+route.Path, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			furnish(t, h)
			g, built := good[route.Method+" "+route.Path]
			if !built {
				g.token, g.path, g.status = admin, strings.NewReplacer("{id}", id(1)).Replace(route.Path), http.StatusNotImplemented
			}
			path := g.path
			if strings.HasSuffix(route.Path, "/action") && built {
				path += "/action"
			}
			h.want(g.status, g.token, route.Method, path, g.body)
			h.want(401, "", route.Method, "/v1.0/demo/"+path, g.body)
			lines := h.audited()
			if route.Method == "GET" {
				if len(lines) > 0 {
					t.Errorf("a call that reads is audited: %v", lines)
				}
				return
			}
			if len(lines) != 2 {
				t.Fatalf("%d lines: %v", len(lines), lines)
			}
			done, refused := lines[0], lines[1]
			for k, want := range map[string]any{"msg": "audit", "level": "INFO", "method": route.Method, "route": route.Path,
				"user_id": "u-" + g.token, "project_id": g.token, "status": float64(g.status), "client": "192.0.2.1"} {
				if done[k] != want {
					t.Errorf("%s is %v, want %v", k, done[k], want)
				}
			}
			if refused["status"] != 401.0 || refused["user_id"] != "" || refused["route"] != route.Path {
				t.Errorf("refused: %v", refused)
			}
			for _, k := range []string{"request_id", "roles", "seconds", "target", "time"} {
				if _, there := done[k]; !there {
					t.Errorf("%s is missing", k)
				}
			}
			if done["request_id"] == refused["request_id"] {
				t.Error("two requests have one id")
			}
			if strings.Contains(route.Path, "{id}") && !strings.HasSuffix(strings.Split(done["target"].(string), "/")[0], id(1)[8:]) {
				t.Errorf("target is %v", done["target"])
			}
		})
	}
}

func TestAudit(t *testing.T) {
	h := newHarness(t, func(c *api.Config) {
		c.Quotas = trove.QuotaDelta{trove.ResourceInstances: 0}
		c.TrustForwarded = true
	})
	furnish(t, h)
	h.want(413, demo, "POST", "instances", createBody, "X-Forwarded-For", "203.0.113.9, 198.51.100.7")
	h.want(403, demo, "POST", "/v1.0/other/instances", createBody)
	h.want(404, demo, "POST", "nowhere", "")
	h.want(202, demo, "POST", "instances/"+id(3)+"/action", `{"restart":{}}`)
	h.want(400, demo, "POST", "instances/"+id(3)+"/action", `{"made_up":{}}`)
	lines := h.audited()
	if len(lines) != 5 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, want := range []map[string]any{
		{"status": 413.0, "client": "198.51.100.7", "route": "instances"},
		{"status": 403.0, "project_id": "demo", "route": "instances"},
		{"status": 404.0, "route": "unmatched"},
		{"status": 202.0, "action": "restart", "target": id(3)},
		{"status": 400.0, "action": nil},
	} {
		for k, v := range want {
			if lines[i][k] != v {
				t.Errorf("line %d: %s is %v, want %v", i, k, lines[i][k], v)
			}
		}
	}
	if text := h.logs.String() + h.audit.String(); strings.Contains(text, "it's; ") || strings.Contains(text, "made_up") {
		t.Error("a body is in the log")
	}
}

// The id that the client gave goes along with ours.
func TestGlobalRequestID(t *testing.T) {
	h := newHarness(t)
	furnish(t, h)
	const global = "req-11111111-2222-3333-4444-555555555555"
	h.want(202, demo, "POST", "instances/"+id(3)+"/action", `{"restart":{}}`, "X-Openstack-Request-Id", global)
	if l := h.audited(); len(l) != 1 || l[0]["global_request_id"] != global || l[0]["request_id"] == global {
		t.Errorf("audit: %v", l)
	}
	rows, err := h.store.Outbox(t.Context(), 0, 10)
	if err != nil || len(rows) != 1 || !strings.Contains(string(rows[0].Body), `"global_request_id":"`+global+`"`) {
		t.Errorf("the message has no global id: %v, %d rows", err, len(rows))
	}
}
