package openstack

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// What ports' descriptions begin with, as the original has them: an instance's
// ports all have one name.
const (
	userPort  = "User"
	adminPort = "Management"
)

func (c *Cloud) isManagement(p ports.Port) bool {
	switch {
	case strings.HasPrefix(p.Description, adminPort+" "):
		return true
	case strings.HasPrefix(p.Description, userPort+" "):
		return false
	}
	return slices.Contains(c.o.ManagementNetworks, p.NetworkID)
}

// portsOf finds the ports of an instance: for users and for us, of each the one
// to keep first.
func (c *Cloud) portsOf(ctx context.Context, s *session, o cloud.Owner) (user, management []ports.Port, err error) {
	pages, err := ports.List(s.network, ports.ListOpts{Name: resourceName(o), ProjectID: s.project}).AllPages(ctx)
	if err != nil {
		return nil, nil, failed(ctx, err, "list ports")
	}
	all, err := ports.ExtractPorts(pages)
	if err != nil {
		return nil, nil, failed(ctx, err, "list ports")
	}
	all = slices.DeleteFunc(all, func(p ports.Port) bool { return c.memory.isGone(p.ID) })
	for _, kind := range []string{aUserPort, aAdminPort} {
		id := c.memory.recall(kind, o.InstanceID)
		if id == "" || slices.ContainsFunc(all, func(p ports.Port) bool { return p.ID == id }) {
			continue
		}
		p, err := ports.Get(ctx, s.network, id).Extract()
		switch {
		case err == nil:
			all = append(all, *p)
		case !isStatus(err, http.StatusNotFound):
			return nil, nil, failed(ctx, err, "look at a port")
		}
	}
	slices.SortFunc(all, func(a, b ports.Port) int {
		used := func(p ports.Port) int { // a server has it
			if p.DeviceID != "" {
				return 0
			}
			return 1
		}
		return cmp.Or(used(a)-used(b), older(a.CreatedAt, a.ID, b.CreatedAt, b.ID))
	})
	for _, p := range all {
		if c.isManagement(p) {
			management = append(management, p)
		} else {
			user = append(user, p)
		}
	}
	return user, management, nil
}

// EnsurePorts implements cloud.Cloud: a port on the user's network, and one on
// the management network.
func (c *Cloud) EnsurePorts(ctx context.Context, o cloud.Owner, nics []trove.NIC, access trove.Access) ([]cloud.Port, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer end()
	if nics = c.usersOf(nics); len(nics) > 1 {
		return nil, trove.Errorf(trove.KindBadRequest, "An instance has one interface of the user's at most.")
	}
	var network string // for us
	if m := c.o.ManagementNetworks; len(m) > 0 {
		network = m[len(m)-1]
	}
	wantUser := len(nics) > 0 || network == ""
	if access.IsPublic && !wantUser {
		return nil, trove.Errorf(trove.KindBadRequest, "A public address needs a network of the user's.").WithAction("name one with nics")
	}
	user, management, err := c.portsOf(ctx, s, o)
	if err != nil {
		return nil, err
	}
	if wantUser && len(user) == 0 || network != "" && len(management) == 0 {
		if err := c.createPorts(ctx, s, o, nics, wantUser && len(user) == 0, network != "" && len(management) == 0, access); err != nil {
			return nil, err
		}
		if user, management, err = c.portsOf(ctx, s, o); err != nil {
			return nil, err
		}
		if wantUser && len(user) == 0 || network != "" && len(management) == 0 {
			return nil, trove.Errorf(trove.KindUnavailable, "The ports of instance %s were made and cannot be seen.", o.InstanceID)
		}
	}
	var out []cloud.Port
	if len(user) > 0 {
		if err := c.keepOnePort(ctx, s, o, user); err != nil {
			return nil, err
		}
		p := port(user[0], false)
		if access.IsPublic {
			public, err := c.ensureFloating(ctx, s, o, user[0])
			if err != nil {
				return nil, err
			}
			p.Addresses = append(p.Addresses, public...)
		}
		out = append(out, p)
	}
	if len(management) > 0 {
		if err := c.keepOnePort(ctx, s, o, management); err != nil {
			return nil, err
		}
		out = append(out, port(management[0], true))
	}
	for _, p := range slices.Concat(user[:min(1, len(user))], management[:min(1, len(management))]) {
		c.noteMAC(p)
	}
	return out, nil
}

