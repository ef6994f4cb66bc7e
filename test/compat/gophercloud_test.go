package compat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/configurations"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/databases"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/datastores"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/instances"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/users"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

// cloud is gophercloud's client of the database service, as mia.
type cloud struct {
	t *testing.T
	*gophercloud.ServiceClient
}

func newGophercloud(t *testing.T) *cloud {
	t.Helper()
	env := service.member
	provider, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: env["OS_AUTH_URL"], Username: env["OS_USERNAME"], Password: env["OS_PASSWORD"],
		TenantName: env["OS_PROJECT_NAME"], DomainName: "Default",
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := openstack.NewDBV1(provider, gophercloud.EndpointOpts{Region: env["OS_REGION_NAME"]})
	if err != nil {
		t.Fatal(err)
	}
	return &cloud{t: t, ServiceClient: c}
}

// must fails the test unless err is nil.
func (c *cloud) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// all follows a list to its last page.
func all[T any](c *cloud, pager pagination.Pager, extract func(pagination.Page) ([]T, error)) (items []T, pages int) {
	c.t.Helper()
	err := pager.EachPage(c.t.Context(), func(_ context.Context, p pagination.Page) (bool, error) {
		got, err := extract(p)
		items, pages = append(items, got...), pages+1
		return true, err
	})
	c.must(err)
	return items, pages
}

// version is the one version that a datastore has.
func (c *cloud) version(datastore string) datastores.Version {
	c.t.Helper()
	versions, _ := all(c, datastores.ListVersions(c.ServiceClient, datastore), datastores.ExtractVersions)
	if len(versions) != 1 {
		c.t.Fatalf("versions of %s: %+v", datastore, versions)
	}
	return versions[0]
}

// create asks for an instance and does not wait for it.
func (c *cloud) create(name, datastore string, dbs databases.BatchCreateOpts, them users.BatchCreateOpts) *instances.Instance {
	c.t.Helper()
	opts := instances.CreateOpts{
		Name: name, FlavorRef: c.ServiceURL("flavors", "1"), Size: 1,
		Datastore: &instances.DatastoreOpts{Type: datastore, Version: c.version(datastore).ID},
		Networks:  []instances.NetworkOpts{{UUID: "local"}},
	}
	if len(dbs) > 0 {
		opts.Databases, opts.Users = dbs, them
	}
	i, err := instances.Create(c.t.Context(), c.ServiceClient, opts).Extract()
	c.must(err)
	if i.Status != "BUILD" {
		c.t.Errorf("made as %+v", i)
	}
	return i
}

// turns polls an instance until it has a status, "" for gone, and fails on any
// status that was not expected on the way: Terraform's provider gives up then.
func (c *cloud) turns(id, status string, meanwhile ...string) (i *instances.Instance) {
	c.t.Helper()
	eventually(c.t, "instance "+id+" turns "+status, tick, func() error {
		var err error
		i, err = instances.Get(c.t.Context(), c.ServiceClient, id).Extract()
		switch {
		case status == "" && gophercloud.ResponseCodeIs(err, http.StatusNotFound):
			return nil
		case err != nil:
			c.t.Fatal(err)
		case i.Status == status:
			return nil
		case !slices.Contains(meanwhile, i.Status):
			c.t.Fatalf("status %s", i.Status)
		}
		return errors.New(i.Status)
	})
	return i
}

// refused checks that a call was answered with 501 and says why.
func (c *cloud) refused(what string, err error) {
	c.t.Helper()
	var code gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &code) || code.Actual != http.StatusNotImplemented || !strings.Contains(string(code.Body), "does not support") {
		c.t.Errorf("%s: %v", what, err)
	}
}

