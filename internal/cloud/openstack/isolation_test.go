package openstack_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/trove"
)

// written are the JSON files of a server's user data.
func written(t *testing.T, f *openstacktest.Cloud, paths ...string) map[string]any {
	t.Helper()
	sent, _ := f.All("servers")[0]["sent"].(map[string]any)
	data, err := base64.StdEncoding.DecodeString(fmt.Sprint(sent["user_data"]))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Files []struct{ Path, Content string } `yaml:"write_files"`
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, file := range config.Files {
		for _, path := range paths {
			if file.Path != path {
				continue
			}
			text, err := base64.StdEncoding.DecodeString(file.Content)
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatalf("%s: %v: %s", path, err, text)
			}
			out[path] = v
		}
	}
	return out
}

// A server is told of its user's port what the original tells it.
func TestIsolation(t *testing.T) {
	t.Parallel()
	const eth1, daemon = "/etc/trove/eth1.json", "/etc/docker/daemon.json"
	none := map[string]any{"bridge": "none", "ip-forward": false, "iptables": false, "live-restore": true}
	for name, test := range map[string]struct {
		options func(*openstack.Options)
		subnet  map[string]any
		port    map[string]any // beside its MAC; nil: no file
		daemon  map[string]any // nil: no file
	}{
		"off":               {options: func(*openstack.Options) {}},
		"off with a bridge": {options: func(o *openstack.Options) { o.DockerBridge = "192.168.200.1/24" }, daemon: map[string]any{"bip": "192.168.200.1/24"}},
		"off with registries": {options: func(o *openstack.Options) { o.InsecureRegistries = []string{"r:4000"} },
			daemon: map[string]any{"insecure-registries": []any{"r:4000"}}},
		"no management network": {options: func(o *openstack.Options) { o.Isolation, o.ManagementNetworks = true, nil }},
		"no gateway, no routes": {options: func(o *openstack.Options) { o.Isolation = true }, daemon: none,
			port: map[string]any{"ipv4_address": "", "ipv4_cidr": "10.1.0.0/16", "ipv4_gateway": nil, "ipv4_host_routes": []any{}}},
		"both": {options: func(o *openstack.Options) {
			o.Isolation, o.DockerBridge, o.InsecureRegistries = true, "192.168.200.1/24", []string{"r:4000"}
		},
			subnet: map[string]any{"gateway_ip": "10.1.0.1", "host_routes": []any{map[string]any{"destination": "10.7.0.0/16", "nexthop": "10.1.0.9"}}},
			port: map[string]any{"ipv4_address": "", "ipv4_cidr": "10.1.0.0/16", "ipv4_gateway": "10.1.0.1",
				"ipv4_host_routes": []any{map[string]any{"destination": "10.7.0.0/16", "nexthop": "10.1.0.9"}}},
			daemon: map[string]any{"bridge": "none", "ip-forward": false, "iptables": false, "live-restore": true, "insecure-registries": []any{"r:4000"}}},
		"IPv6 by routers": {options: func(o *openstack.Options) { o.Isolation = true }, daemon: none,
			subnet: map[string]any{"ip_version": 6, "ipv6_ra_mode": "slaac", "gateway_ip": "fe80::1"},
			port:   map[string]any{"ipv6_address": "", "ipv6_cidr": "10.1.0.0/16", "ipv6_host_routes": []any{}}},
		"IPv6 by DHCP": {options: func(o *openstack.Options) { o.Isolation = true }, daemon: none,
			subnet: map[string]any{"ip_version": 6, "ipv6_ra_mode": "dhcpv6-stateful", "gateway_ip": "fd00::1"},
			port:   map[string]any{"ipv6_address": "", "ipv6_cidr": "10.1.0.0/16", "ipv6_host_routes": []any{}, "ipv6_gateway": "fd00::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openstacktest.New(t)
			for field, v := range test.subnet {
				f.Set("subnets", openstacktest.UserSubnet, field, v)
			}
			o := options(f)
			test.options(&o)
			spec, _, err := build(patience(t), open(t, o), ann(), trove.Access{})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{}
			if test.port != nil {
				var user cloud.Port
				for _, p := range spec.Ports {
					if !p.Management {
						user = p
					}
				}
				for field, v := range test.port {
					if v == "" {
						test.port[field] = user.Addresses[0].Address
					}
				}
				for _, p := range f.All("ports") {
					if p["id"] == user.ID {
						test.port["mac_address"] = p["mac_address"]
					}
				}
				want[eth1] = test.port
			}
			if test.daemon != nil {
				want[daemon] = test.daemon
			}
			if d := cmp.Diff(want, written(t, f, eth1, daemon)); d != "" {
				t.Error(d)
			}
		})
	}
}
