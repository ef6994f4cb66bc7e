package embedded_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

// Debian's openstack command works with nothing but the openrc.
func TestOpenstackClient(t *testing.T) {
	const client = "/usr/bin/openstack"
	if _, err := os.Stat(client); err != nil {
		t.Skip("python3-openstackclient is not installed")
	}
	w := newWorld(t)
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), client, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
		for k, v := range w.env() {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openstack %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return out
	}
	var token map[string]any
	if err := json.Unmarshal(run("token", "issue", "-f", "json"), &token); err != nil {
		t.Fatal(err)
	}
	id, err := w.Validate(t.Context(), token["id"].(string))
	if err != nil || id.ProjectID != token["project_id"] || id.UserID != token["user_id"] {
		t.Errorf("token %v stands for %+v, %v", token, id, err)
	}
	for command, want := range map[string]string{
		"catalog list -f json":      "http://127.0.0.1:8779/v1.0/" + id.ProjectID,
		"project list -f value":     "demo",
		"project show demo -f json": id.ProjectID,
		"user show admin -f json":   id.UserID,
		"endpoint list -f value":    "database",
	} {
		if out := string(run(strings.Fields(command)...)); !strings.Contains(out, want) {
			t.Errorf("openstack %s has no %s:\n%s", command, want, out)
		}
	}
	run("token", "revoke", token["id"].(string))
	if _, err := w.Validate(t.Context(), token["id"].(string)); err == nil {
		t.Error("the revoked token is valid")
	}
}

func TestGophercloud(t *testing.T) {
	w := newWorld(t)
	env := w.env()
	ctx := t.Context()
	provider, err := openstack.AuthenticatedClient(ctx, gophercloud.AuthOptions{
		IdentityEndpoint: env["OS_AUTH_URL"], Username: env["OS_USERNAME"], Password: env["OS_PASSWORD"],
		DomainName: "Default", TenantName: env["OS_PROJECT_NAME"], AllowReauth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := openstack.NewDBV1(provider, gophercloud.EndpointOpts{Region: env["OS_REGION_NAME"]})
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.Validate(ctx, provider.Token())
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://127.0.0.1:8779/v1.0/" + id.ProjectID + "/"; db.Endpoint != want {
		t.Errorf("database endpoint is %s, want %s", db.Endpoint, want)
	}
	keystone, err := openstack.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := projects.List(keystone, nil).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := projects.ExtractProjects(pages)
	if err != nil || len(list) != 1 || list[0].Name != "demo" {
		t.Errorf("projects are %v, %v", list, err)
	}
	roles, err := tokens.Get(ctx, keystone, provider.Token()).ExtractRoles()
	if err != nil || len(roles) != 3 {
		t.Errorf("roles are %v, %v", roles, err)
	}
	if ok, err := tokens.Validate(ctx, keystone, provider.Token()); !ok || err != nil {
		t.Errorf("HEAD token: %v, %v", ok, err)
	}
	if err := tokens.Revoke(ctx, keystone, provider.Token()).Err; err != nil {
		t.Error(err)
	}
}
