package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/identity/embedded"
	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager/flow"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// memoryLimit makes the collector work harder before the process grows
	// past what a laptop should give it.
	memoryLimit = 48 << 20

	brokerWait = 20 * time.Second
	// stopAgentsWithin is more than a local server's own grace.
	stopAgentsWithin = 90 * time.Second
)

// standalone is every role in one process.
type standalone struct {
	process

	room     *room
	logins   *guestlogin.Logins
	broker   *broker.Broker
	machine  *machine
	identity *embedded.Server
	api      *api.Server
}

// runStandalone runs until ctx ends, then stops everything: agents and engines
// cleanly too.
func runStandalone(ctx context.Context, c *Config, version string, warnings []osloconf.Warning, errs io.Writer) error {
	sayReady := readyPipe()
	debug.SetMemoryLimit(memoryLimit)
	p, err := newProcess(ctx, standaloneProgram, c, warnings, errs)
	if err != nil {
		return err
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

	s := &standalone{process: *p}
	return run(ctx, &s.process, version, s.start, sayReady)
}

func (s *standalone) apiURL() string      { return "http://" + s.c.apiAddress() }
func (s *standalone) identityURL() string { return "http://" + s.c.identityAddress() }

// start builds the system from the bottom up. Tasks stop in the opposite order
// of their start.
func (s *standalone) start(ctx context.Context) ([]any, error) {
	apiListener, err := s.listen(ctx, s.c.apiAddress(), "[DEFAULT] bind_port", "--listen")
	if err != nil {
		return nil, err
	}
	identityListener, err := s.listen(ctx, s.c.identityAddress(), "[gotrove] identity_port", "--identity-listen")
	if err != nil {
		return nil, err
	}
	s.c.BindPort = apiListener.Addr().(*net.TCPAddr).Port
	s.c.IdentityPort = identityListener.Addr().(*net.TCPAddr).Port

	for _, step := range []func(context.Context) error{s.openStore, s.openMachine, s.startBus, s.startServices} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	s.task("log", s.keepLogShort, 0)
	s.task("room", s.room.keep, 0)
	s.serve("identity", identityListener, s.identity, nil)
	s.serve("api", apiListener, s.api, s.api.EndStreams)
	s.startTemplates(s.machine)
	return []any{"api", s.apiURL(), "identity", s.identityURL(), "data", s.c.DataDir}, nil
}

func (s *standalone) openStore(ctx context.Context) (err error) {
	if s.room, err = openRoom(s.c.DataDir, s.log); err != nil {
		return err
	}
	s.hasRoom = s.room.check
	if err := s.c.Secure.makeUp(s.c.path(keysName)); err != nil {
		return err
	}
	config := store.Config{Path: s.c.path(databaseName), Clock: s.clock, Log: s.log, MakeRoom: s.room.make}
	if err := s.process.openStore(ctx, config); err != nil {
		return err
	}
	if err := s.store.Migrate(ctx); err != nil {
		return err
	}
	return s.keys.Check(ctx, s.store)
}

func (s *standalone) openMachine(ctx context.Context) (err error) {
	s.machine, err = s.newMachine(ctx)
	return err
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
	s.logins = guestlogin.New(key, s.place(), socket)
	live, err := s.store.LiveInstances(ctx)
	if err != nil {
		return err
	}
	var queues []string
	rotated, err := s.store.RotatedCredentials(ctx)
	if err != nil {
		return err
	}
	for _, i := range live {
		c := rotated[i.ID]
		s.logins.Admit(i.ID, c.Generation)
		s.logins.Admit(i.ID, c.Last())
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

	if err := s.connect(amqp.Config{URL: s.logins.URL(guestlogin.ControlPlane).Reveal(), Name: "troved", Log: s.log},
		guestlogin.ReplyExchange(s.c.ControlExchange)); err != nil {
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

// startServices starts what works on the bus, in the order in which one needs
// the other: they stop backwards.
func (s *standalone) startServices(ctx context.Context) error {
	bus := guestlogin.NewBus(s.logins, guestlogin.NewTopology(s.conn, s.c.ControlExchange, true),
		func(login string) { s.broker.CloseConnections(login) })
	guestConfig, err := osloconf.Render(osloconf.Group{Name: "gotrove", Options: []osloconf.Option{
		{Name: "reply_exchange", Value: guestlogin.ReplyExchange(s.c.ControlExchange)}}})
	if err != nil {
		return err
	}
	// Agents stop after everything that talks to them.
	s.task("agents", func(ctx context.Context) error {
		<-ctx.Done()
		return s.machine.cloud.StopAll(context.WithoutCancel(ctx))
	}, stopAgentsWithin)
	s.task("cloud", s.machine.cloud.Run, 0)
	// The lock on the data directory says that whoever leased work is gone.
	engine, err := s.startWork(ctx, s.machine.cloud, bus, flow.Options{GuestConfig: guestConfig}, true)
	if err != nil {
		return err
	}
	s.startConductor(conductor.Senders{GuestOf: guestlogin.SpeaksFor,
		ControlPlane: func(login string) bool { return login == guestlogin.ControlPlane }})
	s.startTaskManager(engine, s.machine.cloud)
	s.startRelay()

	identityService := embedded.Service{Type: "database", Name: "trove", URL: s.apiURL() + "/v1.0/{project_id}"}
	if s.identity, err = embedded.Open(ctx, embedded.Options{Dir: s.c.path("identity"), PublicURL: s.identityURL(),
		OpenRC: s.c.path(openrcName), Region: s.c.Region, Services: []embedded.Service{identityService}, Log: s.log}); err != nil {
		return err
	}
	s.api, err = s.newAPI(s.machine.cloud, s.identity, nil, s.apiURL(), s.identityURL()+"/v3")
	return err
}
