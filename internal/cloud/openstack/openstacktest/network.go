package openstacktest

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// words of Neutron's paths and bodies.
var singular = map[string]string{"networks": "network", "subnets": "subnet", "ports": "port", "security-groups": "security_group",
	"security-group-rules": "security_group_rule", "floatingips": "floatingip", "rbac-policies": "rbac_policy"}

func plural(kind string) string {
	if kind == "rbac-policies" {
		return "rbac_policies"
	}
	return singular[kind] + "s"
}

// matches filters a list as Neutron does.
func matches(o obj, q url.Values) bool {
	for key, values := range q {
		switch key {
		case "fields", "limit", "marker", "sort_key", "sort_dir":
		case "fixed_ips":
			ips, _ := o["fixed_ips"].([]obj)
			if !slices.ContainsFunc(ips, func(ip obj) bool { return slices.Contains(values, "subnet_id="+text(ip, "subnet_id")) }) {
				return false
			}
		default:
			if !slices.Contains(values, fmt.Sprint(o[key])) {
				return false
			}
		}
	}
	return true
}

func (c *Cloud) neutron(r *http.Request, path []string, body obj) answer {
	if len(path) < 2 || singular[path[1]] == "" {
		return neutronNo(http.StatusNotFound, "HTTPNotFound", "The resource could not be found.")
	}
	kind := path[1]
	switch {
	case r.Method == http.MethodGet && len(path) == 2:
		out := []obj{}
		for _, o := range c.seen(kind) {
			if matches(o, r.URL.Query()) {
				out = append(out, c.whole(kind, o))
			}
		}
		return ok(obj{plural(kind): out})
	case r.Method == http.MethodGet:
		if o := c.get(kind, path[2]); o != nil {
			return ok(obj{singular[kind]: c.whole(kind, o)})
		}
		return c.notThere(kind, path[2])
	case r.Method == http.MethodDelete:
		if c.get(kind, path[2]) == nil {
			return c.notThere(kind, path[2])
		}
		return c.drop(kind, path[2])
	case r.Method == http.MethodPost && kind == "security-group-rules":
		many, bulk := body["security_group_rules"].([]any)
		if !bulk {
			many = []any{body["security_group_rule"]}
		}
		return c.addRules(many, bulk)
	case r.Method == http.MethodPost:
		if most, limited := c.Quota[singular[kind]]; limited && c.live(kind) >= most {
			return neutronNo(http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['%s'].", singular[kind])
		}
		return c.make(kind, sub(body, singular[kind]))
	}
	return neutronNo(http.StatusNotFound, "HTTPNotFound", "The resource could not be found.")
}

func (c *Cloud) notThere(kind, id string) answer {
	word := strings.ReplaceAll(singular[kind], "_", "")
	return neutronNo(http.StatusNotFound, word+"NotFound", "%s %s could not be found.", singular[kind], id)
}

// whole adds a group's rules.
func (c *Cloud) whole(kind string, o obj) obj {
	if kind != "security-groups" {
		return o
	}
	out, rules := obj{}, []obj{}
	for k, v := range o {
		out[k] = v
	}
	for _, t := range c.kinds["security-group-rules"] {
		if t.gone.IsZero() && t.obj["security_group_id"] == o["id"] {
			rules = append(rules, t.obj)
		}
	}
	out["security_group_rules"] = rules
	return out
}

func (c *Cloud) make(kind string, in obj) answer {
	made := func(o obj) answer {
		return answer{http.StatusCreated, obj{singular[kind]: c.whole(kind, o)}, nil}
	}
	switch kind {
	case "security-groups":
		g := c.add(kind, obj{"name": in["name"], "description": in["description"], "tenant_id": Project})
		for _, family := range []string{"IPv4", "IPv6"} {
			c.add("security-group-rules", obj{"security_group_id": g["id"], "direction": "egress", "ethertype": family, "protocol": nil})
		}
		return made(g)
	case "ports":
		return c.makePort(in, made)
	case "floatingips":
		return c.makeFloating(in, made)
	}
	return neutronNo(http.StatusForbidden, "PolicyNotAuthorized", "not here")
}

func (c *Cloud) makePort(in obj, made func(obj) answer) answer {
	network := c.get("networks", in["network_id"])
	if network == nil {
		return neutronNo(http.StatusNotFound, "NetworkNotFound", "Network %v could not be found.", in["network_id"])
	}
	groups, _ := in["security_groups"].([]any)
	for _, g := range groups {
		if c.get("security-groups", g) == nil && g != "management-group" {
			return neutronNo(http.StatusNotFound, "SecurityGroupNotFound", "Security group %v does not exist", g)
		}
	}
	subnet, wanted := "", ""
	if ids, _ := network["subnets"].([]string); len(ids) > 0 {
		subnet = ids[0]
	}
	if fixed, _ := in["fixed_ips"].([]any); len(fixed) > 0 {
		f, _ := fixed[0].(map[string]any)
		if s := text(f, "subnet_id"); s != "" {
			subnet = s
		}
		wanted = text(f, "ip_address")
	}
	if wanted == "" {
		c.nextIP++
		p, _ := netip.ParsePrefix(text(c.get("subnets", subnet), "cidr"))
		b := p.Addr().As4()
		b[2], b[3] = byte(1+c.nextIP/250), byte(1+c.nextIP%250)
		wanted = netip.AddrFrom4(b).String()
	}
	for _, t := range c.kinds["ports"] {
		ips, _ := t.obj["fixed_ips"].([]obj)
		if t.gone.IsZero() && len(ips) > 0 && ips[0]["ip_address"] == wanted {
			return neutronNo(http.StatusConflict, "IpAddressAlreadyAllocated", "IP address %s already allocated in subnet %s", wanted, subnet)
		}
	}
	mac := newID()
	return made(c.add("ports", obj{"name": in["name"], "description": in["description"], "network_id": in["network_id"], "security_groups": groups,
		"device_id": "", "device_owner": "", "status": "DOWN", "fixed_ips": []obj{{"subnet_id": subnet, "ip_address": wanted}}, "tenant_id": Project,
		"mac_address": "fa:16:3e:" + mac[0:2] + ":" + mac[2:4] + ":" + mac[4:6]}))
}

func (c *Cloud) makeFloating(in obj, made func(obj) answer) answer {
	p := c.get("ports", in["port_id"])
	if c.get("networks", in["floating_network_id"]) == nil || p == nil {
		return neutronNo(http.StatusNotFound, "PortNotFound", "Port or network could not be found.")
	}
	if p["network_id"] != UserNetwork {
		return neutronNo(http.StatusNotFound, "ExternalGatewayForFloatingIPNotFound", "External network is not reachable from the port's subnet.")
	}
	for _, t := range c.kinds["floatingips"] {
		if t.gone.IsZero() && t.obj["port_id"] == p["id"] {
			return neutronNo(http.StatusConflict, "FloatingIPPortAlreadyAssociated", "Port %v has a floating IP already.", p["id"])
		}
	}
	c.nextIP++
	project := in["project_id"]
	f := c.add("floatingips", obj{"port_id": p["id"], "floating_network_id": in["floating_network_id"], "description": in["description"],
		"floating_ip_address": fmt.Sprintf("203.0.113.%d", 1+c.nextIP%250), "status": "ACTIVE", "project_id": project})
	c.readdress(p)
	return made(f)
}

// readdress tells Nova of a port's addresses.
func (c *Cloud) readdress(p obj) {
	if s := c.get("servers", p["device_id"]); s != nil && s["status"] != "BUILD" {
		c.address(s)
	}
}

func (c *Cloud) drop(kind, id string) answer {
	switch kind {
	case "security-groups":
		for _, t := range c.kinds["ports"] {
			groups, _ := t.obj["security_groups"].([]any)
			if t.gone.IsZero() && slices.Contains(groups, any(id)) {
				return neutronNo(http.StatusConflict, "SecurityGroupInUse", "Security Group %s in use.", id)
			}
		}
		for _, t := range c.kinds["security-group-rules"] {
			if t.obj["security_group_id"] == id {
				c.remove("security-group-rules", t.obj["id"])
			}
		}
	case "ports":
		for _, t := range c.kinds["floatingips"] {
			if t.obj["port_id"] == id {
				t.obj["port_id"] = nil
			}
		}
	case "floatingips":
		p := c.get("ports", c.get(kind, id)["port_id"])
		defer func() {
			if p != nil {
				c.readdress(p)
			}
		}()
	}
	c.remove(kind, id)
	return done(http.StatusNoContent)
}

func (c *Cloud) addRules(many []any, bulk bool) answer {
	same := []string{"security_group_id", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix"}
	key := func(o obj) (s string) {
		for _, k := range same {
			s += fmt.Sprint(o[k]) + " "
		}
		return s
	}
	var made []obj
	for _, m := range many {
		in, _ := m.(map[string]any)
		if c.get("security-groups", in["security_group_id"]) == nil {
			return neutronNo(http.StatusNotFound, "SecurityGroupNotFound", "Security group %v does not exist", in["security_group_id"])
		}
		for _, t := range c.kinds["security-group-rules"] {
			if t.gone.IsZero() && key(t.obj) == key(in) {
				return neutronNo(http.StatusConflict, "SecurityGroupRuleExists", "Security group rule already exists. Rule id is %v.", t.obj["id"])
			}
		}
	}
	for _, m := range many {
		in, _ := m.(map[string]any)
		made = append(made, c.add("security-group-rules", in))
	}
	if bulk {
		return answer{http.StatusCreated, obj{"security_group_rules": made}, nil}
	}
	return answer{http.StatusCreated, obj{"security_group_rule": made[0]}, nil}
}
