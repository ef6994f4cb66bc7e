package openstack

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/gotrove/gotrove/internal/cloud"
)

// instanceID is what follows our prefixes in the names of instances' things.
var instanceID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Tagged implements cloud.Cloud, with a list of each of the four kinds of things.
func (c *Cloud) Tagged(ctx context.Context) ([]string, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	note := func(name, prefix, thing string) {
		if id, ours := strings.CutPrefix(name, prefix); ours && instanceID.MatchString(id) && !c.memory.isGone(thing) {
			found[id] = true
		}
	}
	prefix := resourceName(cloud.Owner{})
	all, err := c.allServers(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		note(r.instance(), "", r.ID)
	}
	pages, err := ports.List(s.network, query{"project_id": {s.project}, "fields": {"id", "name"}}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list ports")
	}
	allPorts, err := ports.ExtractPorts(pages)
	if err != nil {
		return nil, failed(ctx, err, "list ports")
	}
	for _, p := range allPorts {
		note(p.Name, prefix, p.ID)
	}
	if pages, err = volumes.List(s.volume, volumes.ListOpts{}).AllPages(ctx); err != nil {
		return nil, failed(ctx, err, "list volumes")
	}
	allVolumes, err := volumes.ExtractVolumes(pages)
	if err != nil {
		return nil, failed(ctx, err, "list volumes")
	}
	for _, v := range allVolumes {
		note(v.Name, prefix, v.ID)
	}
	if pages, err = groups.List(s.network, groups.ListOpts{ProjectID: s.project}).AllPages(ctx); err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	allGroups, err := groups.ExtractGroups(pages)
	if err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	for _, g := range allGroups {
		note(g.Name, c.groupName(cloud.Owner{}), g.ID)
	}
	return slices.Sorted(maps.Keys(found)), nil
}
