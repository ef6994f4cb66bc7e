// Package taskmanager is what trove-api asks of trove-taskmanager: casts only.
package taskmanager

import (
	"context"
	"encoding/json"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
)

// Topic is the default of the option taskmanager_queue.
const Topic = "taskmanager"

// Version of the API the server speaks.
const Version = "1.0"

// v10 is that of messages. Each asks for the version it came with, not for the
// newest: receivers may be older than that.
const v10 = "1.0"

// CreateInstance asks for one instance to be made. The original sends lists of
// ids, names and root passwords when replica_count is above one.
type CreateInstance struct {
	InstanceID       string            `json:"instance_id"`
	Name             string            `json:"name"`
	Flavor           rpcapi.Flavor     `json:"flavor"`
	ImageID          string            `json:"image_id"`
	Databases        []rpcapi.Database `json:"databases"`
	Users            []rpcapi.User     `json:"users"`
	DatastoreManager string            `json:"datastore_manager"`
	Packages         *string           `json:"packages"`
	VolumeSize       *int              `json:"volume_size"` // GiB
	BackupID         *string           `json:"backup_id"`
	AvailabilityZone *string           `json:"availability_zone"`
	RootPassword     *string           `json:"root_password"`
	NICs             []NIC             `json:"nics"`
	Overrides        map[string]any    `json:"overrides"`
	SlaveOfID        *string           `json:"slave_of_id"`
	ClusterConfig    json.RawMessage   `json:"cluster_config"`
	VolumeType       *string           `json:"volume_type"`
	Modules          json.RawMessage   `json:"modules"`
	Locality         *string           `json:"locality"`
	Access           *Access           `json:"access"`
	DSVersion        string            `json:"ds_version"` // version number

	// More are the instances after the first of a request for several.
	More []string `json:"-"`
}

