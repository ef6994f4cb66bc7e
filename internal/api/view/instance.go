package view

import (
	"math"
	"net/netip"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Reference names another object.
type Reference struct {
	ID    string `json:"id"`
	Links []Link `json:"links"`
}

// DatastoreOf says what an instance runs; type and version are null when the
// version is gone.
type DatastoreOf struct {
	Type          *string `json:"type"`
	Version       *string `json:"version"`
	VersionNumber *string `json:"version_number,omitempty"`
}

// Volume is an instance's volume; what is used is only in a show.
type Volume struct {
	Size           int      `json:"size"`
	Used           *float64 `json:"used,omitempty"`         // GB
	UsedPercent    *float64 `json:"used_percent,omitempty"` // two decimals
	WALSize        *int64   `json:"wal_size,omitempty"`
	WALArchiveSize *int64   `json:"wal_archive_size,omitempty"`
}

// Access says who may reach an instance; an empty object when nobody said and
// there are no addresses yet.
type Access struct {
	IsPublic     *bool    `json:"is_public,omitempty"`
	AllowedCIDRs []string `json:"allowed_cidrs,omitzero"`
}

// Address is one address of an instance.
type Address struct {
	Address string `json:"address"`
	Type    string `json:"type"`
	Network string `json:"network,omitempty"`
}

// Fault is why an instance failed; details are null but for administrators.
type Fault struct {
	Message string  `json:"message"`
	Created string  `json:"created"`
	Details *string `json:"details"`
}

// Instance is an instance in a list.
type Instance struct {
	ID              string      `json:"id"`
	Name            string      `json:"name"`
	Status          string      `json:"status"`
	OperatingStatus string      `json:"operating_status"`
	Links           []Link      `json:"links"`
	Flavor          Reference   `json:"flavor"`
	Datastore       DatastoreOf `json:"datastore"`
	Region          string      `json:"region"`
	Access          Access      `json:"access"`
	Volume          *Volume     `json:"volume,omitempty"`
	Hostname        string      `json:"hostname,omitempty"`
	IP              []string    `json:"ip,omitempty"`
	Addresses       []Address   `json:"addresses,omitempty"`
	ReplicaOf       *Reference  `json:"replica_of,omitempty"`
	Replicas        []Reference `json:"replicas,omitempty"`
	TenantID        string      `json:"tenant_id,omitempty"`
	*Detail
}

// Detail is what a show and a detailed list tell besides.
type Detail struct {
	Created              string     `json:"created"`
	Updated              string     `json:"updated"`
	ServiceStatusUpdated string     `json:"service_status_updated,omitempty"`
	Fault                *Fault     `json:"fault,omitempty"`
	Configuration        *Reference `json:"configuration,omitempty"`
	ClusterID            string     `json:"cluster_id,omitempty"`
	ShardID              string     `json:"shard_id,omitempty"`
	*DetailAdmin
}

// DetailAdmin is what administrators see besides.
type DetailAdmin struct {
	ServerID             *string `json:"server_id"`
	VolumeID             *string `json:"volume_id"`
	EncryptedRPCMessages bool    `json:"encrypted_rpc_messaging"`
}

// Instance shows i as a list does.
func (v Viewer) Instance(i *trove.Instance) Instance {
	out := Instance{
		ID: i.ID, Name: i.Name,
		Status:          string(i.Status()),
		OperatingStatus: string(i.OperatingStatus(v.HeartbeatExpiry)),
		Links:           v.links("instances", i.ID),
		Flavor:          Reference{ID: i.FlavorID, Links: v.links("flavors", i.FlavorID)},
		Region:          i.RegionID,
		Hostname:        i.Hostname,
	}
	if out.Region == "" {
		out.Region = v.Region
	}
	if i.Version.ID != "" {
		out.Datastore = DatastoreOf{Type: &i.Version.DatastoreName, Version: &i.Version.Name}
	}
	if i.VolumeSize > 0 {
		out.Volume = &Volume{Size: i.VolumeSize}
	}
	addresses, public := visible(i.Server.Addresses)
	if i.Hostname == "" {
		for _, a := range addresses {
			out.IP = append(out.IP, a.Address)
		}
		out.Addresses = addresses
	}
	switch {
	case i.Access != nil:
		out.Access = Access{IsPublic: &i.Access.IsPublic, AllowedCIDRs: i.Access.AllowedCIDRs}
	case len(addresses) > 0:
		out.Access.IsPublic = &public
	}
	if i.ReplicaOf != "" {
		out.ReplicaOf = &Reference{ID: i.ReplicaOf, Links: v.links("instances", i.ReplicaOf)}
	}
	for _, id := range i.Replicas {
		out.Replicas = append(out.Replicas, Reference{ID: id, Links: v.links("instances", id)})
	}
	if v.Admin {
		out.TenantID = i.TenantID
	}
	return out
}

// visible gives the IPv4 addresses, private ones first as they came, and
// whether one of them is public.
func visible(all []trove.Address) (list []Address, public bool) {
	for _, kind := range []trove.AddressType{trove.AddressPrivate, trove.AddressPublic} {
		for _, a := range all {
			if a.Type != kind {
				continue
			}
			if ip, err := netip.ParseAddr(a.Address); err != nil || !ip.Is4() {
				continue
			}
			shown := Address{Address: a.Address, Type: string(a.Type)}
			if kind == trove.AddressPrivate {
				shown.Network = a.Network
			} else {
				public = true
			}
			list = append(list, shown)
		}
	}
	return list, public
}

// InstanceDetail shows i as a detailed list does.
func (v Viewer) InstanceDetail(i *trove.Instance) Instance {
	out := v.Instance(i)
	d := &Detail{
		Created: formatTime(i.Created), Updated: formatTime(i.Updated),
		ClusterID: i.ClusterID, ShardID: i.ShardID,
	}
	if !i.ServiceUpdated.IsZero() {
		d.ServiceStatusUpdated = formatTime(i.ServiceUpdated)
	}
	if i.Version.ID != "" {
		out.Datastore.VersionNumber = &i.Version.Number
	}
	if i.Fault != nil {
		d.Fault = &Fault{Message: i.Fault.Message, Created: formatTime(i.Fault.Created)}
		if v.Admin {
			d.Fault.Details = &i.Fault.Details
		}
	}
	if i.ConfigurationID != "" {
		d.Configuration = &Reference{ID: i.ConfigurationID, Links: v.links("configurations", i.ConfigurationID)}
	}
	if v.Admin {
		d.DetailAdmin = &DetailAdmin{
			ServerID: optional(i.ComputeID), VolumeID: optional(i.VolumeID), EncryptedRPCMessages: i.EncryptedKey != "",
		}
	}
	out.Detail = d
	return out
}

// Usage is what the guest agent tells of an instance's volume.
type Usage struct {
	Used        float64 // GB
	Total       float64 // GB
	TotalBlocks int64
	AvailBlocks int64
	Extra       map[string]int64
}

// SetUsage adds what is used to the volume, if there is one.
func (i *Instance) SetUsage(u Usage) {
	if i.Volume == nil {
		return
	}
	i.Volume.Used = &u.Used
	percent := 0.0
	switch {
	case u.TotalBlocks > 0:
		percent = float64(u.TotalBlocks-u.AvailBlocks) / float64(u.TotalBlocks) * 100
	case u.Total > 0:
		percent = u.Used / u.Total * 100
	}
	percent = math.Round(percent*100) / 100
	i.Volume.UsedPercent = &percent
	if n, ok := u.Extra["wal_size"]; ok {
		i.Volume.WALSize = &n
	}
	if n, ok := u.Extra["wal_archive_size"]; ok {
		i.Volume.WALArchiveSize = &n
	}
}

// Operation is one piece of work on an instance.
type Operation struct {
	ID        string          `json:"id"`
	Kind      string          `json:"kind"`
	State     string          `json:"state"`
	RequestID string          `json:"request_id,omitempty"`
	Started   string          `json:"started,omitempty"`
	Ended     string          `json:"ended,omitempty"`
	Deadline  string          `json:"deadline,omitempty"`
	Elapsed   float64         `json:"elapsed"` // seconds
	Cause     string          `json:"cause,omitempty"`
	Action    string          `json:"action,omitempty"`
	Steps     []OperationStep `json:"steps"`
}

// OperationStep is one step of it.
type OperationStep struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Started  string    `json:"started,omitempty"`
	Ended    string    `json:"ended,omitempty"`
	Elapsed  float64   `json:"elapsed"` // seconds
	Message  string    `json:"message,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Cause    string    `json:"cause,omitempty"`
}

// Progress counts what a step has done.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total,omitempty"`
	Unit  string `json:"unit,omitempty"`
}

