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
// negative, makes one copy of it more if fewer are ready. Its output is where
// they are.
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
				args = append(args, "--ready", strconv.Itoa(ready), "--most", "1")
			}
			return agentCommand(ctx, u, agent, args...)
		})
	}
	return out
}

// keepTemplates builds what is missing, one after the other, so that the first
// instance need not wait for it, and then keeps ready copies until ctx ends, made
// when the machine is not busy.
// Nothing depends on it: an agent that finds no template builds it, and waits if
// it is being built here; one that finds no ready copy makes its own.
func keepTemplates(ctx context.Context, commands []templateCommand, ready int, busy func(context.Context) bool, log *slog.Logger) error {
	for _, command := range commands {
		if _, err := runTemplate(ctx, command, -1); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "a template was not built: the first instance of its engine builds it", "error", err)
		}
	}
	var shelves []*shelf
	for _, command := range commands {
		shelves = append(shelves, &shelf{want: ready, busy: busy, refill: func(ctx context.Context) (string, error) { return runTemplate(ctx, command, ready) }})
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
	// More pieces of work than fewBusy that are under way are a burst, which has
	// the machine for itself.
	fewBusy = 2
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
	refill func(context.Context) (dir string, err error) // by one
	busy   func(context.Context) bool

	dir   string // empty: not known yet
	pause time.Time
}

// look counts what is there and has what was taken made again, one after the
// other: nothing of it is under way for long when a burst begins.
func (s *shelf) look(ctx context.Context, now time.Time) error {
	for !now.Before(s.pause) && ctx.Err() == nil {
		var before []string
		if s.dir != "" {
			before = readyIn(s.dir)
			free, err := durable.FreeSpace(s.dir)
			if len(before) >= s.want && (err != nil || free >= scarceRoom) {
				return nil
			}
			if s.busy(ctx) {
				return nil
			}
		}
		dir, err := s.refill(ctx)
		if err != nil {
			s.pause = now.Add(stockAgain)
			return err
		}
		s.dir = dir
		if !slices.ContainsFunc(readyIn(dir), func(name string) bool { return !slices.Contains(before, name) }) {
			s.pause = now.Add(stockAgain) // there is no room for more
		}
	}
	return nil
}

// readyIn gives the names of those that are whole: the others' begin with a dot.
func readyIn(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}
