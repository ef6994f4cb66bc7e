package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// checkFlavors looks whether there are flavors at all.
func (g *region) checkFlavors(ctx context.Context, r *report) {
	if g.without(r, "nova") {
		return
	}
	all, err := g.v.Flavors(ctx)
	switch {
	case err != nil:
		r.broken(err, "look at Nova's log")
		return
	case len(all) == 0:
		r.fail("openstack flavor create --ram 1024 --disk 5 --vcpus 1 db.small", "project %s sees no flavor", g.v.Account.Project)
		return
	}
	slices.SortFunc(all, func(a, b trove.Flavor) int {
		return cmp.Or(a.RAM-b.RAM, a.VCPUs-b.VCPUs, a.Disk-b.Disk, strings.Compare(a.ID, b.ID))
	})
	g.flavors = all
	r.ok("%d flavors, from %s (%d MiB) to %s (%d MiB)", len(all), all[0].Name, all[0].RAM, all[len(all)-1].Name, all[len(all)-1].RAM)
}

// checkImages looks at each active datastore version: its image, and the flavors
// and volume types that it is bound to.
func (g *region) checkImages(ctx context.Context, r *report) {
	if g.without(r, "glance") {
		return
	}
	stores, err := g.store.Datastores(ctx)
	if err != nil {
		r.broken(err, "")
		return
	}
	active := 0
	for _, d := range stores {
		for _, v := range d.Versions {
			if v.Active {
				active++
				g.checkVersionImage(ctx, r, v)
			}
		}
	}
	if active == 0 {
		r.fail(`openstack image create --disk-format qcow2 --container-format bare --file IMAGE --tag trove --tag mariadb trove-guest; trove-manage datastore_version_update mariadb 10.11 mariadb "" "" 1 --image-tags trove,mariadb --version 10.11`,
			"there is no active datastore version: no instance can be made")
	}
}

// imageUpdate is the command that gives a version another image; it says what to put
// in.
func imageUpdate(v trove.DatastoreVersion) string {
	number := ""
	if v.Number != "" {
		number = " --version " + quote(v.Number)
	}
	return fmt.Sprintf(`trove-manage datastore_version_update %s %s %s IMAGE_ID "" 1%s`, quote(v.DatastoreName), quote(v.Name), quote(v.Manager), number)
}

