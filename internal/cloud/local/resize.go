package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/trove"
)

// How far a resize is, in server.json. It is written before what it says is
// begun, so that whoever is killed over it leaves what the next call goes on
// with.
const (
	resizing  = trove.ServerResize       // the agent is to be started with Flavor
	resized   = trove.ServerVerifyResize // it was; Previous is what to go back to
	reverting = trove.ServerRevertResize // it is to be started with Flavor, which was Previous
)

// StartResize starts the agent again with the memory of the flavor, and keeps
// the old one in mind until ConfirmResize.
func (c *Cloud) StartResize(ctx context.Context, o cloud.Owner, f trove.Flavor) (err error) {
	defer func() { err = noRoom(err) }()
	unlock, srv, err := c.locked(ctx, o.InstanceID)
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case srv.Resize == reverting, srv.Resize != "" && srv.Flavor.ID != f.ID:
		return trove.Errorf(trove.KindConflict, "the server of instance %s is being resized to flavor %s", o.InstanceID, srv.Flavor.ID)
	case srv.Resize == resized, srv.Resize == "" && srv.Flavor.ID == f.ID:
		return nil
	case srv.Resize == "":
		was := srv.Flavor
		srv.Previous, srv.Flavor, srv.Resize = &was, f, resizing
		if err := writeJSON(c.path(o.InstanceID, "server.json"), srv); err != nil {
			return err
		}
	}
	return c.startAnew(ctx, srv, resized)
}

// ConfirmResize forgets the old flavor.
func (c *Cloud) ConfirmResize(ctx context.Context, o cloud.Owner) (bool, error) {
	unlock, srv, err := c.locked(ctx, o.InstanceID)
	if err != nil {
		return false, err
	}
	defer unlock()
	switch srv.Resize {
	case "":
		return true, nil
	case resized:
		srv.Previous, srv.Resize = nil, ""
		return true, writeJSON(c.path(o.InstanceID, "server.json"), srv)
	}
	return false, nil
}

// RevertResize starts the agent again with what it had before.
func (c *Cloud) RevertResize(ctx context.Context, o cloud.Owner) (bool, error) {
	unlock, srv, err := c.locked(ctx, o.InstanceID)
	if err != nil {
		return false, err
	}
	defer unlock()
	switch {
	case srv.Resize == "":
		return true, nil
	case srv.Resize != reverting && srv.Previous != nil:
		srv.Flavor, srv.Previous, srv.Resize = *srv.Previous, nil, reverting
		if err := writeJSON(c.path(o.InstanceID, "server.json"), srv); err != nil {
			return false, err
		}
	}
	err = c.startAnew(ctx, srv, "")
	return err == nil, err
}

// locked takes the lock of an instance and reads its server.
func (c *Cloud) locked(ctx context.Context, id string) (unlock func(), srv server, err error) {
	if err := checkID(id); err != nil {
		return nil, srv, err
	}
	if unlock, err = c.lock(ctx, id); err != nil {
		return nil, srv, err
	}
	there, err := readJSON(c.path(id, "server.json"), &srv)
	if err == nil && !there {
		err = trove.Errorf(trove.KindNotFound, "instance %s has no server", id)
	}
	if err != nil {
		unlock()
		return nil, srv, err
	}
	return unlock, srv, nil
}

// startAnew stops the agent and whatever it runs, as a server does that is
// moved, starts it as srv has it now and writes down how far that came. The
// instance's lock is held: the supervisor waits meanwhile.
func (c *Cloud) startAnew(ctx context.Context, srv server, then string) error {
	id := srv.InstanceID
	if err := c.stopHeld(ctx, id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // the supervisor starts it; whoever asked comes again
	}
	if _, err := c.startAgent(ctx, srv); err != nil {
		return err
	}
	c.setHealth(ctx, id, health{Running: time.Now()})
	srv.Resize = then
	return writeJSON(c.path(id, "server.json"), srv)
}

// Volume gives the instance's volume.
func (c *Cloud) Volume(_ context.Context, o cloud.Owner) (cloud.Volume, error) {
	if err := checkID(o.InstanceID); err != nil {
		return cloud.Volume{}, err
	}
	var v volume
	there, err := readJSON(c.path(o.InstanceID, "volume.json"), &v)
	if err != nil {
		return cloud.Volume{}, err
	}
	if !there {
		return cloud.Volume{}, trove.Errorf(trove.KindNotFound, "instance %s has no volume", o.InstanceID)
	}
	return cloud.Volume{ID: o.InstanceID, Size: v.Size, Ready: true, Attached: c.exists(o.InstanceID)}, nil
}

