package openstacktest

import (
	"net/http"
	"net/netip"
	"slices"
)

// roles are those of a token.
func (c *Cloud) roles() (out []obj) {
	all := c.Roles
	if all == nil {
		all = []string{"admin"}
	}
	for _, r := range all {
		out = append(out, obj{"id": r, "name": r})
	}
	return out
}

// VolumeTypes is the kind of volume types, KeyPairs that of key pairs, for Put
// and Remove.
const (
	VolumeTypes = "types"
	KeyPairs    = "keypairs"
)

// look answers what those ask who look a region over; false if a request is
// another.
func (c *Cloud) look(r *http.Request, path []string, body obj) (answer, bool) {
	if r.Method == http.MethodPost && c.Roles != nil && !slices.Contains(c.Roles, "admin") && !slices.Contains(c.Roles, "member") {
		return no(http.StatusForbidden, "forbidden", "Policy doesn't allow it to be performed."), true
	}
	if r.Method != http.MethodGet || len(path) < 3 {
		return answer{}, false
	}
	last := path[len(path)-1]
	switch {
	case path[0] == "compute" && path[2] == "limits":
		cores, ram := 0, 0
		for _, s := range c.there("servers") {
			cores, ram = cores+num(sub(s, "flavor"), "vcpus"), ram+num(sub(s, "flavor"), "ram")
		}
		return ok(obj{"limits": obj{"rate": []obj{}, "absolute": obj{"maxTotalInstances": c.most("instances"), "totalInstancesUsed": c.live("servers"),
			"maxTotalCores": c.most("cores"), "totalCoresUsed": cores, "maxTotalRAMSize": c.most("ram"), "totalRAMUsed": ram}}}), true
	case path[0] == "compute" && path[2] == "os-keypairs" && len(path) == 4:
		if k := c.get(KeyPairs, last); k != nil {
			return ok(obj{"keypair": obj{"name": last, "public_key": "ssh-ed25519 x", "fingerprint": "x"}}), true
		}
		return no(http.StatusNotFound, "itemNotFound", "Keypair %s not found for user u", last), true
	case path[0] == "network" && path[2] == "quotas":
		of := func(name, kind string) obj { return obj{"limit": c.most(name), "used": c.live(kind), "reserved": 0} }
		return ok(obj{"quota": obj{"port": of("port", "ports"), "security_group": of("security_group", "security-groups"),
			"security_group_rule": of("security_group_rule", "security-group-rules"), "floatingip": of("floatingip", "floatingips")}}), true
	case path[0] == "network" && path[2] == "network-ip-availabilities" && len(path) == 4:
		return c.availability(last), true
	case path[0] == "image" && path[2] == "images" && len(path) == 4:
		if i := c.get("images", last); i != nil {
			return ok(i), true
		}
		return no(http.StatusNotFound, "error", "No image found with ID %s", last), true
	case path[0] == "volume" && len(path) == 4 && last == "limits":
		size := 0
		for _, v := range c.there("volumes") {
			size += num(v, "size")
		}
		return ok(obj{"limits": obj{"rate": []obj{}, "absolute": obj{"maxTotalVolumes": c.most("volumes"), "totalVolumesUsed": c.live("volumes"),
			"maxTotalVolumeGigabytes": c.most("gigabytes"), "totalGigabytesUsed": size}}}), true
	case path[0] == "volume" && len(path) == 4 && last == VolumeTypes:
		return ok(obj{"volume_types": append([]obj{{"id": "e0000000-0000-4000-8000-000000000001", "name": "fast", "is_public": true}}, c.seen(VolumeTypes)...)}), true
	}
	return answer{}, false
}

// there lists what is there of a kind.
func (c *Cloud) there(kind string) (out []obj) {
	for _, t := range c.kinds[kind] {
		if t.gone.IsZero() {
			out = append(out, t.obj)
		}
	}
	return out
}

// most is the quota of something; -1 if there is none.
func (c *Cloud) most(name string) int {
	if n, limited := c.Quota[name]; limited {
		return n
	}
	return -1
}

// availability counts addresses of a network. Set makes its field used_ips that
// of others.
func (c *Cloud) availability(id string) answer {
	n := c.get("networks", id)
	if n == nil {
		return c.notThere("networks", id)
	}
	total, used := 0, num(n, "used_ips")
	for _, s := range c.there("subnets") {
		if p, err := netip.ParsePrefix(text(s, "cidr")); err == nil && s["network_id"] == id {
			total += 1<<(32-p.Bits()) - 3
		}
	}
	for _, p := range c.there("ports") {
		if p["network_id"] == id {
			used++
		}
	}
	return ok(obj{"network_ip_availability": obj{"network_id": id, "network_name": n["name"], "total_ips": total, "used_ips": used, "subnet_ip_availability": []obj{}}})
}
