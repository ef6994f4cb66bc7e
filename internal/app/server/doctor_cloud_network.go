package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/trove"
)

// checkNetworks looks at the management networks, their security groups, and
// where floating IPs are from.
func (g *region) checkNetworks(ctx context.Context, r *report) {
	if g.without(r, "neutron") {
		return
	}
	ids := g.o.ManagementNetworks
	if len(ids) == 0 {
		r.warn("openstack network create trove-mgmt; openstack subnet create --network trove-mgmt --subnet-range 10.9.0.0/16 trove-mgmt; then set [DEFAULT] management_networks to its id",
			"[DEFAULT] management_networks is not set: agents reach the message bus by their users' networks only")
	}
	for i, id := range ids {
		n, err := g.v.Network(ctx, id)
		last := i == len(ids)-1
		switch {
		case err != nil && last:
			r.broken(err, "set [DEFAULT] management_networks to the id of a network: openstack network list")
			continue
		case err != nil:
			r.warn("take it out of [DEFAULT] management_networks", "%s; the last one is what counts", err)
			continue
		}
		g.managed = append(g.managed, n)
		if last {
			g.checkManaged(r, n)
		}
	}
	g.checkIsolation(r)
	g.checkGroups(ctx, r)
	n, err := g.v.Public(ctx)
	switch {
	case err != nil && g.o.PublicNetwork == "" && trove.IsKind(err, trove.KindBadRequest):
		r.warn("openstack network create --external --provider-network-type flat --provider-physical-network PHYSICAL public", "there is no external network: instances cannot be reached from outside the cloud")
	case err != nil:
		r.broken(err, "set [network] public_network_id to the id of an external network: openstack network list --external")
	case !n.External:
		r.fail("openstack network set --external "+n.ID+"; or set [network] public_network_id to another", "[network] public_network_id: network %s is not external", label(n.Name, n.ID))
	default:
		r.ok("floating IPs are from network %s", label(n.Name, n.ID))
	}
}

// checkIsolation says whose users' ports are, and what that asks of the image.
func (g *region) checkIsolation(r *report) {
	switch {
	case g.o.Isolation && len(g.managed) == 0:
		r.warn("set [DEFAULT] management_networks, or [network] network_isolation = false", "[network] network_isolation has no effect: where there is no management network, the agent needs the user's port")
	case g.o.Isolation:
		r.ok("[network] network_isolation: the user's port is the database's container's alone; images need an agent that knows it, and engines' images by the management network")
	case len(g.managed) > 0:
		r.ok("[network] network_isolation is off: servers are on their user's network and on the management network")
	}
}

// label is a thing's name with its id.
func label(name, id string) string {
	if name == "" || name == id {
		return id
	}
	return name + " (" + id + ")"
}

// checkManaged looks at the network that each instance gets a port on.
func (g *region) checkManaged(r *report, n openstack.NetworkView) {
	name := label(n.Name, n.ID)
	healthy := true
	fail := func(action, format string, args ...any) { healthy = false; r.fail(action, format, args...) }
	if !n.Up {
		fail("openstack network set --enable "+n.ID, "management network %s is switched off", name)
	} else if n.Status != "" && n.Status != "ACTIVE" {
		fail("openstack network show "+n.ID+", and openstack network agent list: an agent that makes it is away", "management network %s is %s", name, n.Status)
	}
	if len(n.Subnets) == 0 {
		fail("openstack subnet create --network "+n.ID+" --subnet-range 10.9.0.0/16 trove-mgmt", "management network %s has no subnet, so no addresses", name)
	}
	dhcp := false
	for _, s := range n.Subnets {
		dhcp = dhcp || s.DHCP
	}
	if len(n.Subnets) > 0 && !dhcp {
		fail("openstack subnet set --dhcp "+n.Subnets[0].ID, "management network %s has no DHCP: guests get no address", name)
	}
	switch {
	case n.Free < 0:
		r.skip("how many addresses of management network %s are free is told to administrators only", name)
	case len(n.Subnets) > 0 && n.Free < int64(g.instances):
		fail(fmt.Sprintf("openstack subnet create --network %s --subnet-range ANOTHER trove-mgmt-2; or openstack port list --network %s, and delete what nobody needs", n.ID, n.ID),
			"management network %s has %d free addresses: %s", name, n.Free, g.many("one each"))
	}
	if healthy {
		free := ""
		if n.Free >= 0 {
			free = fmt.Sprintf(", and %d free addresses", n.Free)
		}
		r.ok("management network %s is up, with DHCP%s", name, free)
	}
}

// many says what a number of instances needs.
func (g *region) many(need string) string {
	if g.instances == 1 {
		return "an instance needs one"
	}
	return fmt.Sprintf("%d instances need %s", g.instances, need)
}

