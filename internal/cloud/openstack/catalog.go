package openstack

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/rbacpolicies"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

func flavorOf(f flavors.Flavor) trove.Flavor {
	return trove.Flavor{ID: f.ID, Name: f.Name, RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk, Ephemeral: f.Ephemeral}
}

// Flavors gives what Nova offers the service's project, at most CatalogMaxAge
// old, or older while Nova is away.
func (c *Cloud) Flavors(ctx context.Context) ([]trove.Flavor, error) {
	all, err := c.flavors.get(ctx, func(ctx context.Context) ([]trove.Flavor, error) {
		s, err := c.session(ctx)
		if err != nil {
			return nil, err
		}
		return listFlavors(ctx, s)
	})
	return slices.Clone(all), err
}

func listFlavors(ctx context.Context, s *session) ([]trove.Flavor, error) {
	pages, err := flavors.ListDetail(s.compute, flavors.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list flavors")
	}
	found, err := flavors.ExtractFlavors(pages)
	if err != nil {
		return nil, failed(ctx, err, "list flavors")
	}
	var all []trove.Flavor
	for _, f := range found {
		all = append(all, flavorOf(f))
	}
	return all, nil
}

// Flavor gives one of them, or another that the project may use.
func (c *Cloud) Flavor(ctx context.Context, id string) (trove.Flavor, error) {
	none := trove.Errorf(trove.KindNotFound, "Flavor %s could not be found.", id)
	if !goodID.MatchString(id) {
		return trove.Flavor{}, none
	}
	all, err := c.Flavors(ctx)
	if err != nil {
		return trove.Flavor{}, err
	}
	for _, f := range all {
		if f.ID == id {
			return f, nil
		}
	}
	s, err := c.session(ctx)
	if err != nil {
		return trove.Flavor{}, err
	}
	f, err := flavors.Get(ctx, s.compute, id).Extract()
	switch {
	case isStatus(err, http.StatusNotFound):
		return trove.Flavor{}, none
	case err != nil:
		return trove.Flavor{}, failed(ctx, err, "look at a flavor")
	case f == nil:
		return trove.Flavor{}, failed(ctx, errNothing, "look at a flavor")
	}
	return flavorOf(*f), nil
}

// image gives the image that a server is made of: the one named, else the newest
// that is active and has all tags.
func (c *Cloud) image(ctx context.Context, s *session, id string, tags []string) (string, error) {
	if id != "" {
		return id, nil
	}
	if len(tags) == 0 {
		return "", trove.Errorf(trove.KindBadRequest, "The datastore version names no image and no tags of images.").
			WithAction("trove-manage datastore_version_update, with an image id or with image tags")
	}
	pages, err := images.List(s.image, images.ListOpts{Tags: tags, Status: images.ImageStatusActive, Sort: "created_at:desc", Limit: 1}).AllPages(ctx)
	if err != nil {
		return "", failed(ctx, err, "list images")
	}
	all, err := images.ExtractImages(pages)
	if err != nil {
		return "", failed(ctx, err, "list images")
	}
	if len(all) == 0 {
		return "", trove.Errorf(trove.KindBadRequest, "No active image has the tags %s.", strings.Join(tags, ", ")).
			WithAction("give the guest image these tags, and make it visible to the service's project")
	}
	return all[0].ID, nil
}

// networkRow is what is asked of a network.
type networkRow struct {
	networks.Network
	external.NetworkExternalExt
}

// networkCache remembers networks and subnets for a while, by id. Only what was
// found is kept.
type networkCache struct {
	maxAge time.Duration

	mu      sync.Mutex
	entries map[string]networkEntry
}

type networkEntry struct {
	value any
	at    time.Time
}

const mostNetworks = 1024

