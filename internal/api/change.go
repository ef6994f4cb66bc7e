package api

import (
	"fmt"

	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// begin writes down that an operation on the instance begins, what it costs and
// the message that has it carried out.
func (s *Server) begin(q *request, task trove.Task, growth store.Growth, m rpc.Message) (response, error) {
	row, err := outbox.Row(q.Context(), m, "", forEver)
	if err != nil {
		return response{}, err
	}
	growth.Limits = s.config.Quotas
	if err := s.store.BeginTask(q.Context(), q.instance.ID, store.TaskChange{Task: task, Growth: growth, Outbox: []store.OutboxRow{row}}); err != nil {
		return response{}, err
	}
	return accepted()
}

// resize grows the volume, or changes the flavor. Of both, the volume is meant.
func (s *Server) resize(q *request) (response, error) {
	asked := q.body.object("resize")
	if asked.has("volume") {
		return s.resizeVolume(q, asked.object("volume"))
	}
	return s.resizeFlavor(q, asked)
}

func (s *Server) resizeVolume(q *request, asked object) (response, error) {
	i := q.instance
	if err := q.enforce("instance:resize_volume", i.TenantID); err != nil {
		return response{}, err
	}
	size, fits := asked.number("size")
	switch {
	case i.ClusterID != "":
		return response{}, inCluster(i)
	case i.VolumeSize == 0:
		return response{}, trove.Errorf(trove.KindBadRequest, "Instance %s has no volume.", i.ID)
	case fits && size <= i.VolumeSize:
		return response{}, trove.Errorf(trove.KindBadRequest, "The new volume 'size' must be larger than the current one of %d GB, %d cannot be accepted.",
			i.VolumeSize, size)
	case !fits || size > s.config.MaxVolumeSize:
		return response{}, trove.Errorf(trove.KindOverLimit, "Volume 'size' cannot exceed maximum of %d GB, %s cannot be accepted.",
			s.config.MaxVolumeSize, shorten(asked.scalar("size")))
	case len(i.Replicas) > 0:
		return response{}, notBuilt("resizing the volumes of an instance and its replicas")
	}
	// Whether it can be now, before what it is made of is asked for.
	if err := i.Actionable(); err != nil {
		return response{}, err
	}
	uses := trove.QuotaDelta{}
	if f, err := s.cloud.Flavor(q.Context(), i.FlavorID); err == nil {
		uses[trove.ResourceRAM] = f.RAM
	}
	return s.begin(q, trove.TaskResizing,
		store.Growth{Cost: trove.QuotaDelta{trove.ResourceVolumes: size - i.VolumeSize}, Uses: uses},
		taskmanager.ResizeVolume{InstanceID: i.ID, NewSize: size}.Message(s.config.TaskManagerTopic))
}

func (s *Server) resizeFlavor(q *request, asked object) (response, error) {
	i := q.instance
	if err := q.enforce("instance:resize_flavor", i.TenantID); err != nil {
		return response{}, err
	}
	if err := i.Actionable(); err != nil {
		return response{}, err
	}
	if i.ClusterID != "" {
		return response{}, inCluster(i)
	}
	metadata, err := s.store.VersionMetadata(q.Context(), i.Version.ID)
	if err != nil {
		return response{}, err
	}
	flavor, err := s.chooseFlavor(q, i.Version, metadata[store.BindFlavor], asked)
	if err != nil {
		return response{}, err
	}
	if flavor.ID == i.FlavorID {
		return response{}, trove.Errorf(trove.KindBadRequest, "No change was requested in the size of the instance: it has flavor %s.", flavor.ID)
	}
	was, err := s.cloud.Flavor(q.Context(), i.FlavorID)
	switch {
	case trove.IsKind(err, trove.KindNotFound):
		// The cloud has it no longer: what it had is not known, and not charged.
		was = trove.Flavor{ID: i.FlavorID, Name: i.FlavorID, RAM: flavor.RAM}
	case err != nil:
		return response{}, err
	}
	if err := sameDisks(was, flavor); err != nil {
		return response{}, err
	}
	return s.begin(q, trove.TaskResizing,
		store.Growth{Cost: trove.QuotaDelta{trove.ResourceRAM: max(0, flavor.RAM-was.RAM)}, Uses: trove.QuotaDelta{trove.ResourceRAM: was.RAM}},
		taskmanager.ResizeFlavor{InstanceID: i.ID, OldFlavor: wireFlavor(was), NewFlavor: wireFlavor(flavor)}.Message(s.config.TaskManagerTopic))
}

// sameDisks refuses what would take an instance's own disk away, or give it one
// that nothing uses.
func sameDisks(was, becomes trove.Flavor) error {
	switch {
	case was.Ephemeral == 0 && becomes.Ephemeral > 0:
		return trove.Errorf(trove.KindNotImplemented, "A resize from a flavor without an ephemeral disk to one with it is not supported.")
	case becomes.Ephemeral < was.Ephemeral:
		return trove.Errorf(trove.KindBadRequest, "The ephemeral disk of flavor %s is smaller than the instance's: %d GB instead of %d GB.",
			becomes.ID, becomes.Ephemeral, was.Ephemeral)
	}
	return nil
}

func wireFlavor(f trove.Flavor) rpcapi.Flavor {
	return rpcapi.Flavor{ID: f.ID, Name: f.Name, RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk}
}

// updateAccess has others reach the instance. What is left out is nothing:
// without a list of networks everyone may, as for a new instance.
func (s *Server) updateAccess(q *request) error {
	asked := access(q.body.object("instance"))
	if asked == nil {
		return fmt.Errorf("a change of access without one")
	}
	_, err := s.begin(q, trove.TaskUpdating, store.Growth{},
		taskmanager.UpdateAccess{InstanceID: q.instance.ID, Access: taskmanager.Access{
			IsPublic: asked.IsPublic, AllowedCIDRs: append([]string{}, asked.AllowedCIDRs...)}}.Message(s.config.TaskManagerTopic))
	return err
}
