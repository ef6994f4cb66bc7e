package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/osloconf"
)

func loadText(t *testing.T, text string, into any) []osloconf.Warning {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trove.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	warnings, err := osloconf.Load(osloconf.Sources{Files: []string{file}}, into)
	if err != nil {
		t.Fatal(err)
	}
	return warnings
}

func TestKeystoneOptions(t *testing.T) {
	t.Parallel()
	quiet := slog.New(slog.DiscardHandler)
	var o keystoneOptions
	loadText(t, "[keystone_authtoken]\nauth_url = http://k:5000\nusername = trove\npassword = p\nproject_name = service\n", &o)
	k, err := o.config(quiet)
	if err != nil || k.UserDomainName != "Default" || k.ProjectDomainName != "Default" || k.CacheTime != 5*time.Minute || k.Grace != time.Hour ||
		k.Interface != "internal" || k.Timeout != 10*time.Second || k.Retries != 3 || k.WithoutCatalog || o.publicURI() != "http://k:5000" || o.ServiceType != "database" {
		t.Errorf("%+v, %v", k, err)
	}
	if v, err := keystone.New(k); err != nil {
		t.Error(err)
	} else {
		v.Close()
	}
	// Names of old.
	o = keystoneOptions{}
	loadText(t, "[keystone_authtoken]\nidentity_uri = http://k:5000\nauth_uri = http://public:5000\nadmin_user = trove\nadmin_password = p\nadmin_tenant_name = service\nmemcache_servers=a,b\ntoken_cache_time=-1\n", &o)
	if k, err = o.config(quiet); err != nil || k.AuthURL != "http://k:5000" || k.Username != "trove" || k.Password.Reveal() != "p" || k.ProjectName != "service" || k.CacheTime >= 0 || o.publicURI() != "http://public:5000" {
		t.Errorf("%+v, %v", k, err)
	}
	o = keystoneOptions{}
	loadText(t, "[keystone_authtoken]\nauth_url = http://k\nauth_type = v3applicationcredential\napplication_credential_id = i\napplication_credential_secret = s\n[gotrove]\ntoken_cache_grace = 0\n", &o)
	if k, err = o.config(quiet); err != nil || k.CredentialID != "i" || k.Password.Reveal() != "" || k.Grace >= 0 {
		t.Errorf("%+v, %v", k, err)
	}
	for text, want := range map[string]string{"auth_type = v3kerberos": "v3kerberos", "auth_section = x": "auth_section", "auth_type = v3applicationcredential": "_id is needed"} {
		o = keystoneOptions{}
		loadText(t, "[keystone_authtoken]\n"+text, &o)
		if _, err := o.config(quiet); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPolicyOptions(t *testing.T) {
	t.Parallel()
	var o policyOptions
	loadText(t, "[DEFAULT]\npolicy_file = old.yaml\nadmin_roles = Boss, DBA\n[oslo_policy]\npolicy_dirs = a\npolicy_dirs = b\n", &o)
	p := o.config([]string{"/etc/trove"}, nil)
	if p.File != "old.yaml" || !reflect.DeepEqual(p.Dirs, []string{"a", "b"}) || !reflect.DeepEqual(p.AdminRoles, []string{"boss", "dba"}) || p.DefaultRule != "default" {
		t.Errorf("%+v", p)
	}
	o = policyOptions{}
	loadText(t, "", &o)
	if p = o.config(nil, nil); p.File != "policy.yaml" || !reflect.DeepEqual(p.Dirs, []string{"policy.d"}) || len(p.AdminRoles) > 0 {
		t.Errorf("%+v", p)
	}
}

// Every option without an effect exists.
func TestNoEffectOfKeystoneAndPolicy(t *testing.T) {
	t.Parallel()
	for group, o := range map[string]interface{ noEffect() map[string]string }{"keystone_authtoken": keystoneOptions{}, "oslo_policy": policyOptions{}} {
		names := map[string]bool{}
		for f := range reflect.TypeOf(o).Fields() {
			names[f.Tag.Get("conf")] = true
		}
		for name := range o.noEffect() {
			if !names[group+"."+name] {
				t.Errorf("there is no option [%s] %s", group, name)
			}
		}
	}
}
