package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// surveyWait bounds what is asked of a cloud; its services may be slow.
	surveyWait = 2 * time.Minute
	// novaTags and cinderGrows are the minor versions since which Nova takes tags
	// with a new server and Cinder extends an attached volume.
	novaTags    = 52
	cinderGrows = 42
)

// region is what the checks of a cloud share: what was found when we logged in,
// and what an instance needs.
type region struct {
	d *doctor
	v *openstack.Survey
	o openstack.Options
	// instances is how many there must be room for.
	instances int
	// store is the database of record; nil if it cannot be opened, and then the
	// check of images says so.
	store *store.Store

	// managed are the management networks that were found; the last one counts.
	managed []openstack.NetworkView
	// versions are the active datastore versions with their images.
	versions []versionView
	flavors  []trove.Flavor
}

// versionView is a datastore version with its image.
type versionView struct {
	trove.DatastoreVersion
	image openstack.ImageView
	// fits are the flavors that it may have and that its image fits.
	fits []trove.Flavor
}

// cloudChecks are in the order in which they are told. Those of one row run at
// the same time; a row may use what the one before it found.
var cloudChecks = [][]struct {
	name string
	run  func(g *region, ctx context.Context, r *report)
}{
	{{"networks", (*region).checkNetworks}, {"flavors", (*region).checkFlavors}},
	{{"images", (*region).checkImages}, {"volume types", (*region).checkVolumeTypes}, {"bus for guests", (*region).checkGuestBus}},
	{{"quotas", (*region).checkQuotas}},
}

// examineCloud looks at what instances on a cloud need.
func (d *doctor) examineCloud(ctx context.Context, instances int, guest bool) []finding {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	account := &report{check: "login"}
	services := &report{check: "services"}
	g := d.logIn(ctx, account, services)
	if g == nil {
		return append(account.found, services.found...)
	}
	g.instances = instances
	s, err := d.openStore(ctx)
	if err == nil {
		defer s.Close()
		g.store = s
	}
	found := append(account.found, services.found...)
	for _, row := range cloudChecks {
		reports := make([]*report, len(row))
		var wg sync.WaitGroup
		for i, c := range row {
			reports[i] = &report{check: c.name}
			if c.name == "images" && err != nil {
				reports[i].broken(err, "trove-manage doctor looks at the database")
				continue
			}
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, surveyWait)
				defer cancel()
				c.run(g, ctx, reports[i])
			})
		}
		wg.Wait()
		for _, r := range reports {
			found = append(found, r.found...)
		}
	}
	if guest {
		r := &report{check: "guest"}
		g.checkGuest(ctx, r)
		found = append(found, r.found...)
	}
	return found
}

