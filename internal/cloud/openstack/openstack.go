// Package openstack is a cloud.Cloud on Nova, Neutron, Cinder and Glance: a
// server is a Nova server in the service's own project, an instance's volume a
// Cinder volume, its way to users a Neutron port on their network.
//
// Everything carries the instance's id, as the original's names do, so that what
// either made can be managed and deleted by the other: ports and volumes are
// called trove-<id>, security groups <prefix>-<id>, servers have the metadata
// trove_instance_id and the tag trove_instance_id_<id>. What is found is the
// truth; what this process remembers (of the last minute) only bridges lists
// that are behind. Of what is there twice the younger goes.
//
// It knows the four APIs and nothing of what instances are for.
package openstack

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Endpoint is how one service is found.
type Endpoint struct {
	URL       string // instead of the catalog's
	Type      string // in the catalog
	Interface string // public, internal or admin, also with URL behind it
	Insecure  bool   // its certificate is not checked
}

// Options of a cloud. AuthURL and a login are needed.
type Options struct {
	AuthURL string // with or without /v3
	// A user with a password and a project…
	Username, UserID             string
	Password                     secret.String
	UserDomainID, UserDomainName string
	ProjectID, ProjectName       string
	ProjectDomainID              string
	ProjectDomainName            string
	// …or an application credential: its id, or its name and the user.
	CredentialID, CredentialName string
	CredentialSecret             secret.String

	Region                    string // any if empty
	CAFile, CertFile, KeyFile string
	Insecure                  bool
	Timeout                   time.Duration // of one request; 60 s

	Compute, Network, Volume, Image Endpoint
	// NovaVersion is the oldest microversion of Nova to be asked for, such as
	// 2.60; 2.57 is asked for at least, unless Nova is older.
	NovaVersion string

	// ManagementNetworks are those that agents reach the message bus by: an
	// instance gets a port on the last of them, with ManagementGroups.
	ManagementNetworks []string
	ManagementGroups   []string
	NoSecurityGroups   bool   // instances get none of their own
	GroupPrefix        string // trove_sg
	// ReservedCIDRs may not overlap with a user's network, unless Isolation: the
	// user's port is the database's container's then, and not the server's.
	ReservedCIDRs []string
	Isolation     bool
	// DockerBridge is the address of Docker's bridge on servers, where they have
	// one; InsecureRegistries are those that their Docker asks without TLS.
	DockerBridge       string
	InsecureRegistries []string
	// PublicNetwork is where floating IPs are from; the first external one if
	// empty.
	PublicNetwork string
	AccessCheck   bool // a user's subnet must have a router

	KeyPair       string
	ConfigDrive   bool
	VolumeType    string        // where nobody asks for one
	VolumeInZone  bool          // volumes are made in the server's availability zone
	OfflineGrow   bool          // volumes are extended only while they are detached
	RootVolume    bool          // refused: not built
	FileOwner     string        // user:group of the files on the server; root's if empty
	CloudInitDir  string        // <manager>.cloudinit of the operator
	ListEvery     time.Duration // between two lists of all servers or volumes; 1 s
	CatalogMaxAge time.Duration // of flavors and networks; 1 min
	// Settle is how long something may be in no list although it was made, by a
	// request whose answer was lost; 5 s.
	Settle time.Duration

	Log *slog.Logger
}

// Cloud is an OpenStack region.
type Cloud struct {
	o    Options
	http *http.Client
	gate *gate
	log  *slog.Logger

	connection connection
	memory     memory
	locks      locks

	flavors  cached[[]trove.Flavor]
	networks networkCache

	servers shared[[]serverRow]
	volumes map[string]*shared[map[string]volumeRow] // in a status, by id
	ifaces  ifaces
}

var _ cloud.Cloud = (*Cloud)(nil)