// StartGrow raises the limit of the volume's directory, at once.
func (c *Cloud) StartGrow(ctx context.Context, o cloud.Owner, size int) (err error) {
	defer func() { err = noRoom(err) }()
	id := o.InstanceID
	if err := checkID(id); err != nil {
		return err
	}
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	var v volume
	there, err := readJSON(c.path(id, "volume.json"), &v)
	switch {
	case err != nil:
		return err
	case !there:
		return trove.Errorf(trove.KindNotFound, "instance %s has no volume", id)
	case v.Size >= size:
		return c.tellGrown(id)
	}
	dir := c.path(id, "volume")
	if free, err := durable.FreeSpace(dir); err == nil && free < int64(size-v.Size)<<30 {
		c.log.WarnContext(ctx, "the disk holds less than the volume is to grow by", "instance_id", id, "size_gib", size, "free_gib", free>>30)
	}
	if v.Enforced {
		if err := setQuota(dir, projectOf(id), size); err != nil {
			return trove.Errorf(trove.KindInternal, "The limit of the volume of instance %s cannot be raised: %w", id, err)
		}
	}
	v.Size = size
	if err := writeJSON(c.path(id, "volume.json"), v); err != nil {
		return err
	}
	return c.tellGrown(id)
}

// tellGrown writes the size where an agent looks that is asked to take notice
// of it.
func (c *Cloud) tellGrown(id string) error {
	var srv server
	if there, err := readJSON(c.path(id, "server.json"), &srv); err != nil || !there {
		return err
	}
	return c.tell(srv)
}

// tell writes what the server's agent is told of where it is.
func (c *Cloud) tell(srv server) error {
	options, err := c.options(srv)
	if err != nil {
		return err
	}
	return c.writeOwn(filepath.Join(c.path(srv.InstanceID, "root", configDir), optionsFile), options)
}

// DetachVolume does nothing: a server and its volume are one.
func (c *Cloud) DetachVolume(context.Context, cloud.Owner) (bool, error) { return true, nil }

// AttachVolume does nothing.
func (c *Cloud) AttachVolume(context.Context, cloud.Owner) (bool, error) { return true, nil }

// EnsurePublic gives the address there is: this machine is all there is outside.
func (c *Cloud) EnsurePublic(_ context.Context, o cloud.Owner, _ bool) ([]trove.Address, error) {
	found, _, err := c.claimed(o.InstanceID)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, trove.Errorf(trove.KindNotFound, "instance %s has no address", o.InstanceID)
	}
	return c.addresses(found[0].String()), nil
}

// Inspect shows the instance. There are no security groups: the port is open to
// this machine.
func (c *Cloud) Inspect(ctx context.Context, o cloud.Owner) (cloud.View, error) {
	v := cloud.View{Group: true, Open: []cloud.Rule{{FirstPort: 1, LastPort: 65535, CIDRs: []string{"127.0.0.0/8"}}}}
	var errs []error
	if srv, err := c.Server(ctx, o); err == nil {
		v.Server = &srv
	} else if !trove.IsKind(err, trove.KindNotFound) {
		errs = append(errs, err)
	}
	if vol, err := c.Volume(ctx, o); err == nil {
		v.Volume = &vol
	} else if !trove.IsKind(err, trove.KindNotFound) {
		errs = append(errs, err)
	}
	found, _, err := c.claimed(o.InstanceID)
	errs = append(errs, err)
	for _, a := range found {
		p := cloud.Port{ID: o.InstanceID, Network: Network, Addresses: c.addresses(a.String())}
		v.Ports = append(v.Ports, cloud.PortView{Port: p, Status: "ACTIVE", Groups: true})
	}
	return v, errors.Join(errs...)
}

// stopHeld ends everything of the instance that runs, its agent first, which
// stops the engine cleanly. The instance's lock is held.
func (c *Cloud) stopHeld(ctx context.Context, id string) error {
	h, ok, err := c.findAgent(id)
	if err != nil {
		return err
	}
	if ok {
		grace, cancel := context.WithTimeout(ctx, c.o.StopGrace)
		defer cancel()
		if err := h.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if err := h.Wait(grace); err != nil {
			c.log.WarnContext(ctx, "the guest agent does not stop and is killed", "instance_id", id)
		}
	}
	// Nothing is left of an agent that stopped well. An engine whose agent is
	// away is asked itself.
	if !ok {
		if err := askAll(ctx, id, min(c.o.StopGrace, engineGrace)); err != nil {
			return err
		}
	}
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*killLimit)
	defer cancel()
	return c.killAll(kill, id)
}