// checkGroups looks at what the security groups of management let out.
func (g *region) checkGroups(ctx context.Context, r *report) {
	if len(g.o.ManagementGroups) == 0 {
		return
	}
	brokers := g.brokers(ctx)
	var rules []openstack.Egress
	for _, id := range g.o.ManagementGroups {
		name, out, err := g.v.Group(ctx, id)
		if err != nil {
			r.broken(err, "set [DEFAULT] management_security_groups to ids of openstack security group list")
			return
		}
		if len(out) == 0 {
			r.warn("openstack security group rule create --egress --protocol tcp "+id, "security group %s lets nothing out", label(name, id))
		}
		rules = append(rules, out...)
	}
	for _, b := range brokers {
		for _, a := range b.addresses {
			if !letsOut(rules, a, b.port) {
				r.fail(fmt.Sprintf("openstack security group rule create --egress --protocol tcp --dst-port %d --remote-ip %s %s", b.port, netip.PrefixFrom(a, a.BitLen()), g.o.ManagementGroups[0]),
					"the security groups of management ports do not let guests out to the broker %s, port %d", a, b.port)
				return
			}
		}
	}
	if len(rules) > 0 {
		r.ok("the security groups of management ports let guests out to the broker")
	}
}

func letsOut(rules []openstack.Egress, to netip.Addr, port int) bool {
	for _, e := range rules {
		family := "IPv4"
		if to.Is6() {
			family = "IPv6"
		}
		if (e.Ethertype == "" || e.Ethertype == family) && (e.Protocol == "" || e.Protocol == "tcp" || e.Protocol == "6" || e.Protocol == "any") &&
			(e.From == 0 && e.To == 0 || e.From <= port && port <= e.To) && (!e.Range.IsValid() || e.Range.Contains(to)) {
			return true
		}
	}
	return false
}

// busHost is a host of the transport URL that guests get.
type busHost struct {
	network, host string
	port          int
	addresses     []netip.Addr
	err           error // it has none
	tls           bool
}

// guestBus is how guests reach the bus: the option that says so, the URL (empty
// if the image has it), and what the guests' file says of [oslo_messaging_rabbit].
func (d *doctor) guestBus() (option, url string, own bool, file guestFile, err error) {
	o := &d.c.Guests
	if own, err = o.perGuest(); err != nil {
		return "", "", own, file, err
	}
	_, err = osloconf.Load(osloconf.Sources{Files: []string{o.ConfigFile}}, &file)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = guestFile{}, nil
		// The defaults are those of an empty file.
		_, err = osloconf.Load(osloconf.Sources{}, &file)
	}
	switch {
	case err != nil:
	case !own:
		option, url = "transport_url in "+o.ConfigFile, file.TransportURL.Reveal()
	case !o.TransportURL.IsZero():
		option, url = "[gotrove] guest_transport_url", o.TransportURL.Reveal()
	default:
		option, url = "[DEFAULT] transport_url", d.c.TransportURL.Reveal()
	}
	return option, url, own, file, err
}

// brokers are the hosts of the URL that guests get, looked up from here.
func (g *region) brokers(ctx context.Context) []busHost {
	_, url, _, file, err := g.d.guestBus()
	if err != nil || url == "" {
		return nil
	}
	hosts, err := amqp.Each(url)
	if err != nil {
		return nil
	}
	var out []busHost
	for _, h := range hosts {
		b := busHost{tls: file.Rabbit.SSL}
		var address string
		b.network, address, _ = strings.Cut(h.Name, ":")
		options := file.Rabbit
		if c, err := options.Config(h.URL.Reveal()); err == nil {
			b.tls = c.TLS != nil
		}
		if host, port, err := net.SplitHostPort(address); err == nil {
			b.host = host
			b.port, _ = strconv.Atoi(port) // checked when the URL was read
			limited, cancel := context.WithTimeout(ctx, hostWait)
			b.addresses, b.err = net.DefaultResolver.LookupNetIP(limited, "ip", host)
			cancel()
			for i, a := range b.addresses {
				b.addresses[i] = a.Unmap()
			}
		}
		out = append(out, b)
	}
	return out
}

// checkGuestBus looks whether the way to the bus that guests are told is one.
func (g *region) checkGuestBus(ctx context.Context, r *report) {
	option, url, own, file, err := g.d.guestBus()
	if err != nil {
		r.broken(err, "correct the file that [DEFAULT] guest_config names")
		return
	}
	if own {
		g.d.checkManagement(ctx, r)
	}
	if url == "" {
		r.warn("write transport_url into "+g.d.c.Guests.ConfigFile, "guests are told no transport_url: their image must have it")
		return
	}
	mend := "set [gotrove] guest_transport_url = rabbit://HOST:5672/ with the broker's address on a network that guests reach"
	if !own {
		mend = "write transport_url = rabbit://LOGIN:PASSWORD@HOST:5672/ into " + g.d.c.Guests.ConfigFile + ", with the broker's address on a network that guests reach"
	}
	all := g.brokers(ctx)
	if len(all) == 0 {
		r.fail(mend, "%s is no transport URL", option)
	}
	for _, b := range all {
		g.checkBrokerAddress(r, b, option, mend)
	}
	g.checkGuestTLS(r, all, &file)
}

