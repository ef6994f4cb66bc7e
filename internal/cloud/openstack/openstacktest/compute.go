package openstacktest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// minor is the microversion that a request asks for.
func minor(r *http.Request) int {
	_, n, _ := strings.Cut(r.Header.Get("X-OpenStack-Nova-API-Version"), ".")
	v, err := strconv.Atoi(n)
	if err != nil {
		return 1
	}
	return v
}

func (c *Cloud) nova(r *http.Request, path []string, body obj) answer {
	if len(path) == 1 {
		return ok(obj{"version": obj{"id": "v2.1", "status": "CURRENT", "version": c.NovaMax, "min_version": "2.1"}})
	}
	if _, most, _ := strings.Cut(c.NovaMax, "."); true {
		if n, _ := strconv.Atoi(most); minor(r) > n {
			return no(http.StatusNotAcceptable, "computeFault", "Version 2.%d is not supported by the API.", minor(r))
		}
	}
	switch {
	case path[1] == "flavors" && len(path) == 3 && path[2] == "detail":
		return ok(obj{"flavors": c.seen("flavors")})
	case path[1] == "flavors" && len(path) == 3:
		if f := c.get("flavors", path[2]); f != nil {
			return ok(obj{"flavor": f})
		}
		return no(http.StatusNotFound, "itemNotFound", "Flavor %s could not be found.", path[2])
	case path[1] != "servers":
		return no(http.StatusNotFound, "itemNotFound", "Not found.")
	case r.Method == http.MethodPost && len(path) == 2:
		return c.boot(r, sub(body, "server"))
	case len(path) == 3 && path[2] == "detail":
		return c.listServers(r)
	}
	s := c.get("servers", path[2])
	if s == nil {
		return no(http.StatusNotFound, "itemNotFound", "Instance %s could not be found.", path[2])
	}
	switch {
	case len(path) == 3 && r.Method == http.MethodDelete:
		if s["OS-EXT-STS:task_state"] != "deleting" {
			s["OS-EXT-STS:task_state"] = "deleting"
			c.after(func() { c.release(s); c.remove("servers", s["id"]) })
		}
		return done(http.StatusNoContent)
	case len(path) == 3:
		return ok(obj{"server": shown(r, s)})
	case path[3] == "action":
		return c.action(s, body)
	case path[3] == "os-volume_attachments":
		return c.attachments(r, s, path, sub(body, "volumeAttachment"))
	}
	return no(http.StatusNotFound, "itemNotFound", "Not found.")
}

// shown is a server in the microversion of a request.
func shown(r *http.Request, s obj) obj {
	out := obj{}
	for k, v := range s {
		out[k] = v
	}
	f := sub(s, "flavor")
	if minor(r) < 47 {
		out["flavor"] = obj{"id": f["id"]}
	} else {
		out["flavor"] = obj{"original_name": f["original_name"], "ram": f["ram"], "vcpus": f["vcpus"], "disk": f["disk"]}
	}
	if minor(r) < 26 {
		delete(out, "tags")
	}
	delete(out, "sent")
	return out
}

func (c *Cloud) listServers(r *http.Request) answer {
	q := r.URL.Query()
	out := []obj{}
	for _, s := range c.seen("servers") {
		if s["project_id"] != Project {
			continue
		}
		if name := q.Get("name"); name != "" {
			if is, err := regexp.MatchString(name, text(s, "name")); err != nil || !is {
				continue
			}
		}
		if tag := q.Get("tags"); tag != "" && minor(r) >= 26 {
			if tags, _ := s["tags"].([]string); !slices.Contains(tags, tag) {
				continue
			}
		}
		out = append(out, shown(r, s))
	}
	return ok(obj{"servers": out})
}

func (c *Cloud) flavorOf(id string) obj {
	f := c.get("flavors", id)
	if f == nil {
		return nil
	}
	return obj{"id": f["id"], "original_name": f["name"], "ram": f["ram"], "vcpus": f["vcpus"], "disk": f["disk"]}
}