// gophercloud's client does all it can do with what this service has, and sees
// more than the first page of every list.
func TestGophercloud(t *testing.T) {
	needsEngines(t)
	t.Parallel()
	c := newGophercloud(t)
	ctx := t.Context()

	stores, _ := all(c, datastores.List(c.ServiceClient), datastores.ExtractDatastores)
	var names []string
	for _, d := range stores {
		names = append(names, d.Name)
		got, err := datastores.Get(ctx, c.ServiceClient, d.ID).Extract()
		c.must(err)
		v, err := datastores.GetVersion(ctx, c.ServiceClient, d.ID, got.DefaultVersion).Extract()
		c.must(err)
		if got.Name != d.Name || v.ID != c.version(d.Name).ID {
			t.Errorf("datastore %+v, default version %+v", got, v)
		}
	}
	if !slices.Equal(names, engines) {
		t.Errorf("datastores: %v", names)
	}
	sizes, _ := all(c, flavors.List(c.ServiceClient), flavors.ExtractFlavors)
	if len(sizes) != 4 {
		t.Fatalf("flavors: %+v", sizes)
	}
	f, err := flavors.Get(ctx, c.ServiceClient, sizes[1].StrID).Extract()
	c.must(err)
	if f.Name != "db.small" || f.RAM != 1024 || f.ID != 2 {
		t.Errorf("flavor: %+v", f)
	}
	_, err = configurations.Create(ctx, c.ServiceClient, configurations.CreateOpts{Name: "g", Values: map[string]any{"a": 1}}).Extract()
	c.refused("create a configuration group", err)
	_, err = configurations.List(c.ServiceClient).AllPages(ctx)
	c.refused("list configuration groups", err)

	// With the one that each engine's test has there are three.
	extra := []*instances.Instance{c.create("extra", "mariadb", nil, nil), c.create("extra", "postgresql", nil, nil)}
	t.Run("instance", func(t *testing.T) {
		for _, datastore := range engines {
			t.Run(datastore, func(t *testing.T) {
				t.Parallel()
				(&cloud{t: t, ServiceClient: c.ServiceClient}).lifecycle(datastore)
			})
		}
	})
	for _, i := range extra {
		c.must(instances.Delete(ctx, c.ServiceClient, i.ID).ExtractErr())
		c.turns(i.ID, "", "ACTIVE", "SHUTDOWN")
	}
}

