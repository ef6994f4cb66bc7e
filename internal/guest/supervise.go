package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// pollFirst and pollMost bound the waits between two questions whether an
	// engine that was just started answers. Each is a tenth of the time it has
	// taken so far: what is seen is at most that late.
	pollFirst = 5 * time.Millisecond
	pollMost  = 500 * time.Millisecond
	// patience is how many health intervals an engine that runs may be without
	// an answer before it is reported.
	patience = 3
	// stableAfter is how long an engine must run for its next end to be the
	// first again.
	stableAfter = time.Minute
	// tellAfter is how many ends in a row make a fault the owner sees.
	tellAfter = 5
)

// supervise keeps a prepared engine running while it should, until ctx ends. It
// never gives up; what stands in the way is reported.
func (a *Agent) supervise(ctx context.Context) {
	ends := 0
	for ctx.Err() == nil {
		s := a.state.get()
		if s.Phase != phasePrepared || !s.ShouldRun {
			select {
			case <-ctx.Done():
			case <-a.kick:
			}
			continue
		}
		began := time.Now()
		err := a.keep(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil: // stopped or restarted on purpose
			ends = 0
			continue
		}
		if time.Since(began) >= stableAfter {
			ends = 0
		}
		ends++
		a.log.ErrorContext(ctx, "engine is down", "error", err, "in_a_row", ends, "log_tail", a.cfg.Engine.LogTail())
		if ends == tellAfter {
			a.notify(ctx, "restart", fmt.Errorf("the database service ended %d times in a row: %w", ends, err), a.cfg.Engine.LogTail())
		}
		// The first restart is at once.
		wait := jitter(50 * time.Millisecond)
		if ends > 1 {
			wait = backOff(a.cfg.Timing.RestartFirst, a.cfg.Timing.RestartMost, ends-1)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// keep finds or starts the engine and watches it. nil: it was stopped or
// replaced on purpose, or ctx ended; else why it is down, as the status says.
func (a *Agent) keep(ctx context.Context) error {
	h, err := a.ensureRunning(ctx)
	if err != nil {
		if ctx.Err() == nil && !a.inTransition() {
			a.pulse.set(ctx, trove.ServiceCrashed, nil)
		}
		return err
	}
	if h == nil {
		return nil
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan runtime.State, 1)
	go func() {
		st, err := a.cfg.Runtime.Wait(watching, *h)
		if err != nil && watching.Err() == nil {
			st = runtime.State{ExitCode: -1, Detail: err.Error()}
		}
		ended <- st
	}()
	// Not until the goroutine is gone may a successor watch.
	defer func() { cancel(); <-ended }()

	began := time.Now()
	ready, lastGood := false, began
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.kick:
			if !a.isCurrent(*h) {
				return nil
			}
			continue
		case st := <-ended:
			ended <- st // for the deferred receive
			return a.engineEnded(ctx, *h, st)
		case <-timer.C:
		}
		err := a.ready(ctx)
		if err == nil && !ready {
			err = a.makeStarted(ctx, *h)
			ready = err == nil
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			lastGood = time.Now()
			a.cfg.Boot.Reached(guestapi.BootReady, "")
			a.report(ctx, *h, trove.ServiceHealthy)
			timer.Reset(jitter(a.cfg.Timing.Health))
			continue
		case ready:
			timer.Reset(jitter(a.cfg.Timing.Health))
		default: // it is starting
			timer.Reset(pollAgain(began))
		}
		// One slow answer is no outage, and one that is known stays what it is.
		known := a.pulse.current() != trove.ServiceHealthy && a.pulse.current() != (trove.ServiceStatus{})
		if !known && time.Since(lastGood) > patience*a.cfg.Timing.Health {
			a.log.WarnContext(ctx, "engine runs and does not answer", "error", err)
			a.report(ctx, *h, trove.ServiceUnknown)
		}
	}
}

// engineEnded reports that the watched engine is gone, unless that was meant.
func (a *Agent) engineEnded(ctx context.Context, h runtime.Handle, st runtime.State) error {
	if a.inTransition() || !a.isCurrent(h) {
		return nil
	}
	status := trove.ServiceCrashed
	if st.ExitCode == 0 {
		status = trove.ServiceShutdown
	}
	a.report(ctx, h, status)
	return endError(st)
}

// endError words how an engine ended.
func endError(st runtime.State) error {
	detail := st.Detail
	if detail == "" {
		detail = "it ended"
		if st.ExitCode >= 0 {
			detail = fmt.Sprintf("it ended with exit code %d", st.ExitCode)
		}
	}
	return trove.Errorf(trove.KindGuest, "The database server is not running: %s.", detail)
}

// report sets the status that was seen of h, unless an operation in progress or
// another engine process decides it now.
func (a *Agent) report(ctx context.Context, h runtime.Handle, s trove.ServiceStatus) {
	if !a.inTransition() && a.isCurrent(h) {
		a.pulse.set(ctx, s, nil)
	}
}

// isCurrent reports whether h is the engine that should run.
func (a *Agent) isCurrent(h runtime.Handle) bool {
	s := a.state.get()
	return s.Phase == phasePrepared && s.ShouldRun && s.Handle != nil && *s.Handle == h
}

// ready asks the engine once, with a limit of its own.
func (a *Agent) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.HealthLimit)
	defer cancel()
	return a.cfg.Engine.Ready(ctx)
}

