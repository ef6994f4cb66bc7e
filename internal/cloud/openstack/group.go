package openstack

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// groups finds the security groups of an instance, the one to keep first.
func (c *Cloud) groups(ctx context.Context, s *session, o cloud.Owner) ([]groups.SecGroup, error) {
	// With the project: a user may give a group of his own any name.
	pages, err := groups.List(s.network, groups.ListOpts{Name: c.groupName(o), ProjectID: s.project}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	all, err := groups.ExtractGroups(pages)
	if err != nil {
		return nil, failed(ctx, err, "list security groups")
	}
	all = slices.DeleteFunc(all, func(g groups.SecGroup) bool { return c.memory.isGone(g.ID) })
	if id := c.memory.recall(aGroup, o.InstanceID); id != "" && !slices.ContainsFunc(all, func(g groups.SecGroup) bool { return g.ID == id }) {
		g, err := groups.Get(ctx, s.network, id).Extract()
		switch {
		case err == nil && g == nil:
			return nil, failed(ctx, errNothing, "look at a security group")
		case err == nil:
			all = append(all, *g)
		case !isStatus(err, http.StatusNotFound):
			return nil, failed(ctx, err, "look at a security group")
		}
	}
	slices.SortFunc(all, func(a, b groups.SecGroup) int { return older(a.CreatedAt, a.ID, b.CreatedAt, b.ID) })
	return all, nil
}

// older orders things by age. All processes must agree on it, and ages are in
// seconds.
func older(a time.Time, aID string, b time.Time, bID string) int {
	return cmp.Or(a.Truncate(time.Second).Compare(b.Truncate(time.Second)), cmp.Compare(aID, bID))
}

// EnsureSecurityGroup implements cloud.Cloud.
func (c *Cloud) EnsureSecurityGroup(ctx context.Context, o cloud.Owner, want []cloud.Rule) error {
	if c.o.NoSecurityGroups {
		return nil
	}
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	found, err := c.groups(ctx, s, o)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		var g *groups.SecGroup
		err := c.create(o, aGroup, func() (err error) {
			g, err = groups.Create(ctx, s.network, groups.CreateOpts{Name: c.groupName(o),
				Description: "Security group for trove instance " + o.InstanceID}).Extract()
			if err == nil && g == nil {
				err = errNothing
			}
			return err
		})
		if err != nil {
			return failed(ctx, err, "create a security group")
		}
		c.memory.note(aGroup, o.InstanceID, g.ID)
		if found, err = c.groups(ctx, s, o); err != nil {
			return err
		}
		if len(found) == 0 {
			return trove.Errorf(trove.KindUnavailable, "Security group %s was made and cannot be seen.", g.ID)
		}
	}
	if found, err = c.keepOneGroup(ctx, s, o, found); err != nil {
		return err
	}
	return c.ensureRules(ctx, s, found[0], want)
}