func (g *region) checkBrokerAddress(r *report, b busHost, option, mend string) {
	switch {
	case b.network != "tcp":
		r.fail(mend, "%s is a socket of this machine: guests cannot reach it", option)
		return
	case b.err != nil:
		r.warn(mend+", or make the name known: openstack subnet set --dns-nameserver SERVER SUBNET", "%s: the name %s cannot be resolved here, so most likely not by guests", option, b.host)
		return
	}
	for _, a := range b.addresses {
		switch {
		case a.IsLoopback(), a.IsUnspecified():
			r.fail(mend, "%s: %s is %s, which for a guest is itself", option, b.host, a)
		case a.IsLinkLocalUnicast():
			r.fail(mend, "%s: %s is %s, an address of one link only", option, b.host, a)
		default:
			g.checkRoute(r, b, a)
		}
	}
}

// checkRoute looks whether the management network leads to a broker.
func (g *region) checkRoute(r *report, b busHost, a netip.Addr) {
	if len(g.managed) == 0 {
		return
	}
	n := g.managed[len(g.managed)-1]
	var gated *openstack.SubnetView
	for i, s := range n.Subnets {
		switch {
		case s.Range.Contains(a):
			r.ok("the broker %s is on management network %s", a, label(n.Name, n.ID))
			return
		case routes(s, a):
			r.ok("a host route of subnet %s leads to the broker %s", label(s.Name, s.ID), a)
			return
		case s.Gateway.IsValid() && gated == nil:
			gated = &n.Subnets[i]
		}
	}
	alone := netip.PrefixFrom(a, a.BitLen())
	switch {
	case gated != nil:
		// --guest has no network of a user's, and would not notice.
		mend := fmt.Sprintf("openstack subnet set --host-route destination=%s,gateway=%s %s", alone, gated.Gateway, gated.ID)
		if !gated.Router {
			mend += fmt.Sprintf("; and, unless %s is a router of the physical network: openstack router add subnet ROUTER %s", gated.Gateway, gated.ID)
		}
		r.warn(mend, "subnet %s of the management network has a gateway, but no host route to the broker %s: where an instance has a user's network too, that is its way out",
			label(gated.Name, gated.ID), a)
	case len(n.Subnets) > 0:
		s := n.Subnets[0]
		r.fail(fmt.Sprintf("openstack router add subnet ROUTER %s; openstack subnet set --host-route destination=%s,gateway=GATEWAY %s", s.ID, alone, s.ID),
			"management network %s has no route to the broker %s: its subnets have neither a gateway nor a host route there", label(n.Name, n.ID), a)
	}
}

func routes(s openstack.SubnetView, a netip.Addr) bool {
	for _, p := range s.Routes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// checkGuestTLS looks whether guests speak TLS where services do, and have what
// they trust.
func (g *region) checkGuestTLS(r *report, all []busHost, file *guestFile) {
	ours := false
	options := g.d.c.Rabbit
	if c, err := options.Config(g.d.c.TransportURL.Reveal()); err == nil {
		ours = c.TLS != nil
	}
	theirs := false
	for _, b := range all {
		theirs = theirs || b.tls
	}
	path := g.d.c.Guests.ConfigFile
	ca := file.Rabbit.SSLCAFile
	switch {
	case ours && !theirs:
		r.fail("write [oslo_messaging_rabbit] ssl = true, and ssl_ca_file with the path on the guest, into "+path, "services speak TLS with the broker, and guests are not told to")
	case theirs && ca == "":
		r.warn("write [oslo_messaging_rabbit] ssl_ca_file = /etc/trove/bus-ca.pem into "+path+", and have the image or a .cloudinit file bring it", "guests trust what their image trusts: a certificate of an authority of your own would be refused")
	case theirs && !g.brings(ca):
		r.warn("put it there with write_files of "+filepath.Join(g.o.CloudInitDir, "<manager>.cloudinit")+"; or have it in the image", "guests look for the broker's authority in %s: the image must have it, as no .cloudinit file of ours brings it; --guest tries it", ca)
	case theirs:
		r.ok("guests speak TLS with the broker, and get %s", ca)
	}
}

// brings tells whether a .cloudinit file of the operator names a path.
func (g *region) brings(path string) bool {
	found, err := filepath.Glob(filepath.Join(g.o.CloudInitDir, "*.cloudinit"))
	if err != nil {
		return false
	}
	for _, f := range found {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), path) {
			return true
		}
	}
	return false
}