// UnmarshalJSON reads also a request for several instances, whose ids, names
// and root passwords are lists: the first of each goes into the fields.
func (r *CreateInstance) UnmarshalJSON(b []byte) error {
	type plain CreateInstance // without this method
	w := struct {
		*plain
		InstanceID   oneOrMore[string]  `json:"instance_id"`
		Name         oneOrMore[string]  `json:"name"`
		RootPassword oneOrMore[*string] `json:"root_password"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	r.InstanceID, r.Name, r.RootPassword = w.InstanceID.first(), w.Name.first(), w.RootPassword.first()
	if len(w.InstanceID) > 1 {
		r.More = w.InstanceID[1:]
	}
	return nil
}

// oneOrMore is a value or a list of values.
type oneOrMore[T any] []T

func (v *oneOrMore[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]T)(v))
	}
	*v = make([]T, 1)
	return json.Unmarshal(b, &(*v)[0])
}

func (v oneOrMore[T]) first() (first T) {
	if len(v) > 0 {
		first = v[0]
	}
	return first
}

// NIC is a network interface of an instance to be made.
type NIC struct {
	NetworkID string `json:"network_id,omitempty"`
	SubnetID  string `json:"subnet_id,omitempty"`
	IPAddress string `json:"ip_address,omitempty"`
}

// Access says who may reach an instance to be made.
type Access struct {
	IsPublic     bool     `json:"is_public"`
	AllowedCIDRs []string `json:"allowed_cidrs"`
}

// Instance names the instance of a request that has no other argument.
type Instance struct {
	InstanceID string `json:"instance_id"`
}

// ResizeFlavor asks for an instance's server to be of another flavor.
type ResizeFlavor struct {
	InstanceID string        `json:"instance_id"`
	OldFlavor  rpcapi.Flavor `json:"old_flavor"`
	NewFlavor  rpcapi.Flavor `json:"new_flavor"`
}

// ResizeVolume asks for an instance's volume to grow.
type ResizeVolume struct {
	InstanceID string `json:"instance_id"`
	NewSize    int    `json:"new_size"` // GiB
}

// UpdateAccess asks for others to reach an instance.
type UpdateAccess struct {
	InstanceID string `json:"instance_id"`
	Access     Access `json:"access"`
}

// Server is what trove-taskmanager implements. uniqueID identifies the request:
// a method that returns nil has the request written down, whatever happens next;
// the same uniqueID again changes nothing.
type Server interface {
	CreateInstance(ctx context.Context, uniqueID string, r CreateInstance) error
	DeleteInstance(ctx context.Context, uniqueID string, r Instance) error
	Restart(ctx context.Context, uniqueID string, r Instance) error
	ResizeFlavor(ctx context.Context, uniqueID string, r ResizeFlavor) error
	ResizeVolume(ctx context.Context, uniqueID string, r ResizeVolume) error
	UpdateAccess(ctx context.Context, uniqueID string, r UpdateAccess) error
	// RotateCredentials is ours: login and key of the instance's agent are
	// replaced.
	RotateCredentials(ctx context.Context, uniqueID string, r Instance) error
}

// Handler serves s.
func Handler(s Server) rpc.Handler {
	return rpc.Router{Version: Version, Methods: map[string]rpc.Method{
		"create_instance":    bindID(s.CreateInstance),
		"delete_instance":    bindID(s.DeleteInstance),
		"restart":            bindID(s.Restart),
		"resize_flavor":      bindID(s.ResizeFlavor),
		"resize_volume":      bindID(s.ResizeVolume),
		"update_access":      bindID(s.UpdateAccess),
		"rotate_credentials": bindID(s.RotateCredentials),
	}}
}

func bindID[A any](f func(context.Context, string, A) error) rpc.Method {
	return func(ctx context.Context, in *rpc.Incoming) (any, error) {
		return rpc.BindCast(func(ctx context.Context, a A) error { return f(ctx, in.UniqueID, a) })(ctx, in)
	}
}

// Message makes the cast of CreateInstance, ready for an outbox.
func (r CreateInstance) Message(topic string) rpc.Message {
	args := map[string]any{
		"instance_id": r.InstanceID, "name": r.Name, "flavor": r.Flavor, "image_id": r.ImageID,
		"databases": r.Databases, "users": r.Users, "datastore_manager": r.DatastoreManager,
		"packages": r.Packages, "volume_size": r.VolumeSize, "backup_id": r.BackupID,
		"availability_zone": r.AvailabilityZone, "root_password": r.RootPassword, "nics": r.NICs,
		"overrides": r.Overrides, "slave_of_id": r.SlaveOfID, "cluster_config": r.ClusterConfig,
		"volume_type": r.VolumeType, "modules": r.Modules, "locality": r.Locality,
		"access": r.Access, "ds_version": r.DSVersion,
	}
	return rpc.Message{Topic: topic, Method: "create_instance", Version: v10, Args: args}
}

// DeleteMessage makes the cast delete_instance.
func DeleteMessage(topic, instanceID string) rpc.Message {
	return instance(topic, "delete_instance", instanceID)
}

// RestartMessage makes the cast restart.
func RestartMessage(topic, instanceID string) rpc.Message {
	return instance(topic, "restart", instanceID)
}

// Message makes the cast resize_flavor.
func (r ResizeFlavor) Message(topic string) rpc.Message {
	return rpc.Message{Topic: topic, Method: "resize_flavor", Version: v10,
		Args: map[string]any{"instance_id": r.InstanceID, "old_flavor": r.OldFlavor, "new_flavor": r.NewFlavor}}
}

// Message makes the cast resize_volume.
func (r ResizeVolume) Message(topic string) rpc.Message {
	return rpc.Message{Topic: topic, Method: "resize_volume", Version: v10,
		Args: map[string]any{"instance_id": r.InstanceID, "new_size": r.NewSize}}
}

// Message makes the cast update_access.
func (r UpdateAccess) Message(topic string) rpc.Message {
	return rpc.Message{Topic: topic, Method: "update_access", Version: v10,
		Args: map[string]any{"instance_id": r.InstanceID, "access": r.Access}}
}

// RotateMessage makes the cast rotate_credentials, which only our own task
// manager knows.
func RotateMessage(topic, instanceID string) rpc.Message {
	return instance(topic, "rotate_credentials", instanceID)
}

func instance(topic, method, id string) rpc.Message {
	return rpc.Message{Topic: topic, Method: method, Version: v10, Args: map[string]any{"instance_id": id}}
}