// makeStarted lets the engine put its accounts right after a start, which is
// an operation like others.
func (a *Agent) makeStarted(ctx context.Context, h runtime.Handle) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.StartLimit)
	defer cancel()
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	if !a.isCurrent(h) {
		return nil
	}
	return a.cfg.Engine.Started(ctx)
}

// ensureRunning finds the engine or starts it; nil without error if it should
// not run after all.
func (a *Agent) ensureRunning(ctx context.Context) (*runtime.Handle, error) {
	if err := a.lock(ctx); err != nil {
		return nil, err
	}
	defer a.unlock()
	if s := a.state.get(); s.Phase != phasePrepared || !s.ShouldRun {
		return nil, nil
	}
	h, err := a.startEngine(ctx)
	if err != nil {
		return nil, err
	}
	return &h, nil
}

// startEngine starts the engine unless it runs: the one of the handle, or one
// that was started by an agent killed before it could write the handle. The
// holder of ops calls it.
func (a *Agent) startEngine(ctx context.Context) (runtime.Handle, error) {
	if h := a.state.get().Handle; h != nil {
		st, err := a.cfg.Runtime.State(ctx, *h)
		if err != nil {
			return runtime.Handle{}, err
		}
		if st.Running {
			return *h, nil
		}
	}
	if a.pulse.current() == (trove.ServiceStatus{}) { // this agent has not seen it run
		a.pulse.set(ctx, trove.ServiceShutdown, nil)
	}
	if a.cfg.Volume != nil { // after a reboot, say
		if err := a.cfg.Volume.Ensure(ctx); err != nil {
			return runtime.Handle{}, err
		}
	}
	a.configure(ctx)
	spec, err := a.cfg.Engine.Command()
	if err != nil {
		return runtime.Handle{}, err
	}
	spec.New = a.unstarted && a.state.get().Handle == nil
	a.unstarted = false
	h, err := a.cfg.Runtime.Start(ctx, spec)
	if err != nil {
		return runtime.Handle{}, err
	}
	if err := a.state.remember(func(s *state) { s.Handle, s.ShouldRun = &h, true }); err != nil {
		// The next agent finds it without.
		a.log.ErrorContext(ctx, "the engine's handle was not written", "error", err)
	}
	a.log.InfoContext(ctx, "engine runs", "pid", h.PID, "container", h.Container)
	return h, nil
}

// configure makes the configuration anew before an agent starts an engine for the
// first time: its server may have another size since, or the agent another
// version. Without room for it the engine starts with the one there is. The
// holder of ops calls it.
func (a *Agent) configure(ctx context.Context) {
	if a.configured || a.state.get().Phase != phasePrepared {
		return
	}
	if err := a.initialise(ctx); err != nil {
		a.log.WarnContext(ctx, "the configuration was not made anew", "error", err)
	}
}

// awaitReady waits until the engine answers, and says why if it ends first or
// does not in time.
func (a *Agent) awaitReady(ctx context.Context, h runtime.Handle) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.StartLimit)
	defer cancel()
	watching, stop := context.WithCancel(ctx)
	ended := make(chan runtime.State, 1)
	go func() {
		defer close(ended)
		if st, err := a.cfg.Runtime.Wait(watching, h); err == nil {
			ended <- st
		}
	}()
	defer func() {
		stop()
		for range ended { // until the goroutine is gone
		}
	}()
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	gone := ended
	for {
		select {
		case st, ok := <-gone:
			if ok {
				return endError(st)
			}
			gone = nil // it cannot be watched: the limit decides
			continue
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			return &trove.Error{Kind: trove.KindGuestTimeout, Err: last,
				Message: fmt.Sprintf("The database server runs but did not answer queries within %s.", a.cfg.Timing.StartLimit)}
		case <-timer.C:
		}
		if last = a.ready(ctx); last == nil {
			return nil
		}
		timer.Reset(pollAgain(began))
	}
}

// pollAgain is how long to wait before an engine that was started at began is
// asked again.
func pollAgain(began time.Time) time.Duration {
	return min(max(time.Since(began)/10, pollFirst), pollMost)
}

// stopEngine stops the engine if it runs. The holder of ops calls it.
func (a *Agent) stopEngine(ctx context.Context) error {
	h := a.state.get().Handle
	spec, err := a.cfg.Engine.Command()
	switch {
	case err != nil && h == nil:
		return nil // what cannot be started was not
	case err != nil:
		return err
	}
	if h == nil {
		found, ok, err := a.cfg.Runtime.Find(ctx, spec)
		if err != nil || !ok {
			return err
		}
		h = &found
	}
	return a.cfg.Runtime.Stop(ctx, *h, spec.StopSignal, a.cfg.Timing.StopGrace)
}

