package storetest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func testInstance(t *testing.T, f *fixture) {
	ctx := deadline(t)
	source := f.ready(t)
	i := f.draft()
	i.Name, i.Hostname, i.RegionID, i.Type, i.ShardID = "naïve 🐬 '\"; name", "h.example", "RegionOne", "member", trove.NewID()
	i.ReplicaOf, i.EncryptedKey = source, "c2VjcmV0"
	i.Access = &trove.Access{IsPublic: true, AllowedCIDRs: []string{"10.0.0.0/8"}}
	before := time.Now().UTC().Truncate(time.Second)
	f.create(t, i)
	compute, volume := trove.NewID(), trove.NewID()
	ok(t, f.SetResources(ctx, i.ID, store.Resources{ComputeID: &compute, VolumeID: &compute}))
	ok(t, f.SetResources(ctx, i.ID, store.Resources{VolumeID: &volume}))
	ok(t, f.SetResources(ctx, i.ID, store.Resources{}))
	ok(t, f.SetFault(ctx, i.ID, trove.Fault{Message: "m", Details: "d"}))
	seen := trove.ServerObservation{Status: "BUILD", SeenAt: time.UnixMicro(1_700_000_000_123_456).UTC(),
		Addresses: []trove.Address{{Address: "10.0.0.1", Type: trove.AddressPrivate, Network: "n"}, {Address: "1.2.3.4", Type: trove.AddressPublic}}}
	ok(t, f.Observe(ctx, map[string]trove.ServerObservation{i.ID: seen}))

	v, err := f.Version(ctx, f.version)
	ok(t, err)
	want := *i
	want.ComputeID, want.VolumeID, want.Server, want.Service = compute, volume, seen, trove.ServiceNew
	want.Version, want.Fault = v, &trove.Fault{Message: "m", Details: "d"}
	got := f.get(t, i.ID)
	if d := cmp.Diff(&want, got, cmpopts.IgnoreTypes(time.Time{}, time.Duration(0))); d != "" {
		t.Error(d)
	}
	if !got.Server.SeenAt.Equal(seen.SeenAt) {
		t.Errorf("seen at %v, want %v", got.Server.SeenAt, seen.SeenAt)
	}
	for name, at := range map[string]time.Time{"created": got.Created, "updated": got.Updated, "service": got.ServiceUpdated, "fault": got.Fault.Created} {
		if at.Before(before) || at.After(time.Now()) || at.Nanosecond() != 0 || at.Location() != time.UTC {
			t.Errorf("%s is %v: want whole seconds UTC from %v to now", name, at, before)
		}
	}
	if d := cmp.Diff([]string{i.ID}, f.get(t, source).Replicas); d != "" {
		t.Error("replicas:", d)
	}

	ok(t, f.RenameInstance(ctx, i.ID, "other"))
	if n := f.get(t, i.ID).Name; n != "other" {
		t.Errorf("name is %q", n)
	}
	kind(t, f.RenameInstance(ctx, trove.NewID(), "other"), trove.KindNotFound)
	_, err = f.Instance(ctx, trove.NewID())
	kind(t, err, trove.KindNotFound)
	kind(t, f.CreateInstance(ctx, store.NewInstance{Instance: i, Limits: unlimited}), trove.KindConflict)
}

func testBareInstance(t *testing.T, f *fixture) {
	i := &trove.Instance{ID: trove.NewID(), Name: "n", TenantID: tenant, FlavorID: "1", Task: trove.TaskBuilding}
	f.create(t, i)
	want := *i
	want.Service = trove.ServiceNew
	if d := cmp.Diff(&want, f.get(t, i.ID), cmpopts.IgnoreTypes(time.Time{}, time.Duration(0))); d != "" {
		t.Error(d)
	}
}

