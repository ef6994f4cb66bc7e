package server

import (
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestOpenStackOptions(t *testing.T) {
	t.Parallel()
	var o openstackOptions
	loadText(t, "[service_credentials]\nauth_url = http://k:5000\nusername = trove\npassword = p\nproject_name = service\n", &o)
	c, err := o.cloud()
	if err != nil || c.UserDomainName != "Default" || c.ProjectDomainName != "Default" || c.Region != "RegionOne" || c.Password.Reveal() != "p" ||
		c.Timeout != time.Minute || c.Compute.Type != "compute" || c.Volume.Type != "volumev3" || c.NovaVersion != "2.57" || c.NoSecurityGroups ||
		c.GroupPrefix != "trove_sg" || !c.AccessCheck || c.Isolation || c.OfflineGrow || c.FileOwner != "ubuntu:root" || c.ConfigDrive {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := openstack.New(c); err != nil {
		t.Error(err)
	}
	// Names of old.
	o = openstackOptions{}
	loadText(t, "[DEFAULT]\ntrove_auth_url = http://k\nnova_proxy_admin_user = trove\nnova_proxy_admin_pass = p\nnova_proxy_admin_tenant_id = s\nos_region_name = Two\n"+
		"default_neutron_networks = a,b\nnova_client_version = 2.12\nonline_volume_resize = false\ntrove_security_groups_support = false\ninjected_config_owner =\n", &o)
	if c, err = o.cloud(); err != nil || c.AuthURL != "http://k" || c.Username != "trove" || c.Password.Reveal() != "p" || c.ProjectID != "s" || c.Region != "Two" ||
		len(c.ManagementNetworks) != 2 || !c.OfflineGrow || !c.NoSecurityGroups || c.FileOwner != "" {
		t.Errorf("%+v, %v", c, err)
	}
	o = openstackOptions{}
	loadText(t, "[service_credentials]\nauth_url = http://k\nauth_type = v3applicationcredential\napplication_credential_id = i\napplication_credential_secret = s\npassword = no\n", &o)
	if c, err = o.cloud(); err != nil || c.CredentialID != "i" || c.CredentialSecret.Reveal() != "s" || c.Password.Reveal() != "" {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{"auth_type = v3kerberos": "v3kerberos", "auth_type = password": "username is needed",
		"username = trove": "project_id or project_name", "auth_type = v3applicationcredential": "_id is needed"} {
		o = openstackOptions{}
		loadText(t, "[service_credentials]\n"+text, &o)
		if _, err := o.cloud(); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	o = openstackOptions{}
	loadText(t, "[DEFAULT]\nvolume_rootdisk_support = true\n[service_credentials]\nusername = trove\nproject_name = s\n", &o)
	if c, err = o.cloud(); err == nil {
		_, err = openstack.New(c)
	}
	if !trove.IsKind(err, trove.KindNotImplemented) {
		t.Errorf("boot from volume: %v", err)
	}
}
