package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/durable"
)

const (
	// templatesName is the directory of data directories to copy from.
	templatesName = "templates"
	// templateWait bounds building one on a slow disk.
	templateWait = 10 * time.Minute
	// templateNice lets everything else have the processor first.
	templateNice = 10
	// templateStop is how long a build that is told to stop may take to clean up.
	templateStop = 5 * time.Second
)

// templateCommand is the command that builds a template, or, unless ready is
// negative, has as many copies of it ready. Its output is where they are.
type templateCommand func(ctx context.Context, ready int) *exec.Cmd

// templateCommands are the commands for each engine's newest version, which is
// its default. engines are in any order.
func templateCommands(engines []found, agent, dir string, u *local.User) []templateCommand {
	newest := map[string]string{}
	for _, e := range engines {
		if v, ok := newest[e.Manager]; !ok || compareVersions(e.Version, v) > 0 {
			newest[e.Manager] = e.Version
		}
	}
	var out []templateCommand
	for _, e := range engines {
		if newest[e.Manager] != e.Version {
			continue
		}
		delete(newest, e.Manager)
		out = append(out, func(ctx context.Context, ready int) *exec.Cmd {
			args := []string{"template", "--manager", e.Manager, "--engine-version", e.Version, "--template-dir", dir}
			args = append(args, e.TemplateArgs...)
			if ready >= 0 {
				args = append(args, "--ready", strconv.Itoa(ready))
			}
			return agentCommand(ctx, u, agent, args...)
		})
	}
	return out
}

// keepTemplates builds what is missing, one after the other, so that the first
// instance need not wait for it, and then keeps ready copies until ctx ends.
// Nothing depends on it: an agent that finds no template builds it, and waits if
// it is being built here; one that finds no ready copy makes its own.
func keepTemplates(ctx context.Context, commands []templateCommand, ready int, log *slog.Logger) error {
	for _, command := range commands {
		if _, err := runTemplate(ctx, command, -1); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "a template was not built: the first instance of its engine builds it", "error", err)
		}
	}
	var shelves []*shelf
	for _, command := range commands {
		shelves = append(shelves, &shelf{want: ready, refill: func(ctx context.Context) (string, error) { return runTemplate(ctx, command, ready) }})
	}
	tick := time.NewTicker(lookAtReady)
	defer tick.Stop()
	for {
		for _, s := range shelves {
			if err := s.look(ctx, time.Now()); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "data directories are not kept ready: creates take longer", "error", err)
			}
		}
		if ready == 0 {
			return nil // those that were there are gone
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// removeReady removes the ready copies of engines that are not there any more:
// the command that looks after them is run for those that are.
func removeReady(dir string, engines []found) error {
	all, err := fs.Glob(os.DirFS(dir), "*.ready") // the path of dir is no pattern
	for _, ready := range all {
		manager, _, _ := strings.Cut(ready, "-")
		if !slices.ContainsFunc(engines, func(e found) bool { return e.Manager == manager }) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, ready)))
		}
	}
	return err
}

// runTemplate runs the command at low priority and gives what it says.
func runTemplate(ctx context.Context, command templateCommand, ready int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, templateWait)
	defer cancel()
	cmd := command(ctx, ready)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &limited{&out, 4096}, &limited{&errs, 4096}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = templateStop
	if err := cmd.Start(); err != nil {
		return "", err
	}
	// What it starts inherits it.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, templateNice)
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

const (
	// lookAtReady is how often ready copies are counted.
	lookAtReady = 500 * time.Millisecond
	// More than fewTaken at once are a burst, which has the machine for itself
	// for burstLength.
	fewTaken    = 2
	burstLength = 5 * time.Second
	// stockAgain is the time between tries to have more ready than there is room
	// for, or after a failure.
	stockAgain = time.Minute
	// scarceRoom is the free space, in bytes, below which the command removes
	// ready copies: half of what it leaves free when it makes some.
	scarceRoom = 2 << 30
)

// shelf holds the ready copies of one template.
type shelf struct {
	want   int
	refill func(context.Context) (dir string, err error)

	dir   string // empty: not known yet
	last  int    // how many there were
	pause time.Time
}

// look counts what is there and has what was taken made again.
func (s *shelf) look(ctx context.Context, now time.Time) error {
	n := 0
	if s.dir != "" {
		n = countReady(s.dir)
		if s.last-n > fewTaken {
			s.pause = now.Add(burstLength)
		}
		s.last = n
		free, err := durable.FreeSpace(s.dir)
		if n >= s.want && (err != nil || free >= scarceRoom) {
			return nil
		}
	}
	if now.Before(s.pause) {
		return nil
	}
	dir, err := s.refill(ctx)
	if err != nil {
		s.pause = now.Add(stockAgain)
		return err
	}
	s.dir, s.last = dir, countReady(dir)
	if s.last < s.want-fewTaken { // but for those taken meanwhile
		s.pause = now.Add(stockAgain)
	}
	return nil
}

// countReady counts those that are whole: the others' names begin with a dot.
func countReady(dir string) int {
	entries, _ := os.ReadDir(dir)
	n := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			n++
		}
	}
	return n
}