func port(p ports.Port, management bool) cloud.Port {
	out := cloud.Port{ID: p.ID, Network: p.NetworkID, Management: management}
	for _, ip := range p.FixedIPs {
		out.Addresses = append(out.Addresses, trove.Address{Address: ip.IPAddress, Type: trove.AddressPrivate, Network: p.NetworkID})
	}
	return out
}

// createPorts makes what is missing.
func (c *Cloud) createPorts(ctx context.Context, s *session, o cloud.Owner, nics []trove.NIC, user, management bool, access trove.Access) error {
	var n nic
	if user { // first: what the user may not have or cannot have
		var err error
		if n, err = c.userNIC(ctx, s, o, nics, access); err != nil {
			return err
		}
	}
	var own []string
	if !c.o.NoSecurityGroups && (user || len(c.o.ManagementGroups) == 0) {
		found, err := c.groups(ctx, s, o)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return trove.Errorf(trove.KindUnavailable, "The instance's security group %s cannot be found.", c.groupName(o))
		}
		own = []string{found[0].ID}
	}
	if user {
		var fixed any
		if n.SubnetID != "" {
			fixed = []ports.IP{{SubnetID: n.SubnetID, IPAddress: n.IPAddress}}
		} else if n.IPAddress != "" {
			fixed = []ports.IP{{IPAddress: n.IPAddress}}
		}
		if err := c.createPort(ctx, s, o, userPort, aUserPort, n.NetworkID, fixed, own); err != nil {
			return err
		}
	}
	if !management {
		return nil
	}
	with := own
	if len(c.o.ManagementGroups) > 0 {
		with = c.o.ManagementGroups
	}
	m := c.o.ManagementNetworks
	return c.createPort(ctx, s, o, adminPort, aAdminPort, m[len(m)-1], nil, with)
}

// userNIC looks up the interface that an instance is to have.
func (c *Cloud) userNIC(ctx context.Context, s *session, o cloud.Owner, nics []trove.NIC, access trove.Access) (n nic, err error) {
	if len(nics) > 0 {
		n, err = c.lookUp(ctx, s, nics[0], o.ProjectID)
	} else if n.NetworkID, err = c.onlyNetwork(ctx, s); err == nil {
		n.subnets, err = c.subnetsOf(ctx, s, n.NetworkID)
	}
	if err == nil && (c.o.AccessCheck || access.IsPublic) {
		err = c.checkRouter(ctx, s, n.subnets)
	}
	return n, err
}

func (c *Cloud) createPort(ctx context.Context, s *session, o cloud.Owner, role, kind, network string, fixed any, with []string) error {
	opts := ports.CreateOpts{NetworkID: network, Name: resourceName(o), FixedIPs: fixed,
		Description: role + " port for trove instance " + o.InstanceID}
	if len(with) > 0 {
		opts.SecurityGroups = &with
	}
	var p *ports.Port
	err := c.create(o, kind, func() (err error) {
		p, err = ports.Create(ctx, s.network, opts).Extract()
		return err
	})
	if isStatus(err, http.StatusConflict) && fixed != nil {
		e := failed(ctx, err, "create a port on network %s", network)
		if trove.IsKind(e, trove.KindConflict) { // the address is taken, by a port of ours perhaps
			return trove.Errorf(trove.KindBadRequest, "%w", e).WithAction("choose another address")
		}
	}
	if err != nil {
		return failed(ctx, err, "create a port on network %s", network)
	}
	c.memory.note(kind, o.InstanceID, p.ID)
	return nil
}

// keepOnePort deletes all but the first. One that a server has stays.
func (c *Cloud) keepOnePort(ctx context.Context, s *session, o cloud.Owner, all []ports.Port) error {
	for _, p := range all[1:] {
		if p.DeviceID != "" {
			continue
		}
		if err := c.deleteFloating(ctx, s, o, []ports.Port{p}); err != nil {
			return err
		}
		if err := c.deletePort(ctx, s, p.ID); err != nil {
			return err
		}
		// Another process may have given it one meanwhile.
		if err := c.sweepFloating(ctx, s, o); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) deletePort(ctx context.Context, s *session, id string) error {
	err := ports.Delete(ctx, s.network, id).ExtractErr()
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return failed(ctx, err, "delete port %s", id)
	}
	c.memory.gone(id)
	return nil
}

