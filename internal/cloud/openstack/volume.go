package openstack

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// volumeRow is a volume as Cinder shows it.
type volumeRow = volumes.Volume

// Words of Cinder for a volume that is usable.
const (
	volumeAvailable = "available"
	volumeInUse     = "in-use"
	volumeCreating  = "creating"
	volumeDeleting  = "deleting"
	volumeExtending = "extending"
	volumeAttaching = "attaching"
	volumeDetaching = "detaching"
)

func volumeOf(v volumeRow) cloud.Volume {
	out := cloud.Volume{ID: v.ID, Size: v.Size, Attached: len(v.Attachments) > 0}
	switch {
	case v.Status == volumeAvailable || v.Status == volumeInUse:
		out.Ready = true
	case strings.HasPrefix(v.Status, "error"):
		out.Ready, out.Fault = true, v.Status
	}
	if out.Attached {
		out.Device = devicePath(v.ID)
	}
	return out
}

// devicePath is where a server finds a volume: by its serial number, of which
// virtio carries 20 characters. The name it asked for would be Nova's to ignore.
func devicePath(id string) string { return "/dev/disk/by-id/virtio-" + id[:min(20, len(id))] }

// volumesOf finds the volumes of an instance, the one to keep first. Those that
// are being deleted are left out unless all.
func (c *Cloud) volumesOf(ctx context.Context, s *session, o cloud.Owner, leaving bool) ([]volumeRow, error) {
	pages, err := volumes.List(s.volume, volumes.ListOpts{Name: resourceName(o)}).AllPages(ctx)
	if err != nil {
		return nil, failed(ctx, err, "list volumes")
	}
	all, err := volumes.ExtractVolumes(pages)
	if err != nil {
		return nil, failed(ctx, err, "list volumes")
	}
	all = slices.DeleteFunc(all, func(v volumeRow) bool { return v.Name != resourceName(o) || c.memory.isGone(v.ID) })
	for _, id := range []string{c.memory.recall(aVolume, o.InstanceID), o.VolumeID} {
		if id == "" || !goodID.MatchString(id) || c.memory.isGone(id) || slices.ContainsFunc(all, func(v volumeRow) bool { return v.ID == id }) {
			continue
		}
		v, err := c.volumeByID(ctx, s, id)
		switch {
		case err == nil && (v.Name == resourceName(o) || v.Metadata[metaInstance] == o.InstanceID):
			all = append(all, v)
		case err != nil && !trove.IsKind(err, trove.KindNotFound):
			return nil, err
		}
	}
	if !leaving {
		all = slices.DeleteFunc(all, func(v volumeRow) bool { return v.Status == volumeDeleting })
	}
	slices.SortFunc(all, func(a, b volumeRow) int {
		if used := len(b.Attachments) - len(a.Attachments); used != 0 {
			return used
		}
		return older(a.CreatedAt, a.ID, b.CreatedAt, b.ID)
	})
	return all, nil
}

func (c *Cloud) volumeByID(ctx context.Context, s *session, id string) (volumeRow, error) {
	v, err := volumes.Get(ctx, s.volume, id).Extract()
	if err != nil {
		return volumeRow{}, failed(ctx, err, "look at volume %s", id)
	}
	return *v, nil
}

// busy is the list of the volumes in a status that does not last: all who wait
// for one to leave it share it.
func (c *Cloud) busy(status string) *shared[map[string]volumeRow] { return c.volumes[status] }

// stillBusy gives the volume of an instance if it is in the passing status that
// it was last seen in.
func (c *Cloud) stillBusy(ctx context.Context, s *session, o cloud.Owner) (volumeRow, bool, error) {
	for status, list := range c.volumes {
		id := c.memory.recall(aBusy+status+" ", o.InstanceID)
		if id == "" {
			continue
		}
		all, err := list.get(ctx, func(ctx context.Context) (map[string]volumeRow, error) {
			pages, err := volumes.List(s.volume, volumes.ListOpts{Status: status}).AllPages(ctx)
			if err != nil {
				return nil, failed(ctx, err, "list volumes")
			}
			found, err := volumes.ExtractVolumes(pages)
			if err != nil {
				return nil, failed(ctx, err, "list volumes")
			}
			out := map[string]volumeRow{}
			for _, v := range found {
				out[v.ID] = v
			}
			return out, nil
		})
		if v, ok := all[id]; err != nil || ok {
			return v, ok, err
		}
		c.memory.forget(aBusy+status+" ", o.InstanceID)
	}
	return volumeRow{}, false, nil
}

// seen remembers the passing status of a volume.
func (c *Cloud) seen(o cloud.Owner, v volumeRow) {
	if c.volumes[v.Status] != nil {
		c.memory.note(aBusy+v.Status+" ", o.InstanceID, v.ID)
	}
}

// volumeNow gives the instance's volume, from a shared list while it is busy.
func (c *Cloud) volumeNow(ctx context.Context, s *session, o cloud.Owner) (volumeRow, error) {
	if v, ok, err := c.stillBusy(ctx, s, o); err != nil || ok && v.Status != volumeDeleting {
		return v, err
	}
	return c.oneVolume(ctx, s, o)
}

