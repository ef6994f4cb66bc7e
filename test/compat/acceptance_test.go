package compat

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const acceptance = "github.com/gophercloud/gophercloud/v2/internal/acceptance/openstack/db/v1"

// gophercloud's own acceptance tests of the database service pass, built from
// the very module that this one requires. What they cannot do yet fails because
// it is refused, and for no other reason.
func TestGophercloudAcceptance(t *testing.T) {
	needsEngines(t)
	t.Parallel()
	// They need modules that nothing else here needs: go.mod stays as it is.
	dir := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "acceptance")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "-modfile", filepath.Join(dir, "go.mod"),
		"-mod=mod", "-tags", "acceptance", acceptance)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	passes := []string{"TestFlavorsList", "TestFlavorsGet", "TestInstances", "TestDatabases", "TestUsers"}
	refused := map[string]string{
		"TestConfigurationsCRUD": `Unable to create configuration: Expected HTTP response code [200] when accessing [POST `,
	}
	versions := map[string]string{}
	c := newGophercloud(t)
	for _, datastore := range engines {
		versions[datastore] = c.version(datastore).Name
	}
	for _, datastore := range engines {
		t.Run(datastore, func(t *testing.T) {
			t.Parallel()
			env := maps.Clone(service.member)
			maps.Copy(env, map[string]string{
				"OS_DOMAIN_NAME": "Default", "OS_FLAVOR_ID": "1", "OS_FLAVOR_ID_RESIZE": "2",
				"OS_DB_DATASTORE_TYPE": datastore, "OS_DB_DATASTORE_VERSION": versions[datastore],
				// Asked for, not used by these tests.
				"OS_IMAGE_ID": "none", "OS_POOL_NAME": "none", "OS_EXTGW_ID": "none",
			})
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary, "-test.v")
			cmd.Env, cmd.Dir = service.environ(env), dir
			b, err := cmd.CombinedOutput()
			out := string(b)

			got := map[string]string{}
			for _, m := range regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\S+)`).FindAllStringSubmatch(out, -1) {
				got[m[2]] = m[1]
			}
			want := map[string]string{}
			for _, name := range passes {
				want[name] = "PASS"
			}
			for name, reason := range refused {
				want[name] = "FAIL"
				if !strings.Contains(out, reason) || strings.Count(out, "but got 501 instead") != 1 {
					t.Errorf("%s is not refused with 501", name)
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("%v (%v)", got, err)
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}
