// Package cloud says what the flows need of the place where instances run. An
// implementation is in local (this machine); one suite, cloudtest, holds for
// all of them.
//
// Everything an Ensure method makes carries the instance's id as a tag, and
// each looks for what carries it before it makes anything: a flow killed at any
// point and run again makes nothing twice. Every Delete method takes away
// whatever carries the tag, and does nothing when there is nothing.
package cloud

import (
	"context"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Owner is the instance that a resource is made for: its tag.
type Owner struct {
	InstanceID string
	ProjectID  string
	UserID     string
	Name       string
	Manager    string
}

// Port is a network attachment of an instance, made before its server.
type Port struct {
	ID         string
	Network    string
	Addresses  []trove.Address
	Management bool
}

// Volume is where an instance's data live.
type Volume struct {
	ID     string
	Size   int  // GiB
	Ready  bool // false: not usable yet, ask again
	Device string
}

// ServerSpec is a server to be made.
type ServerSpec struct {
	Owner
	Flavor           trove.Flavor
	ImageID          string
	AvailabilityZone string
	Ports            []Port
	Volume           Volume
	// Files are written on the server before the agent starts, by absolute
	// path as the guest agent reads them (/etc/trove/conf.d/guest_info.conf).
	// They hold secrets: an implementation keeps them from other users.
	Files map[string][]byte
}

// Server is a server as the cloud shows it.
type Server struct {
	ID        string
	Status    string // Nova's word, trove.ServerActive and so on
	Fault     string // why Status is ERROR
	Addresses []trove.Address
	Created   time.Time
}

// Rule opens a range of TCP ports of an instance.
type Rule struct {
	FirstPort, LastPort int
	CIDRs               []string
}

// Cloud is a place where instances run. An error's kind tells what may be done:
// KindUnavailable is worth another try, KindOverLimit and KindBadRequest are not.
type Cloud interface {
	Flavors(ctx context.Context) ([]trove.Flavor, error)
	Flavor(ctx context.Context, id string) (trove.Flavor, error) // KindNotFound
	// CheckNICs refuses (KindBadRequest) interfaces that cannot be made.
	CheckNICs(ctx context.Context, nics []trove.NIC) error

	EnsureSecurityGroup(ctx context.Context, o Owner, rules []Rule) error
	EnsurePorts(ctx context.Context, o Owner, nics []trove.NIC, access trove.Access) ([]Port, error)
	EnsureVolume(ctx context.Context, o Owner, size int, volumeType string) (Volume, error)
	EnsureServer(ctx context.Context, s ServerSpec) (Server, error)

	// Server gives the instance's server; KindNotFound when there is none.
	Server(ctx context.Context, o Owner) (Server, error)
	// Servers gives all servers of ours by instance id, in one call.
	Servers(ctx context.Context) (map[string]Server, error)
	// Evidence gives what the server last wrote on its console, for a cause
	// that people can read; at most 4 KiB.
	Evidence(ctx context.Context, o Owner) (string, error)

	// DeleteServer and DeleteVolume report whether it is gone already; if not,
	// the caller asks again.
	DeleteServer(ctx context.Context, o Owner) (gone bool, err error)
	DeleteVolume(ctx context.Context, o Owner) (gone bool, err error)
	DeletePorts(ctx context.Context, o Owner) error
	DeleteSecurityGroup(ctx context.Context, o Owner) error
}