// keepOneGroup deletes all but the oldest. One that is in use stays, whichever it
// is: then the other goes.
func (c *Cloud) keepOneGroup(ctx context.Context, s *session, o cloud.Owner, all []groups.SecGroup) ([]groups.SecGroup, error) {
	for len(all) > 1 {
		last := len(all) - 1
		err := c.deleteGroup(ctx, s, all[last].ID)
		if trove.IsKind(err, trove.KindConflict) && all[0].ID != all[last].ID {
			if err = c.deleteGroup(ctx, s, all[0].ID); err == nil {
				all = all[1:]
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		all = all[:last]
	}
	c.memory.note(aGroup, o.InstanceID, all[0].ID)
	return all, nil
}

func (c *Cloud) deleteGroup(ctx context.Context, s *session, id string) error {
	err := groups.Delete(ctx, s.network, id).ExtractErr()
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return failed(ctx, err, "delete security group %s", id)
	}
	c.memory.gone(id)
	return nil
}

// opening is a rule as it can be compared.
type opening struct {
	family      rules.RuleEtherType
	protocol    string
	first, last int
	from        string
}

func openings(want []cloud.Rule) (map[opening]bool, error) {
	all := map[opening]bool{}
	for _, r := range want {
		for _, cidr := range r.CIDRs {
			p, err := netip.ParsePrefix(cidr)
			if err != nil {
				return nil, trove.Errorf(trove.KindBadRequest, "%q is not a range of addresses such as 10.0.0.0/8.", cidr)
			}
			family := rules.EtherType4
			if p.Addr().Is6() {
				family = rules.EtherType6
			}
			all[opening{family, "tcp", r.FirstPort, r.LastPort, p.Masked().String()}] = true
		}
	}
	return all, nil
}

func openingOf(r rules.SecGroupRule) opening {
	from := r.RemoteIPPrefix
	if p, err := netip.ParsePrefix(from); err == nil {
		from = p.Masked().String()
	}
	if from == "" && r.RemoteGroupID == "" && r.RemoteAddressGroupID == "" { // anybody
		if from = "0.0.0.0/0"; r.EtherType == string(rules.EtherType6) {
			from = "::/0"
		}
	}
	return opening{rules.RuleEtherType(r.EtherType), r.Protocol, r.PortRangeMin, r.PortRangeMax, from}
}

// ensureRules has the group let in what is wanted and nothing else.
func (c *Cloud) ensureRules(ctx context.Context, s *session, g groups.SecGroup, want []cloud.Rule) error {
	wanted, err := openings(want)
	if err != nil {
		return err
	}
	for tried := 0; ; tried++ {
		missing, surplus := compare(wanted, g.Rules)
		// First what is new: nobody who keeps the right to connect is cut off.
		if len(missing) > 0 {
			var create []rules.CreateOpts
			for _, m := range missing {
				create = append(create, rules.CreateOpts{Direction: rules.DirIngress, EtherType: m.family, SecGroupID: g.ID,
					Protocol: rules.RuleProtocol(m.protocol), PortRangeMin: m.first, PortRangeMax: m.last, RemoteIPPrefix: m.from})
			}
			err := rules.CreateBulk(ctx, s.network, create).Err
			if isStatus(err, http.StatusConflict) && tried < 2 && !trove.IsKind(failed(ctx, err, ""), trove.KindOverLimit) {
				// Somebody made one of them: a list that is behind, or another
				// process.
				fresh, gerr := groups.Get(ctx, s.network, g.ID).Extract()
				if gerr == nil && fresh == nil {
					gerr = errNothing
				}
				if gerr != nil {
					return failed(ctx, gerr, "look at a security group")
				}
				g = *fresh
				continue
			}
			if err != nil {
				return failed(ctx, err, "open the ports of a security group")
			}
		}
		var errs []error
		for _, id := range surplus {
			if err := rules.Delete(ctx, s.network, id).ExtractErr(); err != nil && !isStatus(err, http.StatusNotFound) {
				errs = append(errs, failed(ctx, err, "delete a rule of a security group"))
			}
		}
		return errors.Join(errs...)
	}
}

// compare tells which openings are missing, and which rules are too much.
func compare(wanted map[opening]bool, have []rules.SecGroupRule) (missing []opening, surplus []string) {
	seen := map[opening]bool{}
	for _, r := range have {
		if r.Direction != string(rules.DirIngress) {
			continue
		}
		o := openingOf(r)
		if !wanted[o] || seen[o] {
			surplus = append(surplus, r.ID)
		}
		seen[o] = true
	}
	for o := range wanted {
		if !seen[o] {
			missing = append(missing, o)
		}
	}
	slices.SortFunc(missing, func(a, b opening) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last), cmp.Compare(a.from, b.from))
	})
	return missing, surplus
}

// DeleteSecurityGroup implements cloud.Cloud.
func (c *Cloud) DeleteSecurityGroup(ctx context.Context, o cloud.Owner) error {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	found, err := c.groups(ctx, s, o)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range found {
		errs = append(errs, inUse(c.deleteGroup(ctx, s, g.ID)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.memory.forget(aGroup, o.InstanceID)
	return c.settled(o, aGroup)
}

// inUse makes of a conflict at a deletion something to be tried again: what uses
// the thing is on its way out.
func inUse(err error) error {
	if trove.IsKind(err, trove.KindConflict) {
		return trove.Errorf(trove.KindUnavailable, "%w", err)
	}
	return err
}
