package openstack

import (
	"context"
	"math/big"
	"net/netip"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"
	computelimits "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/networkipavailabilities"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/quotas"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// NetworkView is a network with what is in it.
type NetworkView struct {
	ID, Name, Status string
	Up, External     bool
	Subnets          []SubnetView
	// Free is how many addresses are free; -1 if that is not known.
	Free int64
}

// SubnetView is a subnet.
type SubnetView struct {
	ID, Name string
	Range    netip.Prefix
	Gateway  netip.Addr // not valid if there is none
	DHCP     bool
	Routes   []netip.Prefix // those of its hosts beside the gateway's
	Router   bool           // a router of Neutron's is in it
}

// Network looks at a network; KindBadRequest or KindNotFound if it is not there.
func (v *Survey) Network(ctx context.Context, id string) (NetworkView, error) {
	row, err := v.c.networkByID(ctx, v.s, id)
	if err != nil {
		return NetworkView{}, err
	}
	out := NetworkView{ID: id, Name: row.Name, Status: row.Status, Up: row.AdminStateUp, External: row.External, Free: -1}
	subnets, err := v.c.subnetsOf(ctx, v.s, id)
	if err != nil {
		return out, err
	}
	for i, sub := range subnets {
		s := SubnetView{ID: sub.ID, Name: sub.Name, DHCP: sub.EnableDHCP}
		s.Range, _ = netip.ParsePrefix(sub.CIDR) // Neutron's own; what is not one contains nothing
		s.Gateway, _ = netip.ParseAddr(sub.GatewayIP)
		for _, r := range sub.HostRoutes {
			if p, err := netip.ParsePrefix(r.DestinationCIDR); err == nil {
				s.Routes = append(s.Routes, p)
			}
		}
		s.Router = v.c.checkRouter(ctx, v.s, subnets[i:i+1]) == nil
		out.Subnets = append(out.Subnets, s)
	}
	// Administrators only may ask.
	if n, err := networkipavailabilities.Get(ctx, v.s.network, id).Extract(); err == nil && n != nil {
		total, ok := new(big.Int).SetString(n.TotalIPs, 10)
		used, ok2 := new(big.Int).SetString(n.UsedIPs, 10)
		if ok && ok2 {
			if free := total.Sub(total, used); free.IsInt64() {
				out.Free = free.Int64()
			}
		}
	}
	return out, nil
}

// Egress is what a security group lets out.
type Egress struct {
	Protocol  string // empty: any
	From, To  int    // ports; 0: any
	Range     netip.Prefix
	Ethertype string
}

// Group gives a security group's name and what it lets out; KindNotFound.
func (v *Survey) Group(ctx context.Context, id string) (name string, out []Egress, err error) {
	g, err := groups.Get(ctx, v.s.network, id).Extract()
	if err != nil {
		return "", nil, failed(ctx, err, "look at security group %s", id)
	}
	for _, r := range g.Rules {
		if r.Direction != "egress" {
			continue
		}
		e := Egress{Protocol: r.Protocol, From: r.PortRangeMin, To: r.PortRangeMax, Ethertype: r.EtherType}
		if r.RemoteGroupID != "" {
			continue // to other instances: no broker is among them
		}
		e.Range, _ = netip.ParsePrefix(r.RemoteIPPrefix) // not valid: any
		out = append(out, e)
	}
	return g.Name, out, nil
}

// Public gives the network that floating IPs are from; KindBadRequest if there is
// none.
func (v *Survey) Public(ctx context.Context) (NetworkView, error) {
	id, err := v.c.publicNetwork(ctx, v.s)
	if err != nil {
		return NetworkView{}, err
	}
	return v.Network(ctx, id)
}

// ImageView is an image.
type ImageView struct {
	ID, Name, Status string
	MinRAM           int // MiB
	Disk             int // GiB that a server's disk must have
}

const gibibyte = 1 << 30

// Image looks at an image by its id or, without one, at the newest active one
// with all tags; KindNotFound if our project does not see one.
func (v *Survey) Image(ctx context.Context, id string, tags []string) (ImageView, error) {
	if id == "" {
		found, err := v.c.image(ctx, v.s, "", tags)
		if trove.IsKind(err, trove.KindBadRequest) {
			return ImageView{}, trove.Errorf(trove.KindNotFound, "%w", err)
		}
		if err != nil {
			return ImageView{}, err
		}
		id = found
	}
	if !goodID.MatchString(id) {
		return ImageView{}, trove.Errorf(trove.KindNotFound, "%q is not an image's id.", clip(id))
	}
	i, err := images.Get(ctx, v.s.image, id).Extract()
	if err != nil {
		return ImageView{}, failed(ctx, err, "look at image %s", id)
	}
	size := max(i.VirtualSize, i.SizeBytes)
	return ImageView{ID: id, Name: i.Name, Status: string(i.Status), MinRAM: i.MinRAMMegabytes,
		Disk: max(i.MinDiskGigabytes, int((size+gibibyte-1)/gibibyte))}, nil
}

// Flavors gives what Nova offers our project.
func (v *Survey) Flavors(ctx context.Context) ([]trove.Flavor, error) {
	return listFlavors(ctx, v.s)
}

// VolumeType is one that our project sees.
type VolumeType struct {
	ID, Name string
	Public   bool
}

// VolumeTypes gives those that our project sees.
func (v *Survey) VolumeTypes(ctx context.Context) ([]VolumeType, error) {
	pages, err := volumetypes.List(v.s.volume, volumetypes.ListOpts{IsPublic: volumetypes.VisibilityDefault}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list volume types")
	}
	all, err := volumetypes.ExtractVolumeTypes(pages)
	if err != nil {
		return nil, failed(ctx, err, "list volume types")
	}
	var out []VolumeType
	for _, t := range all {
		out = append(out, VolumeType{t.ID, t.Name, t.IsPublic || t.PublicAccess})
	}
	return out, nil
}

// Quota is one of our project's. Name is what `openstack quota set` calls it.
type Quota struct {
	Name        string
	Limit, Used int // a Limit of -1 is none; a Used of -1 is not known
}

// Names of quotas.
const (
	QuotaInstances = "instances"
	QuotaCores     = "cores"
	QuotaRAM       = "ram" // MiB
	QuotaPorts     = "ports"
	QuotaGroups    = "secgroups"
	QuotaRules     = "secgroup-rules"
	QuotaFloating  = "floating-ips"
	QuotaVolumes   = "volumes"
	QuotaGigabytes = "gigabytes"
)

// Quotas gives what our project may have. What a service does not tell is left
// out and told by the error; the rest is good all the same.
func (v *Survey) Quotas(ctx context.Context) (out []Quota, errs []error) {
	if v.Has("nova") {
		l, err := computelimits.Get(ctx, v.s.compute, nil).Extract()
		if err != nil {
			errs = append(errs, failed(ctx, err, "ask Nova for the quotas"))
		} else {
			a := l.Absolute
			out = append(out, Quota{QuotaInstances, a.MaxTotalInstances, a.TotalInstancesUsed}, Quota{QuotaCores, a.MaxTotalCores, a.TotalCoresUsed},
				Quota{QuotaRAM, a.MaxTotalRAMSize, a.TotalRAMUsed})
		}
	}
	if v.Has("neutron") {
		q, err := v.networkQuotas(ctx)
		if err != nil {
			errs = append(errs, err)
		}
		out = append(out, q...)
	}
	if v.Has("cinder") {
		l, err := limits.Get(ctx, v.s.volume).Extract()
		if err != nil {
			errs = append(errs, failed(ctx, err, "ask Cinder for the quotas"))
		} else {
			a := l.Absolute
			out = append(out, Quota{QuotaVolumes, a.MaxTotalVolumes, a.TotalVolumesUsed}, Quota{QuotaGigabytes, a.MaxTotalVolumeGigabytes, a.TotalGigabytesUsed})
		}
	}
	return out, errs
}

// networkQuotas are Neutron's: without the use of each, where it does not tell.
func (v *Survey) networkQuotas(ctx context.Context) ([]Quota, error) {
	d, err := quotas.GetDetail(ctx, v.s.network, v.s.project).Extract()
	if err == nil {
		used := func(name string, q quotas.QuotaDetail) Quota { return Quota{name, q.Limit, q.Used + q.Reserved} }
		return []Quota{used(QuotaPorts, d.Port), used(QuotaGroups, d.SecurityGroup), used(QuotaRules, d.SecurityGroupRule), used(QuotaFloating, d.FloatingIP)}, nil
	}
	q, err := quotas.Get(ctx, v.s.network, v.s.project).Extract()
	if err != nil {
		return nil, failed(ctx, err, "ask Neutron for the quotas")
	}
	return []Quota{{QuotaPorts, q.Port, -1}, {QuotaGroups, q.SecurityGroup, -1}, {QuotaRules, q.SecurityGroupRule, -1}, {QuotaFloating, q.FloatingIP, -1}}, nil
}

// Throwaways finds what was made for instances whose ids begin with a prefix, by
// id, with the time at which the oldest of it was made.
func (v *Survey) Throwaways(ctx context.Context, prefix string) (map[string]time.Time, error) {
	out := map[string]time.Time{}
	note := func(name, ours string, made time.Time) {
		id, ok := strings.CutPrefix(name, ours)
		if !ok || !strings.HasPrefix(id, prefix) {
			return
		}
		if was, ok := out[id]; !ok || made.Before(was) {
			out[id] = made
		}
	}
	all, err := v.c.listServers(ctx, v.s, servers.ListOpts{})
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		note(r.instance(), "", r.Created)
	}
	pages, err := ports.List(v.s.network, query{"project_id": {v.s.project}, "fields": {"id", "name", "created_at"}}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list ports")
	}
	found, err := ports.ExtractPorts(pages)
	if err != nil {
		return nil, failed(ctx, err, "list ports")
	}
	for _, p := range found {
		note(p.Name, resourceName(cloud.Owner{}), p.CreatedAt)
	}
	pages, err = groups.List(v.s.network, groups.ListOpts{ProjectID: v.s.project}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	of, err := groups.ExtractGroups(pages)
	if err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	for _, g := range of {
		note(g.Name, v.c.groupName(cloud.Owner{}), g.CreatedAt)
	}
	return out, nil
}
