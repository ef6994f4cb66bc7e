package docker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/usernet"
	"github.com/gotrove/gotrove/internal/trove"
)

// Docker's own drivers that put a container on a card of the machine. Both leave
// it the card's MAC, which is all that a port of OpenStack's lets through.
const (
	// IPVLAN shares the card.
	IPVLAN = "ipvlan"
	// MACVLAN gives the card's MAC to the container, which has the card alone
	// then: for kernels without ipvlan.
	MACVLAN = "macvlan"
)

// driverOptions set how a driver uses the card.
var driverOptions = map[string]map[string]string{
	IPVLAN:  {"ipvlan_mode": "l2"},
	MACVLAN: {"macvlan_mode": "passthru"},
}

// modulesDir is where a kernel's modules are listed.
const modulesDir = "/lib/modules"

// cardDriver is the driver that this machine's kernel can do: ipvlan, if its
// modules are listed with it.
func cardDriver(modules string) string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return MACVLAN
	}
	release := unix.ByteSliceToString(u.Release[:])
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		if lists(filepath.Join(modules, release, list), "/"+IPVLAN+".ko") {
			return IPVLAN
		}
	}
	return MACVLAN
}

// lists tells whether a line of a file holds the text before its first colon, if
// there is one.
func lists(path, text string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if module, _, _ := bytes.Cut(lines.Bytes(), []byte(":")); bytes.Contains(module, []byte(text)) {
			return true
		}
	}
	return false
}

// networkName is that of the instance's network on its user's card.
func networkName(instanceID string) string { return "gotrove-" + instanceID }

// ensureCard has a network of Docker's on the card of the user's port as it is
// now. One that is on another card, or has other addresses, is made anew: cards
// change their names when the machine starts.
func (r *Runtime) ensureCard(ctx context.Context, instanceID string) error {
	card, err := r.o.Port.Card()
	if err != nil {
		return err
	}
	if c, err := net.InterfaceByName(card); err == nil {
		if own, err := c.Addrs(); err == nil && len(own) > 0 {
			r.o.Log.WarnContext(ctx, "this machine has an address on the user's card: it is on the user's network too", "card", card, "addresses", own)
		}
	}
	want := r.cardNetwork(card, instanceID)
	name := networkName(instanceID)
	for {
		found, err := r.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
		switch {
		case err == nil && sameNetwork(found.Network, want):
			return nil
		case err == nil:
			r.o.Log.InfoContext(ctx, "the network on the user's card is made anew", "network", name, "card", card)
			if _, err := r.api.NetworkRemove(ctx, found.Network.ID, client.NetworkRemoveOptions{}); err != nil && !gone(err) {
				return r.explain(ctx, "remove network "+name, err)
			}
		case !gone(err):
			return r.explain(ctx, "look at network "+name, err)
		}
		_, err = r.api.NetworkCreate(ctx, name, want)
		if errdefs.IsConflict(err) { // somebody else made it meanwhile
			if err := nap(ctx, 50*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return r.explain(ctx, fmt.Sprintf("make network %s (%s) on card %s", name, want.Driver, card), err)
		}
		r.o.Log.InfoContext(ctx, "the database has the user's card", "network", name, "driver", want.Driver, "card", card, "mac", r.o.Port.MAC.String())
		return nil
	}
}

func (r *Runtime) cardNetwork(card, instanceID string) client.NetworkCreateOptions {
	o := client.NetworkCreateOptions{Driver: r.o.CardDriver, Labels: map[string]string{labelInstance: instanceID},
		Options: map[string]string{"parent": card}, IPAM: &network.IPAM{Driver: "default"}}
	maps.Copy(o.Options, driverOptions[o.Driver])
	for _, a := range r.o.Port.Addresses {
		if a.IP.Is6() {
			yes := true
			o.EnableIPv6 = &yes
		}
		o.IPAM.Config = append(o.IPAM.Config, network.IPAMConfig{Subnet: a.Subnet, Gateway: cmp.Or(a.Gateway, nobody(a))})
	}
	return o
}

// nobody is an address for a gateway where a subnet has none: Docker takes the
// first of the subnet for it, which may be the port's own.
func nobody(a usernet.Address) netip.Addr {
	for ip := a.Subnet.Addr().Next(); a.Subnet.Contains(ip); ip = ip.Next() {
		if ip != a.IP {
			return ip
		}
	}
	return netip.Addr{}
}

func sameNetwork(have network.Inspect, want client.NetworkCreateOptions) bool {
	pair := func(c network.IPAMConfig) string { return c.Subnet.String() + " " + c.Gateway.String() }
	var a, b []string
	for _, c := range have.IPAM.Config {
		a = append(a, pair(c))
	}
	for _, c := range want.IPAM.Config {
		b = append(b, pair(c))
	}
	slices.Sort(a)
	slices.Sort(b)
	return have.Driver == want.Driver && have.Labels[labelInstance] == want.Labels[labelInstance] &&
		maps.Equal(have.Options, want.Options) && slices.Equal(a, b)
}

// onCard sets how a container gets the user's port.
func (r *Runtime) onCard(instanceID string, h *container.HostConfig) *network.NetworkingConfig {
	h.NetworkMode = container.NetworkMode(networkName(instanceID))
	end := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{}}
	for _, a := range r.o.Port.Addresses {
		if a.IP.Is4() {
			end.IPAMConfig.IPv4Address = a.IP
		} else {
			end.IPAMConfig.IPv6Address = a.IP
		}
	}
	if r.o.CardDriver == MACVLAN {
		end.MacAddress = network.HardwareAddr(r.o.Port.MAC)
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{networkName(instanceID): end}}
}

