package guest

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/guest"
	"github.com/gotrove/gotrove/internal/guest/bootlog"
	"github.com/gotrove/gotrove/internal/guest/firstboot"
	"github.com/gotrove/gotrove/internal/guest/usernet"
	"github.com/gotrove/gotrove/internal/guest/volume"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// machineOptions are what an agent is told that has a machine of its own. Those
// of the image are in a file of the image, which comes before the others.
type machineOptions struct {
	Volume     string        `conf:"gotrove.volume" default:"directory" help:"What data_dir is: directory, or attached, which is the file system of the volume that the cloud attached."`
	VolumeID   string        `conf:"gotrove.volume_id" help:"The attached volume's id; if empty, it is the only disk that nothing else is on, and must be empty or made by an agent."`
	Probe      bool          `conf:"gotrove.probe" default:"false" help:"The machine is there to try the way to the bus, as that of trove-manage doctor --guest: the agent serves nobody."`
	VolumeWait time.Duration `conf:"gotrove.volume_wait" default:"60" help:"How long the attached volume may take to appear."`
}

// Values of [gotrove] volume.
const (
	volumeDirectory = "directory"
	volumeAttached  = "attached"
)

// stages are what a volume calls its stages, in the agent's words.
var stages = map[volume.Stage]guestapi.BootStage{
	volume.Found: guestapi.BootFound, volume.Formatted: guestapi.BootFormatted, volume.Mounted: guestapi.BootMounted,
}

// attached is the volume that data_dir is mounted from; nil if it is a
// directory.
func (c *config) attached(log *slog.Logger, boot *bootlog.Log) (guest.Volume, error) {
	switch c.Machine.Volume {
	case volumeDirectory:
		return nil, nil
	case volumeAttached:
	default:
		return nil, trove.Errorf(trove.KindBadRequest, "option [gotrove] volume: %q is neither %s nor %s", c.Machine.Volume, volumeDirectory, volumeAttached)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, durable.Explain(err)
	}
	v := volume.New(volume.Config{ID: c.Machine.VolumeID, MountPoint: c.DataDir, StateFile: filepath.Join(c.StateDir, "volume.json"),
		Wait: c.Machine.VolumeWait, Log: log,
		Reached: func(s volume.Stage, detail string) { boot.Reached(stages[s], detail) }})
	return told{v, boot}, nil
}

// told is a volume whose failures are on the console.
type told struct {
	*volume.Volume
	boot *bootlog.Log
}

// Ensure has it mounted.
func (t told) Ensure(ctx context.Context) error {
	err := t.Volume.Ensure(ctx)
	t.boot.Failed(guestapi.BootMounted, err)
	return err
}

// memory is how much the engine may plan with, MiB.
func (c *config) memory() int {
	var i unix.Sysinfo_t
	if c.MemoryMB > 0 || unix.Sysinfo(&i) != nil {
		return c.MemoryMB
	}
	return int(i.Totalram * uint64(i.Unit) >> 20)
}

// settleNetwork takes the user's card from the machine, where only the engine's
// container is to have it, before anything is started.
func settleNetwork(ctx context.Context, args []string, errs io.Writer) error {
	c, boot, err := machineConfig("network", args, errs)
	if err != nil {
		return err
	}
	port, err := c.userPort()
	if err == nil {
		err = usernet.Settle(ctx, "/", port)
	}
	if err != nil {
		boot.Failed(guestapi.BootCard, err)
		return err
	}
	if port != nil {
		boot.Reached(guestapi.BootCard, port.MAC.String()+", "+port.Addresses[0].IP.String())
	}
	return nil
}

// machineConfig is what the agent will be told, for what a machine does before it.
func machineConfig(command string, args []string, errs io.Writer) (*config, *bootlog.Log, error) {
	var src osloconf.Sources
	flags := flag.NewFlagSet("trove-guestagent "+command, flag.ContinueOnError)
	flags.SetOutput(errs)
	configFlags(flags, &src)
	console := flags.String("console", "", consoleHelp)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return nil, nil, errors.Join(errUsage, err)
	}
	boot := bootlog.New(*console)
	src.Environ = os.Environ()
	c, _, err := loadConfig(src)
	if err != nil {
		boot.Failed(guestapi.BootConfig, err)
	}
	return c, boot, err
}

