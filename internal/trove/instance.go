package trove

import "time"

// Instance is a database instance together with what is known of its server
// and its engine: everything a view of it needs.
type Instance struct {
	ID        string
	Name      string
	TenantID  string
	Hostname  string
	RegionID  string
	FlavorID  string
	Created   time.Time
	Updated   time.Time
	Deleted   bool
	DeletedAt time.Time

	Task            Task
	ComputeID       string // the server, empty until there is one
	VolumeID        string
	VolumeSize      int // GiB; 0 when the datastore uses no volume
	ConfigurationID string
	ReplicaOf       string
	Replicas        []string // ids of live replicas
	ClusterID       string
	ShardID         string
	Type            string
	Access          *Access

	// EncryptedKey is the instance's RPC key, encrypted at rest.
	EncryptedKey string

	Version DatastoreVersion // zero ID when the version row is gone

	Service        ServiceStatus
	ServiceUpdated time.Time
	// ServiceAge is how old that was when the instance was read, both by one
	// clock, the database's: those of the services may differ.
	ServiceAge    time.Duration
	Server        ServerObservation
	Fault         *Fault
	BackupRunning bool
}

// Access says who may reach an instance.
type Access struct {
	IsPublic     bool
	AllowedCIDRs []string
}

// ServerObservation is what was last seen of an instance's server. It is kept
// fresh by the task manager, so that no list and no show asks the cloud.
type ServerObservation struct {
	Status    string // Nova's word; empty when nothing was seen yet
	Addresses []Address
	SeenAt    time.Time
}

// Address is one address of an instance.
type Address struct {
	Address string
	Type    AddressType
	Network string // network id; empty for a public address
}

// AddressType says who can use an address.
type AddressType string

// Address types.
const (
	AddressPrivate AddressType = "private"
	AddressPublic  AddressType = "public"
)

// Fault is why an instance failed, for its owner. Details are for operators.
type Fault struct {
	Message string
	Details string
	Created time.Time
}

// Flavor is the size of a server.
type Flavor struct {
	ID        string
	Name      string
	RAM       int // MiB
	VCPUs     int
	Disk      int // GiB
	Ephemeral int // GiB
}

// Datastore is an engine that instances can be made of.
type Datastore struct {
	ID               string
	Name             string
	DefaultVersionID string
	Versions         []DatastoreVersion
}

// DatastoreVersion is one version of a datastore.
type DatastoreVersion struct {
	ID            string
	DatastoreID   string
	DatastoreName string
	Name          string
	Number        string // version number; the tag of a container image
	Manager       string // the guest agent's manager: mariadb, mysql, postgresql
	ImageID       string
	ImageTags     []string
	Packages      []string
	RegistryExt   string
	ReplStrategy  string
	Active        bool
}

// NIC is a network interface asked for an instance.
type NIC struct {
	NetworkID string
	SubnetID  string
	IPAddress string
}

// Resource is a thing that a project has a quota of.
type Resource string

// Resources.
const (
	ResourceInstances Resource = "instances"
	ResourceRAM       Resource = "ram"     // MiB
	ResourceVolumes   Resource = "volumes" // GiB
	ResourceBackups   Resource = "backups"
)

// Unlimited as a quota limit means there is none.
const Unlimited = -1

// Quota is a project's limit and use of one resource.
type Quota struct {
	Resource Resource
	Limit    int
	InUse    int
	Reserved int
}

// QuotaDelta is a change of use per resource.
type QuotaDelta map[Resource]int

// Footprint is what an instance costs of its project's quota.
func (i *Instance) Footprint(f Flavor) QuotaDelta {
	d := QuotaDelta{ResourceInstances: 1, ResourceRAM: f.RAM}
	if i.VolumeSize > 0 {
		d[ResourceVolumes] = i.VolumeSize
	}
	return d
}

// RootHistory tells when root was enabled and by whom; zero times mean never.
type RootHistory struct {
	User     string
	Enabled  time.Time
	Disabled time.Time
}

// IsEnabled reports whether root is enabled now.
func (h RootHistory) IsEnabled() bool {
	return !h.Enabled.IsZero() && (h.Disabled.IsZero() || h.Enabled.After(h.Disabled))
}
