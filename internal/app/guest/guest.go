// Package guest puts the guest agent together: configuration, engine, runtime,
// bus. What it links runs on the machines of databases, so nothing of the
// control plane is among it.
package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/guest"
	"github.com/gotrove/gotrove/internal/guest/bootlog"
	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/osloconf"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// memoryLimit makes the collector give memory back: an agent shares a
	// small machine with its engine.
	memoryLimit = 12 << 20
	closeWait   = 10 * time.Second
	// workers bounds the requests taken at once. The agent does one after the
	// other; those that wait must leave room for pings.
	workers = 32
)

// Main runs a trove-guestagent command line until ctx ends and returns the exit
// code: 0, 1 for a failure, 2 for a wrong command line.
func Main(ctx context.Context, version string, args []string, out, errs io.Writer) int {
	err := run(ctx, version, args, out, errs)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintln(errs, "trove-guestagent:", err)
	if action := trove.ActionOf(err); action != "" {
		fmt.Fprintln(errs, "What to do:", action)
	}
	return 1
}

var errUsage = errors.New("wrong command line")

func run(ctx context.Context, version string, args []string, out, errs io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "engines":
			return listEngines(ctx, args[1:], out, errs)
		case "remove":
			return removeContainers(ctx, args[1:], errs)
		case "template":
			return makeTemplate(ctx, args[1:], out, errs)
		case "first-boot":
			return firstBoot(ctx, args[1:], errs)
		case "volume":
			return prepareMachine(ctx, args[1:], errs)
		case "network":
			return settleNetwork(ctx, args[1:], errs)
		case "probe":
			return probe(ctx, args[1:], out, errs)
		}
	}
	var src osloconf.Sources
	flags := flag.NewFlagSet("trove-guestagent", flag.ContinueOnError)
	flags.SetOutput(errs)
	configFlags(flags, &src)
	console := flags.String("console", "", consoleHelp)
	show := flags.Bool("version", false, "print the version and leave")
	flags.Usage = func() {
		fmt.Fprint(errs, "usage: trove-guestagent [flags]\n       trove-guestagent engines [--docker-socket PATH]\n       trove-guestagent remove [--docker-socket PATH] INSTANCE…\n       trove-guestagent first-boot [--console DEVICE]\n       trove-guestagent volume [flags]\n       trove-guestagent network [flags]\n       trove-guestagent probe [flags]\n       trove-guestagent template --manager NAME --template-dir DIR [--ready N]\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return errors.Join(errUsage, err)
	}
	if flags.NArg() > 0 {
		flags.Usage()
		return errUsage
	}
	if *show {
		_, err := fmt.Fprintln(out, "trove-guestagent", version)
		return err
	}
	src.Environ = os.Environ()
	boot := bootlog.New(*console)
	boot.Reached(guestapi.BootStarted, version)
	if p, err := loadProbe(src); err == nil && p.Only {
		return onlyProbe(ctx, p, boot, errs)
	}
	c, warnings, err := loadConfig(src)
	if err != nil {
		boot.Failed(guestapi.BootConfig, err)
		return err
	}
	boot.Reached(guestapi.BootConfig, "instance "+c.GuestID)
	return serve(ctx, c, version, warnings, boot, errs)
}

// outliveHangups keeps a SIGHUP from ending the agent until it is told to stop:
// logrotate and terminals send it, and the agent has neither a log file nor
// options to read again. Ignored, it would be so in the engine too, which heeds it.
func outliveHangups(ctx context.Context, log *slog.Logger) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	var heeding sync.WaitGroup
	heeding.Go(func() {
		for range hup {
			log.InfoContext(ctx, "SIGHUP: there is no log file to open anew; options are read at the start only")
		}
	})
	return func() {
		signal.Stop(hup)
		close(hup)
		heeding.Wait()
	}
}

// roomBesideReady is what ready copies leave free to everybody else, in bytes.
const roomBesideReady = 4 << 30

// makeTemplate builds an engine's template ahead of the first instance and says
// where it is; or, where ready copies of it are wanted, makes those that are
// missing and says where they are.
func makeTemplate(ctx context.Context, args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("trove-guestagent template", flag.ContinueOnError)
	flags.SetOutput(errs)
	var s engine.Settings
	manager := flags.String("manager", "", "datastore manager: mariadb, postgresql")
	flags.StringVar(&s.TemplateDir, "template-dir", "", "where templates are")
	flags.StringVar(&s.Version, "engine-version", "", "version of the engine (default: the newest here)")
	tools := toolFlags(flags)
	ready := flags.Int("ready", -1, "how many copies to have ready (default: those there are)")
	most := flags.Int("most", math.MaxInt, "how many of them to make at most")
	if err := flags.Parse(args); err != nil || s.TemplateDir == "" || flags.NArg() > 0 {
		return errors.Join(errUsage, err)
	}
	k, err := kindOf(*manager)
	if err != nil {
		return err
	}
	if s.Tools, err = tools(); err != nil {
		return err
	}
	path, err := k.template(ctx, s)
	if err != nil {
		return err
	}
	if *ready < 0 {
		_, err = fmt.Fprintln(out, path)
		return err
	}
	if err := template.Stock(ctx, path, *ready, *most, roomBesideReady); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, template.ReadyDir(path))
	return err
}

func serve(ctx context.Context, c *config, version string, warnings []osloconf.Warning, boot *bootlog.Log, errs io.Writer) error {
	debug.SetMemoryLimit(memoryLimit)
	level := "info"
	if c.Debug {
		level = "debug"
	}
	log, err := telemetry.NewLogger(errs, telemetry.Options{Level: level})
	if err != nil {
		return err
	}
	log = log.With("instance_id", c.GuestID)
	slog.SetDefault(log)
	defer outliveHangups(ctx, log)()
	for _, w := range warnings {
		log.WarnContext(ctx, w.Text)
	}
	k, err := kindOf(c.Manager)
	if err != nil {
		return err
	}
	runner, settings, err := c.openRuntime(log)
	if err != nil {
		return err
	}
	creds, err := guest.OpenCredentials(filepath.Join(c.StateDir, "credentials.json"), c.GuestID)
	if err != nil {
		return err
	}
	bus, err := openBus(c, creds, log)
	if err != nil {
		return err
	}
	attached, err := c.attached(log, boot)
	if err != nil {
		return err
	}
	agent, err := guest.New(guest.Config{
		InstanceID: c.GuestID, StateFile: filepath.Join(c.StateDir, "state.json"), Version: version,
		Engine: k.open(settings), Runtime: runner, Conductor: heard{bus, boot}, Log: log, Credentials: creds,
		Volume: attached, Boot: boot,
		VolumeDir: c.DataDir, VolumeSize: c.VolumeSize << 30, Quota: c.quota, LogDir: c.LogDir, StopEngineOnExit: c.StopOnExit,
		Timing: guest.Timing{Health: time.Duration(c.HealthPeriod) * time.Second, StartLimit: c.StateWait},
	})
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "agent started", "version", version, "manager", c.Manager, "address", c.Address)

	// The bus is served while the agent stops its engine.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var served sync.WaitGroup
	served.Go(func() { bus.run(serving, agent) })
	served.Go(func() { tellBus(serving, bus, boot) })
	err = agent.Run(ctx)
	stop()
	served.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	err = errors.Join(err, bus.close(ctx))
	log.InfoContext(ctx, "agent stopped")
	return err
}
