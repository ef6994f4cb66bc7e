package usernet

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/trove"
)

func TestParse(t *testing.T) {
	ip, net := netip.MustParseAddr, netip.MustParsePrefix
	for name, test := range map[string]struct {
		text string
		want []Address
		bad  string
	}{
		// As the original writes it, null and all.
		"IPv4": {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": "10.0.0.1",
			"ipv4_host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}]}`,
			want: []Address{{IP: ip("10.0.0.7"), Subnet: net("10.0.0.0/24"), Gateway: ip("10.0.0.1"), Routes: []Route{{net("10.9.0.0/16"), ip("10.0.0.9")}}}}},
		"no gateway": {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": null, "ipv4_host_routes": []}`,
			want: []Address{{IP: ip("10.0.0.7"), Subnet: net("10.0.0.0/24")}}},
		"a gateway elsewhere": {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": "192.0.2.1"}`,
			want: []Address{{IP: ip("10.0.0.7"), Subnet: net("10.0.0.0/24")}}},
		"both": {text: `{"mac_address": "FA:16:3E:AA:BB:CC", "ipv6_address": "fd00::7", "ipv6_cidr": "fd00::/64", "ipv6_host_routes": [], "ipv6_gateway": "fd00::1",
			"ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": "10.0.0.1", "ipv4_host_routes": []}`,
			want: []Address{{IP: ip("10.0.0.7"), Subnet: net("10.0.0.0/24"), Gateway: ip("10.0.0.1")}, {IP: ip("fd00::7"), Subnet: net("fd00::/64"), Gateway: ip("fd00::1")}}},
		"no MAC":            {text: `{"ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24"}`, bad: "MAC"},
		"no address":        {text: `{"mac_address": "fa:16:3e:aa:bb:cc"}`, bad: "no address"},
		"another subnet":    {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.1.0/24"}`, bad: "not in its subnet"},
		"no subnet":         {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7"}`, bad: "netip.ParsePrefix"},
		"a wrong next hop":  {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_host_routes": [{"destination": "10.9.0.0/16", "nexthop": "x"}]}`, bad: "ParseAddr"},
		"not JSON":          {text: `mac_address`, bad: "invalid"},
		"a gateway that is": {text: `{"mac_address": "fa:16:3e:aa:bb:cc", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": "none"}`, bad: "ParseAddr"},
	} {
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(t.TempDir(), "eth1.json")
			if err := os.WriteFile(at, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Load(at)
			if test.bad != "" {
				if err == nil || !strings.Contains(err.Error(), test.bad) || !strings.Contains(err.Error(), at) {
					t.Errorf("it gives %v, not an error of %s with %q", err, at, test.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.MAC.String() != "fa:16:3e:aa:bb:cc" {
				t.Errorf("MAC %s", got.MAC)
			}
			if d := cmp.Diff(test.want, got.Addresses, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
	if p, err := Load(filepath.Join(t.TempDir(), "none")); p != nil || err != nil {
		t.Errorf("no file gives %v, %v", p, err)
	}
}

// The card is the one with the MAC, and not what was built on it.
func TestCard(t *testing.T) {
	root := t.TempDir()
	for card, mac := range map[string]string{"lo": "00:00:00:00:00:00", "ens3": "fa:16:3e:00:00:01", "ens4": "fa:16:3e:00:00:02", "a0": "fa:16:3e:00:00:02"} {
		if err := os.MkdirAll(filepath.Join(root, card), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, card, "address"), []byte(mac+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../ens4", filepath.Join(root, "a0", "lower_ens4")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bonding_masters"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := &Port{MAC: []byte{0xfa, 0x16, 0x3e, 0, 0, 2}}
	if got, err := p.card(root); got != "ens4" || err != nil {
		t.Errorf("card %q, %v", got, err)
	}
	p.MAC[5] = 9
	if _, err := p.card(root); !trove.IsKind(err, trove.KindUnavailable) || !strings.Contains(err.Error(), "ens3 fa:16:3e:00:00:01") {
		t.Errorf("no card gives %v", err)
	}
}
