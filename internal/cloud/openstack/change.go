package openstack

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// fresh gives the instance's server as Nova has it now: what is about to be
// changed is not looked up in a list of a moment ago.
func (c *Cloud) fresh(ctx context.Context, s *session, o cloud.Owner) (serverRow, error) {
	found, err := c.serversOf(ctx, s, o)
	if err != nil {
		return serverRow{}, err
	}
	if len(found) == 0 {
		return serverRow{}, trove.Errorf(trove.KindNotFound, "Instance %s has no server.", o.InstanceID)
	}
	return c.serverByID(ctx, s, found[0].ID)
}

// wrongState makes a conflict of what Nova or Cinder refuse for the state that
// a thing is in.
func wrongState(err error) error {
	if trove.IsKind(err, trove.KindBadRequest) {
		return trove.Errorf(trove.KindConflict, "%w", err)
	}
	return err
}

// StartResize implements cloud.Cloud.
func (c *Cloud) StartResize(ctx context.Context, o cloud.Owner, f trove.Flavor) error {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	r, err := c.fresh(ctx, s, o)
	if err != nil {
		return err
	}
	now, err := c.serverOf(ctx, s, r)
	if err != nil {
		return err
	}
	switch {
	case r.Status == trove.ServerActive && now.FlavorID == f.ID, r.Status == trove.ServerVerifyResize && now.FlavorID == f.ID:
		return nil
	case r.Status == trove.ServerResize:
		// Nova tells the old flavor until it is done; whatever comes of it,
		// Server shows.
		return nil
	case r.Status != trove.ServerActive && r.Status != trove.ServerShutoff:
		return trove.Errorf(trove.KindConflict, "Server %s is %s and cannot be resized now.", r.ID, r.Status)
	}
	err = servers.Resize(ctx, s.compute, r.ID, servers.ResizeOpts{FlavorRef: f.ID}).ExtractErr()
	c.servers.touch()
	return failed(ctx, err, "resize server %s to flavor %s", r.ID, f.ID)
}

// ConfirmResize implements cloud.Cloud.
func (c *Cloud) ConfirmResize(ctx context.Context, o cloud.Owner) (bool, error) {
	return c.leaveResize(ctx, o, "confirm the resize of", func(s *session, id string) error {
		return servers.ConfirmResize(ctx, s.compute, id).ExtractErr()
	})
}

// RevertResize implements cloud.Cloud.
func (c *Cloud) RevertResize(ctx context.Context, o cloud.Owner) (bool, error) {
	return c.leaveResize(ctx, o, "revert the resize of", func(s *session, id string) error {
		return servers.RevertResize(ctx, s.compute, id).ExtractErr()
	})
}

func (c *Cloud) leaveResize(ctx context.Context, o cloud.Owner, doing string, act func(s *session, id string) error) (bool, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return false, err
	}
	defer end()
	r, err := c.oneServer(ctx, s, o)
	if err != nil {
		return false, err
	}
	switch r.Status {
	case trove.ServerActive, trove.ServerShutoff:
		return true, nil
	case trove.ServerError:
		return false, trove.Errorf(trove.KindConflict, "Server %s is in ERROR: %s", r.ID, clip(r.Fault.Message))
	case trove.ServerVerifyResize:
	default:
		return false, nil
	}
	err = act(s, r.ID)
	c.servers.touch()
	if isStatus(err, http.StatusBadRequest, http.StatusConflict) { // it is being done
		return false, nil
	}
	return false, failed(ctx, err, "%s server %s", doing, r.ID)
}

// StartGrow implements cloud.Cloud.
func (c *Cloud) StartGrow(ctx context.Context, o cloud.Owner, size int) error {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return err
	}
	defer end()
	v, err := c.oneVolume(ctx, s, o)
	if err != nil {
		return err
	}
	switch {
	case v.Size >= size, v.Status == volumeExtending:
		return nil
	case len(v.Attachments) > 0 && (c.o.OfflineGrow || s.volumeMinor < cinderWanted):
		return trove.Errorf(trove.KindConflict, "Volume %s is attached, and this cloud extends detached volumes only.", v.ID)
	}
	err = volumes.ExtendSize(ctx, s.volume, v.ID, volumes.ExtendSizeOpts{NewSize: size}).ExtractErr()
	c.busy(volumeExtending).touch()
	return wrongState(failed(ctx, err, "extend volume %s to %d GiB", v.ID, size))
}

