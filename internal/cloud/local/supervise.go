package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/proc"
)

const (
	firstDelay = 200 * time.Millisecond
	maxDelay   = 30 * time.Second
	// An agent that ran this long did not fail to start.
	peace = time.Minute
	// How often consoles are looked at.
	rotateEvery = time.Minute
)

// Run keeps an agent running for each server: it takes over those that run,
// starts those that do not (all, after a power cut), and starts again those
// that end. It returns when ctx ends and leaves them running: see StopAll.
func (c *Cloud) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan string)
	watched := map[string]bool{}
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		all, err := c.servers(ctx)
		if err != nil {
			c.log.ErrorContext(ctx, "instances cannot be listed; tried again soon", "error", err)
		}
		for _, srv := range all {
			id := srv.InstanceID
			if err := c.rotate(id); err != nil {
				c.log.WarnContext(ctx, "console is not kept short", "instance_id", id, "error", err)
			}
			if watched[id] {
				continue
			}
			watched[id] = true
			wg.Go(func() {
				c.watch(ctx, id)
				select {
				case ended <- id:
				case <-ctx.Done():
				}
			})
		}
		select {
		case id := <-ended: // its server was deleted; looked again in case it was made anew
			delete(watched, id)
		case <-c.changed:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

var errDeleted = errors.New("the server was deleted")

// watch keeps one agent running until its server is deleted or ctx ends.
func (c *Cloud) watch(ctx context.Context, id string) {
	delay := firstDelay
	for {
		began := time.Now()
		h, err := c.revive(ctx, id)
		if err == nil {
			state := c.getHealth(id)
			state.running = time.Now()
			c.setHealth(id, state)
			err = h.Wait(ctx)
		}
		if ctx.Err() != nil || errors.Is(err, errDeleted) {
			return
		}
		if !c.exists(id) {
			return
		}
		if err == nil {
			err = errors.New("the guest agent ended")
		}
		failed := health{failures: c.getHealth(id).failures + 1}
		if time.Since(began) > peace {
			delay, failed.failures = firstDelay, 1
		}
		failed.fault = fmt.Sprintf("The guest agent failed %d times in a row: %v", failed.failures, err)
		c.setHealth(id, failed)
		wait := delay/2 + rand.N(delay)
		delay = min(2*delay, maxDelay)
		c.log.WarnContext(ctx, "the guest agent does not run and will be started again", "instance_id", id, "reason", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// revive finds or starts the agent of a server that still is one.
func (c *Cloud) revive(ctx context.Context, id string) (proc.Handle, error) {
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return proc.Handle{}, err
	}
	defer unlock()
	var srv server
	there, err := readJSON(c.path(id, "server.json"), &srv)
	if err != nil {
		return proc.Handle{}, err
	}
	if !there {
		return proc.Handle{}, errDeleted
	}
	return c.ensureAgent(ctx, srv)
}

func (c *Cloud) exists(id string) bool {
	_, err := os.Stat(c.path(id, "server.json"))
	return err == nil
}

// StopAll asks all agents to stop their engines and themselves, at once, and
// kills what is left when StopGrace or ctx ends. Call it when Run has returned:
// Run would start them again. The servers stay: the next Run starts them.
func (c *Cloud) StopAll(ctx context.Context) error {
	all, err := c.servers(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, srv := range all {
		wg.Go(func() { errs[i] = c.stop(ctx, srv.InstanceID) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Cloud) stop(ctx context.Context, id string) error {
	// Whoever holds the lock has an end; ctx may have ended, and what runs must
	// go nevertheless.
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.o.StopGrace+2*killLimit)
	defer cancel()
	unlock, err := c.lock(hard, id)
	if err != nil {
		return err
	}
	defer unlock()
	h, ok, err := c.findAgent(id)
	if err != nil {
		return err
	}
	if ok {
		grace, cancel := context.WithTimeout(ctx, c.o.StopGrace)
		defer cancel()
		if err := h.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if err := h.Wait(grace); err != nil {
			c.log.WarnContext(ctx, "the guest agent does not stop and is killed", "instance_id", id)
		}
	}
	// Nothing is left of an agent that stopped well. An engine whose agent is
	// away is asked itself.
	if !ok {
		if err := askAll(ctx, id, min(c.o.StopGrace, engineGrace)); err != nil {
			return err
		}
	}
	return c.killAll(hard, id)
}

// engineGrace is what an engine without an agent gets: it may be one that waits
// for its clients first.
const engineGrace = 10 * time.Second

// askAll asks the programs of an instance to stop and waits for a while.
func askAll(ctx context.Context, id string, grace time.Duration) error {
	found, err := proc.Tagged(instanceTag(id))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, p := range found {
		if p.Stat.Leader() {
			_ = p.Signal(syscall.SIGTERM) // whoever does not hear it is killed
		}
	}
	for _, p := range found {
		_ = p.Wait(ctx)
	}
	return nil
}
