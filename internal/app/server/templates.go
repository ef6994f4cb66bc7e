package server

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
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

// templateCommands are the commands that build a template of each engine's
// newest version, which is its default. engines are in any order.
func templateCommands(engines []found, agent, dir string, u *local.User) []func(context.Context) *exec.Cmd {
	newest := map[string]string{}
	for _, e := range engines {
		if v, ok := newest[e.Manager]; !ok || compareVersions(e.Version, v) > 0 {
			newest[e.Manager] = e.Version
		}
	}
	var out []func(context.Context) *exec.Cmd
	for _, e := range engines {
		if newest[e.Manager] != e.Version {
			continue
		}
		delete(newest, e.Manager)
		out = append(out, func(ctx context.Context) *exec.Cmd {
			return agentCommand(ctx, u, agent, "template", "--manager", e.Manager, "--engine-version", e.Version, "--template-dir", dir)
		})
	}
	return out
}

// buildTemplates builds what is missing, one after the other, so that the first
// instance need not wait for it. Nothing depends on it: an agent that finds no
// template builds it, and waits if it is being built here.
func buildTemplates(ctx context.Context, commands []func(context.Context) *exec.Cmd, log *slog.Logger) error {
	for _, command := range commands {
		if err := buildTemplate(ctx, command); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "a template was not built: the first instance of its engine builds it", "error", err)
		}
	}
	return nil
}

func buildTemplate(ctx context.Context, command func(context.Context) *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(ctx, templateWait)
	defer cancel()
	cmd := command(ctx)
	var errs strings.Builder
	cmd.Stderr = &limited{&errs, 4096}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = templateStop
	if err := cmd.Start(); err != nil {
		return err
	}
	// What it starts inherits it.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, templateNice)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return nil
}
