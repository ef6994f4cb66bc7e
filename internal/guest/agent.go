// Package guest is the agent on a database instance. It serves what the
// control plane asks of it (rpcapi/guest), keeps the engine running, and tells
// the conductor how it is.
//
// It owns the instance's local state: what was asked, whether the engine should
// run, the handle that finds it again, which casts were handled. So a killed
// agent goes on where it stopped: prepare is resumed, a running engine is
// found, a cast that comes twice is done once.
//
// It knows neither which engine it has nor how that is run, neither the cloud
// nor the database of the control plane.
package guest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/guest/bootlog"
	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/trove"
)

// Conductor is whom the agent reports to. Each returns when the broker has the
// message. *conductor.Client is one.
type Conductor interface {
	Heartbeat(ctx context.Context, h conductor.Heartbeat) error
	ReportRoot(ctx context.Context, instanceID string) error
	NotifyFailure(ctx context.Context, n conductor.FailureNotification, message string, exception []string) error
}

// Volume is what the instance's directory is mounted from. Its methods are
// called one at a time. *volume.Volume is one.
type Volume interface {
	// Ensure has it mounted when it returns nil.
	Ensure(ctx context.Context) error
	// Unmount lets go of it; it is nobody's when it returns nil.
	Unmount(ctx context.Context) error
	// Grow makes its file system as large as it is, mounted or not.
	Grow(ctx context.Context) error
}

// Config is what an agent is made of.
type Config struct {
	InstanceID string
	StateFile  string
	Version    string // of the agent, for people
	Engine     engine.Engine
	Runtime    runtime.Runtime
	Conductor  Conductor
	Log        *slog.Logger

	// Credentials takes new logins and keys; nil: the operator's stay.
	Credentials *Credentials

	// Volume has VolumeDir mounted before anything is done there; nil: it always
	// is.
	Volume Volume
	// Boot tells the server's console how far the agent came; nil: nobody.
	Boot *bootlog.Log

	VolumeDir  string // what get_filesystem_stats measures
	VolumeSize int64  // its quota in bytes; 0: the file system is the volume
	// Quota gives the quota as it is now; nil: it never changes.
	Quota  func() (int64, error)
	LogDir string // of the engine's logs, kept short; empty: there are none

	// StopEngineOnExit stops the engine cleanly when Run ends. Otherwise it is
	// left running, for the next agent to find.
	StopEngineOnExit bool

	Timing Timing
}

// Timing are the agent's intervals and limits; a zero one gets its default.
type Timing struct {
	Heartbeat    time.Duration // between heartbeats when nothing changes; 10 s
	Health       time.Duration // between health checks; 5 s
	HealthLimit  time.Duration // for one health check; 5 s
	StartLimit   time.Duration // from start to the first answer; 180 s
	FullGrace    time.Duration // how long a disk may be full while an engine is made ready; 10 s
	StopGrace    time.Duration // to stop cleanly before it is killed; 60 s
	PrepareLimit time.Duration // for prepare; 30 min
	CastLimit    time.Duration // for a cast, waiting for the engine included; 3 min
	RestartFirst time.Duration // back-off after the second crash in a row; 1 s
	RestartMost  time.Duration // 60 s
}

func (t Timing) withDefaults() Timing {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&t.Heartbeat, 10*time.Second)
	set(&t.Health, 5*time.Second)
	set(&t.HealthLimit, 5*time.Second)
	set(&t.StartLimit, 180*time.Second)
	set(&t.FullGrace, 10*time.Second)
	set(&t.StopGrace, 60*time.Second)
	set(&t.PrepareLimit, 30*time.Minute)
	set(&t.CastLimit, 3*time.Minute)
	set(&t.RestartFirst, time.Second)
	set(&t.RestartMost, time.Minute)
	return t
}

// Agent is the agent of one instance. It implements rpcapi/guest.Agent; its
// Handler also drops repeats and reports failed casts.
type Agent struct {
	cfg   Config
	state *stateFile
	pulse *pulse
	usage *usage
	log   *slog.Logger

	// ops is held by whoever changes the engine or what is in it: one at a
	// time. A channel, so that waiting for it ends with a context.
	ops chan struct{}
	// casts is held by the cast being handled.
	casts chan struct{}
	// kick wakes the supervisor when what should run has changed.
	kick chan struct{}
	// wake wakes the preparer when there is something to prepare.
	wake chan struct{}

	// configured is whether this agent has made the configuration; for the holder
	// of ops.
	configured bool
	// unstarted is whether this agent has made the data directory and started no
	// engine since: none can be running, nor have been. An agent that finds the
	// directory made looks for one, since another may have been killed before it
	// could write the handle. For the holder of ops.
	unstarted bool

	mu sync.Mutex
	// transition is set while the holder of ops starts or stops the engine: its
	// end is then no crash.
	transition bool
	// stopPrepare ends a running prepare.
	stopPrepare context.CancelCauseFunc
	// fullAt is when watchDisk last found the disk full.
	fullAt time.Time
}

