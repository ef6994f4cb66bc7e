package metrics_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/telemetry/metrics"
)

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wants(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, "\n"+l+"\n") {
			t.Errorf("not there: %s", l)
		}
	}
}

func observeAll(m *metrics.Metrics) {
	m.WorkEnded("create", "done", 3*time.Second)
	m.StepEnded("create", "server", "done", time.Second)
	m.StepRan("create", "server", "nap")
	m.OutboxSent("published")
	m.RPCCalled("prepare", "ok", time.Millisecond)
	m.RPCCast("restart", "ok", time.Millisecond)
	m.RPCHandled("taskmanager", "create_instance", "ok", 0, time.Millisecond)
	m.Reported("heartbeat", "applied")
	m.HTTPAnswered("instances/{id}", "GET", 200, time.Millisecond)
	m.PolicyDenied("instance:create")
	m.CloudCalled("servers", "ok", time.Millisecond)
}

func TestAll(t *testing.T) {
	m := metrics.New("trove-api", "v1")
	observeAll(m)
	m.AddDatabase(func() metrics.Database {
		return metrics.Database{Statements: 7, Retries: 1, Pools: []metrics.Pool{{Name: "all", DBStats: sql.DBStats{InUse: 2}}}}
	})
	m.AddBus(func() metrics.Bus { return metrics.Bus{Connected: true, Logins: 2} })
	m.AddTokens(func() metrics.Tokens { return metrics.Tokens{Hits: 5, Stale: 2, Requests: 4, Failures: 1} })
	asked := 0
	m.AddBacklog(func(context.Context) (metrics.Backlog, error) {
		asked++
		return metrics.Backlog{Work: map[string]int{"pending": 3}, OutboxOldest: 2 * time.Second, Silent: 1}, nil
	})
	text := scrape(t, m)
	wants(t, text,
		`gotrove_operations_total{kind="create",outcome="done"} 1`,
		`gotrove_operation_seconds_bucket{kind="create",outcome="done",le="5"} 1`,
		`gotrove_operation_steps_total{kind="create",outcome="done",step="server"} 1`,
		`gotrove_operation_step_runs_total{kind="create",outcome="nap",step="server"} 1`,
		`gotrove_outbox_messages_total{outcome="published"} 1`,
		`gotrove_rpc_client_call_seconds_count{method="prepare",outcome="ok"} 1`,
		`gotrove_rpc_client_cast_seconds_count{method="restart",outcome="ok"} 1`,
		`gotrove_rpc_server_request_seconds_count{method="create_instance",outcome="ok"} 1`,
		`gotrove_rpc_server_wait_seconds_count{topic="taskmanager"} 1`,
		`gotrove_guest_reports_total{method="heartbeat",result="applied"} 1`,
		`gotrove_http_requests_total{code="200",method="GET",route="instances/{id}"} 1`,
		`gotrove_policy_denials_total{rule="instance:create"} 1`,
		`gotrove_cloud_call_seconds_count{operation="servers",outcome="ok"} 1`,
		`gotrove_database_statements_total 7`, `gotrove_database_transaction_retries_total 1`,
		`gotrove_database_connections{pool="all",state="in_use"} 2`,
		`gotrove_bus_connected 1`, `gotrove_bus_blocked 0`, `gotrove_bus_logins_total 2`,
		`gotrove_token_cache_answers_total{how="fresh"} 3`, `gotrove_token_cache_answers_total{how="stale"} 2`,
		`gotrove_identity_requests_total{outcome="failed"} 1`,
		`gotrove_work_rows{state="pending"} 3`, `gotrove_outbox_oldest_seconds 2`, `gotrove_heartbeats_expired 1`, `gotrove_backlog_known 1`,
	)
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", `gotrove_build_info{go="`} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("not there: %s", name)
		}
	}
	scrape(t, m)
	if asked != 1 {
		t.Errorf("the database was asked %d times for two scrapes at once", asked)
	}
}

// What cannot be told is not there, and nothing else is missing for it.
func TestBacklogUnknown(t *testing.T) {
	m := metrics.New("trove-taskmanager", "v1")
	m.AddBacklog(func(context.Context) (metrics.Backlog, error) { return metrics.Backlog{}, errors.New("away") })
	text := scrape(t, m)
	wants(t, text, "gotrove_backlog_known 0")
	if strings.Contains(text, "\ngotrove_outbox_rows ") {
		t.Error("a depth that is not known is shown")
	}
}

func TestNothingIsAllocated(t *testing.T) {
	m := metrics.New("trove-api", "v1")
	observeAll(m)
	if n := testing.AllocsPerRun(100, func() { observeAll(m) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNilObservesNothing(t *testing.T) {
	var m *metrics.Metrics
	observeAll(m)
	m.AddBus(nil)
	m.AddDatabase(nil)
	m.AddTokens(nil)
	m.AddBacklog(nil)
}

// What others choose does not fill the memory.
func TestLabelsAreBounded(t *testing.T) {
	m := metrics.New("trove-conductor", "v1")
	for i := range 5000 {
		m.RPCHandled("conductor", fmt.Sprintf("method%d", i), "ok", 0, 0)
		m.HTTPAnswered("unmatched", fmt.Sprintf("VERB%d", i), i, 0)
	}
	text := scrape(t, m)
	if n := strings.Count(text, "\ngotrove_rpc_server_request_seconds_count"); n > 201 {
		t.Errorf("%d methods", n)
	}
	if n := strings.Count(text, "\ngotrove_http_requests_total"); n > 501 {
		t.Errorf("%d answers", n)
	}
	wants(t, text, `gotrove_rpc_server_request_seconds_count{method="other",outcome="ok"} 4800`)
}

func BenchmarkObserve(b *testing.B) {
	m := metrics.New("trove-api", "v1")
	b.ReportAllocs()
	for b.Loop() {
		m.HTTPAnswered("instances/{id}", "GET", 200, time.Millisecond)
	}
}