// recently gives what fetch gave for a key within maxAge.
func recently[T any](k *networkCache, key string, fetch func() (T, error)) (T, error) {
	k.mu.Lock()
	e, ok := k.entries[key]
	k.mu.Unlock()
	if v, is := e.value.(T); ok && is && time.Since(e.at) < k.maxAge {
		return v, nil
	}
	v, err := fetch()
	if err != nil {
		return v, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries == nil || len(k.entries) >= mostNetworks {
		k.entries = map[string]networkEntry{}
	}
	k.entries[key] = networkEntry{v, time.Now()}
	return v, nil
}

func (c *Cloud) networkByID(ctx context.Context, s *session, id string) (networkRow, error) {
	return recently(&c.networks, "network "+id, func() (networkRow, error) {
		var n networkRow
		if !goodID.MatchString(id) {
			return n, trove.Errorf(trove.KindBadRequest, "Network %s could not be found.", clip(id))
		}
		err := networks.Get(ctx, s.network, id).ExtractInto(&n)
		if isStatus(err, http.StatusNotFound) {
			return n, trove.Errorf(trove.KindBadRequest, "Network %s could not be found.", id)
		}
		return n, failed(ctx, err, "look at network %s", id)
	})
}

func (c *Cloud) subnetByID(ctx context.Context, s *session, id string) (subnets.Subnet, error) {
	return recently(&c.networks, "subnet "+id, func() (subnets.Subnet, error) {
		if !goodID.MatchString(id) {
			return subnets.Subnet{}, trove.Errorf(trove.KindBadRequest, "Subnet %s could not be found.", clip(id))
		}
		n, err := subnets.Get(ctx, s.network, id).Extract()
		if isStatus(err, http.StatusNotFound) {
			return subnets.Subnet{}, trove.Errorf(trove.KindBadRequest, "Subnet %s could not be found.", id)
		}
		if err != nil {
			return subnets.Subnet{}, failed(ctx, err, "look at subnet %s", id)
		}
		if n == nil {
			return subnets.Subnet{}, failed(ctx, errNothing, "look at subnet %s", id)
		}
		return *n, nil
	})
}

func (c *Cloud) subnetsOf(ctx context.Context, s *session, network string) ([]subnets.Subnet, error) {
	return recently(&c.networks, "subnets of "+network, func() ([]subnets.Subnet, error) {
		pages, err := subnets.List(s.network, subnets.ListOpts{NetworkID: network}).AllPages(ctx)
		if err != nil {
			return nil, failed(ctx, err, "list the subnets of network %s", network)
		}
		all, err := subnets.ExtractSubnets(pages)
		return all, failed(ctx, err, "list the subnets of network %s", network)
	})
}

// publicNetwork is where floating IPs are from.
func (c *Cloud) publicNetwork(ctx context.Context, s *session) (string, error) {
	if c.o.PublicNetwork != "" {
		return c.o.PublicNetwork, nil
	}
	return recently(&c.networks, "public", func() (string, error) {
		yes := true
		pages, err := networks.List(s.network, external.ListOptsExt{ListOptsBuilder: networks.ListOpts{}, External: &yes}).AllPages(ctx)
		if err != nil {
			return "", failed(ctx, err, "list external networks")
		}
		all, err := networks.ExtractNetworks(pages)
		if err != nil {
			return "", failed(ctx, err, "list external networks")
		}
		if len(all) == 0 {
			return "", trove.Errorf(trove.KindBadRequest, "There is no external network for a public address.").
				WithAction("create the instance without is_public, or set [network] public_network_id")
		}
		return all[0].ID, nil
	})
}

// onlyNetwork is the network of instances where nobody names one and there is no
// management network: the project's own, if it has just one, as Nova chooses.
func (c *Cloud) onlyNetwork(ctx context.Context, s *session) (string, error) {
	return recently(&c.networks, "only", func() (string, error) {
		pages, err := networks.List(s.network, networks.ListOpts{ProjectID: s.project}).AllPages(ctx)
		if err != nil {
			return "", failed(ctx, err, "list networks")
		}
		var all []networkRow
		if err := networks.ExtractNetworksInto(pages, &all); err != nil {
			return "", failed(ctx, err, "list networks")
		}
		all = slices.DeleteFunc(all, func(n networkRow) bool { return n.External })
		if len(all) != 1 {
			return "", trove.Errorf(trove.KindBadRequest, "The instance needs a network: none is named, and the service's project has %d.", len(all)).
				WithAction("name one with nics, or set [DEFAULT] management_networks")
		}
		return all[0].ID, nil
	})
}

// nic is a user's interface, looked up.
type nic struct {
	trove.NIC
	subnets []subnets.Subnet // to choose from
}

// lookUp finds what a user's interface names and refuses what cannot be made.
// project is whose instance it is; unknown if empty.
func (c *Cloud) lookUp(ctx context.Context, s *session, n trove.NIC, project string) (nic, error) {
	out := nic{NIC: n}
	if n.SubnetID != "" {
		sub, err := c.subnetByID(ctx, s, n.SubnetID)
		if err != nil {
			return out, err
		}
		if n.NetworkID != "" && sub.NetworkID != n.NetworkID {
			return out, trove.Errorf(trove.KindBadRequest, "Subnet %s is not in network %s.", n.SubnetID, n.NetworkID)
		}
		out.NetworkID, out.subnets = sub.NetworkID, []subnets.Subnet{sub}
	}
	if out.NetworkID == "" {
		return out, trove.Errorf(trove.KindBadRequest, "An interface needs a network or a subnet.")
	}
	if slices.Contains(c.o.ManagementNetworks, out.NetworkID) {
		return out, trove.Errorf(trove.KindBadRequest, "Network %s is the service's own.", out.NetworkID).WithAction("name another network")
	}
	network, err := c.networkByID(ctx, s, out.NetworkID)
	if err != nil {
		return out, err
	}
	if err := c.mayUse(ctx, s, network, project); err != nil {
		return out, err
	}
	if out.subnets == nil {
		if out.subnets, err = c.subnetsOf(ctx, s, out.NetworkID); err != nil {
			return out, err
		}
	}
	if len(out.subnets) == 0 {
		return out, trove.Errorf(trove.KindBadRequest, "Network %s has no subnet.", out.NetworkID).WithAction("give it one, or name another network")
	}
	return out, c.checkRanges(ctx, s, out)
}

// mayUse refuses networks of others: the service may use them all, its users may
// not.
func (c *Cloud) mayUse(ctx context.Context, s *session, n networkRow, project string) error {
	if project == "" || n.Shared || n.ProjectID == project || n.TenantID == project {
		return nil
	}
	shared, err := recently(&c.networks, "shared "+n.ID+" "+project, func() (bool, error) {
		pages, err := rbacpolicies.List(s.network, rbacpolicies.ListOpts{ObjectID: n.ID, Action: rbacpolicies.ActionAccessShared}).AllPages(ctx)
		if err != nil {
			return false, failed(ctx, err, "ask who may use network %s", n.ID)
		}
		all, err := rbacpolicies.ExtractRBACPolicies(pages)
		if err != nil {
			return false, failed(ctx, err, "ask who may use network %s", n.ID)
		}
		return slices.ContainsFunc(all, func(p rbacpolicies.RBACPolicy) bool {
			return p.Action == rbacpolicies.ActionAccessShared && (p.TargetTenant == project || p.TargetTenant == "*")
		}), nil
	})
	if err != nil {
		return err
	}
	if !shared {
		return trove.Errorf(trove.KindBadRequest, "Network %s could not be found.", n.ID)
	}
	return nil
}

// checkRanges refuses addresses that the instance could not tell apart or have.
func (c *Cloud) checkRanges(ctx context.Context, s *session, n nic) error {
	if n.IPAddress != "" {
		a, err := netip.ParseAddr(n.IPAddress)
		if err != nil {
			return trove.Errorf(trove.KindBadRequest, "%q is not an IP address.", clip(n.IPAddress))
		}
		if !slices.ContainsFunc(n.subnets, func(sub subnets.Subnet) bool {
			p, err := netip.ParsePrefix(sub.CIDR)
			return err == nil && p.Contains(a)
		}) {
			return trove.Errorf(trove.KindBadRequest, "Address %s is in no subnet of network %s.", n.IPAddress, n.NetworkID)
		}
	}
	if c.o.Isolation {
		return nil
	}
	taken := slices.Clone(c.o.ReservedCIDRs)
	if m := c.o.ManagementNetworks; len(m) > 0 {
		of, err := c.subnetsOf(ctx, s, m[len(m)-1])
		if err != nil {
			return err
		}
		for _, sub := range of {
			taken = append(taken, sub.CIDR)
		}
	}
	for _, sub := range n.subnets {
		for _, cidr := range taken {
			a, aerr := netip.ParsePrefix(sub.CIDR)
			b, berr := netip.ParsePrefix(cidr)
			if aerr == nil && berr == nil && a.Overlaps(b) {
				return trove.Errorf(trove.KindBadRequest, "The range %s of network %s overlaps with %s, which the service needs.", sub.CIDR, n.NetworkID, cidr).
					WithAction("choose a network or a subnet with another range")
			}
		}
	}
	return nil
}

// CheckNICs implements cloud.Cloud. Whose the instance will be is the context's
// project.
func (c *Cloud) CheckNICs(ctx context.Context, nics []trove.NIC) error {
	if len(nics) == 0 {
		return nil
	}
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	if len(nics) > 1 {
		return trove.Errorf(trove.KindBadRequest, "An instance has one interface of the user's at most.")
	}
	for _, n := range nics {
		if _, err := c.lookUp(ctx, s, n, rpc.ContextFrom(ctx).ProjectID); err != nil {
			return err
		}
	}
	return nil
}

// usersOf leaves out what the original's API appends: the management network.
func (c *Cloud) usersOf(nics []trove.NIC) []trove.NIC {
	m := c.o.ManagementNetworks
	if n := len(nics); n > 0 && len(m) > 0 && nics[n-1] == (trove.NIC{NetworkID: m[len(m)-1]}) {
		return nics[:n-1]
	}
	return nics
}