func (c *cloud) lifecycle(datastore string) {
	const many = 45 // more than two pages
	var dbs databases.BatchCreateOpts
	var them users.BatchCreateOpts
	var wantDBs, wantUsers []string
	for n := range many {
		db, user := fmt.Sprintf("d%02d", n), fmt.Sprintf("u%02d", n)
		dbs = append(dbs, databases.CreateOpts{Name: db})
		them = append(them, users.CreateOpts{Name: user, Password: "p-" + user, Databases: databases.BatchCreateOpts{{Name: db}}})
		wantDBs, wantUsers = append(wantDBs, db), append(wantUsers, user)
	}
	i := c.create("gophercloud-"+datastore, datastore, dbs[:many-1], them[:many-1])
	c.seesAll(i.ID)
	i = c.turns(i.ID, "ACTIVE", "BUILD")
	if i.Created.IsZero() || time.Since(i.Created).Abs() > 10*time.Minute || i.Updated.Before(i.Created) || i.Updated.Location() != time.UTC {
		c.t.Errorf("created %s, updated %s", i.Created, i.Updated)
	}
	if i.Flavor.ID != "1" || i.Datastore.Type != datastore || i.Volume.Size != 1 || len(i.IP) != 1 || len(i.Addresses) != 1 || i.Addresses[0].Address != i.IP[0] {
		c.t.Fatalf("%+v", i)
	}

	// Accounts.
	ctx := c.t.Context()
	c.must(databases.Create(ctx, c.ServiceClient, i.ID, dbs[many-1:]).ExtractErr())
	c.must(users.Create(ctx, c.ServiceClient, i.ID, them[many-1:]).ExtractErr())
	listDBs := func() (names []string) {
		found, pages := all(c, databases.List(c.ServiceClient, i.ID), databases.ExtractDBs)
		for _, d := range found {
			names = append(names, d.Name)
		}
		if pages != 3 {
			c.t.Errorf("%d pages of databases", pages)
		}
		return names
	}
	listUsers := func() (names []string) {
		found, pages := all(c, users.List(c.ServiceClient, i.ID), users.ExtractUsers)
		for n, u := range found {
			names = append(names, u.Name)
			if len(u.Databases) != 1 || n < many && u.Databases[0].Name != wantDBs[n] {
				c.t.Errorf("user %+v", u)
			}
		}
		if pages != 3 {
			c.t.Errorf("%d pages of users", pages)
		}
		return names
	}
	if got := listDBs(); !slices.Equal(got, wantDBs) {
		c.t.Errorf("databases: %v", got)
	}
	if got := listUsers(); !slices.Equal(got, wantUsers) {
		c.t.Errorf("users: %v", got)
	}
	last := wantUsers[many-1]
	if err := login(c.t, datastore, i.IP[0], last, "p-"+last, wantDBs[many-1]); err != nil {
		c.t.Error(err)
	}
	c.must(users.Delete(ctx, c.ServiceClient, i.ID, last).ExtractErr())
	c.must(databases.Delete(ctx, c.ServiceClient, i.ID, wantDBs[many-1]).ExtractErr())
	if got := listUsers(); !slices.Equal(got, wantUsers[:many-1]) {
		c.t.Errorf("users: %v", got)
	}
	if got := listDBs(); !slices.Equal(got, wantDBs[:many-1]) {
		c.t.Errorf("databases: %v", got)
	}
	if err := databases.Delete(ctx, c.ServiceClient, i.ID, "none").ExtractErr(); !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		c.t.Errorf("delete no database: %v", err)
	}
	root, err := instances.EnableRootUser(ctx, c.ServiceClient, i.ID).Extract()
	c.must(err)
	if err := login(c.t, datastore, i.IP[0], root.Name, root.Password, "d00"); err != nil {
		c.t.Errorf("root: %v", err)
	}
	if enabled, err := instances.IsRootEnabled(ctx, c.ServiceClient, i.ID).Extract(); err != nil || !enabled {
		c.t.Errorf("root: %v, %v", enabled, err)
	}

	// No configuration group is attached, so that there is nothing to do.
	c.must(instances.DetachConfigurationGroup(ctx, c.ServiceClient, i.ID).ExtractErr())
	c.refused("attach", instances.AttachConfigurationGroup(ctx, c.ServiceClient, i.ID, i.ID).ExtractErr())
	c.must(instances.Resize(ctx, c.ServiceClient, i.ID, "2").ExtractErr())
	if i := c.turns(i.ID, "ACTIVE", "RESIZE"); i.Flavor.ID != "2" {
		c.t.Errorf("it has flavor %s", i.Flavor.ID)
	}
	c.must(instances.ResizeVolume(ctx, c.ServiceClient, i.ID, 2).ExtractErr())
	if i := c.turns(i.ID, "ACTIVE", "RESIZE"); i.Volume.Size != 2 {
		c.t.Errorf("its volume has %d GB", i.Volume.Size)
	}

	c.must(instances.Restart(ctx, c.ServiceClient, i.ID).ExtractErr())
	c.turns(i.ID, "ACTIVE", "REBOOT")
	c.must(instances.Delete(ctx, c.ServiceClient, i.ID).ExtractErr())
	c.turns(i.ID, "", "ACTIVE", "SHUTDOWN")
}

// seesAll checks that pages of two make up the whole list of instances, each
// instance once.
func (c *cloud) seesAll(id string) {
	c.t.Helper()
	pager := pagination.NewPager(c.ServiceClient, c.ServiceURL("instances")+"?limit=2", func(r pagination.PageResult) pagination.Page {
		return instances.InstancePage{LinkedPageBase: pagination.LinkedPageBase{PageResult: r}}
	})
	list, pages := all(c, pager, instances.ExtractInstances)
	seen := map[string]int{}
	for _, i := range list {
		seen[i.ID]++
		if seen[i.ID] > 1 {
			c.t.Errorf("%s twice in %+v", i.ID, list)
		}
	}
	if seen[id] != 1 || len(list) < 3 || pages < 2 {
		c.t.Errorf("%s is not among %d instances on %d pages, or those are too few: %+v", id, len(list), pages, list)
	}
}
