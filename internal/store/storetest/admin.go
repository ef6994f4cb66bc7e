package storetest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func testUpdateDatastore(t *testing.T, f *fixture) {
	ctx := deadline(t)
	version := trove.DatastoreVersion{DatastoreName: "mysql", Name: "8.0", Manager: "mysql", ImageTags: []string{"trove"}, Active: true,
		RegistryExt: "mysql:x.Y", ReplStrategy: "s"}
	_, err := f.UpdateVersion(ctx, version)
	kind(t, err, trove.KindNotFound)
	ok(t, f.UpdateDatastore(ctx, "mysql", ""))
	kind(t, f.UpdateDatastore(ctx, "mysql", "8.0"), trove.KindNotFound)
	kind(t, f.UpdateDatastore(ctx, "", ""), trove.KindBadRequest)
	id, err := f.UpdateVersion(ctx, version)
	ok(t, err)
	v, err := f.FindVersion(ctx, "mysql", "8.0", "")
	ok(t, err)
	d, err := f.Datastore(ctx, "mysql")
	ok(t, err)
	want := version
	want.ID, want.DatastoreID, want.Number = id, d.ID, "8.0"
	if d := cmp.Diff(want, v); d != "" {
		t.Error(d)
	}
	// The same again is a change; another number is another version.
	version.Active = false
	again, err := f.UpdateVersion(ctx, version)
	ok(t, err)
	if again != id {
		t.Errorf("id %s, want %s", again, id)
	}
	err = f.UpdateDatastore(ctx, "mysql", "8.0")
	kind(t, err, trove.KindBadRequest)
	version.Number, version.Active = "8.0.36", true
	other, err := f.UpdateVersion(ctx, version)
	ok(t, err)
	_, err = f.FindVersion(ctx, "mysql", "8.0", "")
	kind(t, err, trove.KindBadRequest)
	if !strings.Contains(err.Error(), "8.0.36") {
		t.Errorf("%q does not tell the numbers", err)
	}
	ok(t, f.UpdateDatastore(ctx, "mysql", other))
	if d, err = f.Datastore(ctx, "mysql"); err != nil || d.DefaultVersionID != other {
		t.Errorf("default version %s, %v", d.DefaultVersionID, err)
	}
	ok(t, f.UpdateDatastore(ctx, "mysql", ""))
	if d, err = f.Datastore(ctx, "mysql"); err != nil || d.DefaultVersionID != "" {
		t.Errorf("default version %s, %v", d.DefaultVersionID, err)
	}
	for _, bad := range []trove.DatastoreVersion{
		{DatastoreName: "mysql", Name: "9", ImageID: "i"}, {DatastoreName: "mysql", Name: "9", Manager: "mysql"},
		{DatastoreName: "mysql", Manager: "mysql", ImageID: "i"}, {DatastoreName: "mysql", Name: "9", Manager: "mysql", ImageID: strings.Repeat("i", 37)},
	} {
		_, err := f.UpdateVersion(ctx, bad)
		kind(t, err, trove.KindBadRequest)
	}
}

// Of many that make one version at once, all get the same.
func testUpdateVersionConcurrent(t *testing.T, f *fixture) {
	ctx := deadline(t)
	ids := make([]string, 10)
	errs := together(len(ids), func(i int) (err error) {
		ids[i], err = f.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "new", Name: "1", Number: "1", Manager: "m", Active: true}, true)
		return err
	})
	for i, err := range errs {
		ok(t, err)
		if ids[i] != ids[0] {
			t.Errorf("version %s and %s", ids[0], ids[i])
		}
	}
}

func testBindings(t *testing.T, f *fixture) {
	ctx := deadline(t)
	bound := func(key string) string {
		t.Helper()
		values, err := f.VersionMetadata(ctx, f.version)
		ok(t, err)
		return strings.Join(values[key], " ")
	}
	ok(t, f.BindVersion(ctx, f.version, store.BindFlavor, "2"))
	ok(t, f.BindVersion(ctx, f.version, store.BindFlavor, "1"))
	ok(t, f.BindVersion(ctx, f.version, store.BindVolumeType, "1"))
	kind(t, f.BindVersion(ctx, f.version, store.BindFlavor, "1"), trove.KindConflict)
	if got := bound(store.BindFlavor); got != "1 2" {
		t.Errorf("flavors %q", got)
	}
	ok(t, f.UnbindVersion(ctx, f.version, store.BindFlavor, "1"))
	kind(t, f.UnbindVersion(ctx, f.version, store.BindFlavor, "1"), trove.KindNotFound)
	if got := bound(store.BindFlavor) + " " + bound(store.BindVolumeType); got != "2 1" {
		t.Errorf("bindings %q", got)
	}
	ok(t, f.BindVersion(ctx, f.version, store.BindFlavor, "1")) // back again
	if got := bound(store.BindFlavor); got != "1 2" {
		t.Errorf("flavors %q", got)
	}
	kind(t, f.BindVersion(ctx, trove.NewID(), store.BindFlavor, "1"), trove.KindNotFound)
	kind(t, f.BindVersion(ctx, f.version, "cow", "1"), trove.KindBadRequest)
	kind(t, f.BindVersion(ctx, f.version, store.BindFlavor, ""), trove.KindBadRequest)
}

func testParameters(t *testing.T, f *fixture) {
	ctx := deadline(t)
	parameters, err := store.ParseConfigurationParameters([]byte(`{"configuration-parameters": [
		{"name": "max_connections", "restart_required": false, "max": 100000, "min": 1, "type": "integer"},
		{"name": "innodb_file_per_table", "restart_required": true, "max": 1, "min": 0, "type": "integer"},
		{"name": "character_set_client", "restart_required": false, "type": "string"},
		{"name": "long_query_time", "restart_required": false, "max": 18446744073709551615, "min": 0.5, "type": "float"}]}`))
	ok(t, err)
	ok(t, f.LoadConfigurationParameters(ctx, f.version, parameters))
	ok(t, f.LoadConfigurationParameters(ctx, f.version, []store.ConfigurationParameter{{Name: "max_connections", Max: "5", Min: "2", Type: "integer"}}))
	got, err := f.ConfigurationParameters(ctx, f.version)
	ok(t, err)
	if d := cmp.Diff([]store.ConfigurationParameter{
		{Name: "character_set_client", Type: "string"},
		{Name: "innodb_file_per_table", RestartRequired: true, Max: "1", Min: "0", Type: "integer"},
		{Name: "long_query_time", Max: "18446744073709551615", Min: "0.5", Type: "float"},
		{Name: "max_connections", Max: "5", Min: "2", Type: "integer"},
	}, got); d != "" {
		t.Error(d)
	}
	kind(t, f.LoadConfigurationParameters(ctx, trove.NewID(), parameters), trove.KindNotFound)
	for _, bad := range []string{"", "[]", "{}", `{"configuration-parameters": [{"name": "a"}]}`, `{"configuration-parameters": [{"name": "a", "type": "t"}, {"name": "a", "type": "t"}]}`} {
		_, err := store.ParseConfigurationParameters([]byte(bad))
		kind(t, err, trove.KindBadRequest)
	}
}
