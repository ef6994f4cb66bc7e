package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// errStopped is the cause of a prepare that stop_db gave up.
var errStopped = errors.New("the instance was stopped while it was being prepared")

// Prepare writes the request down and returns; the work goes on in Run, and in
// the next agent's Run if this one dies. A prepared instance is left as it is,
// one that failed is tried again.
func (a *Agent) Prepare(ctx context.Context, p guestapi.Prepare) error {
	switch a.state.get().Phase {
	case phasePrepared:
		a.log.InfoContext(ctx, "asked to prepare an instance that is prepared")
		return nil
	case phasePreparing:
		a.log.InfoContext(ctx, "asked to prepare again while it is being done")
		return nil
	}
	who := rpc.ContextFrom(ctx)
	who.AuthToken, who.ServiceCatalog = "", nil
	// Before the state says so: the preparer may look at it at once, and report
	// what comes next.
	a.pulse.set(ctx, trove.ServiceBuilding, &conductor.Stage{Name: "accepted"})
	if err := a.state.update(func(s *state) {
		s.Phase, s.Prepare, s.Request, s.Failure = phasePreparing, &p, who, ""
	}); err != nil {
		a.pulse.set(ctx, trove.ServiceFailed, nil)
		return err
	}
	signal(a.wake)
	return nil
}

// supported refuses what this agent would otherwise leave out in silence.
func supported(p guestapi.Prepare) error {
	for _, m := range []struct {
		what string
		raw  json.RawMessage
	}{
		{"a restore from a backup", p.BackupInfo}, {"replication", p.Snapshot},
		{"a cluster", p.ClusterConfig}, {"modules", p.Modules},
	} {
		switch string(bytes.TrimSpace(m.raw)) {
		case "", "null", "[]", "{}":
		default:
			return trove.Errorf(trove.KindNotImplemented, "This guest agent cannot prepare an instance with %s.", m.what)
		}
	}
	return nil
}

// preparer does the prepare that was asked for, or resumes it.
func (a *Agent) preparer(ctx context.Context) {
	for ctx.Err() == nil {
		if a.state.get().Phase == phasePreparing {
			a.prepareOnce(ctx)
		}
		select {
		case <-ctx.Done():
		case <-a.wake:
		}
	}
}

// prepareOnce runs prepare to its end. Cut off by the end of ctx it leaves the
// state as it is, and is done again.
func (a *Agent) prepareOnce(parent context.Context) {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	a.mu.Lock()
	a.stopPrepare = stop
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.stopPrepare = nil
		a.mu.Unlock()
	}()
	if err := a.lock(ctx); err != nil {
		return
	}
	defer a.unlock()
	a.setTransition(true)
	defer signal(a.kick)
	defer a.setTransition(false)

	s := a.state.get()
	if s.Phase != phasePreparing || s.Prepare == nil {
		return
	}
	ctx = s.Request.Logged(ctx) // the one it came with is long over
	limited, cancel := context.WithTimeout(ctx, a.cfg.Timing.PrepareLimit)
	defer cancel()
	go a.watchDisk(ctx, stop)
	stage, err := a.prepareStages(limited, *s.Prepare)
	if err == nil {
		err = a.state.update(func(s *state) { s.Phase, s.Prepare = phasePrepared, nil })
	}
	switch {
	case err == nil:
		a.log.InfoContext(ctx, "instance prepared")
		a.pulse.set(ctx, trove.ServiceHealthy, nil)
	case parent.Err() != nil:
		a.log.InfoContext(ctx, "prepare was cut off and will be resumed", "stage", stage)
	default:
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if !errors.Is(err, errStopped) {
			err = a.blameDisk(err)
		}
		a.prepareFailed(s.Request.Logged(parent), stage, *s.Prepare, err)
	}
}

