package openstack_test

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopherstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// real is a login at real services, to look over the shoulder of the cloud under
// test.
type real struct {
	compute, network, volume, image *gophercloud.ServiceClient
}

// openrc reads what a file exports.
func openrc(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (OS_\w+)=["']?([^"'\n]*)`).FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// The suite passes on real services: GOTROVE_OPENSTACK is an openrc file of the
// service's user, GOTROVE_OPENSTACK_NETWORK the name of a network with a router
// (private). Servers have an empty disk and boot nothing, unless
// GOTROVE_OPENSTACK_IMAGE names an image.
func TestSuiteOnRealServices(t *testing.T) {
	path := os.Getenv("GOTROVE_OPENSTACK")
	if path == "" {
		t.Skip("GOTROVE_OPENSTACK names no openrc file")
	}
	env := openrc(t, path)
	o := openstack.Options{AuthURL: env["OS_AUTH_URL"], Username: env["OS_USERNAME"], Password: secret.New(env["OS_PASSWORD"]),
		UserDomainName: env["OS_USER_DOMAIN_NAME"], ProjectName: env["OS_PROJECT_NAME"], ProjectDomainName: env["OS_PROJECT_DOMAIN_NAME"],
		Region: env["OS_REGION_NAME"], AccessCheck: true, OfflineGrow: true, FileOwner: "root:root"}
	r := login(t, env)
	network := r.networkNamed(t, cmp.Or(os.Getenv("GOTROVE_OPENSTACK_NETWORK"), "private"))
	image, inert := os.Getenv("GOTROVE_OPENSTACK_IMAGE"), false
	if image == "" {
		image, inert = r.blank(t), true
	} else {
		image = r.imageNamed(t, image)
	}
	cloudtest.Run(t, func(t *testing.T) cloudtest.Harness {
		return cloudtest.Harness{Cloud: cloudtest.Persistent(open(t, o)), Manager: "mariadb", Project: network.ProjectID, ImageID: image, Inert: inert,
			NICs: []trove.NIC{{NetworkID: network.ID}}, Pause: time.Second, Limit: 10 * time.Minute, Few: 2,
			Left: r.left}
	})
}

func login(t *testing.T, env map[string]string) real {
	t.Helper()
	provider, err := gopherstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{IdentityEndpoint: env["OS_AUTH_URL"], AllowReauth: true,
		Username: env["OS_USERNAME"], Password: env["OS_PASSWORD"], DomainName: env["OS_USER_DOMAIN_NAME"],
		Scope: &gophercloud.AuthScope{ProjectName: env["OS_PROJECT_NAME"], DomainName: env["OS_PROJECT_DOMAIN_NAME"]}})
	if err != nil {
		t.Fatal(err)
	}
	service := func(open func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)) *gophercloud.ServiceClient {
		c, err := open(provider, gophercloud.EndpointOpts{Region: env["OS_REGION_NAME"]})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return real{service(gopherstack.NewComputeV2), service(gopherstack.NewNetworkV2), service(gopherstack.NewBlockStorageV3), service(gopherstack.NewImageV2)}
}

func (r real) networkNamed(t *testing.T, name string) networks.Network {
	t.Helper()
	pages, err := networks.List(r.network, networks.ListOpts{Name: name}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := networks.ExtractNetworks(pages)
	if err != nil || len(all) != 1 {
		t.Fatalf("networks called %s: %+v, %v", name, all, err)
	}
	return all[0]
}

func (r real) imageNamed(t *testing.T, name string) string {
	t.Helper()
	pages, err := images.List(r.image, images.ListOpts{Name: name, Sort: "created_at:desc"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := images.ExtractImages(pages)
	if err != nil || len(all) == 0 {
		t.Fatalf("images called %s: %+v, %v", name, all, err)
	}
	return all[0].ID
}

// blank makes an image of zeros, until the test ends.
func (r real) blank(t *testing.T) string {
	t.Helper()
	i, err := images.Create(t.Context(), r.image, images.CreateOpts{Name: "gotrove-suite-blank", ContainerFormat: "bare", DiskFormat: "raw"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Delete(context.WithoutCancel(t.Context()), r.image, i.ID) })
	if err := imagedata.Upload(t.Context(), r.image, i.ID, bytes.NewReader(make([]byte, 1<<20))).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	return i.ID
}

// left lists what has the instance's id in its name or is its server.
func (r real) left(t *testing.T, o cloud.Owner) (left []string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	pages, err := servers.List(r.compute, servers.ListOpts{}).AllPages(t.Context())
	check(err)
	all, err := servers.ExtractServers(pages)
	check(err)
	for _, s := range all {
		if s.Metadata["trove_instance_id"] == o.InstanceID {
			left = append(left, "server "+s.ID+" "+s.Status)
		}
	}
	portPages, err := ports.List(r.network, ports.ListOpts{Name: "trove-" + o.InstanceID}).AllPages(t.Context())
	check(err)
	allPorts, err := ports.ExtractPorts(portPages)
	check(err)
	for _, p := range allPorts {
		left = append(left, "port "+p.ID)
	}
	groupPages, err := groups.List(r.network, groups.ListOpts{Name: "trove_sg-" + o.InstanceID}).AllPages(t.Context())
	check(err)
	allGroups, err := groups.ExtractGroups(groupPages)
	check(err)
	for _, g := range allGroups {
		left = append(left, "security group "+g.ID)
	}
	fipPages, err := floatingips.List(r.network, floatingips.ListOpts{}).AllPages(t.Context())
	check(err)
	fips, err := floatingips.ExtractFloatingIPs(fipPages)
	check(err)
	for _, f := range fips {
		if strings.Contains(f.Description, o.InstanceID) {
			left = append(left, "floating IP "+f.FloatingIP)
		}
	}
	volumePages, err := volumes.List(r.volume, volumes.ListOpts{Name: "trove-" + o.InstanceID}).AllPages(t.Context())
	check(err)
	allVolumes, err := volumes.ExtractVolumes(volumePages)
	check(err)
	for _, v := range allVolumes {
		left = append(left, "volume "+v.ID+" "+v.Status)
	}
	return left
}
