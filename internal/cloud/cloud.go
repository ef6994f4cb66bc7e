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
	// Zone is the availability zone that was asked for.
	Zone string
	// ServerID and VolumeID are on record for the instance, if they are: they
	// are found by them also where their tags are those of other versions.
	ServerID string
	VolumeID string
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
	ID   string
	Size int // GiB, as the cloud shows it now
	// Ready is whether nothing is under way with it (available and in-use, of
	// Cinder's words); if not, ask again.
	Ready bool
	// Attached is whether it is a server's, which then sees it as Device.
	Attached bool
	Device   string
	// Fault is why nothing more will come of it (error, error_extending…),
	// empty while it is well. A volume that failed is Ready.
	Fault string
}

// ServerSpec is a server to be made.
type ServerSpec struct {
	Owner
	Flavor           trove.Flavor
	ImageID          string
	ImageTags        []string // where there is no ImageID: of the newest image that has them all
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
	FlavorID  string // the new one in VERIFY_RESIZE; empty if it is not among Flavors
	Addresses []trove.Address
	Created   time.Time
}

// Rule opens a range of TCP ports of an instance.
type Rule struct {
	FirstPort, LastPort int
	CIDRs               []string
}

// View is all that a cloud shows of an instance, for the search of a cause.
type View struct {
	Server *Server // nil: there is none
	Volume *Volume // nil: there is none
	Ports  []PortView
	// Group is whether there is a security group of the instance's own, or the
	// cloud knows none; Open are the TCP ports that its rules open.
	Group bool
	Open  []Rule
}

// PortView is a port as the cloud shows it.
type PortView struct {
	Port
	// Status is Neutron's word: ACTIVE, DOWN, BUILD, ERROR.
	Status string
	// Groups is whether a security group lets anything in or out at all.
	Groups bool
}

// Cloud is a place where instances run. An error's kind tells what may be done:
// KindUnavailable is worth another try, KindOverLimit and KindBadRequest are not.
type Cloud interface {
	Flavors(ctx context.Context) ([]trove.Flavor, error)
	Flavor(ctx context.Context, id string) (trove.Flavor, error) // KindNotFound
	// CheckNICs refuses (KindBadRequest) interfaces that cannot be made.
	CheckNICs(ctx context.Context, nics []trove.NIC) error

	// EnsureSecurityGroup has the instance's group open exactly these ports:
	// rules that are not asked for go.
	EnsureSecurityGroup(ctx context.Context, o Owner, rules []Rule) error
	EnsurePorts(ctx context.Context, o Owner, nics []trove.NIC, access trove.Access) ([]Port, error)
	EnsureVolume(ctx context.Context, o Owner, size int, volumeType string) (Volume, error)
	EnsureServer(ctx context.Context, s ServerSpec) (Server, error)

	// EnsurePublic has users reach the instance from outside the cloud, by a
	// floating IP on its port, or takes that away. It gives the addresses that
	// users see from then on. KindBadRequest where there is no way out.
	EnsurePublic(ctx context.Context, o Owner, public bool) ([]trove.Address, error)

	// StartResize asks for a server of another flavor: ACTIVE → RESIZE →
	// VERIFY_RESIZE, where it runs with the new flavor until the resize is
	// confirmed or reverted. It does nothing where that is under way already,
	// and where the server has the flavor (f.ID) and is ACTIVE. What comes of it
	// is seen by Server alone: a cloud without room for the flavor goes back to
	// ACTIVE with the old one, and asking again would ask for ever.
	// KindNotFound: there is no server; KindConflict: it is in a state, or in a
	// resize to another flavor, that does not let it.
	StartResize(ctx context.Context, o Owner, f trove.Flavor) error
	// ConfirmResize and RevertResize bring a server out of VERIFY_RESIZE and
	// report whether it is out of it and runs; if not, the caller asks again.
	// Both do nothing for a server that is in no resize; RevertResize waits
	// for RESIZE to become VERIFY_RESIZE first. A server in ERROR is an error of
	// KindConflict.
	ConfirmResize(ctx context.Context, o Owner) (done bool, err error)
	RevertResize(ctx context.Context, o Owner) (done bool, err error)

	// Volume gives the instance's volume; KindNotFound when there is none.
	Volume(ctx context.Context, o Owner) (Volume, error)
	// StartGrow asks for a volume of at least size GiB; nothing to do if it has
	// them or is being extended. What comes of it is seen by Volume alone.
	// KindConflict: it is attached, and this cloud grows detached ones only.
	StartGrow(ctx context.Context, o Owner, size int) error
	// DetachVolume and AttachVolume take the volume from its server and give it
	// back, and report whether that is so already; if not, the caller asks
	// again. Where a server and its volume are one, they do nothing.
	DetachVolume(ctx context.Context, o Owner) (done bool, err error)
	AttachVolume(ctx context.Context, o Owner) (done bool, err error)

	// Inspect gives all that can be seen of the instance. What cannot be asked
	// for is left out and told by err; the rest is good all the same.
	Inspect(ctx context.Context, o Owner) (View, error)

	// Server gives the instance's server; KindNotFound when there is none.
	Server(ctx context.Context, o Owner) (Server, error)
	// Servers gives all servers of ours by instance id, in one call.
	Servers(ctx context.Context) (map[string]Server, error)
	// Tagged gives the ids of the instances that anything of ours carries the tag
	// of, whatever it is and whether or not there is such an instance, in a few
	// calls. A list may be behind.
	Tagged(ctx context.Context) ([]string, error)
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
