// Package storetest is what every engine under package store must do: one suite
// that Run runs on a store that a test opens. It knows no engine and no SQL.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Open makes a new, empty, migrated store that is closed when t ends.
type Open func(t *testing.T) *store.Store

// Run runs the suite, each test on a store of its own.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"instance as written", testInstance},
		{"absent optional values", testBareInstance},
		{"fields too long", testTooLong},
		{"list pages", testPages},
		{"list pages of replicas", testReplicasOnPages},
		{"list filters", testFilters},
		{"list queries are fixed", testListQueries},
		{"quota is exact under concurrency", testQuotaConcurrent},
		{"quota names what does not suffice", testQuotaMessage},
		{"quota limits of a project", testQuotaLimits},
		{"create is all or nothing", testCreateAtomic},
		{"one of two tasks begins", testBeginTask},
		{"what stands in the way of a task", testNotActionable},
		{"what an operation needs is charged", testChange},
		{"an instance being deleted stays so", testDeletingStays},
		{"delete begins", testBeginDelete},
		{"delete and replicas", testDeleteReplicas},
		{"delete finishes once", testFinishDelete},
		{"reset status", testResetStatus},
		{"faults", testFaults},
		{"heartbeats", testHeartbeat},
		{"heartbeats in disorder", testHeartbeatConcurrent},
		{"restart required stays", testRestartRequired},
		{"heartbeats acknowledge", testAcknowledge},
		{"heartbeats in groups", testHeartbeats},
		{"groups of heartbeats at once", testHeartbeatsConcurrent},
		{"heartbeats wake work", testHeartbeatsWake},
		{"observed servers", testObserve},
		{"datastores", testDatastores},
		{"datastores as an operator sets them", testUpdateDatastore},
		{"one version is made once", testUpdateVersionConcurrent},
		{"bindings of versions", testBindings},
		{"configuration parameters", testParameters},
		{"root history", testRoot},
		{"outbox order", testOutboxOrder},
		{"outbox claims", testOutboxClaims},
		{"outbox of a dead process", testOutboxTakenOver},
		{"outbox repeated", testOutboxRepeated},
		{"backlog", testBacklog},
		{"leases by name", testLeases},
		{"outbox expiry", testOutboxExpiry},
		{"outbox rejected", testReject},
		{"deleted instances", testDeleted},
		{"outbox hints", testOutboxHints},
		{"credentials of guests", testCredentials},
		{"cancelled context", testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, newFixture(t, open(t)))
		})
	}
}

// fixture is a store with one datastore version in it.
type fixture struct {
	*store.Store
	version string
}

func newFixture(t *testing.T, s *store.Store) *fixture {
	t.Helper()
	v, err := s.EnsureVersion(t.Context(), trove.DatastoreVersion{DatastoreName: "mariadb", Name: "11.4", Number: "11.4.2",
		Manager: "mariadb", ImageTags: []string{"trove", "mariadb"}, Packages: []string{"p1", "p2"}, Active: true}, true)
	ok(t, err)
	return &fixture{s, v}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kind makes sure that err is of kind k and that it tells something without
// the words of a driver.
func kind(t *testing.T, err error, k trove.Kind) {
	t.Helper()
	if !trove.IsKind(err, k) {
		t.Fatalf("got error %v of kind %v, want kind %v", err, trove.KindOf(err), k)
	}
	if err.Error() == "" {
		t.Fatal("the error has no text")
	}
}

const tenant = "tenant-1"

var unlimited = trove.QuotaDelta{}

func (f *fixture) draft() *trove.Instance {
	return &trove.Instance{ID: trove.NewID(), Name: "db", TenantID: tenant, FlavorID: "db.tiny", Task: trove.TaskBuilding,
		VolumeSize: 2, Version: trove.DatastoreVersion{ID: f.version}}
}

var cost = trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2}

func (f *fixture) create(t *testing.T, i *trove.Instance, outbox ...store.OutboxRow) string {
	t.Helper()
	ok(t, f.CreateInstance(t.Context(), store.NewInstance{Instance: i, Cost: cost, Limits: unlimited, Outbox: outbox}))
	return i.ID
}

// ready makes an instance that can take an operation.
func (f *fixture) ready(t *testing.T) string {
	t.Helper()
	id := f.create(t, f.draft())
	ok(t, f.SetTask(t.Context(), id, trove.TaskNone))
	ok(t, f.SetServiceStatus(t.Context(), id, trove.ServiceHealthy))
	ok(t, f.Observe(t.Context(), map[string]trove.ServerObservation{id: {Status: trove.ServerActive}}))
	return id
}

func (f *fixture) get(t *testing.T, id string) *trove.Instance {
	t.Helper()
	i, err := f.Instance(t.Context(), id)
	ok(t, err)
	return i
}

// used is how much of its quota the project uses.
func (f *fixture) used(t *testing.T) trove.QuotaDelta {
	t.Helper()
	qs, err := f.Quotas(t.Context(), tenant, unlimited)
	ok(t, err)
	used := trove.QuotaDelta{}
	for _, q := range qs {
		if q.Reserved != 0 {
			t.Errorf("%s: %d reserved", q.Resource, q.Reserved)
		}
		used[q.Resource] = q.InUse
	}
	return used
}

func row(method string) store.OutboxRow {
	return store.OutboxRow{ID: trove.NewID(), Topic: "taskmanager", Method: method, Body: []byte(`{"a":1}`)}
}

func (f *fixture) outbox(t *testing.T) []store.OutboxRow {
	t.Helper()
	rows, err := f.Outbox(t.Context(), 0, 1000)
	ok(t, err)
	return rows
}

// together runs f n times at once and returns the errors.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start, done := make(chan struct{}), make(chan struct{}, n)
	for i := range n {
		go func() {
			<-start
			errs[i] = f(i)
			done <- struct{}{}
		}()
	}
	close(start)
	for range n {
		<-done
	}
	return errs
}

// count sorts errors by whether they are nil or of kind k; any other fails.
func count(t *testing.T, errs []error, k trove.Kind) (good, refused int) {
	t.Helper()
	for _, err := range errs {
		switch {
		case err == nil:
			good++
		case trove.IsKind(err, k):
			refused++
		default:
			t.Fatalf("got error %v of kind %v, want kind %v", err, trove.KindOf(err), k)
		}
	}
	return good, refused
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
