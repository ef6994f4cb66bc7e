package openstack_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// options are those of a cloud with a management network.
func options(f *openstacktest.Cloud) openstack.Options {
	return openstack.Options{AuthURL: f.AuthURL(), Username: openstacktest.User, Password: secret.New(openstacktest.Password),
		UserDomainName: "Default", ProjectName: "service", ProjectDomainName: "Default", Region: openstacktest.Region,
		ManagementNetworks: []string{openstacktest.Management}, AccessCheck: true, FileOwner: "ubuntu:root",
		ListEvery: 2 * time.Millisecond, Settle: 50 * time.Millisecond, Timeout: 20 * time.Second, Log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, o openstack.Options) *openstack.Cloud {
	t.Helper()
	c, err := openstack.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func harness(t *testing.T, c cloud.Cloud, f *openstacktest.Cloud) cloudtest.Harness {
	return cloudtest.Harness{Cloud: c, Manager: "mariadb", Project: openstacktest.Tenant, ImageID: openstacktest.Image,
		NICs: []trove.NIC{{NetworkID: openstacktest.UserNetwork}}, Pause: 2 * time.Millisecond,
		Left: func(_ *testing.T, o cloud.Owner) []string { return f.Left(o.InstanceID) }}
}

func TestSuite(t *testing.T) {
	cloudtest.Run(t, func(t *testing.T) cloudtest.Harness {
		f := openstacktest.New(t)
		return harness(t, cloudtest.Persistent(open(t, options(f))), f)
	})
}
