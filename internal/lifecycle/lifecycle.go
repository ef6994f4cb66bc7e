// Package lifecycle runs the background tasks of a process: each has a name and
// takes its context from the group, and stopping goes backwards through them,
// with a deadline, so that what others need stops last.
//
// It handles no signals (cmd does) and knows no task.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Task is a background task. It runs until ctx ends; returning earlier with an
// error, or at all if it is not Finite, is a failure.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
	// Restart: a failure is logged and the task run again after a back-off
	// (jittered, from 100 ms doubling to 30 s; a minute of peace resets it).
	// Otherwise a failure brings the group down.
	Restart bool
	// Finite tasks may return nil.
	Finite bool
	// StopWithin bounds the task's stop; 0 is 10 s. A task that takes longer
	// is left behind with an error.
	StopWithin time.Duration
}

const (
	defaultStop = 10 * time.Second
	firstDelay  = 100 * time.Millisecond
	maxDelay    = 30 * time.Second
	peace       = time.Minute
)

type running struct {
	Task
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid when done is closed
}

// Group is a set of running tasks. The zero value is not usable: see New.
type Group struct {
	base context.Context // values of New's context, never cancelled
	log  *slog.Logger

	mu       sync.Mutex
	tasks    []*running
	stopping bool
	failure  error

	failed chan struct{} // closed at the first failure
}

// New makes a group. Tasks get ctx's values but not its end: Stop ends them, in
// order. log nil is slog.Default.
func New(ctx context.Context, log *slog.Logger) *Group {
	if log == nil {
		log = slog.Default()
	}
	return &Group{base: context.WithoutCancel(ctx), log: log, failed: make(chan struct{})}
}

// Go starts a task. A group that is stopping starts none and reports false.
func (g *Group) Go(t Task) bool {
	if t.StopWithin == 0 {
		t.StopWithin = defaultStop
	}
	ctx, cancel := context.WithCancel(g.base)
	r := &running{Task: t, cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		cancel()
		return false
	}
	g.tasks = append(g.tasks, r)
	go func() {
		defer close(r.done)
		defer cancel()
		r.err = g.run(ctx, t)
		if r.err != nil {
			g.fail(r.err)
		}
	}()
	return true
}

func (g *Group) run(ctx context.Context, t Task) error {
	delay := firstDelay
	for {
		began := time.Now()
		err := g.once(ctx, t)
		if ctx.Err() != nil {
			// What a task says on its way out counts only if it is not just the
			// end of its context.
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			if err != nil {
				g.log.WarnContext(ctx, "task ended with an error while stopping", "task", t.Name, "error", err)
			}
			return nil
		}
		if err == nil && t.Finite {
			return nil
		}
		if err == nil {
			err = errors.New("ended without being asked to")
		}
		err = fmt.Errorf("%s: %w", t.Name, err)
		if !t.Restart {
			return err
		}
		if time.Since(began) > peace {
			delay = firstDelay
		}
		wait := delay/2 + rand.N(delay) // half to one and a half
		g.log.ErrorContext(ctx, "task failed, will run again", "task", t.Name, "error", err, "after", wait)
		delay = min(2*delay, maxDelay)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// once makes a panic an error: one bad request must not take down the
// engines of everyone, and what restarts can be restarted.
func (g *Group) once(ctx context.Context, t Task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			g.log.ErrorContext(ctx, "task panicked", "task", t.Name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return t.Run(ctx)
}

func (g *Group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure == nil {
		g.failure = err
		close(g.failed)
	}
}

// Wait returns nil when ctx ends, or the first failure of a task. Then it is
// time for Stop.
func (g *Group) Wait(ctx context.Context) error {
	select {
	case <-g.failed:
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.failure
	case <-ctx.Done():
		return nil
	}
}

// Stop ends the tasks, the one started last first, each within its StopWithin
// and all before ctx ends. It returns an error naming the tasks that did not
// end. Stopping twice is fine.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	g.stopping = true
	tasks := append([]*running(nil), g.tasks...)
	g.mu.Unlock()
	var errs []error
	for i := len(tasks) - 1; i >= 0; i-- {
		t := tasks[i]
		t.cancel()
		timer := time.NewTimer(t.StopWithin)
		select {
		case <-t.done:
		case <-timer.C:
			errs = append(errs, fmt.Errorf("%s did not stop within %s", t.Name, t.StopWithin))
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("%s did not stop: %w", t.Name, ctx.Err()))
		}
		timer.Stop()
	}
	return errors.Join(errs...)
}
