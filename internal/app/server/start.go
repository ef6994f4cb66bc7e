package server

import (
	"context"
	"net"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/policy"
)

// openDatabase opens the database of record. Its schema is an operator's
// business: services only check that it is new enough.
func (p *process) openDatabase(ctx context.Context) error {
	config, err := p.c.Database.config()
	if err != nil {
		return err
	}
	config.Clock, config.Log = p.clock, p.log
	if err := p.openStore(ctx, config); err != nil {
		return err
	}
	if err := p.store.CheckSchema(ctx); err != nil {
		return err
	}
	return p.keys.Check(ctx, p.store)
}

// joinBus connects to the operator's broker. It does not wait for it.
func (p *process) joinBus() error {
	config, err := p.c.Rabbit.Config(p.c.TransportURL.Reveal())
	if err != nil {
		return err
	}
	config.Name, config.Log = p.name, p.log
	reply, err := p.replyExchange()
	if err != nil {
		return err
	}
	return p.connect(config, reply)
}

func startConductorRole(ctx context.Context, p *process) ([]any, error) {
	if err := p.openDatabase(ctx); err != nil {
		return nil, err
	}
	if err := p.joinBus(); err != nil {
		return nil, err
	}
	senders, err := p.senders()
	if err != nil {
		return nil, err
	}
	p.startConductor(senders)
	return nil, nil
}

func startTaskManagerRole(ctx context.Context, p *process) ([]any, error) {
	if err := p.openDatabase(ctx); err != nil {
		return nil, err
	}
	if err := p.joinBus(); err != nil {
		return nil, err
	}
	c, ready, err := p.workingCloud(ctx)
	if err != nil {
		return nil, err
	}
	bus, options, err := p.guestBus(ctx)
	if err != nil {
		return nil, err
	}
	options.Isolation = p.c.Cloud == cloudOpenStack && p.c.OpenStack.Isolation
	engine, err := p.startWork(ctx, c, bus, options, false)
	if err != nil {
		return nil, err
	}
	p.startTaskManager(engine, c)
	p.startRelay()
	ready()
	return []any{"cloud", p.c.Cloud}, nil
}

// workingCloud is where the task manager has instances run; ready begins what can
// wait until it serves.
func (p *process) workingCloud(ctx context.Context) (c cloud.Cloud, ready func(), err error) {
	if p.c.Cloud == cloudOpenStack {
		c, err := p.newOpenStack()
		return c, func() {}, err
	}
	if err := p.shareData(); err != nil {
		return nil, nil, err
	}
	m, err := p.newMachine(ctx)
	if err != nil {
		return nil, nil, err
	}
	p.task("cloud", m.cloud.Run, 0)
	return m.cloud, func() { p.startTemplates(m) }, nil
}

// shownCloud is the cloud for who asks it only what there is.
func (p *process) shownCloud() (cloud.Cloud, error) {
	if p.c.Cloud == cloudOpenStack {
		p.c.Region = p.c.OpenStack.Region
		return p.newOpenStack()
	}
	return p.newLocal("")
}

func startAPIRole(ctx context.Context, p *process) ([]any, error) {
	l, err := p.listen(ctx, p.c.apiAddress(), "[DEFAULT] bind_host", "bind_port")
	if err != nil {
		return nil, err
	}
	if err := p.openDatabase(ctx); err != nil {
		return nil, err
	}
	if err := p.joinBus(); err != nil {
		return nil, err
	}
	c, err := p.shownCloud()
	if err != nil {
		return nil, err
	}
	tokens, err := p.keystone()
	if err != nil {
		return nil, err
	}
	rules, err := policy.Open(ctx, p.c.Policy.config(p.c.places, p.log))
	if err != nil {
		return nil, err
	}
	a, err := p.newAPI(c, tokens, rules, p.c.PublicEndpoint, p.c.Keystone.publicURI())
	if err != nil {
		return nil, err
	}
	p.startRelay()
	p.serve("api", l, a, a.EndStreams)
	return []any{"address", l.Addr().(*net.TCPAddr).String()}, nil
}

// keystone checks tokens at the operator's Keystone. It does not wait for it.
func (p *process) keystone() (*keystone.Validator, error) {
	o, err := p.c.Keystone.config(p.log)
	if err != nil {
		return nil, err
	}
	o.Now = p.clock
	v, err := keystone.New(o)
	if err != nil {
		return nil, err
	}
	p.watchKeystone(v)
	p.task("keystone", func(ctx context.Context) error {
		<-ctx.Done()
		v.Close()
		return nil
	}, 0)
	return v, nil
}
