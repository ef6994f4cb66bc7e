package api

import (
	"context"
	"strings"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// forEver is how long a message to the task manager is kept: nothing but the
// message leads an instance out of the task that was written with it. One that
// cannot be carried out is ended by the task manager.
const forEver = 0

func (s *Server) listInstances(q *request) (response, error) {
	return s.instances(q, true, view.Viewer.Instance)
}

func (s *Server) listInstanceDetails(q *request) (response, error) {
	return s.instances(q, false, view.Viewer.InstanceDetail)
}

// instances lists those of the caller's project, also for administrators; short
// as store.InstanceFilter has it.
func (s *Server) instances(q *request, short bool, show func(view.Viewer, *trove.Instance) view.Instance) (response, error) {
	p, err := q.page()
	if err != nil {
		return response{}, err
	}
	if p.marker != "" && !isUUID(p.marker) {
		return response{}, trove.Errorf(trove.KindBadRequest, "The query parameter 'marker' must be the id of an instance.")
	}
	clustered, _ := q.param("include_clustered")
	list, next, err := s.store.ListInstances(q.Context(),
		store.InstanceFilter{TenantID: q.creds.ProjectID, IncludeClustered: strings.EqualFold(clustered, "true"), Short: short},
		store.Page{Limit: p.limit, Marker: p.marker})
	if err != nil {
		return response{}, err
	}
	viewer := q.viewer()
	shown := make([]view.Instance, 0, len(list))
	for _, i := range list {
		shown = append(shown, show(viewer, i))
	}
	return ok(q.listed("instances", shown, next))
}

func (s *Server) showInstance(q *request) (response, error) {
	v := q.viewer()
	shown := v.InstanceDetail(q.instance)
	if s.answers(q.instance) {
		// What checking the token took goes off the wait, or a caller who comes with a
		// new one waits longer than the rest.
		ctx, cancel := context.WithDeadline(q.Context(), q.trail.began.Add(s.config.UsageTimeout+s.config.UsageTimeout/8))
		defer cancel()
		if u, err := s.usages.of(ctx, q.instance.ID, s.clock(), s.usage); err == nil {
			shown.SetUsage(u)
		} else {
			s.log.DebugContext(q.Context(), "no use of the volume", "error", err)
		}
	}
	return ok(map[string]view.Instance{"instance": shown})
}

// answers reports whether asking the instance's agent is worth the wait: it is
// not while something is done to the instance, nor when its heartbeats stopped.
func (s *Server) answers(i *trove.Instance) bool {
	switch i.Status() {
	case trove.StatusBuild, trove.StatusReboot, trove.StatusResize, trove.StatusPromote, trove.StatusEject,
		trove.StatusUpgrade, trove.StatusShutdown:
		return false
	}
	return i.VolumeSize > 0 && i.Server.Status == trove.ServerActive && i.ServiceAge <= s.config.HeartbeatExpiry
}

// usage asks the agent, but not for long: the answer is an extra.
func (s *Server) usage(ctx context.Context, id string) (view.Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.UsageTimeout)
	defer cancel()
	stats, err := s.guest.FilesystemStats(ctx, id)
	return view.Usage{Used: stats.Used, Total: stats.Total, TotalBlocks: stats.TotalBlocks,
		AvailBlocks: stats.AvailBlocks, Extra: stats.Extra}, err
}

// updateInstance serves PUT and PATCH, which differ in their schemas only.
func (s *Server) updateInstance(q *request) (response, error) {
	change := q.body.object("instance")
	var asked []string
	for key := range change {
		if key != "name" {
			asked = append(asked, key)
		}
	}
	if len(asked) > 1 {
		return response{}, trove.Errorf(trove.KindBadRequest,
			"Validation error: instance may change one of configuration, replica_of, datastore_version and access at a time, besides the name.")
	}
	if q.instance.Status() == trove.StatusBuild {
		return response{}, notReady(q.instance)
	}
	// Nothing but the name, or nothing at all, means "detach the configuration
	// group" where there is no name; without a group there is nothing to do.
	detach := len(change) == 0 || (len(asked) == 1 && asked[0] == "configuration" && change["configuration"] == nil)
	switch {
	case detach && q.instance.ConfigurationID == "":
	case len(asked) == 1 && asked[0] == "access":
		if err := s.updateAccess(q); err != nil {
			return response{}, err
		}
	case detach, len(asked) == 1:
		feature := "configuration groups"
		if len(asked) == 1 {
			feature = "changing '" + asked[0] + "' of an instance"
		}
		return response{}, notBuilt(feature)
	}
	if change.has("name") {
		if err := s.store.RenameInstance(q.Context(), q.instance.ID, change.text("name")); err != nil {
			return response{}, err
		}
	}
	return accepted()
}