func (d *doctor) openStore(ctx context.Context) (*store.Store, error) {
	config, err := d.c.Database.config()
	if err != nil {
		return nil, err
	}
	if config.URL.IsZero() {
		return nil, trove.Errorf(trove.KindBadRequest, "[database] connection is not set: which images there are to be is not known")
	}
	config.Log, config.Clock, config.Pool.Retries = d.log, d.clock, 0
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	s, err := store.Open(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := s.CheckSchema(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// logIn is the first check, without which there are no others.
func (d *doctor) logIn(ctx context.Context, r, services *report) *region {
	if d.c.Cloud == cloudLocal {
		r.fail("set [gotrove] cloud = openstack", "[gotrove] cloud is %s: there is no cloud to be looked at", d.c.Cloud)
		return nil
	}
	o, err := d.c.OpenStack.cloud()
	if err != nil {
		r.broken(err, "complete [service_credentials]: trove-manage config sample")
		return nil
	}
	o.Log = d.log
	c, err := openstack.New(o)
	if err != nil {
		r.broken(err, "correct the option")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, surveyWait)
	defer cancel()
	v, err := c.Survey(ctx)
	if err != nil {
		r.fail(loginMend(o), "%s", err)
		return nil
	}
	a := v.Account
	r.ok("%s logs in at Keystone, in project %s (%s), with the roles %s", a.User, a.Project, a.ProjectID, orNone(a.Roles))
	if !slices.Contains(a.Roles, "admin") {
		r.warn(fmt.Sprintf("openstack role add --user %s --project %s admin; or have the policies of Neutron and Nova let this user do so", cmp.Or(a.UserID, a.User), a.ProjectID),
			"%s has not the role admin: as services come, it cannot put ports on the networks of users, nor give users floating IPs", a.User)
	}
	g := &region{d: d, v: v, o: o}
	g.checkServices(services)
	if v.Has("nova") {
		switch err := v.MayBoot(ctx); {
		case trove.IsKind(err, trove.KindForbidden):
			r.fail(fmt.Sprintf("openstack role add --user %s --project %s member", cmp.Or(a.UserID, a.User), a.ProjectID), "%s may not make servers in project %s: %v", a.User, a.Project, err)
		case err != nil:
			r.broken(err, "look at Nova's log")
		default:
			r.ok("it may make servers in project %s", a.Project)
		}
		g.checkKeyPair(ctx, r)
	}
	return g
}

// checkKeyPair looks whether the user has the key pair that servers get.
func (g *region) checkKeyPair(ctx context.Context, r *report) {
	if g.o.KeyPair == "" {
		return
	}
	if err := g.v.KeyPair(ctx, g.o.KeyPair); err != nil {
		r.broken(err, fmt.Sprintf("as %s: openstack keypair create --public-key id.pub %s; or take [DEFAULT] nova_keypair out", g.v.Account.User, g.o.KeyPair))
		return
	}
	r.ok("key pair %s is there", g.o.KeyPair)
}

func orNone(all []string) string { return cmp.Or(strings.Join(all, ", "), "none at all") }

// loginMend is what to try and what to change where the login fails.
func loginMend(o openstack.Options) string {
	if o.CredentialID != "" || o.CredentialName != "" {
		return fmt.Sprintf("openstack --os-auth-url %s --os-auth-type v3applicationcredential --os-application-credential-id %s token issue tries it; openstack application credential create makes another",
			o.AuthURL, cmp.Or(o.CredentialID, o.CredentialName))
	}
	user, project := cmp.Or(o.Username, o.UserID), cmp.Or(o.ProjectName, o.ProjectID)
	return fmt.Sprintf("openstack --os-auth-url %s --os-username %s --os-user-domain-name %s --os-project-name %s --os-project-domain-name %s token issue tries it; openstack user set --password-prompt %s and openstack role add --user %s --project %s admin mend it, or correct [service_credentials]",
		o.AuthURL, user, cmp.Or(o.UserDomainName, o.UserDomainID), project, cmp.Or(o.ProjectDomainName, o.ProjectDomainID), user, user, project)
}

// checkServices tells which services there are, of which versions, and their
// clocks.
func (g *region) checkServices(r *report) {
	words := map[string]string{"nova": "nova_compute", "neutron": "neutron", "cinder": "cinder", "glance": "glance"}
	for _, s := range g.v.Services {
		switch {
		case s.Problem != nil && s.URL == "":
			mend := fmt.Sprintf("openstack endpoint create --region %s %s %s URL; or set [DEFAULT] %s_url", cmp.Or(g.o.Region, "RegionOne"), s.Type, s.Interface, words[s.Name])
			if g.o.Region != "" && !slices.Contains(g.v.Regions, g.o.Region) {
				mend = "set [service_credentials] region_name to one of " + orNone(g.v.Regions)
			}
			r.fail(mend, "%s", s.Problem)
		case s.Problem != nil:
			r.fail(fmt.Sprintf("openstack endpoint list --service %s --interface %s tells where it should be: curl -i %s from here, and start it or correct the endpoint", s.Type, s.Interface, s.URL),
				"%s at %s: %s", s.Name, s.URL, s.Problem)
		default:
			r.ok("%s answers at %s%s", s.Name, s.URL, versionOf(s))
			g.checkVersion(r, s)
		}
	}
	clock := &report{check: "clocks"}
	clock.checkService("Keystone's", g.v.Account.Clock)
	for _, s := range g.v.Services {
		clock.checkService(s.Name+"'s", s.Clock)
	}
	bad := slices.DeleteFunc(clock.found, func(f finding) bool { return f.Status == statusOK })
	if len(bad) == 0 {
		r.ok("the clocks of the cloud's services agree with ours")
	}
	r.found = append(r.found, bad...)
}

// checkService is checkClock of a service that told its time in whole seconds.
func (r *report) checkService(whose string, c openstack.Clock) {
	if !c.Shown.IsZero() {
		r.checkClock(whose, c.Shown.Sub(c.Asked), time.Second+c.Answered.Sub(c.Asked))
	}
}

func versionOf(s openstack.ServiceView) string {
	switch {
	case s.Name == "nova" && s.Minor > 0:
		return fmt.Sprintf(", version 2.%d", s.Minor)
	case s.Name == "cinder" && s.Minor > 0:
		return fmt.Sprintf(", version 3.%d", s.Minor)
	}
	return ""
}

func (g *region) checkVersion(r *report, s openstack.ServiceView) {
	switch {
	case s.Name == "nova" && s.Minor < novaTags:
		r.warn("upgrade Nova to Pike or later", "Nova's newest version is 2.%d: servers get no tags before 2.%d, and are found by their names", s.Minor, novaTags)
	case s.Name == "cinder" && s.Minor < cinderGrows && !g.o.OfflineGrow:
		r.warn("set [DEFAULT] online_volume_resize = false", "Cinder's newest version is 3.%d: it extends attached volumes since 3.%d", s.Minor, cinderGrows)
	}
}

// without tells that a check needs a service that is not there.
func (g *region) without(r *report, services ...string) bool {
	for _, s := range services {
		if !g.v.Has(s) {
			r.skip("without %s this cannot be looked at", s)
			return true
		}
	}
	return false
}
