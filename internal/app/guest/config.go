package guest

import (
	"path/filepath"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// config is what an agent is told by the files that the control plane wrote for
// it: the original's names where it has the option, group [gotrove] for ours.
type config struct {
	GuestID         string        `conf:"DEFAULT.guest_id" help:"The instance's id."`
	Manager         string        `conf:"DEFAULT.datastore_manager" help:"Which engine: mariadb, mysql or postgresql."`
	Version         string        `conf:"DEFAULT.datastore_version" help:"Its version."`
	TenantID        string        `conf:"DEFAULT.tenant_id" help:"The project's id."`
	TransportURL    secret.String `conf:"DEFAULT.transport_url" help:"The bus, with the agent's own login. A secret."`
	ControlExchange string        `conf:"DEFAULT.control_exchange" default:"openstack" help:"Exchange on the bus."`
	ConductorQueue  string        `conf:"DEFAULT.conductor_queue" help:"Where the agent reports to; trove-conductor if empty."`
	Debug           bool          `conf:"DEFAULT.debug" default:"false" help:"Log more."`
	RPCKey          secret.String `conf:"DEFAULT.instance_rpc_encr_key" help:"The instance's own key, with which messages are sealed; they are not if empty. A secret."`
	Rabbit          amqp.Options
	StateWait       time.Duration `conf:"DEFAULT.state_change_wait_time" default:"180" help:"How long the engine may take to start."`

	Isolation bool `conf:"DEFAULT.network_isolation" default:"false" help:"The engine's container has the user's port, and the machine has not: if it is a container, and user_port_file is there."`

	Machine      machineOptions
	Docker       dockerOptions
	Runtime      string `conf:"gotrove.runtime" default:"process" help:"How the engine is run: process, as a program of this machine, or docker, as a container."`
	DataDir      string `conf:"gotrove.data_dir" help:"The volume."`
	StateDir     string `conf:"gotrove.state_dir" help:"What the agent remembers."`
	RunDir       string `conf:"gotrove.run_dir" help:"Sockets and pid files."`
	LogDir       string `conf:"gotrove.log_dir" help:"The engine's logs."`
	TemplateDir  string `conf:"gotrove.template_dir" help:"Data directories to copy from; if empty, each is initialised."`
	BinDir       string `conf:"gotrove.bin_dir" help:"The engine's programs; if empty, they are looked for."`
	UserPort     string `conf:"gotrove.user_port_file" default:"/etc/trove/eth1.json" help:"What the control plane says of that port."`
	Address      string `conf:"gotrove.address" help:"The instance's address."`
	Port         int    `conf:"gotrove.port" default:"0" help:"The engine's port; 0 is its standard one."`
	MemoryMB     int    `conf:"gotrove.memory_mb" default:"512" help:"The flavor's memory, MiB; 0 is what the machine has."`
	VolumeSize   int64  `conf:"gotrove.volume_size" default:"0" help:"The volume's size, GiB; 0 is not known."`
	StopOnExit   bool   `conf:"gotrove.stop_engine_on_exit" default:"false" help:"Stop the engine with the agent."`
	ReplyBy      string `conf:"gotrove.reply_exchange" help:"Topic exchange for the agent's answers; the default exchange if empty."`
	HealthPeriod int    `conf:"gotrove.health_interval" default:"5" help:"Seconds between two looks at the engine."`

	// again reads it anew.
	again func() (*config, error)
}

func loadConfig(src osloconf.Sources) (*config, []osloconf.Warning, error) {
	c := &config{ConductorQueue: conductor.Topic}
	c.again = func() (*config, error) { again, _, err := loadConfig(src); return again, err }
	src.NoEffect = noEffect()
	warnings, err := osloconf.Load(src, c)
	if err != nil {
		return nil, nil, err
	}
	for option, v := range map[string]string{
		"[DEFAULT] guest_id": c.GuestID, "[DEFAULT] datastore_manager": c.Manager, "[DEFAULT] transport_url": c.TransportURL.Reveal(),
		"[gotrove] data_dir": c.DataDir, "[gotrove] state_dir": c.StateDir, "[gotrove] run_dir": c.RunDir,
		"[gotrove] log_dir": c.LogDir, "[gotrove] address": c.Address,
	} {
		if v == "" {
			return nil, nil, trove.Errorf(trove.KindBadRequest, "option %s is not set: the agent needs it", option)
		}
	}
	return c, warnings, nil
}

func (c *config) settings() engine.Settings {
	return engine.Settings{
		InstanceID: c.GuestID, Version: c.Version, Address: c.Address, Port: c.Port, MemoryMB: c.memory(),
		DataDir: filepath.Join(c.DataDir, "data"), SecretsDir: filepath.Join(c.DataDir, "conf.d"),
		ConfigDir: filepath.Join(c.StateDir, "config"), RunDir: c.RunDir, LogDir: c.LogDir,
		TemplateDir: c.TemplateDir, BinDir: c.BinDir,
	}
}