// quote is a word of a command line.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !strings.ContainsRune("-_./+=:,@%", c) && (c < '0' || c > 'z' || c > '9' && c < 'A' || c > 'Z' && c < 'a')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (g *region) checkVersionImage(ctx context.Context, r *report, v trove.DatastoreVersion) {
	name := v.DatastoreName + " " + v.Name
	metadata, err := g.store.VersionMetadata(ctx, v.ID)
	if err != nil {
		r.broken(err, "")
	}
	bound := g.boundFlavors(r, v, metadata[store.BindFlavor])
	g.boundTypes(ctx, r, v, metadata[store.BindVolumeType])
	if v.ImageID == "" && len(v.ImageTags) == 0 {
		r.fail(imageUpdate(v), "%s names no image and no tags of images", name)
		return
	}
	i, err := g.v.Image(ctx, v.ImageID, v.ImageTags)
	switch {
	case trove.IsKind(err, trove.KindNotFound) && v.ImageID == "":
		mend := "openstack image set"
		for _, t := range v.ImageTags {
			mend += " --tag " + quote(t)
		}
		r.fail(mend+" IMAGE; and openstack image set --public IMAGE unless it is the project's", "%s: no active image that project %s sees has the tags %s", name, g.v.Account.Project, strings.Join(v.ImageTags, ", "))
		return
	case trove.IsKind(err, trove.KindNotFound):
		r.fail("openstack image list; then "+imageUpdate(v)+"; or, if it is another project's: openstack image set --public "+v.ImageID, "%s: project %s sees no image %s", name, g.v.Account.Project, v.ImageID)
		return
	case err != nil:
		r.broken(err, "look at Glance's log")
		return
	case i.Status == "deactivated":
		r.fail("openstack image set --activate "+i.ID, "%s: image %s is deactivated", name, label(i.Name, i.ID))
		return
	case i.Status != "active":
		r.fail("openstack image show "+i.ID+"; if its upload broke off: openstack image create --disk-format qcow2 --container-format bare --file IMAGE trove-guest; then "+imageUpdate(v), "%s: image %s is %s, not active", name, label(i.Name, i.ID), i.Status)
		return
	}
	may := g.flavors
	if len(bound) > 0 {
		may = bound
	}
	view := versionView{DatastoreVersion: v, image: i}
	var small []string
	for _, f := range may {
		if f.RAM >= i.MinRAM && (f.Disk == 0 || f.Disk >= i.Disk) {
			view.fits = append(view.fits, f)
		} else {
			small = append(small, f.Name)
		}
	}
	switch {
	case len(view.fits) == 0 && len(may) > 0:
		r.fail(fmt.Sprintf("openstack flavor create --ram %d --disk %d --vcpus 1 db.%s", max(512, i.MinRAM), i.Disk, v.Manager),
			"%s: image %s needs a disk of %d GiB and %d MiB of memory, and no flavor that the version may have has both", name, label(i.Name, i.ID), i.Disk, i.MinRAM)
		return
	case len(small) > 0:
		r.warn("bind the version to those that fit: trove-manage datastore_version_flavor_add "+quote(v.DatastoreName)+" "+quote(v.Name)+" "+ids(view.fits),
			"%s: image %s (disk %d GiB, memory %d MiB) does not fit the flavors %s", name, label(i.Name, i.ID), i.Disk, i.MinRAM, listed(small, 6))
	default:
		r.ok("%s: image %s is active", name, label(i.Name, i.ID))
	}
	g.versions = append(g.versions, view)
}

func ids(all []trove.Flavor) string {
	var out []string
	for _, f := range all {
		out = append(out, f.ID)
	}
	return strings.Join(out, ",")
}

// boundFlavors are those that a version is bound to and that there are.
func (g *region) boundFlavors(r *report, v trove.DatastoreVersion, bound []string) (out []trove.Flavor) {
	if len(g.flavors) == 0 {
		return nil // told already
	}
	for _, id := range bound {
		i := slices.IndexFunc(g.flavors, func(f trove.Flavor) bool { return f.ID == id })
		if i < 0 {
			r.fail(fmt.Sprintf("trove-manage datastore_version_flavor_delete %s %s %s; openstack flavor list tells which there are, by id", quote(v.DatastoreName), quote(v.Name), quote(id)),
				"%s %s may have the flavor %s, which project %s does not see", v.DatastoreName, v.Name, id, g.v.Account.Project)
			continue
		}
		out = append(out, g.flavors[i])
	}
	return out
}

// boundTypes looks at the volume types that a version is bound to.
func (g *region) boundTypes(ctx context.Context, r *report, v trove.DatastoreVersion, bound []string) {
	if len(bound) == 0 || !g.v.Has("cinder") {
		return
	}
	all, err := g.v.VolumeTypes(ctx)
	if err != nil {
		return // told by the check of volume types
	}
	for _, id := range bound {
		if !slices.ContainsFunc(all, func(t openstack.VolumeType) bool { return t.ID == id || t.Name == id }) {
			r.fail(fmt.Sprintf("trove-manage datastore_version_volume_type_delete %s %s %s; openstack volume type list tells which there are", quote(v.DatastoreName), quote(v.Name), quote(id)),
				"%s %s may have the volume type %s, which project %s does not see", v.DatastoreName, v.Name, id, g.v.Account.Project)
		}
	}
}