// OperationEvent is one change of an operation.
type OperationEvent struct {
	Sequence    int64     `json:"sequence"`
	OperationID string    `json:"operation_id"`
	Kind        string    `json:"kind"`
	Step        string    `json:"step,omitempty"`
	State       string    `json:"state"`
	Time        string    `json:"time"`
	Message     string    `json:"message,omitempty"`
	Progress    *Progress `json:"progress,omitempty"`
	Cause       string    `json:"cause,omitempty"`
	Action      string    `json:"action,omitempty"`
}

// Operations shows operations; these are ours, so their times are exact and
// have a zone.
func (v Viewer) Operations(list []trove.Operation) []Operation {
	out := make([]Operation, 0, len(list))
	for _, o := range list {
		shown := Operation{
			ID: o.ID, Kind: o.Kind, State: string(o.State), RequestID: o.RequestID,
			Started: formatExact(o.Started), Ended: formatExact(o.Ended), Deadline: formatExact(o.Deadline),
			Elapsed: elapsed(o.Started, o.Ended, o.Read), Cause: o.Cause, Action: o.Action,
			Steps: make([]OperationStep, 0, len(o.Steps)),
		}
		for _, s := range o.Steps {
			shown.Steps = append(shown.Steps, OperationStep{
				Name: s.Name, State: string(s.State), Started: formatExact(s.Started), Ended: formatExact(s.Ended),
				Elapsed: elapsed(s.Started, s.Ended, o.Read), Message: s.Message, Progress: progress(s.Progress), Cause: s.Cause,
			})
		}
		out = append(out, shown)
	}
	return out
}

// elapsed is in seconds, to the millisecond.
func elapsed(started, ended, now time.Time) float64 {
	if started.IsZero() {
		return 0
	}
	if ended.IsZero() {
		ended = now
	}
	return math.Round(max(ended.Sub(started), 0).Seconds()*1000) / 1000
}

// NewOperationEvent shows an event.
func NewOperationEvent(e trove.OperationEvent) OperationEvent {
	return OperationEvent{
		Sequence: e.Sequence, OperationID: e.OperationID, Kind: e.Kind, Step: e.Step, State: string(e.State),
		Time: formatExact(e.Time), Message: e.Message, Progress: progress(e.Progress), Cause: e.Cause, Action: e.Action,
	}
}

func progress(p *trove.Progress) *Progress {
	if p == nil {
		return nil
	}
	return &Progress{Done: p.Done, Total: p.Total, Unit: p.Unit}
}
