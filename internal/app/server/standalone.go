package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/identity/embedded"
	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	rpcconductor "github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	rpctaskmanager "github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

const (
	// memoryLimit makes the collector work harder before the process grows
	// past what a laptop should give it.
	memoryLimit = 48 << 20

	brokerWait   = 20 * time.Second
	shutdownWait = 10 * time.Second
	// stopAgentsWithin is more than a local server's own grace.
	stopAgentsWithin = 90 * time.Second

	// bodyWait is how long the body of a request may take.
	bodyWait = 30 * time.Second

	conductorWorkers   = 4
	taskmanagerWorkers = 4
)

// standalone is every role in one process.
type standalone struct {
	c     *Config
	log   *slog.Logger
	group *lifecycle.Group

	store    *store.Store
	logins   *guestlogin.Logins
	broker   *broker.Broker
	conn     *amqp.Conn
	client   *rpc.Client
	cloud    *local.Cloud
	identity *embedded.Server
	api      *api.Server

	templates []func(context.Context) *exec.Cmd
	listeners []net.Listener
}

// runStandalone runs until ctx ends, then stops everything: agents and engines
// cleanly too.
func runStandalone(ctx context.Context, c *Config, version string, warnings []string, errs io.Writer) error {
	sayReady := readyPipe()
	debug.SetMemoryLimit(memoryLimit)
	level := "info"
	if c.Debug {
		level = "debug"
	}
	log, err := telemetry.NewLogger(errs, telemetry.Options{Level: level})
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	for _, w := range warnings {
		log.WarnContext(ctx, w)
	}
	for _, dir := range []string{c.DataDir, c.RunDir} {
		if err := ownDirectory(dir); err != nil {
			return err
		}
	}
	l, err := lock(c)
	if err != nil {
		return err
	}
	defer l.Unlock()

	s := &standalone{c: c, log: log, group: lifecycle.New(ctx, log)}
	err = s.start(ctx)
	if err == nil {
		log.InfoContext(ctx, "serving", "version", version, "api", s.apiURL(), "identity", s.identityURL(), "data", c.DataDir)
		sayReady()
		if err = s.group.Wait(ctx); err == nil {
			log.InfoContext(ctx, "stopping: guest agents and engines too")
		}
	}
	return errors.Join(err, s.stop(context.WithoutCancel(ctx)))
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

func (s *standalone) apiURL() string      { return "http://" + s.c.apiAddress() }
func (s *standalone) identityURL() string { return "http://" + s.c.identityAddress() }

// start builds the system from the bottom up. Tasks stop in the opposite order
// of their start.
func (s *standalone) start(ctx context.Context) error {
	apiListener, err := listen(ctx, s.c.apiAddress(), "[DEFAULT] bind_port", "--listen")
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, apiListener)
	identityListener, err := listen(ctx, s.c.identityAddress(), "[gotrove] identity_port", "--identity-listen")
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, identityListener)
	s.c.BindPort = apiListener.Addr().(*net.TCPAddr).Port
	s.c.IdentityPort = identityListener.Addr().(*net.TCPAddr).Port

	for _, step := range []func(context.Context) error{s.openStore, s.openCloud, s.startBus, s.startServices} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.task("log", s.keepLogShort, 0)
	s.serve("identity", identityListener, s.identity, nil)
	s.serve("api", apiListener, s.api, s.api.EndStreams)
	s.group.Go(lifecycle.Task{Name: "templates", Run: s.buildTemplates, Finite: true})
	return nil
}

func listen(ctx context.Context, address, option, flag string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, trove.Errorf(trove.KindUnavailable, "cannot listen on %s: %w", address, err).
			WithAction("free the address, or choose another with %s or %s", flag, option)
	}
	return l, nil
}

func (s *standalone) openStore(ctx context.Context) (err error) {
	if s.store, err = store.Open(ctx, store.Config{Path: s.c.path(databaseName), Log: s.log}); err != nil {
		return err
	}
	return s.store.Migrate(ctx)
}

// openCloud finds the engines and readies this machine as a cloud.
func (s *standalone) openCloud(ctx context.Context) error {
	flavors, err := s.c.flavors()
	if err != nil {
		return err
	}
	addresses, err := netip.ParsePrefix(s.c.LoopbackRange)
	if err != nil {
		return err
	}
	u, err := engineUser(s.c.EngineUser)
	if err != nil {
		return err
	}
	agent, err := installAgent(s.c)
	if err != nil {
		return err
	}
	if s.cloud, err = local.New(local.Options{DataDir: s.c.DataDir, RunDir: s.c.RunDir, Agent: agent, TemplateDir: s.c.path(templatesName),
		Flavors: flavors, Range: addresses, User: u, Log: s.log}); err != nil {
		return err
	}
	engines, err := discover(ctx, agent, u)
	if err != nil {
		return err
	}
	s.templates = templateCommands(engines, agent, s.c.path(templatesName), u)
	if len(engines) == 0 {
		s.log.WarnContext(ctx, "no database engine is installed: nothing can be created",
			"install", "apt-get install mariadb-server-core postgresql")
	}
	return registerEngines(ctx, s.store, engines, s.log)
}