func notReady(i *trove.Instance) error {
	return trove.Errorf(trove.KindUnprocessable, "Instance %s is not ready. (Status is %s).", i.ID, i.Status())
}

// deleteInstance works in every state; a BUILD is cut short.
func (s *Server) deleteInstance(q *request) (response, error) {
	i := q.instance
	if i.ClusterID != "" {
		return response{}, inCluster(i)
	}
	if len(i.Replicas) > 0 {
		return response{}, trove.Errorf(trove.KindForbidden,
			"The replica source %s cannot be deleted without detaching its replicas: %s.", i.ID, strings.Join(i.Replicas, ", "))
	}
	row, err := outbox.Row(q.Context(), taskmanager.DeleteMessage(s.config.TaskManagerTopic, i.ID), "", forEver)
	if err != nil {
		return response{}, err
	}
	if err := s.store.BeginDelete(q.Context(), i.ID, []store.OutboxRow{row}); err != nil {
		return response{}, err
	}
	return accepted()
}

func inCluster(i *trove.Instance) error {
	return trove.Errorf(trove.KindNotImplemented, "Instance %s is part of a cluster; act on the cluster %s.", i.ID, i.ClusterID)
}

// actOnInstance does the one action that the body names. The policy rule is the
// action's.
func (s *Server) actOnInstance(q *request) (response, error) {
	for name := range q.body {
		switch name {
		case "restart", "reset_status", "resize", "promote_to_replica_source", "eject_replica_source":
			q.trail.action = name
		}
		switch name {
		case "restart":
			return s.restart(q)
		case "reset_status":
			return s.resetStatus(q)
		case "resize":
			return s.resize(q)
		case "promote_to_replica_source", "eject_replica_source":
			return s.laterAction(q, "instance:"+name, "replication")
		}
		return response{}, trove.Errorf(trove.KindBadRequest, "Validation error: '%s' is not an action; "+
			"restart, resize, promote_to_replica_source, eject_replica_source and reset_status are.", shorten(name))
	}
	return response{}, trove.Errorf(trove.KindBadRequest, "Validation error: an action is needed.")
}

func (s *Server) laterAction(q *request, rule, feature string) (response, error) {
	if err := q.enforce(rule, q.instance.TenantID); err != nil {
		return response{}, err
	}
	return response{}, notBuilt(feature)
}

func (s *Server) restart(q *request) (response, error) {
	i := q.instance
	if err := q.enforce("instance:restart", i.TenantID); err != nil {
		return response{}, err
	}
	if i.ClusterID != "" && !q.creds.IsAdmin {
		return response{}, inCluster(i)
	}
	row, err := outbox.Row(q.Context(), taskmanager.RestartMessage(s.config.TaskManagerTopic, i.ID), "", forEver)
	if err != nil {
		return response{}, err
	}
	restarting := trove.ServiceRestarting
	err = s.store.BeginTask(q.Context(), i.ID, store.TaskChange{
		Task: trove.TaskRebooting, Service: &restarting, Outbox: []store.OutboxRow{row}})
	if err != nil {
		return response{}, err
	}
	return accepted()
}

// resetStatus is for administrators, but for owners too if the body says that a
// delete is to follow.
func (s *Server) resetStatus(q *request) (response, error) {
	rule := "instance:reset_status"
	if q.body.object("reset_status").has("force_delete") {
		rule = "instance:force_delete"
	}
	if err := q.enforce(rule, q.instance.TenantID); err != nil {
		return response{}, err
	}
	if err := s.store.ResetStatus(q.Context(), q.instance.ID); err != nil {
		return response{}, err
	}
	return accepted()
}
