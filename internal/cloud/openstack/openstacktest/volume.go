package openstacktest

import (
	"net/http"
	"strings"
)

func (c *Cloud) cinder(r *http.Request, path []string, body obj) answer {
	if len(path) == 1 {
		return ok(obj{"versions": []obj{{"id": "v3.0", "status": "CURRENT", "version": c.CinderMax, "min_version": "3.0"}}})
	}
	if len(path) < 3 || path[2] != "volumes" {
		return no(http.StatusNotFound, "itemNotFound", "Not found.")
	}
	switch {
	case r.Method == http.MethodPost && len(path) == 3:
		return c.makeVolume(sub(body, "volume"))
	case len(path) == 4 && path[3] == "detail":
		q := r.URL.Query()
		out := []obj{}
		for _, v := range c.seen("volumes") {
			if (q.Get("name") == "" || v["name"] == q.Get("name")) && (q.Get("status") == "" || v["status"] == q.Get("status")) {
				out = append(out, v)
			}
		}
		return ok(obj{"volumes": out})
	}
	v := c.get("volumes", path[3])
	if v == nil {
		return no(http.StatusNotFound, "itemNotFound", "Volume %s could not be found.", path[3])
	}
	switch {
	case len(path) == 4 && r.Method == http.MethodDelete:
		if s := text(v, "status"); s != "available" && !strings.HasPrefix(s, "error") {
			return no(http.StatusBadRequest, "badRequest", "Invalid volume: Volume status must be available or error, but current status is: %s.", s)
		}
		v["status"] = "deleting"
		c.after(func() { c.remove("volumes", v["id"]) })
		return done(http.StatusAccepted)
	case len(path) == 4:
		return ok(obj{"volume": v})
	case path[4] == "action" && body["os-extend"] != nil:
		return c.extend(r, v, num(sub(body, "os-extend"), "new_size"))
	}
	return no(http.StatusNotFound, "itemNotFound", "Not found.")
}

func (c *Cloud) makeVolume(in obj) answer {
	if t := text(in, "volume_type"); t != "" && t != "fast" {
		return no(http.StatusNotFound, "itemNotFound", "Volume type with name %s could not be found.", t)
	}
	size := num(in, "size")
	used := size
	for _, t := range c.kinds["volumes"] {
		if t.gone.IsZero() {
			used += num(t.obj, "size")
		}
	}
	if most, limited := c.Quota["gigabytes"]; limited && used > most {
		return answer{http.StatusRequestEntityTooLarge, obj{"overLimit": obj{"code": 413, "retryAfter": "0",
			"message": "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota."}}, http.Header{"Retry-After": {"0"}}}
	}
	v := c.add("volumes", obj{"name": in["name"], "description": in["description"], "size": size, "status": "creating", "metadata": in["metadata"],
		"attachments": []obj{}, "volume_type": in["volume_type"], "bootable": "false", "availability_zone": in["availability_zone"]})
	broken := c.Break != nil && c.Break("volume")
	c.after(func() {
		if v["status"] = "available"; broken {
			v["status"] = "error"
		}
	})
	return answer{http.StatusAccepted, obj{"volume": v}, nil}
}

func (c *Cloud) extend(r *http.Request, v obj, size int) answer {
	was := text(v, "status")
	if size <= num(v, "size") {
		return no(http.StatusBadRequest, "badRequest", "Invalid input received: New size for extend must be greater than current size.")
	}
	newer := strings.TrimPrefix(r.Header.Get("OpenStack-API-Version"), "volume 3.")
	if was != "available" && (was != "in-use" || len(newer) != 2 || newer < "42") {
		return no(http.StatusBadRequest, "badRequest", "Invalid volume: Volume status must be available to extend, but current status is: %s.", was)
	}
	v["status"] = "extending"
	c.after(func() {
		if was == "in-use" && c.GrowsDetached {
			v["status"] = "error_extending"
			return
		}
		v["status"], v["size"] = was, size
	})
	return done(http.StatusAccepted)
}
