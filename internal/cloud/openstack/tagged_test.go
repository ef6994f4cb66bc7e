package openstack_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
)

// What the doctor throws away, and what is left of instances, is named as we name
// things: not what a user happens to call alike.
func TestOnlyOurNamesAreOurs(t *testing.T) {
	t.Parallel()
	f := openstacktest.New(t)
	c := open(t, options(f))
	const mine, hers = "d0c70000-0000-4000-8000-000000000001", "d0c70000-0000-4000-8000-000000000002"
	port := func(name string) {
		f.Put("ports", map[string]any{"name": name, "network_id": openstacktest.Management, "device_id": "", "fixed_ips": []any{}})
	}
	group := func(name string) {
		f.Put("security-groups", map[string]any{"name": name, "security_group_rules": []any{}})
	}
	volume := func(name string) {
		f.Put("volumes", map[string]any{"name": name, "size": 1, "status": "available", "attachments": []any{}})
	}
	port("trove-" + mine)
	group("trove_sg-" + mine)
	for _, name := range []string{hers, "my-trove-" + hers, "trove-" + hers + "-copy", "trove-d0c7"} {
		port(name)
		group(name)
		volume(name)
	}
	v, err := c.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, err := v.Throwaways(t.Context(), "d0c7")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d0c7", mine, hers + "-copy"} // whose instances' ids begin so
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
		t.Errorf("throw-aways: %q, want %q", got, want)
	}
	tagged, err := c.Tagged(t.Context())
	if err != nil || !slices.Equal(tagged, []string{mine}) {
		t.Errorf("tagged: %q, %v; want %q", tagged, err, mine)
	}
}
