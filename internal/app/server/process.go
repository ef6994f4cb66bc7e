package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/lease"
	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	rpcconductor "github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry/health"
	"github.com/gotrove/gotrove/internal/telemetry/metrics"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

const (
	shutdownWait = 10 * time.Second

	// bodyWait is how long the body of a request may take.
	bodyWait = 30 * time.Second

	// What conductors write goes into the database in groups of those that are
	// handled at once: see package conductor.
	conductorWorkers   = 512
	taskmanagerWorkers = 4
)

// process is what every role is made of: a database, a place on the bus, and
// the services that work there. The roles differ in which of them they start,
// a standalone in where database and bus come from.
type process struct {
	name string // of the program
	c    *Config
	log  *slog.Logger
	// logFile is where log writes to; nil for the standard error.
	logFile *logFile
	// clock tells the time; tests let that of one process jump.
	clock func() time.Time
	group *lifecycle.Group

	store  *store.Store
	keys   *keyring.Ring
	conn   *amqp.Conn
	client *rpc.Client
	// caller is client within [upgrade_levels].
	caller rpc.Caller
	guests *guest.Client
	// ownLogins is whether guests have logins of their own, so that the sender
	// of a message proves something.
	ownLogins bool
	// hasRoom refuses instances that the disk has no room for; nil: it does not
	// matter here.
	hasRoom func(manager string) error

	health  *health.Checker
	metrics *metrics.Metrics // nil: not watched
	drains  bool             // a load balancer may be in front
	// cloudWatch is of the cloud; nil until there is one.
	cloudWatch *cloudWatch

	listeners []net.Listener
}

// task runs for as long as the process; an end of it is the process's end.
func (p *process) task(name string, run func(context.Context) error, within time.Duration) {
	p.group.Go(lifecycle.Task{Name: name, Run: run, StopWithin: within})
}

// openStore opens the database, what it holds sealed, and makes the keys ready
// that are in it.
func (p *process) openStore(ctx context.Context, config store.Config) error {
	keys, err := p.c.Secure.keys(ctx, p.log)
	if err != nil {
		return err
	}
	keys.TaskManagerTopic = p.c.TaskManagers
	if len(keys.Master) > 0 {
		config.Sealer = keyring.NewAtRest(keys.Master...)
	}
	if p.store, err = store.Open(ctx, config); err != nil {
		return err
	}
	p.watchStore()
	p.keys, err = keyring.New(keys, p.store, p.log, p.clock)
	return err
}

// connect goes on the bus. Roles that speak and listen there start after it and
// end before it.
func (p *process) connect(config amqp.Config, replyExchange string) (err error) {
	if p.conn, err = amqp.New(config); err != nil {
		return err
	}
	p.ownLogins = replyExchange != ""
	p.client = rpc.NewClient(p.conn, rpc.ClientOptions{Exchange: p.c.ControlExchange, ReplyExchange: replyExchange, Seal: p.keys,
		Observer: p.metrics, Log: p.log})
	p.watchBus()
	if p.caller, err = p.c.Levels.Caller(p.client, p.c.TaskManagers, p.c.Conductors); err != nil {
		return err
	}
	p.guests = guest.NewClient(p.caller, p.c.AgentCallLow, p.c.AgentCallHigh)
	p.task("connection", func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		return errors.Join(p.client.Close(ctx), p.conn.Close(ctx))
	}, 2*shutdownWait)
	return nil
}

// startConductor takes what guest agents report.
func (p *process) startConductor(senders conductor.Senders) {
	senders.Keys = p.keys
	h := rpcconductor.Handler(conductor.NewServer(p.store, senders, p.log).Observed(p.metrics))
	if p.ownLogins {
		h = conductor.Confirming(h, p.store, guest.ParseLogin, p.log)
	}
	p.rpcServer("conductor", h,
		rpc.ServerOptions{Topic: p.c.Conductors, Workers: conductorWorkers, Open: p.keys.Conductor()})
}

// startWork makes the task manager's engine of work; takeOver ends the leases
// of whoever held some, for a process that knows to be the only one.
func (p *process) startWork(ctx context.Context, c cloud.Cloud, bus flow.Bus, o flow.Options, takeOver bool) (*work.Engine, error) {
	o.UsageTimeout, o.ControlExchange, o.ConductorQueue, o.Clock, o.Log = p.c.UsageTimeout, p.c.ControlExchange, p.c.Conductors, p.clock, p.log
	o.ResizeWait, o.RevertWait = p.c.ResizeTimeout, p.c.RevertTimeout
	o.Keys, o.DefaultCIDRs = p.keys, []string{p.c.DefaultCIDR}
	flows := flow.New(p.store, p.watchedCloud(c), p.guests, p.caller, bus, o)
	engine, err := work.New(p.store, work.Options{Undo: max(10*time.Minute, o.RevertWait+time.Minute), Observer: p.metrics, Log: p.log}, flows.All()...)
	if err != nil {
		return nil, err
	}
	if takeOver {
		if err := engine.ReleaseAll(ctx); err != nil {
			return nil, err
		}
	}
	p.watchBacklog()
	p.task("work", engine.Run, 0)
	return engine, nil
}

