package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
	// How often servers are looked for that another process made.
	lookEvery = 500 * time.Millisecond
)

// Run keeps an agent running for each server: it takes over those that run,
// starts those that do not (all, after a power cut), and starts again those
// that end. Of all processes on the data directory one does so at a time; the
// others wait until it ends. Run returns when ctx ends and leaves the agents
// running: see StopAll.
func (c *Cloud) Run(ctx context.Context) error {
	unlock, err := c.lockFile(ctx, supervisorLock)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan string)
	watched := map[string]bool{}
	look, rotate := time.NewTicker(lookEvery), time.NewTicker(rotateEvery)
	defer look.Stop()
	defer rotate.Stop()
	troubled := false
	for {
		entries, err := os.ReadDir(filepath.Join(c.o.DataDir, "instances"))
		if err != nil && !troubled {
			c.log.ErrorContext(ctx, "instances cannot be listed; tried again", "error", err)
		}
		troubled = err != nil
		for _, e := range entries {
			id := e.Name()
			if watched[id] || !c.exists(id) {
				continue
			}
			watched[id] = true
			c.shorten(ctx, id)
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
		case <-look.C:
		case <-rotate.C:
			for id := range watched {
				c.shorten(ctx, id)
			}
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
			c.note(ctx, id, func(was health) health {
				was.Running = time.Now()
				return was
			})
			err = h.Wait(ctx)
		}
		if ctx.Err() != nil || errors.Is(err, errDeleted) {
			return
		}
		if !c.exists(id) {
			return
		}
		if err == nil && time.Since(began) > firstDelay && c.moved(id) {
			continue // whoever moves it starts it again
		}
		if err == nil {
			err = errors.New("the guest agent ended")
		}
		long := time.Since(began) > peace
		if long {
			delay = firstDelay
		}
		c.note(ctx, id, func(was health) health {
			failed := health{Failures: was.Failures + 1}
			if long {
				failed.Failures = 1
			}
			failed.Fault = fmt.Sprintf("The guest agent failed %d times in a row: %v", failed.Failures, err)
			return failed
		})
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

// moved reports whether the server is on its way to another flavor: its agent
// was told to end.
func (c *Cloud) moved(id string) bool {
	var srv server
	_, err := readJSON(c.path(id, "server.json"), &srv)
	return err == nil && (srv.Resize == resizing || srv.Resize == reverting)
}

// shorten keeps an instance's console short.
func (c *Cloud) shorten(ctx context.Context, id string) {
	if err := c.rotate(id); err != nil {
		c.log.WarnContext(ctx, "console is not kept short", "instance_id", id, "error", err)
	}
}

// note changes the health of a server that still is one.
func (c *Cloud) note(ctx context.Context, id string, change func(health) health) {
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	was := c.getHealth(id)
	if now := change(was); c.exists(id) && (was.Failures > 0 || now.Failures > 0) {
		c.setHealth(ctx, id, now)
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
// Run would start them again. The servers stay: the next Run starts them. Only
// who has the data directory to itself may call it: another process's Run would
// start them again as well.
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
	return c.stopHeld(ctx, id)
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