// EnsureVolume implements cloud.Cloud. Of a volume that failed the error tells.
func (c *Cloud) EnsureVolume(ctx context.Context, o cloud.Owner, size int, volumeType string) (cloud.Volume, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return cloud.Volume{}, err
	}
	defer end()
	if v, ok, err := c.stillBusy(ctx, s, o); err != nil || ok && v.Status == volumeCreating {
		return volumeOf(v), err
	}
	found, err := c.volumesOf(ctx, s, o, false)
	if err != nil {
		return cloud.Volume{}, err
	}
	if len(found) == 0 {
		if found, err = c.createVolume(ctx, s, o, size, volumeType); err != nil {
			return cloud.Volume{}, err
		}
	}
	for len(found) > 1 { // a list that is behind may show one that is gone
		if _, err := c.volumeByID(ctx, s, found[0].ID); err == nil {
			break
		} else if !trove.IsKind(err, trove.KindNotFound) {
			return cloud.Volume{}, err
		}
		c.memory.gone(found[0].ID)
		found = found[1:]
	}
	for _, v := range found[1:] {
		if len(v.Attachments) > 0 {
			continue
		}
		if err := c.deleteVolume(ctx, s, v); err != nil {
			return cloud.Volume{}, err
		}
	}
	v := found[0]
	c.seen(o, v)
	if strings.HasPrefix(v.Status, "error") {
		return cloud.Volume{}, trove.Errorf(trove.KindInternal, "Cinder could not make volume %s: its status is %s.", v.ID, v.Status).
			WithAction("openstack volume message list, and Cinder's log, tell why; then delete this instance and create it again.")
	}
	return volumeOf(v), nil
}

func (c *Cloud) createVolume(ctx context.Context, s *session, o cloud.Owner, size int, volumeType string) ([]volumeRow, error) {
	if volumeType == "" {
		volumeType = c.o.VolumeType
	}
	opts := volumes.CreateOpts{Size: size, Name: resourceName(o), VolumeType: volumeType,
		Description: "datastore volume for " + o.InstanceID, Metadata: map[string]string{metaInstance: o.InstanceID}}
	if c.o.VolumeInZone {
		opts.AvailabilityZone = o.Zone
	}
	var made *volumeRow
	err := c.create(o, aVolume, func() (err error) {
		made, err = volumes.Create(ctx, s.volume, opts, nil).Extract()
		return err
	})
	if err != nil {
		e := failed(ctx, err, "create a volume of %d GiB", size)
		if trove.IsKind(e, trove.KindNotFound) { // its type
			e = trove.Errorf(trove.KindBadRequest, "%w", e)
		}
		return nil, e
	}
	c.memory.note(aVolume, o.InstanceID, made.ID)
	c.busy(volumeCreating).touch()
	found, err := c.volumesOf(ctx, s, o, false)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, trove.Errorf(trove.KindUnavailable, "Volume %s was made and cannot be seen.", made.ID)
	}
	return found, nil
}

// deleteVolume asks Cinder to delete a volume.
func (c *Cloud) deleteVolume(ctx context.Context, s *session, v volumeRow) error {
	err := volumes.Delete(ctx, s.volume, v.ID, volumes.DeleteOpts{}).ExtractErr()
	switch {
	case isStatus(err, http.StatusNotFound):
		c.memory.gone(v.ID)
		return nil
	case err != nil:
		return failed(ctx, err, "delete volume %s", v.ID)
	}
	c.busy(volumeDeleting).touch()
	return nil
}

// DeleteVolume implements cloud.Cloud.
func (c *Cloud) DeleteVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return false, err
	}
	defer end()
	if id := c.memory.recall(aBusy+volumeDeleting+" ", o.InstanceID); id != "" {
		if _, ok, err := c.stillBusy(ctx, s, o); err != nil || ok {
			return false, err
		}
		// The only one there was, and it is in no list of those that go.
		if _, err := c.volumeByID(ctx, s, id); trove.IsKind(err, trove.KindNotFound) {
			c.memory.gone(id)
			err := c.settled(o, aVolume)
			return err == nil, err
		} else if err != nil {
			return false, err
		}
	}
	found, err := c.volumesOf(ctx, s, o, true)
	if err != nil {
		return false, err
	}
	for _, v := range found {
		if v.Status == volumeAvailable || strings.HasPrefix(v.Status, "error") {
			if err := c.deleteVolume(ctx, s, v); err != nil {
				return false, inUse(err)
			}
			v.Status = volumeDeleting
			if c.memory.recall(aVolume, o.InstanceID) == v.ID {
				c.memory.forget(aVolume, o.InstanceID)
			}
		}
		if len(found) == 1 {
			c.seen(o, v)
		}
		// Else its server is still on the way out, or Cinder at work.
	}
	if len(found) > 0 {
		return false, nil
	}
	if err := c.settled(o, aVolume); err != nil {
		return false, err
	}
	return true, nil
}

// oneVolume gives the instance's volume; KindNotFound when there is none.
func (c *Cloud) oneVolume(ctx context.Context, s *session, o cloud.Owner) (volumeRow, error) {
	found, err := c.volumesOf(ctx, s, o, false)
	if err != nil {
		return volumeRow{}, err
	}
	if len(found) == 0 {
		return volumeRow{}, trove.Errorf(trove.KindNotFound, "Instance %s has no volume.", o.InstanceID)
	}
	c.seen(o, found[0])
	return found[0], nil
}

// Volume implements cloud.Cloud.
func (c *Cloud) Volume(ctx context.Context, o cloud.Owner) (cloud.Volume, error) {
	s, end, err := c.begin(ctx, o)
	if err != nil {
		return cloud.Volume{}, err
	}
	defer end()
	v, err := c.volumeNow(ctx, s, o)
	if err != nil {
		return cloud.Volume{}, err
	}
	return volumeOf(v), nil
}
