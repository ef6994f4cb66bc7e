package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/trove"
)

// used is what a project uses of a resource.
func (h *harness) used(project string, r trove.Resource) int {
	h.t.Helper()
	qs, err := h.store.Quotas(h.t.Context(), project, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, q := range qs {
		if q.Resource == r {
			return q.InUse
		}
	}
	return 0
}

func TestResize(t *testing.T) {
	h := newHarness(t)
	if err := h.store.SetQuotas(t.Context(), demo, map[trove.Resource]int{trove.ResourceRAM: 5000, trove.ResourceVolumes: 8}); err != nil {
		t.Fatal(err)
	}
	act := func(n int) string { return "instances/" + id(n) + "/action" }
	for n := range 6 {
		h.instance(demo, id(n+1), mysqlVersion)
	}
	h.want(202, demo, "POST", act(1), `{"resize":{"flavorRef":"http://trove.example:8779/v1.0/demo/flavors/3"}}`)
	h.want(202, demo, "POST", act(2), `{"resize":{"flavorRef":1}}`)
	h.want(202, demo, "POST", act(3), `{"resize":{"volume":{"size":"5"}}}`)
	for _, n := range []int{1, 2, 3} {
		if a := h.want(200, demo, "GET", "instances/"+id(n), ""); !strings.Contains(a.text, `"status":"RESIZE","operating_status":""`) {
			t.Errorf("while it is resized: %s", a.text)
		}
	}
	flavor := func(id, name string, ram, vcpus, disk float64) map[string]any {
		return map[string]any{"id": id, "name": name, "ram": ram, "vcpus": vcpus, "disk": disk}
	}
	small := flavor("2", "m1.small", 2048, 1, 20)
	casts := h.casts()
	for i := range casts {
		casts[i].Context = nil
	}
	if d := cmp.Diff([]cast{
		{Method: "resize_flavor", Topic: "taskmanager", Args: map[string]any{"instance_id": id(1), "old_flavor": small, "new_flavor": flavor("3", "m1.medium", 4096, 2, 40)}},
		{Method: "resize_flavor", Topic: "taskmanager", Args: map[string]any{"instance_id": id(2), "old_flavor": small, "new_flavor": flavor("1", "m1.tiny", 512, 1, 1)}},
		{Method: "resize_volume", Topic: "taskmanager", Args: map[string]any{"instance_id": id(3), "new_size": 5.0}},
	}, casts); d != "" {
		t.Error(d)
	}
	if ram, gib := h.used(demo, trove.ResourceRAM), h.used(demo, trove.ResourceVolumes); ram != 2048 || gib != 4 {
		t.Errorf("charged: %d MiB, %d GiB", ram, gib)
	}
	h.cluster("c1")
	member := h.instance(demo, id(7), mysqlVersion, func(i *trove.Instance) { i.ClusterID = "c1" })
	h.instance(demo, id(8), mysqlVersion, func(i *trove.Instance) { i.VolumeSize = 0 })
	h.instance(demo, id(9), mysqlVersion, func(i *trove.Instance) { i.ReplicaOf = id(6) })
	h.instance(demo, id(10), mysqlVersion, func(i *trove.Instance) { i.FlavorID = "gone" })
	h.refuses(t, demo, []refusal{
		{"twice", "POST", act(1), `{"resize":{"flavorRef":"4"}}`, 422, "unprocessableEntity", "is not ready"},
		{"restart meanwhile", "POST", act(1), `{"restart":{}}`, 422, "unprocessableEntity", "is not ready"},
		{"volume meanwhile", "POST", act(1), `{"resize":{"volume":{"size":2}}}`, 422, "unprocessableEntity", "is not ready"},
		{"same flavor", "POST", act(4), `{"resize":{"flavorRef":"2"}}`, 400, "badRequest", "No change was requested in the size"},
		{"unknown flavor", "POST", act(4), `{"resize":{"flavorRef":"99"}}`, 400, "badRequest", "Flavor 99 cannot be found"},
		{"too much memory", "POST", act(4), `{"resize":{"flavorRef":"5"}}`, 413, "overLimit", "ram (requested 14336, used 2048, limit 5000)"},
		{"volume of the same size", "POST", act(4), `{"resize":{"volume":{"size":1}}}`, 400, "badRequest", "must be larger"},
		{"volume too large", "POST", act(4), `{"resize":{"volume":{"size":11}}}`, 413, "overLimit", "cannot exceed maximum of 10 GB"},
		{"volume beyond numbers", "POST", act(4), `{"resize":{"volume":{"size":"99999999999999999999"}}}`, 413, "overLimit", "cannot exceed maximum"},
		{"volume over quota", "POST", act(4), `{"resize":{"volume":{"size":6}}}`, 413, "overLimit", "volumes (requested 5, used 4, limit 8)"},
		{"no volume", "POST", act(8), `{"resize":{"volume":{"size":2}}}`, 400, "badRequest", "has no volume"},
		{"of a member", "POST", "instances/" + member + "/action", `{"resize":{"volume":{"size":2}}}`, 501, "notImplemented", "part of a cluster"},
		{"flavor of a member", "POST", "instances/" + member + "/action", `{"resize":{"flavorRef":"3"}}`, 501, "notImplemented", "part of a cluster"},
		{"with replicas", "POST", act(6), `{"resize":{"volume":{"size":2}}}`, 501, "notImplemented", "and its replicas"},
		{"unknown size", "POST", act(4), `{"resize":{"volume":{"sizes":2}}}`, 400, "badRequest", "'size' is a required property"},
	})
	// What was refused was not charged, and of both the volume is meant.
	h.want(202, demo, "POST", act(4), `{"resize":{"volume":{"size":2},"flavorRef":"3"}}`)
	h.want(202, demo, "POST", act(10), `{"resize":{"flavorRef":"1"}}`)
	if ram, gib := h.used(demo, trove.ResourceRAM), h.used(demo, trove.ResourceVolumes); ram != 2048 || gib != 5 {
		t.Errorf("charged: %d MiB, %d GiB", ram, gib)
	}
}

func TestUpdateAccess(t *testing.T) {
	h := newHarness(t)
	for n := range 3 {
		h.instance(demo, id(n+1), mysqlVersion)
	}
	h.want(202, demo, "PUT", "instances/"+id(1), `{"instance":{"name":"new","access":{"is_public":true,"allowed_cidrs":["192.0.2.0/24"]}}}`)
	h.want(202, demo, "PUT", "instances/"+id(2), `{"instance":{"access":{}}}`)
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"name":"new","status":"ACTIVE","operating_status":""`) {
		t.Errorf("while it is changed: %s", a.text)
	}
	casts := h.casts()
	for i := range casts {
		casts[i].Context = nil
	}
	if d := cmp.Diff([]cast{
		{Method: "update_access", Topic: "taskmanager", Args: map[string]any{"instance_id": id(1), "access": map[string]any{"is_public": true, "allowed_cidrs": []any{"192.0.2.0/24"}}}},
		{Method: "update_access", Topic: "taskmanager", Args: map[string]any{"instance_id": id(2), "access": map[string]any{"is_public": false, "allowed_cidrs": []any{}}}},
	}, casts); d != "" {
		t.Error(d)
	}
	h.refuses(t, demo, []refusal{
		{"twice", "PUT", "instances/" + id(1), `{"instance":{"name":"unseen","access":{}}}`, 422, "unprocessableEntity", "is not ready"},
		{"by PATCH", "PATCH", "instances/" + id(3), `{"instance":{"access":{}}}`, 400, "badRequest", "access"},
		{"IPv6", "PUT", "instances/" + id(3), `{"instance":{"access":{"allowed_cidrs":["2001:db8::/32"]}}}`, 400, "badRequest", "2001:db8"},
		{"and more", "PUT", "instances/" + id(3), `{"instance":{"access":{},"configuration":null}}`, 400, "badRequest", "at a time"},
	})
	if a := h.want(200, demo, "GET", "instances/"+id(1), ""); !strings.Contains(a.text, `"name":"new"`) {
		t.Errorf("renamed by what was refused: %s", a.text)
	}
}