// busLimits are less than the broker's own: its memory is ours, and no message
// of ours comes near them, but a guest could.
var busLimits = broker.Limits{ConnectionsPerUser: 16, MessageBytes: 4 << 20, QueueBytes: 16 << 20, TotalBytes: 64 << 20}

// startBus starts the embedded broker and connects to it, as to any broker.
func (s *standalone) startBus(ctx context.Context) error {
	key, err := s.busKey()
	if err != nil {
		return err
	}
	socket := filepath.Join(s.c.RunDir, "bus.sock")
	s.logins = guestlogin.New(key, s.c.ControlExchange, socket)
	live, err := s.store.LiveInstances(ctx)
	if err != nil {
		return err
	}
	var queues []string
	for _, i := range live {
		s.logins.Restore(i.ID)
		queues = append(queues, guest.Queues(i.ID)...)
	}
	s.broker = broker.New(broker.Options{Auth: s.logins, Logger: s.log, Limits: busLimits})
	// We hold the data directory's lock: a socket that is there is of a
	// process that is gone.
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return trove.Errorf(trove.KindUnavailable, "the bus cannot listen on %s: %w", socket, err).
			WithAction("choose a shorter or another --run-dir")
	}
	// Agents run as the engines' user.
	if err := s.admitAgents(socket); err != nil {
		l.Close()
		return err
	}
	s.group.Go(lifecycle.Task{Name: "broker", Run: func(ctx context.Context) error { return s.broker.Serve(ctx, l) }})

	if s.conn, err = amqp.New(amqp.Config{URL: s.logins.URL(guestlogin.ControlPlane).Reveal(), Name: "troved", Log: s.log}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, brokerWait)
	defer cancel()
	if err := s.conn.Ready(ctx); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	// The embedded broker starts empty; agents that outlived the last process
	// are waiting for their queues.
	if len(queues) > 0 {
		if err := rpc.DeclareQueues(ctx, s.conn, s.c.ControlExchange, queues...); err != nil {
			return fmt.Errorf("bus: %w", err)
		}
	}
	s.client = rpc.NewClient(s.conn, rpc.ClientOptions{Exchange: s.c.ControlExchange,
		ReplyExchange: guestlogin.ReplyExchange(s.c.ControlExchange), Log: s.log})
	s.task("connection", func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		return errors.Join(s.client.Close(ctx), s.conn.Close(ctx))
	}, 2*shutdownWait)
	return nil
}

// admitAgents lets the engines' user connect to the bus, and nobody else: others
// could only hold up connections, for want of a login.
func (s *standalone) admitAgents(socket string) error {
	u, err := engineUser(s.c.EngineUser)
	if err != nil {
		return err
	}
	if u == nil {
		return os.Chmod(socket, 0o600)
	}
	if err := os.Chown(socket, -1, u.GID); err != nil {
		return err
	}
	return os.Chmod(socket, 0o660)
}

// busKey is the key that logins are derived from, made on the first start.
func (s *standalone) busKey() ([]byte, error) {
	path := s.c.path("bus.key")
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		key = make([]byte, 32)
		rand.Read(key)
		return key, durable.WriteFile(path, key, 0o600)
	case err == nil && len(key) != 32:
		return nil, trove.Errorf(trove.KindInternal, "%s is damaged: %d bytes instead of 32", path, len(key))
	}
	return key, err
}

// guestQueues declares queues on our connection.
type guestQueues struct {
	conn     *amqp.Conn
	exchange string
}

func (q guestQueues) DeclareGuestQueues(ctx context.Context, names ...string) error {
	return rpc.DeclareQueues(ctx, q.conn, q.exchange, names...)
}

func (q guestQueues) DeleteQueues(ctx context.Context, names ...string) error {
	return rpc.DeleteQueues(ctx, q.conn, names...)
}