// prepareStages makes an instance of what is there. Each stage looks before it
// acts, so all of them may be done again.
func (a *Agent) prepareStages(ctx context.Context, p guestapi.Prepare) (stage string, err error) {
	eng := a.cfg.Engine
	stages := []struct {
		name, message string
		skip          bool
		do            func() error
	}{
		{"check", "Checking what was asked for.", false, func() error { return supported(p) }},
		{"volume", "Bringing the volume into use.", a.cfg.Volume == nil, func() error { return a.cfg.Volume.Ensure(ctx) }},
		{"initialise", "Making the data directory.", false, func() error {
			if err := a.cfg.Runtime.Fetch(ctx, a.tellFetch(ctx)); err != nil {
				return err
			}
			a.cfg.Boot.Reached(guestapi.BootImage, "")
			made, err := eng.Initialised()
			if err != nil {
				return err
			}
			if err := eng.Initialise(ctx); err != nil {
				return err
			}
			a.unstarted = !made
			return nil
		}},
		{"configure", "Writing the configuration.", false, func() error { return eng.Configure(ctx, p.Overrides) }},
		{"start", "Starting the database server.", false, func() error {
			_, err := a.startEngine(ctx)
			return err
		}},
		{"ready", "Waiting for the database server to answer.", false, func() error {
			h, err := a.startEngine(ctx)
			if err != nil {
				return err
			}
			return a.awaitReady(ctx, h)
		}},
		{"accounts", "Making the administrator's account.", false, func() error { return eng.Started(ctx) }},
		{"databases", "Creating databases.", len(p.Databases) == 0, func() error {
			return each(rpcapi.ToDatabases(p.Databases), func(d trove.Database) error { return eng.CreateDatabase(ctx, d) })
		}},
		{"users", "Creating users.", len(p.Users) == 0, func() error {
			return each(rpcapi.ToUsers(p.Users), func(u trove.User) error { return eng.CreateUser(ctx, u) })
		}},
		{"root", "Enabling root.", p.RootPassword == nil || *p.RootPassword == "", func() error {
			if _, err := eng.EnableRoot(ctx, *p.RootPassword); err != nil {
				return err
			}
			return a.cfg.Conductor.ReportRoot(ctx, a.cfg.InstanceID)
		}},
	}
	for i, s := range stages {
		if s.skip {
			continue
		}
		a.log.InfoContext(ctx, "prepare", "stage", s.name)
		a.pulse.set(ctx, trove.ServiceBuilding, &conductor.Stage{
			Name: s.name, Message: s.message, Done: int64(i), Total: int64(len(stages)), Unit: "stages"})
		if err := s.do(); err != nil {
			return s.name, err
		}
		switch s.name {
		case "start":
			a.cfg.Boot.Reached(guestapi.BootRunning, "")
		case "ready":
			a.cfg.Boot.Reached(guestapi.BootReady, "")
		}
		if err := ctx.Err(); err != nil {
			return s.name, err
		}
	}
	return "prepared", eng.Prepared(ctx)
}

// tellFetch has people see how far a fetch is. It is a stage only if it takes
// long enough to be told of.
func (a *Agent) tellFetch(ctx context.Context) func(runtime.Progress) {
	return func(p runtime.Progress) {
		a.pulse.set(ctx, trove.ServiceBuilding, &conductor.Stage{Name: "image", Message: p.Message, Done: p.Done, Total: p.Total, Unit: p.Unit})
	}
}

func each[T any](items []T, do func(T) error) error {
	for _, i := range items {
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

// prepareFailed tells why, in the status, as the instance's fault and in the
// log, and remembers it.
func (a *Agent) prepareFailed(ctx context.Context, stage string, p guestapi.Prepare, err error) {
	secrets := prepareSecrets(p)
	failure := redact(fmt.Sprintf("Preparing the database failed at stage %q: %s", stage, err), secrets)
	tail := redact(a.cfg.Engine.LogTail(), secrets)
	a.log.ErrorContext(ctx, "prepare failed", "stage", stage, "error", failure, "log_tail", tail)
	if stage == "start" {
		a.cfg.Boot.Failed(guestapi.BootRunning, errors.New(failure))
	} else {
		a.cfg.Boot.Failed(guestapi.BootReady, errors.New(failure))
	}
	// The fault goes first: who sees the status finds its cause. There is none
	// if somebody stopped it.
	if !errors.Is(err, errStopped) {
		a.notify(ctx, "prepare",
			&trove.Error{Kind: trove.KindOf(err), Message: failure, Action: trove.ActionOf(err)}, tail)
	}
	if err := a.state.update(func(s *state) {
		s.Phase, s.Prepare, s.Failure = phaseFailed, nil, failure
	}); err != nil {
		a.log.ErrorContext(ctx, "cannot remember that prepare failed", "error", err)
	}
	a.pulse.set(ctx, trove.ServiceFailed, nil)
}

func prepareSecrets(p guestapi.Prepare) []string {
	var out []string
	for _, u := range p.Users {
		if u.Password != nil {
			out = append(out, *u.Password)
		}
	}
	if p.RootPassword != nil {
		out = append(out, *p.RootPassword)
	}
	return out
}