// query is a list's query as it is.
type query url.Values

func (q query) ToPortListQuery() (string, error) { return "?" + url.Values(q).Encode(), nil }

func (q query) ToFloatingIPListQuery() (string, error) { return "?" + url.Values(q).Encode(), nil }

// checkRouter refuses subnets from which there is no way out.
func (c *Cloud) checkRouter(ctx context.Context, s *session, of []subnets.Subnet) error {
	var names []string
	for _, sub := range of {
		names = append(names, sub.ID)
		routed, err := recently(&c.networks, "router of "+sub.ID, func() (bool, error) {
			pages, err := ports.List(s.network, query{"fixed_ips": {"subnet_id=" + sub.ID}, "fields": {"id"}, "device_owner": {
				"network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface"}}).AllPages(ctx)
			if err != nil {
				return false, failed(ctx, err, "look for a router of subnet %s", sub.ID)
			}
			all, err := ports.ExtractPorts(pages)
			if err == nil && len(all) == 0 {
				return false, errNoRouter // is not to be remembered
			}
			return true, failed(ctx, err, "look for a router of subnet %s", sub.ID)
		})
		if err != nil && !errors.Is(err, errNoRouter) {
			return err
		}
		if routed && err == nil {
			return nil
		}
	}
	return trove.Errorf(trove.KindBadRequest, "Subnet %s is not associated with a router.", strings.Join(names, ", ")).
		WithAction("openstack router add subnet ROUTER SUBNET")
}

var errNoRouter = errors.New("no router")

// floatingOf finds the floating IPs of an instance's ports.
func (c *Cloud) floatingOf(ctx context.Context, s *session, o cloud.Owner, all []ports.Port) ([]floatingips.FloatingIP, error) {
	if len(all) == 0 {
		return nil, nil
	}
	q := query{}
	for _, p := range all {
		q["port_id"] = append(q["port_id"], p.ID)
	}
	pages, err := floatingips.List(s.network, q).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list floating IPs")
	}
	found, err := floatingips.ExtractFloatingIPs(pages)
	if err != nil {
		return nil, failed(ctx, err, "list floating IPs")
	}
	if id := c.memory.recall(aFloating, o.InstanceID); id != "" && !slices.ContainsFunc(found, func(f floatingips.FloatingIP) bool { return f.ID == id }) {
		f, err := floatingips.Get(ctx, s.network, id).Extract()
		switch {
		case err == nil && (f.PortID == "" || slices.Contains(q["port_id"], f.PortID)):
			found = append(found, *f)
		case err != nil && !isStatus(err, http.StatusNotFound):
			return nil, failed(ctx, err, "look at a floating IP")
		}
	}
	return slices.DeleteFunc(found, func(f floatingips.FloatingIP) bool { return c.memory.isGone(f.ID) }), nil
}

// ensureFloating has a port reached from outside and gives the addresses by
// which it is.
func (c *Cloud) ensureFloating(ctx context.Context, s *session, o cloud.Owner, p ports.Port) ([]trove.Address, error) {
	found, err := c.floatingOf(ctx, s, o, []ports.Port{p})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		network, err := c.publicNetwork(ctx, s)
		if err != nil {
			return nil, err
		}
		opts := floatingips.CreateOpts{FloatingNetworkID: network, PortID: p.ID, Description: resourceName(o)}
		if o.ProjectID != s.project {
			opts.ProjectID = o.ProjectID // it counts for the user's quota
		}
		var f *floatingips.FloatingIP
		err = c.create(o, aFloating, func() (err error) {
			f, err = floatingips.Create(ctx, s.network, opts).Extract()
			return err
		})
		if err != nil {
			e := failed(ctx, err, "create a floating IP")
			if trove.IsKind(e, trove.KindConflict) { // the port has one: a list that is behind
				e = trove.Errorf(trove.KindUnavailable, "%w", e)
			}
			if trove.IsKind(e, trove.KindNotFound) { // there is no way from the port to the public network
				e = trove.Errorf(trove.KindBadRequest, "%w", e)
			}
			return nil, e
		}
		c.memory.note(aFloating, o.InstanceID, f.ID)
		found = append(found, *f)
	}
	// Neutron gives a port one for each of its addresses.
	var out []trove.Address
	for _, f := range found {
		out = append(out, trove.Address{Address: f.FloatingIP, Type: trove.AddressPublic})
	}
	return out, nil
}

