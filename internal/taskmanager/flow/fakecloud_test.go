package flow_test

import (
	"context"
	"fmt"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// machine is a server, its volume and what leads to it, as the cloud has them
// after the creation.
type machine struct {
	flavor, previous string
	resize           string // Nova's word, empty outside of a resize
	size             int    // of the volume
	detached         bool
	public           bool
	rules            []cloud.Rule
}

// noFlavor has no room for the new flavor: the resize ends in the old one.
// offline grows detached volumes only; refused accepts growing an attached one
// and does nothing of it.
type cloudFaults struct {
	noFlavor bool
	// reverted is the flavor that an operator gives the server instead of waiting
	// for the confirmation.
	reverted string
	// slow never ends a resize, nor a way back.
	slow    bool
	offline bool
	refused bool
	volume  string // why the volume fails when it is to grow
}

type fakeCloud struct {
	w *world
	g *worktest.Gate
}

func (w *world) machine(id string) *machine {
	if w.machines[id] == nil {
		w.machines[id] = &machine{flavor: "1", size: 2}
	}
	return w.machines[id]
}

func (c fakeCloud) call(name string, effect func() error) error {
	return c.g.Do(name, func() error { return c.w.do(name, effect) })
}

func (c fakeCloud) Flavors(context.Context) ([]trove.Flavor, error) { return nil, nil }
func (c fakeCloud) Flavor(_ context.Context, id string) (trove.Flavor, error) {
	ram := 512
	if id == "3" {
		ram = 768
	}
	return trove.Flavor{ID: id, RAM: ram}, c.g.Alive()
}
func (c fakeCloud) Tagged(context.Context) ([]string, error)     { return nil, c.g.Alive() }
func (c fakeCloud) CheckNICs(context.Context, []trove.NIC) error { return nil }

func (c fakeCloud) EnsureSecurityGroup(_ context.Context, o cloud.Owner, rules []cloud.Rule) error {
	return c.call("EnsureSecurityGroup", func() error {
		if len(rules) != 1 || rules[0].FirstPort != 3306 || len(rules[0].CIDRs) == 0 {
			return fmt.Errorf("rules: %+v", rules)
		}
		c.w.ensure("group " + o.InstanceID)
		c.w.machine(o.InstanceID).rules = rules
		return nil
	})
}

func (c fakeCloud) EnsurePorts(_ context.Context, o cloud.Owner, _ []trove.NIC, _ trove.Access) (ports []cloud.Port, err error) {
	err = c.call("EnsurePorts", func() error {
		c.w.ensure("port " + o.InstanceID)
		return nil
	})
	return []cloud.Port{{ID: "p", Addresses: address(o.InstanceID)}}, err
}

func address(string) []trove.Address {
	return []trove.Address{{Address: "127.20.0.9", Type: trove.AddressPrivate, Network: "local"}}
}

var outside = trove.Address{Address: "203.0.113.9", Type: trove.AddressPublic, Network: "public"}

func (m *machine) addresses(id string) []trove.Address {
	if m.public {
		return append(address(id), outside)
	}
	return address(id)
}

func (c fakeCloud) EnsurePublic(_ context.Context, o cloud.Owner, public bool) (all []trove.Address, err error) {
	err = c.call("EnsurePublic", func() error {
		if public {
			c.w.ensure("floating " + o.InstanceID)
		} else {
			delete(c.w.things, "floating "+o.InstanceID)
		}
		c.w.machine(o.InstanceID).public = public
		all = c.w.machine(o.InstanceID).addresses(o.InstanceID)
		return nil
	})
	return all, err
}

func (c fakeCloud) EnsureVolume(_ context.Context, o cloud.Owner, size int, _ string) (v cloud.Volume, err error) {
	err = c.call("EnsureVolume", func() error {
		was := c.w.things["volume "+o.InstanceID]
		c.w.ensure("volume " + o.InstanceID)
		v = cloud.Volume{ID: "v-" + o.InstanceID, Size: size, Ready: was} // ready when asked again
		return nil
	})
	return v, err
}

func (c fakeCloud) EnsureServer(_ context.Context, s cloud.ServerSpec) (server cloud.Server, err error) {
	err = c.call("EnsureServer", func() error {
		if s.ProjectID != tenant || s.Flavor.RAM != 512 || len(s.Ports) != 1 || s.Volume.ID == "" {
			return fmt.Errorf("spec: %+v", s)
		}
		c.w.ensure("server " + s.InstanceID)
		c.w.files[s.InstanceID] = s.Files
		if c.w.agents[s.InstanceID] == nil {
			c.w.agents[s.InstanceID] = &agent{prepared: map[string]bool{}, told: map[int]string{}, mounted: true, size: 2, flavor: "1"}
		}
		server = cloud.Server{ID: "s-" + s.InstanceID, Status: c.w.status, Addresses: address(s.InstanceID)}
		return nil
	})
	return server, err
}

// Server moves what is under way on by one step each time it is asked for.
func (c fakeCloud) Server(_ context.Context, o cloud.Owner) (cloud.Server, error) {
	if err := c.g.Alive(); err != nil {
		return cloud.Server{}, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !c.w.things["server "+o.InstanceID] {
		return cloud.Server{}, trove.Errorf(trove.KindNotFound, "no server")
	}
	m := c.w.machine(o.InstanceID)
	s := cloud.Server{ID: "s-" + o.InstanceID, Status: c.w.status, FlavorID: m.flavor, Addresses: m.addresses(o.InstanceID), Fault: c.w.why}
	if m.resize != "" && s.Status == trove.ServerActive {
		s.Status = m.resize
	}
	if c.w.slow {
		return s, nil
	}
	switch m.resize {
	case trove.ServerResize:
		if m.resize = trove.ServerVerifyResize; c.w.noFlavor {
			m.resize, m.flavor = "", m.previous
		}
	case trove.ServerRevertResize, "confirming":
		m.resize = ""
	}
	return s, nil
}

func (c fakeCloud) StartResize(_ context.Context, o cloud.Owner, f trove.Flavor) error {
	return c.call("StartResize", func() error {
		m := c.w.machine(o.InstanceID)
		switch {
		case m.flavor == f.ID:
			return nil
		case m.resize != "":
			return trove.Errorf(trove.KindConflict, "being resized")
		}
		if a := c.w.agents[o.InstanceID]; a != nil && !a.stopped {
			c.w.t.Error("the server is resized while its engine runs")
		}
		m.previous, m.flavor, m.resize = m.flavor, f.ID, trove.ServerResize
		c.w.made["resize "+o.InstanceID]++
		return nil
	})
}

// ConfirmResize and RevertResize take a while.
func (c fakeCloud) ConfirmResize(_ context.Context, o cloud.Owner) (done bool, err error) {
	err = c.call("ConfirmResize", func() error {
		m := c.w.machine(o.InstanceID)
		if c.w.reverted != "" && m.resize == trove.ServerVerifyResize {
			m.resize, m.flavor = "", c.w.reverted
		}
		if done = m.resize == ""; m.resize == trove.ServerVerifyResize {
			m.resize = "confirming"
		} else {
			m.resize = ""
		}
		return nil
	})
	return done, err
}

func (c fakeCloud) RevertResize(_ context.Context, o cloud.Owner) (done bool, err error) {
	err = c.call("RevertResize", func() error {
		m := c.w.machine(o.InstanceID)
		if c.w.slow {
			return nil
		}
		switch m.resize {
		case "":
			done = true
		case trove.ServerResize:
			m.resize = trove.ServerVerifyResize
		case trove.ServerVerifyResize:
			m.resize, m.flavor = trove.ServerRevertResize, m.previous
		case trove.ServerRevertResize:
			m.resize = ""
		}
		return nil
	})
	return done, err
}

func (c fakeCloud) Volume(_ context.Context, o cloud.Owner) (cloud.Volume, error) {
	if err := c.g.Alive(); err != nil {
		return cloud.Volume{}, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !c.w.things["volume "+o.InstanceID] {
		return cloud.Volume{}, trove.Errorf(trove.KindNotFound, "no volume")
	}
	m := c.w.machine(o.InstanceID)
	return cloud.Volume{ID: "v-" + o.InstanceID, Size: m.size, Ready: true, Attached: !m.detached, Device: "/dev/vdb", Fault: c.w.volume}, nil
}

func (c fakeCloud) StartGrow(_ context.Context, o cloud.Owner, size int) error {
	return c.call("StartGrow", func() error {
		m := c.w.machine(o.InstanceID)
		switch {
		case m.size >= size:
			return nil
		case !m.detached && c.w.offline:
			return trove.Errorf(trove.KindConflict, "it is attached")
		case !m.detached && c.w.refused:
			return nil
		}
		m.size = size
		c.w.made["growth "+o.InstanceID]++
		return nil
	})
}

func (c fakeCloud) DetachVolume(_ context.Context, o cloud.Owner) (done bool, err error) {
	err = c.call("DetachVolume", func() error {
		m := c.w.machine(o.InstanceID)
		if a := c.w.agents[o.InstanceID]; a.mounted {
			c.w.t.Error("the volume is detached while it is mounted")
		}
		done, m.detached = m.detached, true
		return nil
	})
	return done, err
}

func (c fakeCloud) AttachVolume(_ context.Context, o cloud.Owner) (done bool, err error) {
	err = c.call("AttachVolume", func() error {
		m := c.w.machine(o.InstanceID)
		done, m.detached = !m.detached, false
		return nil
	})
	return done, err
}

func (c fakeCloud) Inspect(ctx context.Context, o cloud.Owner) (cloud.View, error) {
	v := cloud.View{Group: true}
	if s, err := c.Server(ctx, o); err == nil {
		v.Server = &s
	}
	if vol, err := c.Volume(ctx, o); err == nil {
		v.Volume = &vol
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.things["port "+o.InstanceID] {
		v.Ports = []cloud.PortView{{Port: cloud.Port{ID: "p", Network: "local", Addresses: address(o.InstanceID)}, Status: "ACTIVE", Groups: true}}
	}
	if c.w.view != nil {
		c.w.view(&v)
	}
	return v, c.g.Alive()
}

func (c fakeCloud) Servers(context.Context) (map[string]cloud.Server, error) { return nil, nil }

func (c fakeCloud) Evidence(context.Context, cloud.Owner) (string, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.console, c.g.Alive()
}

// DeleteServer and DeleteVolume take a while: gone when asked again.
func (c fakeCloud) DeleteServer(_ context.Context, o cloud.Owner) (gone bool, err error) {
	err = c.call("DeleteServer", func() error {
		gone = !c.w.things["server "+o.InstanceID]
		delete(c.w.things, "server "+o.InstanceID)
		delete(c.w.agents, o.InstanceID)
		return nil
	})
	return gone, err
}

func (c fakeCloud) DeleteVolume(_ context.Context, o cloud.Owner) (gone bool, err error) {
	err = c.call("DeleteVolume", func() error {
		if c.w.things["server "+o.InstanceID] {
			return fmt.Errorf("in use")
		}
		gone = !c.w.things["volume "+o.InstanceID]
		delete(c.w.things, "volume "+o.InstanceID)
		return nil
	})
	return gone, err
}

func (c fakeCloud) DeletePorts(_ context.Context, o cloud.Owner) error {
	return c.call("DeletePorts", func() error {
		for _, what := range []string{"port ", "floating "} {
			delete(c.w.things, what+o.InstanceID)
		}
		return nil
	})
}

// DeleteSecurityGroup takes away the first that is made, the last to go: nothing
// is then known of the machine.
func (c fakeCloud) DeleteSecurityGroup(_ context.Context, o cloud.Owner) error {
	return c.call("DeleteSecurityGroup", func() error {
		delete(c.w.things, "group "+o.InstanceID)
		delete(c.w.machines, o.InstanceID)
		return nil
	})
}
