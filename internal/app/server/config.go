package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/upgrade"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Config is the configuration of every role: trove.conf's names where the
// original has the option, group [gotrove] for what is ours. Each role uses its
// part. Where a standalone's default differs, it is in newConfig.
type Config struct {
	BindHost       string `conf:"DEFAULT.bind_host"`
	BindPort       int    `conf:"DEFAULT.bind_port" default:"8779"`
	PublicEndpoint string `conf:"DEFAULT.public_endpoint" default:""`
	Log            logOptions

	// CORSOrigins may use the API from a browser.
	CORSOrigins []string `conf:"cors.allowed_origin"`
	// TrustForwarded believes what a proxy says about scheme and host.
	TrustForwarded bool `conf:"oslo_middleware.enable_proxy_headers_parsing" default:"false"`
	// DefaultCIDR may reach an instance that says nothing of its own.
	DefaultCIDR string `conf:"DEFAULT.trove_security_group_rule_cidr" default:"0.0.0.0/0"`

	TransportURL    secret.String `conf:"DEFAULT.transport_url"`
	ControlExchange string        `conf:"DEFAULT.control_exchange"`
	TaskManagers    string        `conf:"DEFAULT.taskmanager_queue" default:"taskmanager"`
	Conductors      string        `conf:"DEFAULT.conductor_queue" default:"trove-conductor"`
	RPC             rpc.Options
	Mixed           bool `conf:"gotrove.mixed_taskmanagers" default:"false"`
	Database        databaseOptions
	Rabbit          amqp.Options
	Secure          secureOptions
	Guests          guestLoginOptions
	Keystone        keystoneOptions
	OpenStack       openstackOptions
	Policy          policyOptions
	Levels          upgrade.Levels
	Monitor         monitorOptions

	// places are the directories of the configuration files.
	places []string

	// Host names this process among those of its role on the bus.
	Host string `conf:"DEFAULT.host" default:""`

	AgentCallLow    time.Duration `conf:"DEFAULT.agent_call_low_timeout" default:"15"`
	AgentCallHigh   time.Duration `conf:"DEFAULT.agent_call_high_timeout" default:"180"`
	HeartbeatExpiry time.Duration `conf:"DEFAULT.agent_heartbeat_expiry" default:"90"`
	UsageTimeout    time.Duration `conf:"DEFAULT.usage_timeout" default:"1800"`
	ResizeTimeout   time.Duration `conf:"DEFAULT.resize_time_out" default:"900"`
	RevertTimeout   time.Duration `conf:"DEFAULT.revert_time_out" default:"600"`

	DefaultDatastore string `conf:"DEFAULT.default_datastore" default:""`
	MaxVolumeSize    int    `conf:"DEFAULT.max_accepted_volume_size" default:"10"`
	MaxInstances     int    `conf:"DEFAULT.max_instances_per_tenant" deprecated:"DEFAULT.max_instances_per_user" default:"10"`
	MaxVolumes       int    `conf:"DEFAULT.max_volumes_per_tenant" deprecated:"DEFAULT.max_volumes_per_user" default:"40"`
	MaxRAM           int    `conf:"DEFAULT.max_ram_per_tenant" default:"-1"`
	MaxBackups       int    `conf:"DEFAULT.max_backups_per_tenant" deprecated:"DEFAULT.max_backups_per_user" default:"50"`
	PageSize         int    `conf:"DEFAULT.instances_page_size" default:"20"`

	// Cloud is where instances run.
	Cloud         string `conf:"gotrove.cloud"`
	DataDir       string `conf:"gotrove.data_dir" default:""`
	RunDir        string `conf:"gotrove.run_dir" default:""`
	IdentityHost  string `conf:"gotrove.identity_host" default:"127.0.0.1"`
	IdentityPort  int    `conf:"gotrove.identity_port" default:"5000"`
	LoopbackRange string `conf:"gotrove.loopback_range" default:"127.20.0.0/16"`
	EngineUser    string `conf:"gotrove.engine_user" default:"gotrove"`
	Engines       engineOptions
	Ready         int      `conf:"gotrove.ready_data_directories" default:"10"`
	GuestAgent    string   `conf:"gotrove.guest_agent" default:""`
	Flavors       []string `conf:"gotrove.flavor,multi"`
	Region        string   `conf:"gotrove.region_name" default:"RegionOne"`
	// Rate is how many requests a minute a project may make with each method;
	// -1 is any number.
	Rate int `conf:"gotrove.rate_per_minute" default:"200"`
}

// defaultFlavors are the sizes a standalone offers: id:name:ram MiB:vcpus:disk GiB.
var defaultFlavors = []string{"1:db.tiny:512:1:0", "2:db.small:1024:1:0", "3:db.medium:2048:2:0", "4:db.large:4096:2:0"}

// newConfig has the defaults that depend on what runs: a role of a cloud has the
// original's, a standalone those of one machine.
func newConfig(standalone bool) *Config {
	if standalone {
		return &Config{BindHost: "127.0.0.1", ControlExchange: "trove", Cloud: cloudLocal}
	}
	return &Config{BindHost: "0.0.0.0", ControlExchange: "openstack", Cloud: cloudOpenStack}
}

// Values of [gotrove] cloud.
const (
	cloudLocal     = "local"
	cloudOpenStack = "openstack"
)

