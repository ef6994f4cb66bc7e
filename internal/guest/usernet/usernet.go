// Package usernet knows the machine's card on its user's network: what the
// control plane says of it in eth1.json, which of the cards it is, and how the
// machine itself is kept off it, so that the database's container alone is there.
//
// The card is known by its MAC: names change. The package knows nothing of
// containers and nothing of engines.
package usernet

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// File is where the control plane says what the port is.
const File = "/etc/trove/eth1.json"

// Port is the instance's port on the user's network.
type Port struct {
	MAC net.HardwareAddr
	// Addresses are one of each family at most.
	Addresses []Address
}

// Address is an address of the port.
type Address struct {
	IP     netip.Addr
	Subnet netip.Prefix
	// Gateway is zero if there is none, or none that it could reach, or if
	// routers tell it.
	Gateway netip.Addr
	// Routes are the subnet's host routes.
	Routes []Route
}

// Route is a way to other networks.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Routes are the host routes of the port's subnets, for people.
func (p *Port) Routes() (all []string) {
	for _, a := range p.Addresses {
		for _, r := range a.Routes {
			all = append(all, r.To.String()+" via "+r.Via.String())
		}
	}
	return all
}

// eth1 is the file as the original writes it.
type eth1 struct {
	MAC        string      `json:"mac_address"`
	V4         string      `json:"ipv4_address"`
	V4CIDR     string      `json:"ipv4_cidr"`
	V4Gateway  string      `json:"ipv4_gateway"`
	V4Routes   []eth1Route `json:"ipv4_host_routes"`
	V6         string      `json:"ipv6_address"`
	V6CIDR     string      `json:"ipv6_cidr"`
	V6Gateway  string      `json:"ipv6_gateway"`
	V6RoutesTo []eth1Route `json:"ipv6_host_routes"`
}

type eth1Route struct {
	Destination string `json:"destination"`
	NextHop     string `json:"nexthop"`
}

// Load reads the file. nil: there is none, and no port of the user's to keep
// apart.
func Load(path string) (*Port, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, trove.Errorf(trove.KindInternal, "the user's port: %w", err)
	}
	p, err := Parse(text)
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%s: %w", path, err).
			WithAction("The control plane writes this file: look there how the instance's port and its subnets are.")
	}
	return p, nil
}

// Parse reads what the file holds.
func Parse(text []byte) (*Port, error) {
	var f eth1
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(f.MAC)
	if err != nil {
		return nil, err
	}
	p := &Port{MAC: mac}
	for _, a := range []struct {
		address, cidr, gateway string
		routes                 []eth1Route
	}{{f.V4, f.V4CIDR, f.V4Gateway, f.V4Routes}, {f.V6, f.V6CIDR, f.V6Gateway, f.V6RoutesTo}} {
		if a.address == "" {
			continue
		}
		got, err := parseAddress(a.address, a.cidr, a.gateway, a.routes)
		if err != nil {
			return nil, err
		}
		p.Addresses = append(p.Addresses, got)
	}
	if len(p.Addresses) == 0 {
		return nil, errors.New("the port has no address")
	}
	return p, nil
}

func parseAddress(address, cidr, gateway string, routes []eth1Route) (a Address, err error) {
	if a.IP, err = netip.ParseAddr(address); err != nil {
		return a, err
	}
	if a.Subnet, err = netip.ParsePrefix(cidr); err != nil {
		return a, err
	}
	a.Subnet = a.Subnet.Masked()
	if !a.Subnet.Contains(a.IP) {
		return a, errors.New("the port's address " + address + " is not in its subnet " + cidr)
	}
	if gateway != "" {
		if a.Gateway, err = netip.ParseAddr(gateway); err != nil {
			return a, err
		}
		if !a.Subnet.Contains(a.Gateway) {
			a.Gateway = netip.Addr{}
		}
	}
	for _, r := range routes {
		var route Route
		if route.To, err = netip.ParsePrefix(r.Destination); err != nil {
			return a, err
		}
		if route.Via, err = netip.ParseAddr(r.NextHop); err != nil {
			return a, err
		}
		a.Routes = append(a.Routes, route)
	}
	return a, nil
}

// classNet is where the kernel shows the cards of this network namespace.
const classNet = "/sys/class/net"

// Card finds the card that the port is. KindUnavailable: there is none (yet).
func (p *Port) Card() (string, error) { return p.card(classNet) }

func (p *Port) card(root string) (string, error) {
	all, err := os.ReadDir(root)
	if err != nil {
		return "", trove.Errorf(trove.KindInternal, "the machine's network cards: %w", err)
	}
	var seen []string
	for _, c := range all {
		text, err := os.ReadFile(filepath.Join(root, c.Name(), "address"))
		if err != nil {
			continue // it has gone, or is no card
		}
		mac, err := net.ParseMAC(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		seen = append(seen, c.Name()+" "+mac.String())
		// What is built on a card may have its MAC: a container's share of it.
		if bytes.Equal(mac, p.MAC) && !stacked(filepath.Join(root, c.Name())) {
			return c.Name(), nil
		}
	}
	slices.Sort(seen)
	return "", trove.Errorf(trove.KindUnavailable, "no network card has the MAC %s of the user's port; there are %s", p.MAC, strings.Join(seen, ", ")).
		WithAction("openstack port list --mac-address %s tells which server has the port.", p.MAC)
}

func stacked(dir string) bool {
	below, _ := filepath.Glob(filepath.Join(dir, "lower_*"))
	return len(below) > 0
}
