package openstack

import (
	"context"
	"sync"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
)

// iface is what Nova does not tell of a server's interface: the network's id,
// which the name need not tell, and whether it is ours.
type iface struct {
	network    string
	management bool
}

// ifaces are the interfaces of all servers, by MAC: a port keeps both for life.
type ifaces struct {
	mu     sync.Mutex
	known  map[string]iface
	listed shared[map[string]iface]
}

func (c *Cloud) noteMAC(p ports.Port) {
	k := &c.ifaces
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = map[string]iface{}
	}
	if len(k.known) >= mostMade {
		clear(k.known)
	}
	k.known[p.MACAddress] = iface{p.NetworkID, c.isManagement(p)}
}

// interfaces gives those of a server that Neutron knows.
func (c *Cloud) interfaces(ctx context.Context, s *session, r serverRow) (map[string]iface, error) {
	out := map[string]iface{}
	missing := false
	c.ifaces.mu.Lock()
	for _, all := range r.Addresses {
		for _, a := range all {
			if i, ok := c.ifaces.known[a.MAC]; ok {
				out[a.MAC] = i
			} else {
				missing = true
			}
		}
	}
	c.ifaces.mu.Unlock()
	if !missing {
		return out, nil
	}
	all, err := c.ifaces.listed.recent(ctx, func(ctx context.Context) (map[string]iface, error) {
		pages, err := ports.List(s.network, query{"project_id": {s.project}, "fields": {"mac_address", "network_id", "description"}}).AllPages(ctx)
		if err != nil {
			return nil, failed(ctx, err, "list ports")
		}
		found, err := ports.ExtractPorts(pages)
		if err != nil {
			return nil, failed(ctx, err, "list ports")
		}
		all := map[string]iface{}
		for _, p := range found {
			all[p.MACAddress] = iface{p.NetworkID, c.isManagement(p)}
		}
		return all, nil
	})
	for _, list := range r.Addresses {
		for _, a := range list {
			if i, ok := all[a.MAC]; ok {
				out[a.MAC] = i
			}
		}
	}
	return out, err
}