// checkVolumeTypes looks at the type of volumes for which nobody asks for one.
func (g *region) checkVolumeTypes(ctx context.Context, r *report) {
	if g.without(r, "cinder") {
		return
	}
	all, err := g.v.VolumeTypes(ctx)
	if err != nil {
		r.broken(err, "look at Cinder's log")
		return
	}
	if len(all) == 0 {
		r.fail("openstack volume type create --public standard", "project %s sees no volume type", g.v.Account.Project)
		return
	}
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	want := g.o.VolumeType
	i := slices.IndexFunc(all, func(t openstack.VolumeType) bool { return t.Name == want || t.ID == want })
	switch {
	case want == "":
		r.ok("volume types: %s; Cinder's default counts where nobody names one", listed(names, 6))
	case i < 0:
		r.fail("set [DEFAULT] cinder_volume_type to one of "+listed(names, 6)+"; or openstack volume type create --public "+quote(want)+"; or, if it is a private one: openstack volume type set --project "+g.v.Account.ProjectID+" "+quote(want),
			"[DEFAULT] cinder_volume_type: project %s sees no volume type %s", g.v.Account.Project, want)
	case !all[i].Public:
		r.warn("openstack volume type set --project "+g.v.Account.ProjectID+" "+quote(want), "volume type %s is private: the service's project needs access to it", want)
	default:
		r.ok("volume type %s is there", want)
	}
}

// checkQuotas compares what the service's project may have with what instances
// need: of the smallest flavor that fits an image, with the smallest volume.
func (g *region) checkQuotas(ctx context.Context, r *report) {
	all, errs := g.v.Quotas(ctx)
	for _, err := range errs {
		r.warn(fmt.Sprintf("openstack quota show %s, as an administrator", g.v.Account.ProjectID), "%s", err)
	}
	need := map[string]int{openstack.QuotaInstances: 1, openstack.QuotaPorts: 1, openstack.QuotaVolumes: 1, openstack.QuotaGigabytes: 1}
	if len(g.o.ManagementNetworks) > 0 {
		need[openstack.QuotaPorts] = 2
	}
	if !g.o.NoSecurityGroups {
		// Neutron gives a group two rules of its own.
		need[openstack.QuotaGroups], need[openstack.QuotaRules] = 1, 3
	}
	what := ""
	if f, ok := g.smallest(); ok {
		need[openstack.QuotaCores], need[openstack.QuotaRAM] = f.VCPUs, f.RAM
		what = " of flavor " + f.Name
	}
	room := -1
	for _, q := range all {
		one := need[q.Name]
		if one == 0 {
			continue
		}
		more := one * g.instances
		switch {
		case q.Limit < 0:
			continue
		case q.Used < 0:
			if q.Limit < more {
				r.fail(fmt.Sprintf("openstack quota set --%s %d %s", q.Name, more, g.v.Account.ProjectID), "quota %s is %d: %d instances need %d", q.Name, q.Limit, g.instances, more)
			}
			continue
		case q.Used+more > q.Limit:
			r.fail(fmt.Sprintf("openstack quota set --%s %d %s", q.Name, q.Used+more, g.v.Account.ProjectID),
				"quota %s: %d of %d are used, and %s%s", q.Name, q.Used, q.Limit, g.take(more), what)
		}
		if fit := (q.Limit - q.Used) / one; room < 0 || fit < room {
			room = max(fit, 0)
		}
	}
	switch {
	case len(all) == 0:
	case room < 0:
		r.ok("the quotas of project %s have no limits that count", g.v.Account.Project)
	case room >= g.instances:
		r.ok("the quotas of project %s have room for %d more instances%s", g.v.Account.Project, room, what)
	}
}

// take says how much all instances take.
func (g *region) take(n int) string {
	if g.instances == 1 {
		return fmt.Sprintf("an instance takes %d", n)
	}
	return fmt.Sprintf("%d instances take %d", g.instances, n)
}

// smallest is the smallest flavor that fits the image of a version.
func (g *region) smallest() (trove.Flavor, bool) {
	for _, v := range g.versions {
		if len(v.fits) > 0 {
			return v.fits[0], true
		}
	}
	if len(g.flavors) > 0 {
		return g.flavors[0], true
	}
	return trove.Flavor{}, false
}