func testTooLong(t *testing.T, f *fixture) {
	ctx := deadline(t)
	fits := f.draft()
	fits.Name = strings.Repeat("ä", 255) // characters count, not bytes
	f.create(t, fits)
	for field, change := range map[string]func(*trove.Instance){
		"name":   func(i *trove.Instance) { i.Name = strings.Repeat("a", 256) },
		"flavor": func(i *trove.Instance) { i.FlavorID = strings.Repeat("a", 256) },
		"type":   func(i *trove.Instance) { i.Type = strings.Repeat("a", 65) },
	} {
		i := f.draft()
		change(i)
		err := f.CreateInstance(ctx, store.NewInstance{Instance: i, Cost: cost, Limits: unlimited})
		kind(t, err, trove.KindBadRequest)
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
	kind(t, f.RenameInstance(ctx, fits.ID, strings.Repeat("a", 256)), trove.KindBadRequest)
	kind(t, f.RenameInstance(ctx, fits.ID, "nul \x00"), trove.KindBadRequest)
	kind(t, f.RenameInstance(ctx, fits.ID, "not utf-8 \xff"), trove.KindBadRequest)
	if n := f.used(t)[trove.ResourceInstances]; n != 1 {
		t.Errorf("%d instances in use, want 1", n)
	}
	// Texts of our own are cut, never refused.
	ok(t, f.SetFault(ctx, fits.ID, trove.Fault{Message: strings.Repeat("é", 300), Details: strings.Repeat("d", 100_000)}))
	if got := f.get(t, fits.ID).Fault; len([]rune(got.Message)) != 255 || len(got.Details) > 65535 {
		t.Errorf("fault of %d and %d characters", len([]rune(got.Message)), len(got.Details))
	}
}

func testPages(t *testing.T, f *fixture) {
	const n = 7
	want := map[string]bool{}
	for range n {
		want[f.create(t, f.draft())] = true
	}
	gone := f.create(t, f.draft())
	ok(t, f.FinishDelete(t.Context(), gone))
	for _, limit := range []int{1, 3, n, n + 1, 0} {
		got := map[string]bool{}
		var last, marker string
		for {
			page, next, err := f.ListInstances(deadline(t), store.InstanceFilter{TenantID: tenant}, store.Page{Limit: limit, Marker: marker})
			ok(t, err)
			if limit > 0 && len(page) > limit {
				t.Fatalf("page of %d, limit %d", len(page), limit)
			}
			biggest := ""
			for k, i := range page {
				if i.ID <= last || got[i.ID] {
					t.Fatalf("%s is on the page after %s", i.ID, last)
				}
				if k > 0 && i.Created.After(page[k-1].Created) {
					t.Error("not sorted newest first")
				}
				got[i.ID], biggest = true, max(biggest, i.ID)
			}
			last = biggest
			if next == "" {
				break
			}
			if next != biggest {
				t.Fatalf("marker %s, want the last id %s", next, biggest)
			}
			marker = next
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("limit %d: %s", limit, d)
		}
	}
}

// However many rows an instance is read in, a page holds it whole.
func testReplicasOnPages(t *testing.T, f *fixture) {
	want := map[string][]string{}
	for n := range 6 {
		source := f.ready(t)
		want[source] = nil
		for range []int{3, 0, 1, 0, 5, 2}[n] {
			i := f.draft()
			i.ReplicaOf, i.Access = source, &trove.Access{IsPublic: true, AllowedCIDRs: []string{"10.0.0.0/8"}}
			replica := f.create(t, i)
			want[source] = append(want[source], replica)
			want[replica] = nil
		}
		slices.Sort(want[source])
	}
	whole := map[string]*trove.Instance{}
	for id := range want {
		whole[id] = f.get(t, id)
	}
	for _, limit := range []int{1, 2, 3, 5, 0} {
		for _, filter := range []store.InstanceFilter{{TenantID: tenant}, {TenantID: tenant, Short: true}, {Short: true, IncludeClustered: true}} {
			got, marker := map[string][]string{}, ""
			for {
				page, next, err := f.ListInstances(deadline(t), filter, store.Page{Limit: limit, Marker: marker})
				ok(t, err)
				for _, i := range page {
					got[i.ID] = i.Replicas
					w := *whole[i.ID]
					if filter.Short {
						w.Updated, w.Server.SeenAt = time.Time{}, time.Time{}
						w.Version = trove.DatastoreVersion{ID: w.Version.ID, DatastoreName: w.Version.DatastoreName, Name: w.Version.Name}
					}
					if d := cmp.Diff(&w, i, cmpopts.IgnoreTypes(time.Duration(0))); d != "" {
						t.Error(d)
					}
				}
				if marker = next; next == "" {
					break
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("limit %d: %s", limit, d)
			}
		}
	}
}

func testFilters(t *testing.T, f *fixture) {
	mine := f.create(t, f.draft())
	other := f.draft()
	other.TenantID = "tenant-2"
	f.create(t, other)
	for filter, want := range map[store.InstanceFilter]int{
		{TenantID: tenant}: 1, {TenantID: "tenant-2"}: 1, {TenantID: "none"}: 0, {}: 2, {IncludeClustered: true}: 2,
	} {
		page, _, err := f.ListInstances(deadline(t), filter, store.Page{})
		ok(t, err)
		if len(page) != want {
			t.Errorf("%+v: %d instances, want %d", filter, len(page), want)
		}
	}
	ok(t, f.FinishDelete(t.Context(), other.ID))
	refs, err := f.LiveInstances(deadline(t))
	ok(t, err)
	if d := cmp.Diff([]store.InstanceRef{{ID: mine, TenantID: tenant, Task: trove.TaskBuilding}}, refs); d != "" {
		t.Error(d)
	}
}

func testListQueries(t *testing.T, f *fixture) {
	statements := func(want int) uint64 {
		before := f.Stats().Statements
		page, _, err := f.ListInstances(deadline(t), store.InstanceFilter{TenantID: tenant}, store.Page{})
		ok(t, err)
		if len(page) != want {
			t.Fatalf("%d instances, want %d", len(page), want)
		}
		return f.Stats().Statements - before
	}
	f.ready(t)
	one := statements(1)
	for range 40 {
		f.create(t, f.draft())
	}
	if many := statements(41); many != one || one > 4 {
		t.Errorf("%d queries for 41 instances, %d for one: want the same and no more than 4", many, one)
	}
}

func testDatastores(t *testing.T, f *fixture) {
	ctx := deadline(t)
	v, err := f.Version(ctx, f.version)
	ok(t, err)
	same, err := f.EnsureVersion(ctx, v, false)
	ok(t, err)
	if same != f.version {
		t.Errorf("the version was made again: %s, %s", same, f.version)
	}
	v.Manager, v.Active = "mysql", false
	_, err = f.EnsureVersion(ctx, v, false)
	ok(t, err)
	got, err := f.Version(ctx, f.version)
	ok(t, err)
	if d := cmp.Diff(v, got); d != "" {
		t.Error(d)
	}
	ok(t, f.SetVersionActive(ctx, f.version, true))
	if got, _ = f.Version(ctx, f.version); !got.Active {
		t.Error("the version is not active")
	}
	kind(t, f.SetVersionActive(ctx, trove.NewID(), true), trove.KindNotFound)

	id := trove.NewID()
	newest, err := f.EnsureVersion(ctx, trove.DatastoreVersion{ID: id, DatastoreName: "mariadb", Name: "11.4", Number: "11.4.3", Manager: "mariadb", Active: true}, true)
	ok(t, err)
	if newest != id {
		t.Errorf("id %s, want the one given", newest)
	}
	_, err = f.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "postgresql", Name: "15", Number: "15", Manager: "postgresql", Active: true}, true)
	ok(t, err)
	all, err := f.Datastores(ctx)
	ok(t, err)
	if len(all) != 2 || all[0].Name != "mariadb" || len(all[0].Versions) != 2 || all[0].DefaultVersionID != newest || len(all[1].Versions) != 1 {
		t.Fatalf("datastores are %+v", all)
	}
	byName, err := f.Datastore(ctx, "mariadb")
	ok(t, err)
	byID, err := f.Datastore(ctx, byName.ID)
	ok(t, err)
	if d := cmp.Diff(byName, byID); d != "" {
		t.Error(d)
	}
	_, err = f.Datastore(ctx, "nothing")
	kind(t, err, trove.KindNotFound)
	_, err = f.Version(ctx, "nothing")
	kind(t, err, trove.KindNotFound)
	kind(t, f.DeleteDatastore(ctx, byName.ID), trove.KindBadRequest)
	kind(t, f.DeleteDatastore(ctx, trove.NewID()), trove.KindNotFound)
	values, err := f.VersionMetadata(ctx, f.version)
	ok(t, err)
	if len(values) != 0 {
		t.Errorf("metadata is %v", values)
	}
	_, err = f.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: strings.Repeat("x", 256), Name: "1"}, false)
	kind(t, err, trove.KindBadRequest)
}