// LoadConfig reads the files and the environment, and fills in what depends on
// who runs it: root's data are in /var/lib/gotrove, another user's in
// $XDG_DATA_HOME/gotrove; GOTROVE_HOME overrides both.
func LoadConfig(src osloconf.Sources, standalone bool) (*Config, []osloconf.Warning, error) {
	c := newConfig(standalone)
	src.NoEffect = noEffect()
	warnings, err := osloconf.Load(src, c)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range append(slices.Clone(src.Files), src.Dirs...) {
		c.places = append(c.places, filepath.Dir(f))
	}
	if c.DataDir == "" {
		if c.DataDir, err = defaultDataDir(); err != nil {
			return nil, nil, err
		}
	}
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return nil, nil, err
	}
	if c.RunDir == "" {
		c.RunDir = defaultRunDir(c.DataDir)
	}
	if c.GuestAgent == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, nil, err
		}
		c.GuestAgent = filepath.Join(filepath.Dir(self), "trove-guestagent")
	}
	if c.Host == "" {
		if c.Host, err = os.Hostname(); err != nil {
			return nil, nil, err
		}
	}
	return c, warnings, c.validate()
}

func (c *Config) validate() error {
	if c.Cloud != cloudLocal && c.Cloud != cloudOpenStack {
		return trove.Errorf(trove.KindBadRequest, "[gotrove] cloud: %q is neither %s nor %s", c.Cloud, cloudLocal, cloudOpenStack)
	}
	if err := c.Engines.check(); err != nil {
		return err
	}
	if _, err := netip.ParsePrefix(c.LoopbackRange); err != nil {
		return trove.Errorf(trove.KindBadRequest, "[gotrove] loopback_range: %q is not a range of addresses such as 127.20.0.0/16", c.LoopbackRange)
	}
	if _, err := netip.ParsePrefix(c.DefaultCIDR); err != nil {
		return trove.Errorf(trove.KindBadRequest, "[DEFAULT] trove_security_group_rule_cidr: %q is not a range of addresses such as 10.0.0.0/8", c.DefaultCIDR)
	}
	const mostReady = 1000
	if c.Ready < 0 || c.Ready > mostReady {
		return trove.Errorf(trove.KindBadRequest, "[gotrove] ready_data_directories: %d is not a number from 0 to %d", c.Ready, mostReady)
	}
	for name, port := range map[string]int{"[DEFAULT] bind_port": c.BindPort, "[gotrove] identity_port": c.IdentityPort} {
		if port < 0 || port > 65535 {
			return trove.Errorf(trove.KindBadRequest, "%s: %d is not a port: 0 to 65535, 0 for any free one", name, port)
		}
	}
	_, err := c.flavors()
	return err
}

func (c *Config) flavors() ([]trove.Flavor, error) {
	words := c.Flavors
	if len(words) == 0 {
		words = defaultFlavors
	}
	var out []trove.Flavor
	seen := map[string]bool{}
	for _, w := range words {
		p := strings.Split(w, ":")
		bad := trove.Errorf(trove.KindBadRequest, "[gotrove] flavor: %q is not id:name:ram:vcpus:disk with ram in MiB (at least 256) and disk in GiB", w)
		if len(p) != 5 || p[0] == "" || p[1] == "" {
			return nil, bad
		}
		var n [3]int
		for i, s := range p[2:] {
			v, err := strconv.Atoi(s)
			if err != nil || v < 0 {
				return nil, bad
			}
			n[i] = v
		}
		if n[0] < 256 {
			return nil, bad
		}
		if seen[p[0]] || seen[p[1]] {
			return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] flavor: %q has an id or a name that another flavor has", w)
		}
		seen[p[0]], seen[p[1]] = true, true
		out = append(out, trove.Flavor{ID: p[0], Name: p[1], RAM: n[0], VCPUs: n[1], Disk: n[2]})
	}
	return out, nil
}

func (c *Config) limits() trove.QuotaDelta {
	return trove.QuotaDelta{trove.ResourceInstances: c.MaxInstances, trove.ResourceVolumes: c.MaxVolumes,
		trove.ResourceRAM: c.MaxRAM, trove.ResourceBackups: c.MaxBackups}
}

func (c *Config) apiAddress() string { return net.JoinHostPort(c.BindHost, strconv.Itoa(c.BindPort)) }

func (c *Config) identityAddress() string {
	return net.JoinHostPort(c.IdentityHost, strconv.Itoa(c.IdentityPort))
}

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir}, elem...)...)
}

func defaultDataDir() (string, error) {
	if home := os.Getenv("GOTROVE_HOME"); home != "" {
		return home, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/gotrove", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "gotrove"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no data directory: set GOTROVE_HOME: %w", err)
	}
	return filepath.Join(home, ".local", "share", "gotrove"), nil
}

// defaultRunDir is where sockets live. Their paths have a limit of about 100
// bytes, so it is short; it depends on the data directory, so that two
// standalones with data of their own do not meet.
func defaultRunDir(dataDir string) string {
	if dataDir == "/var/lib/gotrove" && os.Geteuid() == 0 {
		return "/run/gotrove"
	}
	sum := sha256.Sum256([]byte(dataDir))
	name := "gotrove-" + hex.EncodeToString(sum[:4])
	if os.Geteuid() == 0 {
		return filepath.Join("/run", name)
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		return filepath.Join(run, name)
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d", name, os.Geteuid()))
}