// New makes a cloud. It asks nobody: the first call logs in.
func New(o Options) (*Cloud, error) {
	if o.RootVolume {
		return nil, trove.Errorf(trove.KindNotImplemented, "[DEFAULT] volume_rootdisk_support: servers that boot from a volume are not built yet").
			WithAction("leave it out: servers then boot from their flavor's disk")
	}
	if o.AuthURL == "" {
		return nil, trove.Errorf(trove.KindBadRequest, "[service_credentials] auth_url is needed: Keystone's URL")
	}
	for d, v := range map[*time.Duration]time.Duration{&o.Timeout: time.Minute, &o.ListEvery: time.Second, &o.CatalogMaxAge: time.Minute, &o.Settle: 5 * time.Second} {
		if *d <= 0 {
			*d = v
		}
	}
	for s, v := range map[*string]string{&o.GroupPrefix: "trove_sg", &o.Compute.Type: "compute", &o.Network.Type: "network",
		&o.Volume.Type: "volumev3", &o.Image.Type: "image"} {
		if *s == "" {
			*s = v
		}
	}
	for _, cidr := range o.ReservedCIDRs {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[DEFAULT] reserved_network_cidrs: %q is not a range of addresses such as 10.0.0.0/8", cidr)
		}
	}
	if _, err := novaVersion(o.NovaVersion); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	transport, err := newTransport(o, false)
	if err != nil {
		return nil, err
	}
	trusting, err := newTransport(o, true)
	if err != nil {
		return nil, err
	}
	c := &Cloud{o: o, log: o.Log, gate: newGate(transport, trusting)}
	// The transport bounds the wait for an answer; this also its body, and what
	// the service asks us to wait.
	c.http = &http.Client{Transport: c.gate, Timeout: 2*o.Timeout + mostWait}
	c.servers.every = o.ListEvery
	c.ifaces.listed.every = 10 * o.ListEvery
	c.volumes = map[string]*shared[map[string]volumeRow]{}
	for _, status := range []string{volumeCreating, volumeDeleting, volumeExtending, volumeAttaching, volumeDetaching} {
		c.volumes[status] = &shared[map[string]volumeRow]{every: o.ListEvery}
	}
	c.flavors.maxAge = o.CatalogMaxAge
	c.networks.maxAge = o.CatalogMaxAge
	return c, nil
}

// Names and words of the original.
const (
	metaProject  = "trove_project_id"
	metaUser     = "trove_user_id"
	metaInstance = "trove_instance_id"
)

// resourceName is the name of an instance's ports and volume.
func resourceName(o cloud.Owner) string { return "trove-" + o.InstanceID }

func (c *Cloud) groupName(o cloud.Owner) string { return c.o.GroupPrefix + "-" + o.InstanceID }

func instanceTag(id string) string { return metaInstance + "_" + id }

// goodID is what ids of instances and of OpenStack's things look like; anything
// else does not get into a URL.
var goodID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_.-]{0,254}$`)

func checkOwner(o cloud.Owner) error {
	if !goodID.MatchString(o.InstanceID) || len(o.InstanceID) > 36 || strings.Contains(o.InstanceID, "..") {
		return trove.Errorf(trove.KindBadRequest, "%q is not an instance id", o.InstanceID)
	}
	return nil
}

// begin checks the instance, logs in if that is still to be done, and keeps
// other calls for the instance in this process waiting until end.
func (c *Cloud) begin(ctx context.Context, o cloud.Owner) (s *session, end func(), err error) {
	if err := checkOwner(o); err != nil {
		return nil, nil, err
	}
	if s, err = c.session(ctx); err != nil {
		return nil, nil, err
	}
	end, err = c.locks.lock(ctx, o.InstanceID)
	return s, end, err
}

// create makes something: unless an earlier request for it may have made it, and
// with a note if that cannot be known of this one.
func (c *Cloud) create(o cloud.Owner, kind string, request func() error) error {
	if err := c.settled(o, kind); err != nil {
		return err
	}
	err := request()
	if lostAnswer(err) {
		c.memory.doubt(kind, o.InstanceID)
	}
	return err
}

// settled refuses to take a list's word for it that something is not there while
// it may be only too new. Another try finds out.
func (c *Cloud) settled(o cloud.Owner, kind string) error {
	if c.memory.doubtful(c.o.Settle, kind, o.InstanceID) {
		return trove.Errorf(trove.KindUnavailable, "An earlier request of instance %s was not answered: waiting for what it may have made.", o.InstanceID)
	}
	return nil
}

// locks are one for each key in use.
type locks struct {
	mu   sync.Mutex
	keys map[string]*keyLock
}

type keyLock struct {
	turn  chan struct{}
	users int
}

func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	k := l.keys[key]
	if k == nil {
		k = &keyLock{turn: make(chan struct{}, 1)}
		if l.keys == nil {
			l.keys = map[string]*keyLock{}
		}
		l.keys[key] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.keys, key)
		}
	}
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