// startTaskManager takes requests for work, and looks after what runs.
func (p *process) startTaskManager(engine *work.Engine, c cloud.Cloud) {
	h := taskmanager.NewServer(engine, p.store, p.log).Handler()
	if p.ownLogins {
		h = guest.FromControlPlane(h, true, p.log)
	}
	p.rpcServer("taskmanager", h,
		rpc.ServerOptions{Topic: p.c.TaskManagers, Workers: taskmanagerWorkers, Open: p.keys.TaskManager()})
	waiting := func(ctx context.Context) (int, error) { return rpc.Waiting(ctx, p.conn, p.c.TaskManagers) }
	observer := taskmanager.NewObserver(p.store, p.watchedCloud(c), 0, p.log)
	pruner := work.NewPruner(p.store, p.log)
	tasks := []func(context.Context) error{observer.Run, pruner.Run}
	if !p.c.Mixed {
		// What a task manager of the original works on has no row of ours: it
		// would seem lost.
		tasks = append(tasks, taskmanager.NewSweeper(p.store, engine, waiting, 0, p.log).Run,
			taskmanager.NewLeftovers(p.store, p.watchedCloud(c), p.metrics.LeftoverRemoved, p.log).Run)
	}
	// Of all task managers one does these.
	l := lease.New(p.store, "taskmanager", p.log)
	p.task("housekeeping", func(ctx context.Context) error { return l.Run(ctx, tasks...) }, 0)
}

// startRelay publishes what is in the outbox.
func (p *process) startRelay() {
	relay := outbox.NewRelay(p.store, p.caller, outbox.Options{Connected: p.conn.Connected(), MixedTaskManagers: p.c.Mixed, Observer: p.metrics, Log: p.log})
	p.task("outbox", relay.Run, 0)
}

// newAPI makes the REST API.
func (p *process) newAPI(c cloud.Cloud, tokens identity.Validator, rules *policy.Enforcer, publicEndpoint, authURI string) (*api.Server, error) {
	audit, err := p.audit()
	if err != nil {
		return nil, err
	}
	p.drains = true
	return api.New(api.Config{
		PublicEndpoint: publicEndpoint, AuthURI: authURI, Region: p.c.Region, TaskManagerTopic: p.c.TaskManagers,
		TrustForwarded: p.c.TrustForwarded, CORSOrigins: p.c.CORSOrigins,
		DefaultDatastore: p.c.DefaultDatastore, MaxVolumeSize: p.c.MaxVolumeSize, Quotas: p.c.limits(),
		PageSize: p.c.PageSize, RatePerMinute: p.c.Rate, HeartbeatExpiry: p.c.HeartbeatExpiry, ServiceType: p.c.Keystone.ServiceType,
	}, api.Deps{Store: p.store, Guest: p.guests, Cloud: p.watchedCloud(c), Tokens: tokens, Policy: rules, Room: p.hasRoom, Keys: p.keys,
		Health: p.health.Handler(false), Observer: p.metrics, Audit: audit, Clock: p.clock, Log: p.log})
}

func (p *process) rpcServer(name string, h rpc.Handler, o rpc.ServerOptions) {
	o.Exchange, o.Server, o.Fanout, o.Observer, o.Log = p.c.ControlExchange, p.c.Host, true, p.metrics, p.log
	server := rpc.NewServer(p.conn, h, p.c.RPC.Serve(p.c.Rabbit, o))
	p.task(name, func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		return server.Close(ctx)
	}, shutdownWait+time.Second)
}

func (p *process) listen(ctx context.Context, address, option, flag string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, trove.Errorf(trove.KindUnavailable, "cannot listen on %s: %w", address, err).
			WithAction("free the address, or choose another with %s or %s", flag, option)
	}
	p.listeners = append(p.listeners, l)
	return l, nil
}

// boundBodies gives every body a time to arrive in, also one that the handler
// does not read: the server itself waits for its rest before it answers.
func boundBodies(next http.Handler, within time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// It fails for a connection that is gone, which the handler finds out.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(within))
		}
		next.ServeHTTP(w, r)
	})
}

// farewell is how long a server that stops tells its clients so with each answer.
// A connection that is closed while it is idle may just be carrying the next
// request, of which the client then does not know whether it was heard. It is
// also how long, at most, a connection that was accepted last may take to send
// its request: http.Server.Shutdown drops what it reads after its begin.
const farewell = 250 * time.Millisecond

// visitors are the connections that may hold a request which is not answered.
type visitors struct {
	mu   sync.Mutex
	busy map[net.Conn]bool
}

// turned is http.Server.ConnState.
func (v *visitors) turned(c net.Conn, s http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s == http.StateNew || s == http.StateActive {
		v.busy[c] = true
	} else {
		delete(v.busy, c)
	}
}

// gone waits until there are none, but not long.
func (v *visitors) gone(atMost time.Duration) {
	enough := time.NewTimer(atMost)
	defer enough.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		v.mu.Lock()
		n := len(v.busy)
		v.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-enough.C:
			return
		}
	}
}

// serve answers HTTP on l until the group stops.
func (p *process) serve(name string, l net.Listener, h http.Handler, onShutdown func()) {
	var stopping atomic.Bool
	told := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
	v := visitors{busy: map[net.Conn]bool{}}
	server := &http.Server{Handler: boundBodies(told, bodyWait), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ConnState: v.turned, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	if onShutdown != nil {
		server.RegisterOnShutdown(onShutdown)
	}
	p.task(name, func(ctx context.Context) error {
		stopped := make(chan error, 1)
		served := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
			defer cancel()
			stopping.Store(true)
			<-time.After(farewell)
			_ = l.Close() // nobody comes any more; who has come is answered
			<-served
			v.gone(farewell)
			stopped <- server.Shutdown(ctx)
		})
		err := server.Serve(l)
		close(served)
		if stop() {
			return err // it ended by itself
		}
		return <-stopped
	}, shutdownWait+time.Second)
}

// stop stops everything that was started, the last first.
func (p *process) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	err := p.group.Stop(ctx)
	for _, l := range p.listeners {
		l.Close() // of a start that failed half-way; else closed already
	}
	if p.store != nil {
		err = errors.Join(err, p.store.Close())
	}
	return err
}
