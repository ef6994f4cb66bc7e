package guest

import (
	"path/filepath"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// config is what an agent is told by the files that the control plane wrote for
// it: the original's names where it has the option, group [gotrove] for ours.
type config struct {
	GuestID         string        `conf:"DEFAULT.guest_id"`
	Manager         string        `conf:"DEFAULT.datastore_manager"`
	Version         string        `conf:"DEFAULT.datastore_version"`
	TenantID        string        `conf:"DEFAULT.tenant_id"`
	TransportURL    secret.String `conf:"DEFAULT.transport_url"`
	ControlExchange string        `conf:"DEFAULT.control_exchange" default:"openstack"`
	ConductorQueue  string        `conf:"DEFAULT.conductor_queue"`
	Debug           bool          `conf:"DEFAULT.debug" default:"false"`
	RPCKey          secret.String `conf:"DEFAULT.instance_rpc_encr_key"` // empty: messages are not sealed
	StateWait       time.Duration `conf:"DEFAULT.state_change_wait_time" default:"180"`

	Runtime      string `conf:"gotrove.runtime" default:"process"`
	DataDir      string `conf:"gotrove.data_dir"`  // the volume
	StateDir     string `conf:"gotrove.state_dir"` // what the agent remembers
	RunDir       string `conf:"gotrove.run_dir"`
	LogDir       string `conf:"gotrove.log_dir"`
	TemplateDir  string `conf:"gotrove.template_dir"`
	BinDir       string `conf:"gotrove.bin_dir"`
	Address      string `conf:"gotrove.address"`
	Port         int    `conf:"gotrove.port" default:"0"`
	MemoryMB     int    `conf:"gotrove.memory_mb" default:"512"`
	VolumeSize   int64  `conf:"gotrove.volume_size" default:"0"` // GiB
	StopOnExit   bool   `conf:"gotrove.stop_engine_on_exit" default:"false"`
	ReplyBy      string `conf:"gotrove.reply_exchange"`
	HealthPeriod int    `conf:"gotrove.health_interval" default:"5"` // seconds
}

func loadConfig(src osloconf.Sources) (*config, []string, error) {
	c := &config{ConductorQueue: conductor.Topic}
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
		InstanceID: c.GuestID, Version: c.Version, Address: c.Address, Port: c.Port, MemoryMB: c.MemoryMB,
		DataDir: filepath.Join(c.DataDir, "data"), SecretsDir: filepath.Join(c.DataDir, "conf.d"),
		ConfigDir: filepath.Join(c.StateDir, "config"), RunDir: c.RunDir, LogDir: c.LogDir,
		TemplateDir: c.TemplateDir, BinDir: c.BinDir,
	}
}
