package server

import (
	"context"
	"net/netip"
	"os"
	"syscall"

	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/trove"
)

// machine is this machine as a cloud, and the templates of its engines.
type machine struct {
	cloud     *local.Cloud
	templates []templateCommand
}

// ownDirectory makes a directory that others may only pass through, as the
// engines' user must. One that somebody else could have prepared is refused: the
// run directory may be in /tmp, and the bus is in it.
func ownDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return trove.Errorf(trove.KindUnavailable, "%w", durable.Explain(err))
	}
	st, err := os.Stat(dir) // a link of the owner's to a larger disk is fine
	if err != nil {
		return trove.Errorf(trove.KindUnavailable, "%w", durable.Explain(err))
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case !st.IsDir():
		return trove.Errorf(trove.KindBadRequest, "%s is not a directory", dir)
	case int(owner) != os.Geteuid():
		return trove.Errorf(trove.KindForbidden, "%s belongs to another user (uid %d)", dir, owner).
			WithAction("remove it, or choose another with --data-dir or --run-dir")
	case st.Mode().Perm()&0o022 != 0:
		return trove.Errorf(trove.KindForbidden, "%s can be written by others (mode %04o)", dir, st.Mode().Perm()).
			WithAction("chmod go-w %s", dir)
	}
	return nil
}

// newLocal is this machine as a cloud; it starts nothing.
func (p *process) newLocal(agent string) (*local.Cloud, error) {
	flavors, err := p.c.flavors()
	if err != nil {
		return nil, err
	}
	addresses, err := netip.ParsePrefix(p.c.LoopbackRange)
	if err != nil {
		return nil, err
	}
	u, err := p.c.agentsUser()
	if err != nil {
		return nil, err
	}
	return local.New(local.Options{DataDir: p.c.DataDir, RunDir: p.c.RunDir, Agent: agent, TemplateDir: p.c.path(templatesName),
		Flavors: flavors, Range: addresses, User: u, DockerSocket: p.c.Engines.socket(), Log: p.log})
}

// newMachine readies this machine as a cloud: it finds the engines and makes
// their versions known.
func (p *process) newMachine(ctx context.Context) (*machine, error) {
	for _, dir := range []string{p.c.DataDir, p.c.RunDir} {
		if err := ownDirectory(dir); err != nil {
			return nil, err
		}
	}
	agent, err := installAgent(p.c)
	if err != nil {
		return nil, err
	}
	c, err := p.newLocal(agent)
	if err != nil {
		return nil, err
	}
	u, err := p.c.agentsUser()
	if err != nil {
		return nil, err
	}
	engines, err := discover(ctx, agent, u, &p.c.Engines)
	if err != nil {
		return nil, err
	}
	if len(engines) == 0 {
		p.log.WarnContext(ctx, "no database engine is installed: nothing can be created",
			"install", p.c.Engines.install())
	}
	if err := removeReady(p.c.path(templatesName), engines); err != nil {
		p.log.WarnContext(ctx, "data directories that are ready for an engine that is gone were not removed", "error", err)
	}
	return &machine{c, templateCommands(engines, agent, p.c.path(templatesName), u)}, registerEngines(ctx, p.store, engines, p.log)
}

// busy reports whether much is being done to instances.
func (p *process) busy(ctx context.Context) bool {
	n, err := p.store.UnfinishedWork(ctx)
	return err == nil && n > fewBusy
}

// startTemplates keeps the templates and copies of them, in the background.
func (p *process) startTemplates(m *machine) {
	p.group.Go(lifecycle.Task{Name: "templates", Run: func(ctx context.Context) error { return keepTemplates(ctx, m.templates, p.c.Ready, p.busy, p.log) }, Finite: true})
}