func (c *Cloud) boot(r *http.Request, in obj) answer {
	bad := func(format string, args ...any) answer {
		return no(http.StatusBadRequest, "badRequest", format, args...)
	}
	flavor := c.flavorOf(text(in, "flavorRef"))
	if flavor == nil {
		return bad("Flavor %s could not be found.", text(in, "flavorRef"))
	}
	if c.get("images", in["imageRef"]) == nil {
		return bad("Can not find requested image")
	}
	var tags []string
	if raw, given := in["tags"].([]any); given {
		if minor(r) < 52 {
			return bad("Additional properties are not allowed ('tags' was unexpected)")
		}
		for _, t := range raw {
			tag, _ := t.(string)
			if len(tag) > 60 || tag == "" {
				return bad("Invalid input for field/attribute tags. Value: %s. is too long", tag)
			}
			tags = append(tags, tag)
		}
	}
	if data := text(in, "user_data"); len(data) > c.MostData {
		return bad("Invalid input for field/attribute user_data. Value: %s. is too long", data)
	}
	if most, limited := c.Quota["instances"]; limited && c.live("servers") >= most {
		return no(http.StatusForbidden, "forbidden", "Quota exceeded for instances: Requested 1, but already used %d of %d instances", most, most)
	}
	var ports, volumes []obj
	nics, _ := in["networks"].([]any)
	for _, n := range nics {
		net, _ := n.(map[string]any)
		p := c.get("ports", net["port"])
		if p == nil {
			return bad("Port id %v could not be found.", net["port"])
		}
		if text(p, "device_id") != "" {
			return no(http.StatusConflict, "conflictingRequest", "Port %v is still in use.", p["id"])
		}
		ports = append(ports, p)
	}
	roots := 0
	devices, _ := in["block_device_mapping_v2"].([]any)
	for _, d := range devices {
		b, _ := d.(map[string]any)
		if num(b, "boot_index") == 0 {
			roots++
		}
		if b["source_type"] != "volume" {
			continue
		}
		v := c.get("volumes", b["uuid"])
		if v == nil || v["status"] != "available" {
			return bad("Invalid volume: volume '%v' status must be 'available'.", b["uuid"])
		}
		volumes = append(volumes, v)
	}
	if len(devices) > 0 && roots != 1 {
		return bad("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.")
	}
	s := c.add("servers", obj{"name": in["name"], "status": "BUILD", "created": stamp(), "updated": stamp(), "tenant_id": Project, "metadata": in["metadata"],
		"tags": tags, "flavor": flavor, "addresses": obj{}, "image": obj{"id": in["imageRef"]}, "key_name": in["key_name"], "OS-EXT-STS:task_state": "scheduling", "sent": in})
	id := s["id"]
	for _, p := range ports {
		p["device_id"], p["device_owner"] = id, "compute:nova"
	}
	for _, v := range volumes {
		v["status"] = "reserved"
	}
	broken := c.Break != nil && c.Break("server")
	c.after(func() {
		if s["OS-EXT-STS:task_state"] == "deleting" || c.get("servers", id) == nil {
			return
		}
		if broken {
			c.release(s)
			s["status"], s["OS-EXT-STS:task_state"] = "ERROR", nil
			s["fault"] = obj{"code": 500, "message": "No valid host was found. There are not enough hosts available.", "created": stamp()}
			return
		}
		s["status"], s["OS-EXT-STS:task_state"] = "ACTIVE", nil
		for _, v := range volumes {
			c.attach(v, s)
		}
		c.address(s)
		for _, p := range ports {
			p["status"] = "ACTIVE"
		}
	})
	return answer{http.StatusAccepted, obj{"server": obj{"id": id, "links": []obj{}, "adminPass": "x"}}, nil}
}

// address writes down a server's addresses, as Nova's cache has them.
func (c *Cloud) address(s obj) {
	addresses := obj{}
	for _, t := range c.kinds["ports"] {
		p := t.obj
		if !t.gone.IsZero() || p["device_id"] != s["id"] {
			continue
		}
		name := text(c.get("networks", p["network_id"]), "name")
		list, _ := addresses[name].([]obj)
		ips, _ := p["fixed_ips"].([]obj)
		for _, ip := range ips {
			list = append(list, obj{"addr": ip["ip_address"], "version": 4, "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": p["mac_address"]})
		}
		for _, f := range c.kinds["floatingips"] {
			if f.gone.IsZero() && f.obj["port_id"] == p["id"] {
				list = append(list, obj{"addr": f.obj["floating_ip_address"], "version": 4, "OS-EXT-IPS:type": "floating", "OS-EXT-IPS-MAC:mac_addr": p["mac_address"]})
			}
		}
		addresses[name] = list
	}
	s["addresses"] = addresses
}

func (c *Cloud) attach(v, s obj) {
	v["status"] = "in-use"
	v["attachments"] = []obj{{"server_id": s["id"], "volume_id": v["id"], "attachment_id": newID(), "device": "/dev/vdb", "id": v["id"]}}
}

