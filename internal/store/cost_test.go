package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// What calls cost in SQL statements, BEGIN and COMMIT not counted.
func TestStatements(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		ctx, s := within(t), open()
		cost := func(what string, most uint64, f func() error) {
			t.Helper()
			before := s.Stats().Statements
			must(t, f())
			if n := s.Stats().Statements - before; n > most {
				t.Errorf("%s: %d statements, want at most %d", what, n, most)
			}
		}
		create := func(replicaOf string) func() error {
			n := newInstance("t")
			n.Instance.ReplicaOf, n.Limits = replicaOf, trove.QuotaDelta{trove.ResourceRAM: 1 << 30}
			return func() error { return s.CreateInstance(ctx, n) }
		}
		cost("the first instance of a project", 15, create(""))
		cost("an instance", 7, create(""))
		source := ready(t, s, "t")
		cost("a replica", 11, create(source))
		list := func() error {
			_, _, err := s.ListInstances(ctx, store.InstanceFilter{TenantID: "t"}, store.Page{Limit: 20})
			return err
		}
		for range 30 {
			must(t, create("")())
		}
		cost("a list of 20", 1, list)
		for range 30 {
			must(t, create(source)())
		}
		cost("a list with an instance of more rows than the page", 2, list)
		cost("a show", 1, func() error { _, err := s.Instance(ctx, source); return err })
		var ids []string
		for range 40 {
			ids = append(ids, ready(t, s, "t"))
		}
		for _, n := range []int{1, 2, len(ids)} {
			cost(fmt.Sprintf("heartbeats of %d", n), 8, func() error {
				beats := make([]store.InstanceBeat, n)
				for i, id := range ids[:n] {
					sent := float64(n)
					beats[i] = store.InstanceBeat{InstanceID: id, Beat: store.Beat{Status: &trove.ServiceCrashed, Sent: &sent, Done: []string{"m"}}}
				}
				var errs []error
				for _, r := range s.Heartbeats(ctx, beats) {
					errs = append(errs, r.Err)
				}
				return errors.Join(errs...)
			})
		}
		cost("the beginning of an operation", 6, func() error {
			return s.BeginTask(ctx, source, store.TaskChange{Task: trove.TaskRebooting,
				Outbox: []store.OutboxRow{{ID: "m", Topic: "t", Method: "m", Body: []byte("b")}}})
		})
	})
}

// One project's page out of 10,000 rows is a range of an index.
func TestPageIsAnIndexRange(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		ctx, s := within(t), open()
		id, n := "printf('%036d', n)", "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 10000) "
		for _, x := range [][2]string{{"instances", "(id, tenant_id, name, deleted, task_id, created, updated) %s, 'tenant-' || (n %% 50), 'n', n %% 10 = 0, 1, '2026-01-01', '2026-01-01'"},
			{"service_statuses", "(id, instance_id, status_id, status_description) %s, %s, 33, 'healthy'"},
			{"observed", "(instance_id, server_status, addresses, seen_at) %s, 'ACTIVE', '[]', 1"}} {
			columns, values, _ := strings.Cut(x[1], ") ")
			statement := "INSERT INTO " + x[0] + " " + columns + ") " + n + "SELECT " + values + " FROM s"
			plan, _ := store.PlanForTest(ctx, s, "x")
			switch {
			case strings.Contains(plan, "SCAN") || strings.Contains(plan, "SEARCH"): // SQLite
			case strings.Contains(plan, "cost="):
				id = "lpad(n::text, 36, '0')"
				statement = strings.ReplaceAll(statement, "'2026-01-01'", "TIMESTAMP '2026-01-01'")
			default:
				id = "lpad(n, 36, '0')"
				statement = strings.ReplaceAll(statement, n, "")
				statement = strings.ReplaceAll(statement, "'tenant-' || (n %% 50)", "CONCAT('tenant-', n %% 50)")
				statement = strings.ReplaceAll(statement, " FROM s", " FROM (SELECT seq AS n FROM seq_1_to_10000) s")
			}
			args := []any{id}
			if strings.Count(statement, "%s") == 2 {
				args = append(args, id)
			}
			must(t, store.BreakForTest(ctx, s, fmt.Sprintf(statement, args...)))
			analyze := "ANALYZE TABLE " + x[0]
			if !strings.HasPrefix(id, "lpad(n,") {
				analyze = "ANALYZE " + x[0]
			}
			must(t, store.BreakForTest(ctx, s, analyze))
		}
		plan, err := store.PlanForTest(ctx, s, "tenant-7")
		must(t, err)
		if !strings.Contains(plan, "instances_tenant_page") {
			t.Error(plan)
		}
		// Of tables that are not empty, nothing is read from end to end.
		for line := range strings.Lines(plan) {
			for _, table := range []string{"i", "r", "s", "o"} {
				if strings.Contains(line, " PRIMARY "+table+" ALL") || strings.Contains(line, " DERIVED "+table+" ALL") ||
					strings.Contains(line, "Seq Scan on") && strings.Contains(line, " "+table+" ") || strings.Contains(line, "SCAN "+table+" ") {
					t.Error(line)
				}
			}
		}
		page, next, err := s.ListInstances(ctx, store.InstanceFilter{TenantID: "tenant-7"}, store.Page{Limit: 20})
		must(t, err)
		if len(page) != 20 || next == "" || page[0].Server.Status != trove.ServerActive {
			t.Errorf("%d instances", len(page))
		}
		start := time.Now()
		const times = 50
		for range times {
			if _, _, err := s.ListInstances(ctx, store.InstanceFilter{TenantID: "tenant-7"}, store.Page{Limit: 20}); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("a page takes %s", time.Since(start)/times)
		t.Log(plan)
	})
}