// stuck is an error for a volume that no waiting brings out of its status.
func stuck(v volumeRow) error {
	if !strings.HasPrefix(v.Status, "error") {
		return nil
	}
	return trove.Errorf(trove.KindConflict, "Volume %s is in status %s.", v.ID, v.Status).
		WithAction("Look at Cinder's log; if the volume is sound: openstack volume set --state available %s", v.ID)
}

// DetachVolume implements cloud.Cloud.
func (c *Cloud) DetachVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return false, err
	}
	defer end()
	v, err := c.volumeNow(ctx, s, o)
	if err != nil {
		return false, err
	}
	if v.Status == volumeAvailable && len(v.Attachments) == 0 {
		return true, nil
	}
	if v.Status != volumeInUse {
		return false, stuck(v)
	}
	for _, a := range v.Attachments {
		err := volumeattach.Delete(ctx, s.compute, a.ServerID, v.ID).ExtractErr()
		if err != nil && !isStatus(err, http.StatusNotFound, http.StatusConflict) {
			return false, wrongState(failed(ctx, err, "detach volume %s from server %s", v.ID, a.ServerID))
		}
	}
	c.busy(volumeDetaching).touch()
	return false, nil
}

// AttachVolume implements cloud.Cloud.
func (c *Cloud) AttachVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return false, err
	}
	defer end()
	v, err := c.volumeNow(ctx, s, o)
	if err != nil {
		return false, err
	}
	if v.Status == volumeInUse && len(v.Attachments) > 0 {
		return true, nil
	}
	if v.Status != volumeAvailable {
		return false, stuck(v)
	}
	r, err := c.oneServer(ctx, s, o)
	if err != nil {
		return false, err
	}
	_, err = volumeattach.Create(ctx, s.compute, r.ID, volumeattach.CreateOpts{VolumeID: v.ID}).Extract()
	c.busy(volumeAttaching).touch()
	if isStatus(err, http.StatusConflict) { // it is being done, or the server is at something else
		return false, nil
	}
	return false, wrongState(failed(ctx, err, "attach volume %s to server %s", v.ID, r.ID))
}

// Inspect implements cloud.Cloud.
func (c *Cloud) Inspect(ctx context.Context, o cloud.Owner) (cloud.View, error) {
	var v cloud.View
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return v, err
	}
	defer end()
	var errs []error
	if r, err := c.oneServer(ctx, s, o); err == nil {
		if server, err := c.serverOf(ctx, s, r); err == nil {
			v.Server = &server
		} else {
			errs = append(errs, err)
		}
	} else if !trove.IsKind(err, trove.KindNotFound) {
		errs = append(errs, err)
	}
	if row, err := c.oneVolume(ctx, s, o); err == nil {
		volume := volumeOf(row)
		v.Volume = &volume
	} else if !trove.IsKind(err, trove.KindNotFound) {
		errs = append(errs, err)
	}
	user, management, err := c.portsOf(ctx, s, o)
	errs = append(errs, err)
	for _, p := range slices.Concat(user, management) {
		v.Ports = append(v.Ports, cloud.PortView{Port: port(p, c.isManagement(p)), Status: p.Status, Groups: len(p.SecurityGroups) > 0})
	}
	if c.o.NoSecurityGroups {
		v.Group = true
		return v, errors.Join(errs...)
	}
	found, err := c.groups(ctx, s, o)
	if errs = append(errs, err); len(found) > 0 {
		v.Group = true
		v.Open = opens(found[0].Rules)
	}
	return v, errors.Join(errs...)
}

// opens are the TCP ports that rules open, in the order of the rules.
func opens(all []rules.SecGroupRule) (out []cloud.Rule) {
	for _, r := range all {
		if r.Direction != string(rules.DirIngress) || r.Protocol != "tcp" {
			continue
		}
		o := openingOf(r)
		i := slices.IndexFunc(out, func(r cloud.Rule) bool { return r.FirstPort == o.first && r.LastPort == o.last })
		if i < 0 {
			i = len(out)
			out = append(out, cloud.Rule{FirstPort: o.first, LastPort: o.last})
		}
		out[i].CIDRs = append(out[i].CIDRs, o.from)
	}
	return out
}