// release lets go of what a server had.
func (c *Cloud) release(s obj) {
	for _, t := range c.kinds["ports"] {
		if t.obj["device_id"] == s["id"] {
			t.obj["device_id"], t.obj["device_owner"], t.obj["status"] = "", "", "DOWN"
		}
	}
	sent := sub(s, "sent")
	devices, _ := sent["block_device_mapping_v2"].([]any)
	for _, d := range devices {
		b, _ := d.(map[string]any)
		if v := c.get("volumes", b["uuid"]); v != nil && (v["status"] == "reserved" || c.attachedTo(v) == s["id"]) {
			v["status"], v["attachments"] = "available", []obj{}
			if b["delete_on_termination"] == true {
				c.remove("volumes", v["id"])
			}
		}
	}
	for _, t := range c.kinds["volumes"] {
		if t.gone.IsZero() && c.attachedTo(t.obj) == s["id"] {
			t.obj["status"], t.obj["attachments"] = "available", []obj{}
		}
	}
}

func (c *Cloud) attachedTo(v obj) any {
	if all, _ := v["attachments"].([]obj); len(all) > 0 {
		return all[0]["server_id"]
	}
	return nil
}

func (c *Cloud) action(s, body obj) answer {
	wrong := func(what string) answer {
		return no(http.StatusConflict, "conflictingRequest", "Cannot '%s' instance %v while it is in vm_state %v", what, s["id"], s["status"])
	}
	for name := range body {
		switch name {
		case "os-getConsoleOutput":
			if s["status"] == "BUILD" {
				return no(http.StatusConflict, "conflictingRequest", "Instance not ready")
			}
			return ok(obj{"output": c.Console})
		case "resize":
			if s["status"] != "ACTIVE" && s["status"] != "SHUTOFF" {
				return wrong("resize")
			}
			to := c.flavorOf(text(sub(body, "resize"), "flavorRef"))
			was := s["flavor"]
			if to == nil {
				return no(http.StatusNotFound, "itemNotFound", "Flavor could not be found.")
			}
			if fmt.Sprint(sub(s, "flavor")["id"]) == fmt.Sprint(to["id"]) {
				return no(http.StatusBadRequest, "badRequest", "When resizing, instances must change flavor!")
			}
			s["status"] = "RESIZE"
			c.after(func() {
				if c.Full {
					s["status"] = "ACTIVE"
					return
				}
				s["status"], s["flavor"], s["was"] = "VERIFY_RESIZE", to, was
			})
		case "confirmResize":
			if s["status"] != "VERIFY_RESIZE" {
				return no(http.StatusBadRequest, "badRequest", "Instance has not been resized.")
			}
			c.after(func() { s["status"] = "ACTIVE" })
		case "revertResize":
			if s["status"] != "VERIFY_RESIZE" {
				return no(http.StatusBadRequest, "badRequest", "Instance has not been resized.")
			}
			s["status"] = "REVERT_RESIZE"
			c.after(func() { s["status"], s["flavor"] = "ACTIVE", s["was"] })
		default:
			return no(http.StatusBadRequest, "badRequest", "There is no such action: %s", name)
		}
		return done(http.StatusAccepted)
	}
	return no(http.StatusBadRequest, "badRequest", "no action")
}

func (c *Cloud) attachments(r *http.Request, s obj, path []string, in obj) answer {
	switch {
	case r.Method == http.MethodPost:
		v := c.get("volumes", in["volumeId"])
		if v == nil {
			return no(http.StatusNotFound, "itemNotFound", "Volume %v could not be found.", in["volumeId"])
		}
		if v["status"] != "available" {
			return no(http.StatusBadRequest, "badRequest", "Invalid volume: volume '%v' status must be 'available'. Currently in '%v' status.", v["id"], v["status"])
		}
		v["status"] = "attaching"
		c.after(func() { c.attach(v, s) })
		return ok(obj{"volumeAttachment": obj{"id": v["id"], "volumeId": v["id"], "serverId": s["id"], "device": "/dev/vdb"}})
	case r.Method == http.MethodDelete && len(path) == 5:
		v := c.get("volumes", path[4])
		if v == nil || c.attachedTo(v) != s["id"] {
			return no(http.StatusNotFound, "itemNotFound", "volume_id not found: %s", path[4])
		}
		if v["status"] != "in-use" {
			return no(http.StatusBadRequest, "badRequest", "Invalid volume state")
		}
		v["status"] = "detaching"
		c.after(func() { v["status"], v["attachments"] = "available", []obj{} })
		return done(http.StatusAccepted)
	}
	return no(http.StatusNotFound, "itemNotFound", "Not found.")
}