// create makes a container.
func (r *Runtime) create(ctx context.Context, o client.ContainerCreateOptions) (id string, err error) {
	if r.o.Port != nil && r.o.CardDriver == MACVLAN {
		return r.createWithMAC(ctx, o)
	}
	made, err := r.api.ContainerCreate(ctx, o)
	return made.ID, err
}

// createWithMAC makes a container with the port's MAC also for a Docker before 25,
// to which it is the container's and not the network's: the client does not know
// that field any more.
func (r *Runtime) createWithMAC(ctx context.Context, o client.ContainerCreateOptions) (id string, err error) {
	body, err := json.Marshal(struct {
		*container.Config
		HostConfig       *container.HostConfig
		NetworkingConfig *network.NetworkingConfig
		MacAddress       string
	}{o.Config, o.HostConfig, o.NetworkingConfig, r.o.Port.MAC.String()})
	if err != nil {
		return "", err
	}
	over := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.o.Socket)
	}}
	defer over.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/v"+r.api.ClientVersion()+"/containers/create?name="+o.Name, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := (&http.Client{Transport: over}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var said struct {
		ID      string `json:"Id"`
		Message string `json:"message"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&said); err != nil {
		return "", err
	}
	switch response.StatusCode {
	case http.StatusCreated:
		return said.ID, nil
	case http.StatusNotFound:
		return "", errdefs.ErrNotFound.WithMessage(said.Message)
	case http.StatusConflict:
		return "", errdefs.ErrConflict.WithMessage(said.Message)
	}
	return "", errors.New(said.Message)
}

// removeCardNetwork removes the network of an instance that goes.
func (r *Runtime) removeCardNetwork(ctx context.Context, instanceID string) error {
	found, err := r.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("label", labelInstance+"="+instanceID)})
	if err != nil {
		return r.explain(ctx, "look for networks of instance "+instanceID, err)
	}
	for _, n := range found.Items {
		if _, err := r.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil && !gone(err) {
			return r.explain(ctx, "remove network "+n.Name, err)
		}
	}
	return nil
}

// checkCard settles and checks what the options say of the user's port.
func (o *Options) checkCard() error {
	if o.Port == nil {
		return nil
	}
	if o.CardDriver == "" {
		o.CardDriver = cardDriver(modulesDir)
	}
	if driverOptions[o.CardDriver] == nil {
		return trove.Errorf(trove.KindBadRequest, "driver %q is neither %s nor %s", o.CardDriver, IPVLAN, MACVLAN)
	}
	return nil
}