// Restart stops the engine cleanly, starts it again and returns when it
// answers queries. Asked again with the id of the request it carried out last,
// it only gives the result again.
func (a *Agent) Restart(ctx context.Context, requestID string) error {
	return a.restartOnce(ctx, requestID, func(context.Context) error { return nil })
}

// restartOnce is Restart; stopped is called between the stop and the start.
func (a *Agent) restartOnce(ctx context.Context, requestID string, stopped func(context.Context) error) error {
	ending := ctx
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.StopGrace+a.cfg.Timing.StartLimit)
	defer cancel()
	if err := a.beginPrepared(ctx); err != nil {
		return err
	}
	defer a.unlock()
	if last := a.state.get().Restarted; last != nil && requestID != "" && last.ID == requestID {
		a.log.InfoContext(ctx, "asked again for a restart that was carried out", "request", requestID)
		return last.result()
	}
	a.setTransition(true)
	defer signal(a.kick)
	defer a.setTransition(false)
	a.pulse.set(ctx, trove.ServiceRestarting, nil)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go a.watchDisk(ctx, stop)
	h, err := a.restart(ctx, stopped)
	if err == nil {
		a.pulse.set(ctx, trove.ServiceHealthy, nil)
		a.log.InfoContext(ctx, "engine restarted", "pid", h.PID)
	} else {
		if errors.Is(err, context.Canceled) {
			err = context.Cause(ctx) // who gave it up says why
		}
		err = a.withLogTail(a.blameDisk(err))
		a.pulse.set(ctx, trove.ServiceCrashed, nil)
	}
	if requestID != "" && ending.Err() == nil {
		done := &restarted{ID: requestID}
		if err != nil {
			done.Failure, done.Action = err.Error(), trove.ActionOf(err)
		}
		if err := a.state.remember(func(s *state) { s.Restarted = done }); err != nil {
			a.log.ErrorContext(ctx, "cannot write down that a restart was carried out", "error", err)
		}
	}
	return err
}

// result is what the restart was answered with.
func (r *restarted) result() error {
	if r.Failure == "" {
		return nil
	}
	return &trove.Error{Kind: trove.KindGuest, Message: r.Failure, Action: r.Action}
}

func (a *Agent) restart(ctx context.Context, stopped func(context.Context) error) (runtime.Handle, error) {
	// Wanted from now on: an agent that dies in between starts it.
	if err := a.state.update(func(s *state) { s.ShouldRun = true }); err != nil {
		return runtime.Handle{}, err
	}
	if err := a.stopEngine(ctx); err != nil {
		return runtime.Handle{}, err
	}
	if err := stopped(ctx); err != nil {
		return runtime.Handle{}, err
	}
	h, err := a.startEngine(ctx)
	if err != nil {
		return h, err
	}
	if err := a.awaitReady(ctx, h); err != nil {
		return h, err
	}
	return h, a.cfg.Engine.Started(ctx)
}

// StopDB stops the engine cleanly; it stays stopped, over restarts of the agent
// too, until restart is called. A prepare in progress is given up.
func (a *Agent) StopDB(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timing.StopGrace+30*time.Second)
	defer cancel()
	a.mu.Lock()
	if a.stopPrepare != nil {
		a.stopPrepare(errStopped)
	}
	a.mu.Unlock()
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	a.setTransition(true)
	defer signal(a.kick)
	defer a.setTransition(false)
	// Not wanted from now on: an agent that dies in between does not start it.
	if err := a.state.update(func(s *state) {
		s.ShouldRun = false
		if s.Phase == phasePreparing {
			s.Phase, s.Prepare, s.Failure = phaseFailed, nil, errStopped.Error()
		}
	}); err != nil {
		return err
	}
	if err := a.stopEngine(ctx); err != nil {
		return err
	}
	switch a.state.get().Phase {
	case phasePrepared:
		a.pulse.set(ctx, trove.ServiceShutdown, nil)
	case phaseFailed:
		a.pulse.set(ctx, trove.ServiceFailed, nil)
	}
	a.log.InfoContext(ctx, "engine stopped")
	return nil
}

// beginPrepared takes ops for an operation that needs a prepared instance.
func (a *Agent) beginPrepared(ctx context.Context) error {
	if err := a.lock(ctx); err != nil {
		return err
	}
	if s := a.state.get(); s.Phase != phasePrepared {
		a.unlock()
		return errNotPrepared()
	}
	return nil
}

func errNotPrepared() error {
	return trove.Errorf(trove.KindUnprocessable, "The instance is not prepared yet.")
}

// withLogTail adds the end of the server's log to an error's action, where the
// cause is.
func (a *Agent) withLogTail(err error) error {
	tail := a.cfg.Engine.LogTail()
	if tail == "" {
		return err
	}
	return &trove.Error{Kind: trove.KindOf(err), Message: err.Error(), Err: err,
		Action: "The end of the server's log:\n" + tail}
}