// New makes the agent of an instance, reading its state. It starts nothing.
func New(cfg Config) (*Agent, error) {
	if cfg.InstanceID == "" {
		return nil, errors.New("the agent needs an instance id")
	}
	cfg.Timing = cfg.Timing.withDefaults()
	st, err := openState(cfg.StateFile, cfg.InstanceID)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:   cfg,
		state: st,
		log:   cfg.Log,
		ops:   make(chan struct{}, 1),
		casts: make(chan struct{}, 1),
		kick:  make(chan struct{}, 1),
		wake:  make(chan struct{}, 1),
	}
	a.pulse = newPulse(cfg.Conductor, cfg.InstanceID, cfg.Version, cfg.Timing.Heartbeat, cfg.Log)
	a.usage = newUsage(cfg.VolumeDir, cfg.VolumeSize, cfg.Log)
	if status := initialStatus(st.get()); status != (trove.ServiceStatus{}) {
		a.pulse.set(context.Background(), status, nil)
	}
	return a, nil
}

// initialStatus is what can be said before anything was looked at, zero if
// nothing can: a running engine must not seem ill because its agent is new.
func initialStatus(s state) trove.ServiceStatus {
	switch s.Phase {
	case phasePreparing:
		return trove.ServiceBuilding
	case phaseFailed:
		return trove.ServiceFailed
	case phasePrepared:
		if !s.ShouldRun {
			return trove.ServiceShutdown
		}
		return trove.ServiceStatus{}
	default:
		return trove.ServiceNew
	}
}

// Run keeps the engine and reports until ctx ends; requests may be served
// meanwhile. At the end it stops the engine if it is configured to, within the
// grace, and leaves it running otherwise. A prepare that was cut off is resumed
// by the next Run.
func (a *Agent) Run(ctx context.Context) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	// Heartbeats go on while the engine is being stopped.
	beats, stopBeats := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeats()

	var workers, reporter sync.WaitGroup
	reporter.Go(func() { a.pulse.run(beats) })
	workers.Go(func() { a.supervise(work) })
	workers.Go(func() { a.preparer(work) })
	workers.Go(func() { a.usage.watch(work) })
	workers.Go(func() { watchLogs(work, a.cfg.LogDir, a.log) })
	<-ctx.Done()
	workers.Wait()

	var err error
	if a.cfg.StopEngineOnExit {
		err = a.stopOnExit(context.WithoutCancel(ctx))
	}
	stopBeats()
	reporter.Wait()
	if err := a.cfg.Engine.Close(); err != nil {
		a.log.Debug("closing connections to the engine", "error", err) // it may be gone
	}
	return err
}

// stopOnExit stops the engine, which is wanted again when the agent is.
func (a *Agent) stopOnExit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.StopGrace+30*time.Second)
	defer cancel()
	// Held for ever: a request that comes now must not start the engine again.
	if err := a.lock(ctx); err != nil {
		return err
	}
	if a.state.get().Handle == nil {
		return nil
	}
	if err := a.stopEngine(ctx); err != nil {
		return err
	}
	if a.state.get().Phase == phasePrepared {
		a.pulse.set(ctx, trove.ServiceShutdown, nil)
		a.pulse.flush(ctx)
	}
	a.log.InfoContext(ctx, "engine stopped")
	return nil
}

// lock waits for the right to change the engine; an error of KindGuestTimeout
// says that ctx ended first.
func (a *Agent) lock(ctx context.Context) error {
	select {
	case a.ops <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &trove.Error{Kind: trove.KindGuestTimeout, Err: ctx.Err(),
			Message: "The guest agent was busy with another operation for too long."}
	}
}

func (a *Agent) unlock() { <-a.ops }

// signal wakes whoever waits for c, now or next time.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *Agent) setTransition(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.transition = on
}

func (a *Agent) inTransition() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.transition
}
