package local

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// maxForeign is how many addresses in a row may be taken by strangers before we
// say that one of them listens on all of them.
const maxForeign = 64

// CheckNICs refuses what is not on network "local", and addresses that are not
// free.
func (c *Cloud) CheckNICs(_ context.Context, nics []trove.NIC) error {
	bad := func(format string, args ...any) error { return trove.Errorf(trove.KindBadRequest, format, args...) }
	if len(nics) > 1 {
		return bad("An instance on this machine has one network interface, not %d.", len(nics))
	}
	for _, n := range nics {
		if n.NetworkID != "" && n.NetworkID != Network {
			return bad("Network %s could not be found: the only network of this machine is %q.", n.NetworkID, Network)
		}
		if n.SubnetID != "" {
			return bad("Subnet %s could not be found: network %q has none.", n.SubnetID, Network)
		}
		if n.IPAddress == "" {
			continue
		}
		a, err := netip.ParseAddr(n.IPAddress)
		if err != nil || !c.usable(a) {
			return bad("Address %s is not one of network %q, whose range is %s.", n.IPAddress, Network, c.o.Range)
		}
		if _, err := os.Stat(c.claimPath(a)); err == nil {
			return bad("Address %s is in use.", a)
		}
	}
	return nil
}

// usable reports whether a may be an instance's: in the range, and neither its
// first nor its last address.
func (c *Cloud) usable(a netip.Addr) bool {
	p := c.o.Range.Masked()
	return p.Contains(a) && a != p.Addr() && p.Contains(a.Next())
}

func (c *Cloud) claimPath(a netip.Addr) string {
	return filepath.Join(c.o.DataDir, "addresses", a.String())
}

// claimed finds the address of an instance.
func (c *Cloud) claimed(id string) (found []netip.Addr, taken map[netip.Addr]bool, err error) {
	entries, err := os.ReadDir(filepath.Join(c.o.DataDir, "addresses"))
	if err != nil {
		return nil, nil, durable.Explain(err)
	}
	taken = map[netip.Addr]bool{}
	for _, e := range entries {
		a, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue // a claim being written
		}
		taken[a] = true
		b, err := os.ReadFile(c.claimPath(a))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, durable.Explain(err)
		}
		if strings.TrimSpace(string(b)) == id {
			found = append(found, a)
		}
	}
	return found, taken, nil
}

// EnsurePorts claims an address: the one asked for, else the first of the range
// that nobody has and whose port nobody listens on.
func (c *Cloud) EnsurePorts(ctx context.Context, o cloud.Owner, nics []trove.NIC, _ trove.Access) (_ []cloud.Port, err error) {
	defer func() { err = noRoom(err) }()
	if err := checkID(o.InstanceID); err != nil {
		return nil, err
	}
	unlock, err := c.lockAddresses(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, taken, err := c.claimed(o.InstanceID)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		a, err := c.claim(ctx, o, nics, taken)
		if err != nil {
			return nil, err
		}
		found = append(found, a)
	}
	return []cloud.Port{{ID: o.InstanceID, Network: Network, Addresses: c.addresses(found[0].String())}}, nil
}

func (c *Cloud) addresses(a string) []trove.Address {
	return []trove.Address{{Address: a, Type: trove.AddressPrivate, Network: Network}}
}

func (c *Cloud) claim(ctx context.Context, o cloud.Owner, nics []trove.NIC, taken map[netip.Addr]bool) (netip.Addr, error) {
	port := c.o.Ports[o.Manager]
	if len(nics) > 0 && nics[0].IPAddress != "" {
		if err := c.CheckNICs(ctx, nics); err != nil {
			return netip.Addr{}, err
		}
		a := netip.MustParseAddr(nics[0].IPAddress)
		if free, err := c.probe(a, port); err != nil || !free {
			return a, errors.Join(err, trove.Errorf(trove.KindBadRequest, "Address %s is in use: something listens on its port %d.", a, port))
		}
		return a, c.writeClaim(a, o.InstanceID)
	}
	foreign := 0
	for a := c.o.Range.Masked().Addr().Next(); c.usable(a); a = a.Next() {
		if taken[a] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return a, err
		}
		free, err := c.probe(a, port)
		if err != nil {
			return a, err
		}
		if !free {
			if foreign++; foreign == maxForeign {
				return a, trove.Errorf(trove.KindOverLimit, "Port %d is taken on each of %d addresses tried, up to %s.", port, foreign, a).
					WithAction("Find the program that listens on all addresses of this machine (ss -ltnp 'sport = :%d') and stop it, or make it listen on its own address only.", port)
			}
			continue
		}
		err = c.writeClaim(a, o.InstanceID)
		return a, err
	}
	return netip.Addr{}, trove.Errorf(trove.KindOverLimit, "No address of %s is free.", c.o.Range).
		WithAction("Delete instances, or choose a larger loopback range.")
}

// writeClaim makes the claim with its contents at once, or fails with
// fs.ErrExist.
func (c *Cloud) writeClaim(a netip.Addr, id string) error {
	tmp, err := os.CreateTemp(filepath.Join(c.o.DataDir, "addresses"), ".claim.*")
	if err != nil {
		return durable.Explain(err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(id + "\n")
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return durable.Explain(err)
	}
	if err := os.Link(tmp.Name(), c.claimPath(a)); err != nil {
		return durable.Explain(err)
	}
	return durable.SyncDir(filepath.Join(c.o.DataDir, "addresses"))
}

// probe reports whether the engine's port of an address is free.
func (c *Cloud) probe(a netip.Addr, port int) (bool, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(a.String(), strconv.Itoa(port)))
	switch {
	case err == nil:
		return true, l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return false, nil
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return false, trove.Errorf(trove.KindBadRequest, "Address %s is not one of this machine.", a).
			WithAction("Choose a loopback range this machine has: all of 127.0.0.0/8 on Linux.")
	}
	return false, trove.Errorf(trove.KindUnavailable, "Cannot listen on %s port %d: %w", a, port, err)
}

// DeletePorts gives the instance's address back.
func (c *Cloud) DeletePorts(ctx context.Context, o cloud.Owner) error {
	unlock, err := c.lockAddresses(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	found, _, err := c.claimed(o.InstanceID)
	if err != nil {
		return err
	}
	for _, a := range found {
		if err := os.Remove(c.claimPath(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return durable.Explain(err)
		}
	}
	return nil
}
