package flow

import (
	"bytes"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/trove"
)

// Where an agent reads its configuration.
const (
	GuestInfoPath   = "/etc/trove/conf.d/guest_info.conf"
	GuestConfigPath = "/etc/trove/conf.d/trove-guestagent.conf"
)

// files are what the agent needs to find its place: who it is, which its volume
// is, the key its
// messages are sealed with at first (none if it is empty), and how it reaches the
// bus. The transport URL comes after the operator's text, so that it counts
// whatever that says; if there is none, the operator's text has it and is given
// as it is.
func (f *Flows) files(inst *trove.Instance, q taskmanager.CreateInstance, transportURL, key string) (map[string][]byte, error) {
	info := []osloconf.Option{
		{Name: "guest_id", Value: inst.ID},
		{Name: "datastore_manager", Value: q.DatastoreManager},
		{Name: "datastore_version", Value: q.DSVersion},
		{Name: "tenant_id", Value: inst.TenantID},
	}
	if v := inst.Version; v.RegistryExt != "" {
		info = append(info, osloconf.Option{Name: "datastore_registry_ext", Value: v.RegistryExt})
	}
	if v := inst.Version; v.ReplStrategy != "" {
		info = append(info, osloconf.Option{Name: "replication_strategy", Value: v.ReplStrategy})
	}
	if f.opts.Isolation {
		info = append(info, osloconf.Option{Name: "network_isolation", Value: "True"})
	}
	if key != "" {
		info = append(info, osloconf.Option{Name: "instance_rpc_encr_key", Value: key})
	}
	groups := []osloconf.Group{{Name: "DEFAULT", Options: info}}
	if inst.VolumeID != "" {
		groups = append(groups, osloconf.Group{Name: "gotrove", Options: []osloconf.Option{{Name: "volume_id", Value: inst.VolumeID}}})
	}
	who, err := osloconf.Render(groups...)
	if err != nil {
		return nil, err
	}
	if transportURL == "" {
		return map[string][]byte{GuestInfoPath: who, GuestConfigPath: bytes.Clone(f.opts.GuestConfig)}, nil
	}
	bus, err := osloconf.Render(osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{
		{Name: "transport_url", Value: transportURL},
		{Name: "control_exchange", Value: f.opts.ControlExchange},
		{Name: "conductor_queue", Value: f.opts.ConductorQueue},
	}})
	if err != nil {
		return nil, err
	}
	config := bytes.Clone(f.opts.GuestConfig)
	if len(config) > 0 {
		config = append(bytes.TrimRight(config, "\n"), "\n\n"...)
	}
	return map[string][]byte{GuestInfoPath: who, GuestConfigPath: append(config, bus...)}, nil
}