// startServices starts what works on the bus, in the order in which one needs
// the other: they stop backwards.
func (s *standalone) startServices(ctx context.Context) error {
	guests := guest.NewClient(s.client, s.c.AgentCallLow, s.c.AgentCallHigh)
	bus := guestlogin.NewBus(s.logins, guestQueues{s.conn, s.c.ControlExchange},
		func(login string) { s.broker.CloseConnections(login) })
	guestConfig, err := osloconf.Render(osloconf.Group{Name: "gotrove", Options: []osloconf.Option{
		{Name: "reply_exchange", Value: guestlogin.ReplyExchange(s.c.ControlExchange)}}})
	if err != nil {
		return err
	}
	flows := flow.New(s.store, s.cloud, guests, s.client, bus, flow.Options{UsageTimeout: s.c.UsageTimeout,
		ControlExchange: s.c.ControlExchange, GuestConfig: guestConfig, Log: s.log})
	engine, err := work.New(s.store, work.Options{Log: s.log}, flows.All()...)
	if err != nil {
		return err
	}
	// The lock on the data directory says that whoever leased work is gone.
	if err := engine.ReleaseAll(ctx); err != nil {
		return err
	}

	// Agents stop after everything that talks to them.
	s.task("agents", func(ctx context.Context) error {
		<-ctx.Done()
		return s.cloud.StopAll(context.WithoutCancel(ctx))
	}, stopAgentsWithin)
	s.task("cloud", s.cloud.Run, 0)
	s.task("work", engine.Run, 0)
	s.rpcServer("conductor", rpcconductor.Handler(conductor.NewServer(s.store, guestlogin.SpeaksFor, s.log)),
		rpc.ServerOptions{Topic: rpcconductor.Topic, Workers: conductorWorkers})
	s.rpcServer("taskmanager", rpctaskmanager.Handler(taskmanager.NewServer(engine, s.log)),
		rpc.ServerOptions{Topic: rpctaskmanager.Topic, Workers: taskmanagerWorkers})
	s.task("observer", taskmanager.NewObserver(s.store, s.cloud, 0, s.log).Run, 0)
	s.task("sweeper", taskmanager.NewSweeper(s.store, engine, 0, s.log).Run, 0)
	relay := outbox.NewRelay(s.store, s.client, s.log, nil)
	relay.Kick() // our broker has forgotten what the last process published
	s.task("outbox", relay.Run, 0)

	identityService := embedded.Service{Type: "database", Name: "trove", URL: s.apiURL() + "/v1.0/{project_id}"}
	if s.identity, err = embedded.Open(ctx, embedded.Options{Dir: s.c.path("identity"), PublicURL: s.identityURL(),
		OpenRC: s.c.path(openrcName), Region: s.c.Region, Services: []embedded.Service{identityService}, Log: s.log}); err != nil {
		return err
	}
	s.api, err = api.New(api.Config{
		PublicEndpoint: s.apiURL(), AuthURI: s.identityURL() + "/v3", Region: s.c.Region,
		DefaultDatastore: s.c.DefaultDatastore, MaxVolumeSize: s.c.MaxVolumeSize, Quotas: s.c.limits(),
		PageSize: s.c.PageSize, RatePerMinute: s.c.Rate, HeartbeatExpiry: s.c.HeartbeatExpiry,
	}, api.Deps{Store: s.store, Guest: guests, Cloud: s.cloud, Tokens: s.identity, Log: s.log})
	return err
}

// task runs for as long as the process; an end of it is the process's end.
func (s *standalone) task(name string, run func(context.Context) error, within time.Duration) {
	s.group.Go(lifecycle.Task{Name: name, Run: run, StopWithin: within})
}

func (s *standalone) rpcServer(name string, h rpc.Handler, o rpc.ServerOptions) {
	o.Exchange, o.Server, o.Fanout, o.Log = s.c.ControlExchange, "standalone", true, s.log
	server := rpc.NewServer(s.conn, h, o)
	s.task(name, func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		return server.Close(ctx)
	}, shutdownWait+time.Second)
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

// serve answers HTTP on l until the group stops.
func (s *standalone) serve(name string, l net.Listener, h http.Handler, onShutdown func()) {
	server := &http.Server{Handler: boundBodies(h, bodyWait), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	if onShutdown != nil {
		server.RegisterOnShutdown(onShutdown)
	}
	s.task(name, func(ctx context.Context) error {
		stopped := make(chan error, 1)
		stop := context.AfterFunc(ctx, func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
			defer cancel()
			stopped <- server.Shutdown(ctx)
		})
		err := server.Serve(l)
		if stop() {
			return err // it ended by itself
		}
		return <-stopped
	}, shutdownWait+time.Second)
}

// stop stops everything that was started, the last first.
func (s *standalone) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	err := s.group.Stop(ctx)
	for _, l := range s.listeners {
		l.Close() // of a start that failed half-way; else closed already
	}
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}