// prepareMachine mounts the volume before anything else of the machine's could
// write where it belongs.
func prepareMachine(ctx context.Context, args []string, errs io.Writer) error {
	c, boot, err := machineConfig("volume", args, errs)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(errs, telemetry.Options{Level: "info"})
	if err != nil {
		return err
	}
	v, err := c.attached(log, boot)
	if err != nil || v == nil {
		return err
	}
	return v.Ensure(ctx)
}

const consoleHelp = "`device` to which each stage of the way to a running database is told"

func configFlags(flags *flag.FlagSet, src *osloconf.Sources) {
	flags.Func("config-file", "configuration `file` (repeatable)", func(s string) error { src.Files = append(src.Files, s); return nil })
	flags.Func("config-dir", "`directory` of *.conf files (repeatable)", func(s string) error { src.Dirs = append(src.Dirs, s); return nil })
}

// markFile says for which server the first boot was done.
const markFile = "/var/lib/gotrove/first-boot"

// agentUser is whom an image of ours runs agents as.
const agentUser = "trove"

// firstBootLimit is how long the cloud may take to tell a server who it is.
const firstBootLimit = 5 * time.Minute

// firstBoot writes what the cloud holds for this server.
func firstBoot(ctx context.Context, args []string, errs io.Writer) error {
	flags := flag.NewFlagSet("trove-guestagent first-boot", flag.ContinueOnError)
	flags.SetOutput(errs)
	console := flags.String("console", "", consoleHelp)
	metadata := flags.String("metadata-url", "http://169.254.169.254", "where a server without a config drive asks; empty: nowhere")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(errUsage, err)
	}
	log, err := telemetry.NewLogger(errs, telemetry.Options{Level: "info"})
	if err != nil {
		return err
	}
	boot := bootlog.New(*console)
	limited, cancel := context.WithTimeout(ctx, firstBootLimit)
	defer cancel()
	r, err := firstboot.Run(limited, firstboot.Options{MarkFile: markFile, MetadataURL: *metadata, Secret: "/etc/trove", SecretUser: agentUser})
	if err != nil {
		boot.Failed(guestapi.BootFiles, err)
		return err
	}
	detail := "server " + r.Server + " from " + r.Source
	if !r.Fresh {
		detail += ", as before"
	}
	boot.Reached(guestapi.BootFiles, detail)
	log.InfoContext(ctx, "first boot", "server", r.Server, "source", r.Source, "fresh", r.Fresh, "files", r.Files)
	for _, what := range r.Ignored {
		log.WarnContext(ctx, "user data ask for what only cloud-init does", "what", what)
	}
	return nil
}

// heard is the conductor as an agent with a console sees it: the first
// heartbeat that went through is worth a line there.
type heard struct {
	*bus
	boot *bootlog.Log
}

// Heartbeat implements guest.Conductor.
func (h heard) Heartbeat(ctx context.Context, beat conductor.Heartbeat) error {
	err := h.bus.Heartbeat(ctx, beat)
	if err == nil {
		h.boot.Reached(guestapi.BootHeartbeat, "status "+beat.Payload.ServiceStatus)
	}
	return err
}

// askEvery is how often the console hears why there is no bus, if that changes.
const askEvery = 10 * time.Second

// tellBus tells the console how the agent fares with its broker until it is let
// in.
func tellBus(ctx context.Context, b *bus, boot *bootlog.Log) {
	for boot != nil && ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, askEvery)
		err := b.current().conn.Admitted(limited)
		cancel()
		switch {
		case err == nil:
			boot.Reached(guestapi.BootBroker, "")
			boot.Reached(guestapi.BootLogin, b.current().conn.Login())
			return
		case trove.IsKind(err, trove.KindUnauthorized):
			boot.Reached(guestapi.BootBroker, "")
			boot.Failed(guestapi.BootLogin, err)
			t := time.NewTimer(askEvery)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		case ctx.Err() == nil:
			boot.Failed(guestapi.BootBroker, err)
		}
	}
}