func testRoot(t *testing.T, f *fixture) {
	ctx := deadline(t)
	id := f.ready(t)
	enabled := func() bool {
		h, err := f.RootHistory(ctx, id)
		ok(t, err)
		return h.IsEnabled()
	}
	if enabled() {
		t.Error("root is enabled before it was")
	}
	kind(t, f.SetRoot(ctx, id, "root", false), trove.KindNotFound)
	// All in one second, mostly.
	for range 3 {
		ok(t, f.SetRoot(ctx, id, "root", true))
		if !enabled() {
			t.Error("root is not enabled")
		}
		ok(t, f.SetRoot(ctx, id, "root", false))
		if enabled() {
			t.Error("root is still enabled")
		}
	}
	if h, _ := f.RootHistory(ctx, id); h.User != "root" {
		t.Errorf("history is %+v", h)
	}
	kind(t, f.SetRoot(ctx, trove.NewID(), "root", true), trove.KindNotFound)
}

func testObserve(t *testing.T, f *fixture) {
	ctx := deadline(t)
	id, gone := f.create(t, f.draft()), f.create(t, f.draft())
	ok(t, f.FinishDelete(ctx, gone))
	for _, status := range []string{"BUILD", "ACTIVE"} {
		ok(t, f.Observe(ctx, map[string]trove.ServerObservation{id: {Status: status}, gone: {Status: status}, trove.NewID(): {Status: status}}))
		got := f.get(t, id).Server
		if got.Status != status || len(got.Addresses) != 0 || time.Since(got.SeenAt) > time.Minute {
			t.Errorf("observed %+v", got)
		}
	}
	ok(t, f.Observe(ctx, nil))
}
