package store_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// fill puts something into a database of everything a standalone writes.
func fill(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := within(t)
	version, err := s.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "mariadb", Name: "11.4", Number: "11.4.2",
		Manager: "mariadb", ImageTags: []string{"trove"}, Active: true}, true)
	must(t, err)
	must(t, s.BindVersion(ctx, version, store.BindFlavor, "1"))
	must(t, s.LoadConfigurationParameters(ctx, version, []store.ConfigurationParameter{{Name: "max_connections", Type: "integer", Max: "100000", Min: "1"}}))
	must(t, s.SetQuotas(ctx, "t", map[trove.Resource]int{trove.ResourceInstances: 500}))
	source := ""
	for i := range 130 {
		n := newInstance("t")
		n.Limits = nil
		n.Instance.Name = "naïve 🐬 " + strconv.Itoa(i)
		n.Instance.Version.ID, n.Instance.ReplicaOf = version, source
		n.Outbox[0].Body = []byte{0, 0xff, byte(i)}
		must(t, s.CreateInstance(ctx, n))
		if source == "" {
			source = n.Instance.ID // its replicas may come before it
		}
	}
	id := ready(t, s, "t")
	must(t, s.SetFault(ctx, id, trove.Fault{Message: "m", Details: "d"}))
	must(t, s.SetRoot(ctx, id, "root", true))
	now := float64(time.Now().UnixMicro()) / 1e6
	_, err = s.Heartbeat(ctx, id, store.Beat{Status: &trove.ServiceHealthy, Sent: &now})
	must(t, err)
	_, err = s.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: "k", Subject: id, RequestID: "r", Step: "one", State: []byte(`{"a": "🐬"}`)})
	must(t, err)
	gone := ready(t, s, "t")
	must(t, s.FinishDelete(ctx, gone))
}

// A standalone's database moves to a server, and from there to another and back
// into a file: what is read is the same.
func TestCopy(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	start := openAt(t, filepath.Join(t.TempDir(), "trove.db"))
	fill(t, start)
	type content struct {
		Instances  []*trove.Instance
		Outbox     []store.OutboxRow
		Datastores []trove.Datastore
		Quotas     []trove.Quota
		Work       []trove.Operation
	}
	read := func(s *store.Store) (c content) {
		var err error
		c.Instances, _, err = s.ListInstances(ctx, store.InstanceFilter{}, store.Page{})
		must(t, err)
		slices.SortFunc(c.Instances, func(a, b *trove.Instance) int { return cmpText(a.ID, b.ID) })
		c.Outbox, err = s.Outbox(ctx, 0, 1000)
		must(t, err)
		c.Datastores, err = s.Datastores(ctx)
		must(t, err)
		c.Quotas, err = s.Quotas(ctx, "t", nil)
		must(t, err)
		for _, i := range c.Instances {
			ops, err := s.Operations(ctx, i.ID, 10)
			must(t, err)
			c.Work = append(c.Work, ops...)
		}
		return c
	}
	want := read(start)
	if len(want.Instances) != 131 || len(want.Work) != 1 {
		t.Fatalf("%d instances, %d operations", len(want.Instances), len(want.Work))
	}
	from := start
	for _, name := range []string{"mariadb", "postgresql", "mariadb again", "sqlite"} {
		var to *store.Store
		switch name {
		case "sqlite":
			to = openAt(t, filepath.Join(t.TempDir(), "back.db"))
		case "postgresql":
			to = openOn(t, dbtest.PostgreSQL)
		default:
			to = openOn(t, dbtest.MariaDB)
		}
		total := 0
		must(t, store.Copy(ctx, from, to, func(_ string, rows int) { total += rows }))
		if total < 131*4 {
			t.Errorf("%s: %d rows were copied", name, total)
		}
		// What depends on when it is read is not of the rows.
		reading := cmp.Options{cmpopts.IgnoreFields(trove.Instance{}, "ServiceAge"), cmpopts.IgnoreFields(trove.Operation{}, "Read")}
		if d := cmp.Diff(want, read(to), reading); d != "" {
			t.Fatalf("%s: %s", name, d)
		}
		if err := store.Copy(ctx, from, to, nil); !trove.IsKind(err, trove.KindConflict) || trove.ActionOf(err) == "" {
			t.Errorf("%s: into a database that is not empty: %v", name, err)
		}
		// Numbers go on after the highest; on what was copied nothing is begun anew.
		must(t, to.InsertOutbox(ctx, store.OutboxRow{ID: "later", Topic: "t", Method: "m", Body: []byte("b")}))
		rows, err := to.Outbox(ctx, want.Outbox[len(want.Outbox)-1].Seq, 10)
		must(t, err)
		if len(rows) != 1 || rows[0].ID != "later" {
			t.Errorf("%s: after the copy: %+v", name, rows)
		}
		must(t, to.DeleteOutbox(ctx, "later"))
		ready(t, to, "other")
		must(t, to.FinishDelete(ctx, func() string {
			page, _, err := to.ListInstances(ctx, store.InstanceFilter{TenantID: "other"}, store.Page{})
			must(t, err)
			rows, err := to.Outbox(ctx, 0, 1000)
			must(t, err)
			for _, r := range rows {
				if r.Subject == page[0].ID {
					must(t, to.DeleteOutbox(ctx, r.ID))
				}
			}
			return page[0].ID
		}()))
		from = to
	}
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// A copy that fails leaves the target empty.
func TestCopyAllOrNothing(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	from, to := openAt(t, filepath.Join(t.TempDir(), "trove.db")), openOn(t, dbtest.MariaDB)
	fill(t, from)
	must(t, store.BreakForTest(ctx, to, "ALTER TABLE outbox ADD CONSTRAINT nothing CHECK (attempts > 5)"))
	if err := store.Copy(ctx, from, to, nil); err == nil {
		t.Fatal("copied")
	}
	page, _, err := to.ListInstances(ctx, store.InstanceFilter{}, store.Page{})
	if err != nil || len(page) != 0 {
		t.Errorf("%d instances, %v", len(page), err)
	}
}

// Wipe leaves what is not ours, and a database that can be migrated again.
func TestWipe(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		ctx, s := within(t), open()
		fill(t, s)
		must(t, store.BreakForTest(ctx, s, "CREATE TABLE of_somebody_else (x INTEGER)"))
		for range 2 {
			must(t, s.Wipe(ctx))
		}
		left, err := store.TablesForTest(ctx, s)
		must(t, err)
		if d := cmp.Diff([]string{"of_somebody_else"}, left); d != "" {
			t.Error(d)
		}
		must(t, s.Migrate(ctx))
		ready(t, s, "t")
	})
}

// Every table of a new database is in the list that Copy and Wipe go by.
func TestTablesAreKnown(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		have, err := store.TablesForTest(within(t), open())
		must(t, err)
		want := store.KnownTables()
		slices.Sort(want)
		if d := cmp.Diff(want, have); d != "" {
			t.Error(d)
		}
	})
}