func (c *Cloud) deleteFloating(ctx context.Context, s *session, o cloud.Owner, all []ports.Port) error {
	found, err := c.floatingOf(ctx, s, o, all)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := floatingips.Delete(ctx, s.network, f.ID).ExtractErr(); err != nil && !isStatus(err, http.StatusNotFound) {
			return failed(ctx, err, "delete floating IP %s", f.FloatingIP)
		}
		c.memory.gone(f.ID)
	}
	// One without its port would be found by nobody.
	return c.settled(o, aFloating)
}

// sweepFloating deletes the instance's floating IPs that lost their port.
func (c *Cloud) sweepFloating(ctx context.Context, s *session, o cloud.Owner) error {
	pages, err := floatingips.List(s.network, query{"description": {resourceName(o)}}).AllPages(ctx)
	if err != nil {
		return failed(ctx, err, "list floating IPs")
	}
	found, err := floatingips.ExtractFloatingIPs(pages)
	if err != nil {
		return failed(ctx, err, "list floating IPs")
	}
	for _, f := range found {
		// Of the user's or ours: others may describe theirs as they like.
		if f.PortID != "" || f.Description != resourceName(o) || f.ProjectID != s.project && f.ProjectID != o.ProjectID || c.memory.isGone(f.ID) {
			continue
		}
		if err := floatingips.Delete(ctx, s.network, f.ID).ExtractErr(); err != nil && !isStatus(err, http.StatusNotFound) {
			return failed(ctx, err, "delete floating IP %s", f.FloatingIP)
		}
		c.memory.gone(f.ID)
	}
	return nil
}

// EnsurePublic implements cloud.Cloud.
func (c *Cloud) EnsurePublic(ctx context.Context, o cloud.Owner, public bool) ([]trove.Address, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer end()
	user, _, err := c.portsOf(ctx, s, o)
	if err != nil {
		return nil, err
	}
	if len(user) == 0 {
		if public {
			return nil, trove.Errorf(trove.KindBadRequest, "A public address needs a network of the user's, and the instance has none.")
		}
		return nil, nil
	}
	out := port(user[0], false).Addresses
	if !public {
		return out, c.deleteFloating(ctx, s, o, user)
	}
	more, err := c.ensureFloating(ctx, s, o, user[0])
	return append(out, more...), err
}

// DeletePorts implements cloud.Cloud. A server that still has one is deleted
// first: it is one that no list showed.
func (c *Cloud) DeletePorts(ctx context.Context, o cloud.Owner) error {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	user, management, err := c.portsOf(ctx, s, o)
	if err != nil {
		return err
	}
	all := slices.Concat(user, management)
	for _, p := range all {
		if p.DeviceID == "" || !strings.HasPrefix(p.DeviceOwner, "compute:") && p.DeviceOwner != "" {
			continue
		}
		row, err := c.serverByID(ctx, s, p.DeviceID)
		if trove.IsKind(err, trove.KindNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if row.instance() != o.InstanceID {
			continue
		}
		if err := c.askToGo(ctx, s, o, row.ID); err != nil {
			return err
		}
		return trove.Errorf(trove.KindUnavailable, "Server %s still has the instance's port.", row.ID)
	}
	if err := c.deleteFloating(ctx, s, o, all); err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		errs = append(errs, inUse(c.deletePort(ctx, s, p.ID)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := c.sweepFloating(ctx, s, o); err != nil {
		return err
	}
	c.memory.forget(aUserPort, o.InstanceID)
	c.memory.forget(aAdminPort, o.InstanceID)
	return errors.Join(c.settled(o, aUserPort), c.settled(o, aAdminPort))
}
