package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/telemetry/health"
)

// role is what one process is for.
type role struct {
	name string // of the program, as the original has it
	does string
	// start builds the process from the bottom up, and says what to log when
	// it serves. Tasks stop in the opposite order of their start.
	start func(ctx context.Context, p *process) (serving []any, err error)
}

const (
	apiName           = "trove-api"
	standaloneProgram = "troved"
)

// roles are those that run on a cloud, any number of each.
var roles = []role{
	{apiName, "Serve the REST API", startAPIRole},
	{"trove-taskmanager", "Carry out what the API is asked for", startTaskManagerRole},
	{"trove-conductor", "Write down what guest agents report", startConductorRole},
}

// run runs what start makes until ctx ends or a part of it fails, then stops it
// all within a deadline. The service manager that started it, if any, is told.
func run(ctx context.Context, p *process, version string, start func(context.Context) ([]any, error), ready func()) error {
	p.group = lifecycle.New(ctx, p.log)
	if p.logFile != nil {
		p.task("log file", func(ctx context.Context) error {
			return p.logFile.follow(ctx, func(err error) { p.log.ErrorContext(ctx, "the log file was not opened anew", "error", err) })
		}, 0)
	} else if p.name != standaloneProgram { // whose terminal may end it
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP) // from now on, not from when the task runs
		p.task("hangups", func(ctx context.Context) error { return p.outliveHangups(ctx, hup) }, 0)
	}
	var serving []any
	err := p.startMonitor(ctx, version)
	if err == nil {
		serving, err = start(ctx)
	}
	if err == nil {
		p.health.Started()
		p.log.InfoContext(ctx, "serving", append([]any{"version", version}, serving...)...)
		p.tell(ctx, lifecycle.Ready)
		p.keepAwake(lifecycle.WatchdogPeriod())
		ready()
		if err = p.group.Wait(ctx); err == nil {
			p.log.InfoContext(ctx, "stopping")
		}
		p.tell(ctx, lifecycle.Stopping)
		if err == nil {
			p.drain(ctx)
		}
	}
	return errors.Join(err, p.stop(context.WithoutCancel(ctx)))
}

// outliveHangups keeps a SIGHUP from ending a service that has no log file to
// open anew: logrotate sends it to all of a host, and a service manager takes
// such an end for a clean one, after which it starts nothing again.
func (p *process) outliveHangups(ctx context.Context, hup chan os.Signal) error {
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			p.log.InfoContext(ctx, "SIGHUP: there is no log file to open anew; options are read at the start only")
		}
	}
}

func (p *process) tell(ctx context.Context, state string) {
	if err := lifecycle.Notify(state); err != nil {
		p.log.WarnContext(ctx, "the service manager was not told", "state", state, "error", err)
	}
}

// keepAwake tells the service manager, well within every period, that the
// process still runs tasks.
func (p *process) keepAwake(period time.Duration) {
	if period <= 0 {
		return
	}
	p.task("watchdog", func(ctx context.Context) error {
		tick := time.NewTicker(period / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				p.tell(ctx, lifecycle.Watchdog)
			}
		}
	}, 0)
}

// checkConfig is the command that tells all there is to say of a configuration.
const checkConfig = manageName + " config check"

// newProcess makes a process that logs to errs; warnings of the configuration
// come first.
func newProcess(ctx context.Context, name string, c *Config, warnings []osloconf.Warning, errs io.Writer) (*process, error) {
	level := "info"
	if c.Log.Debug {
		level = "debug"
	}
	to, file, err := c.Log.open(name, errs)
	if err != nil {
		return nil, err
	}
	log, err := telemetry.NewLogger(to, telemetry.Options{Level: level, Format: c.Log.format()})
	if err != nil {
		return nil, err
	}
	slog.SetDefault(log)
	for _, text := range osloconf.Told(warnings, checkConfig) {
		log.WarnContext(ctx, text)
	}
	return &process{name: name, c: c, log: log, logFile: file, clock: time.Now, health: health.New(nil, log)}, nil
}
