package openstack

import (
	"context"
	"encoding/json"
	"maps"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/gotrove/gotrove/internal/cloud"
)

// Files that the original writes on a server beside those of its agent.
const (
	userPortFile = "/etc/trove/eth1.json"
	daemonFile   = "/etc/docker/daemon.json"
)

// withNetwork adds to the files of a server what its agent and its Docker must
// know of the networks: with isolation, and a port on each, the user's port is
// for the database's container alone.
func (c *Cloud) withNetwork(ctx context.Context, s *session, spec cloud.ServerSpec) (map[string][]byte, error) {
	var user, management string
	for _, p := range spec.Ports {
		if p.Management {
			management = p.ID
		} else {
			user = p.ID
		}
	}
	daemon := map[string]any{}
	files := maps.Clone(spec.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	switch {
	case c.o.Isolation && user != "" && management != "":
		port, err := c.describePort(ctx, s, user)
		if err != nil {
			return nil, err
		}
		if files[userPortFile], err = json.Marshal(port); err != nil {
			return nil, err
		}
		// As the original has it; and the database goes on while Docker is restarted,
		// as in an image of ours, whose file this replaces.
		daemon = map[string]any{"bridge": "none", "ip-forward": false, "iptables": false, "live-restore": true}
	case c.o.DockerBridge != "":
		daemon["bip"] = c.o.DockerBridge
	}
	if len(c.o.InsecureRegistries) > 0 {
		daemon["insecure-registries"] = c.o.InsecureRegistries
	}
	if len(daemon) > 0 {
		var err error
		if files[daemonFile], err = json.Marshal(daemon); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// statefulRA is how a subnet's router says that DHCP gives addresses: only then a
// gateway is to be configured, and not learnt from the router.
const statefulRA = "dhcpv6-stateful"

// describePort is the user's port as the original describes it in eth1.json.
func (c *Cloud) describePort(ctx context.Context, s *session, id string) (map[string]any, error) {
	p, err := ports.Get(ctx, s.network, id).Extract()
	if err != nil {
		return nil, failed(ctx, err, "look at port %s", id)
	}
	out := map[string]any{"mac_address": p.MACAddress}
	for _, ip := range p.FixedIPs {
		sub, err := c.subnetByID(ctx, s, ip.SubnetID)
		if err != nil {
			return nil, err
		}
		family := "ipv4_"
		if sub.IPVersion == 6 {
			family = "ipv6_"
		}
		routes := sub.HostRoutes
		if routes == nil {
			routes = []subnets.HostRoute{}
		}
		out[family+"address"], out[family+"cidr"], out[family+"host_routes"] = ip.IPAddress, sub.CIDR, routes
		if sub.IPVersion != 6 || sub.IPv6RAMode == statefulRA {
			out[family+"gateway"] = nil
			if sub.GatewayIP != "" {
				out[family+"gateway"] = sub.GatewayIP
			}
		}
	}
	return out, nil
}
