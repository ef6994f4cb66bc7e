// Package docker runs an engine's server as a container of the Docker on this
// machine, from the engine's official image or one with the same programs.
//
// A container is labelled and named with its instance and program, so that an
// agent that was killed finds it and Docker itself refuses a second one. It sees
// the directories it is given, at the same paths, runs as the agent's own user
// without any capability, and writes its log as a plain process does. Its image's
// entry point is not used: engines initialise their data themselves, by the
// programs of the image (Run), and no secret is ever in an environment or on a
// command line, where Docker would show it.
//
// Whether a program runs the kernel tells, by its pid, and not the daemon: a
// daemon that is away or restarted ends no program that goes on. What has ended
// Docker is asked about. The package knows nothing of any engine.
package docker

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/usernet"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Name is the runtime's name in handles.
const Name = "docker"

// Socket is where Docker listens by default.
const Socket = "/run/docker.sock"

// Networks that need not be made. Any other name is a network of Docker's, in
// which the container has the address of the instance.
const (
	HostNetwork   = "host"   // the machine's own
	BridgeNetwork = "bridge" // Docker's, the port published at the instance's address
)

// Labels of our containers.
const (
	labelInstance = "org.gotrove.instance"
	labelProgram  = "org.gotrove.program"
	labelTool     = "org.gotrove.tool"
)

const (
	// callLimit bounds a call that makes or ends a container. On a server that was
	// just started, with an emulated processor, two minutes were not enough.
	callLimit = 5 * time.Minute
	// killWait bounds how long a killed program may take to go.
	killWait = 30 * time.Second
	// settle bounds how long Docker may take to note that a program has ended.
	settle = 10 * time.Second
	// maxEnded is how many programs are remembered whose containers are gone.
	maxEnded = 16
)

// Options say how containers run. Image is needed.
type Options struct {
	Socket string // of Docker; /run/docker.sock
	Image  string // with its tag: mariadb:10.11
	// User is uid:gid; empty: the agent's own, which must not be root.
	User string
	// Registry is whose login the next two are: that of the images whose name
	// begins with it.
	Registry, RegistryUser string
	RegistryPassword       secret.String
	Network                string // HostNetwork if empty
	Address                string // of the instance, for the other networks
	// Port is the instance's on its user's network: the container has it, and
	// nothing of Network. CardDriver is how, IPVLAN or MACVLAN; what the kernel can
	// if it is empty.
	Port       *usernet.Port
	CardDriver string
	MemoryMB   int // limit in MiB; 0: none
	// Restart has Docker itself start the program again when it ends or the
	// machine is started, unless it was stopped.
	Restart bool
	Log     *slog.Logger
}

// Runtime runs programs as containers.
type Runtime struct {
	o    Options
	api  *client.Client
	boot string

	mu    sync.Mutex // held while a container is started, so that it is not twice
	state sync.Mutex
	ended []ended // whose containers were removed
}

type ended struct {
	handle runtime.Handle
	state  runtime.State
}

var (
	_ runtime.Runtime = (*Runtime)(nil)
	_ runtime.Tools   = (*Runtime)(nil)
)

// New makes a Runtime. Docker is not asked for anything yet.
func New(o Options) (*Runtime, error) {
	if o.Image == "" {
		return nil, trove.Errorf(trove.KindBadRequest, "a container needs an image")
	}
	if o.Socket == "" {
		o.Socket = Socket
	}
	if o.Network == "" {
		o.Network = HostNetwork
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.User == "" {
		if os.Geteuid() == 0 {
			return nil, trove.Errorf(trove.KindBadRequest, "no engine runs as root, in a container either").
				WithAction("Run trove-guestagent as an ordinary user who is in the group of Docker's socket %s.", o.Socket)
		}
		o.User = strconv.Itoa(os.Geteuid()) + ":" + strconv.Itoa(os.Getegid())
	}
	if err := o.checkCard(); err != nil {
		return nil, err
	}
	boot, err := proc.BootID()
	if err != nil {
		return nil, err
	}
	api, err := connect(o.Socket)
	if err != nil {
		return nil, err
	}
	return &Runtime{o: o, api: api, boot: boot}, nil
}

func connect(socket string) (*client.Client, error) {
	api, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "Docker's socket %s: %w", socket, err)
	}
	return api, nil
}

// Close lets go of the connections to Docker.
func (r *Runtime) Close() error { return r.api.Close() }

// explain words what Docker said to doing something.
func (r *Runtime) explain(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		// Whoever asked an agent for it may ask again.
		return &trove.Error{Kind: trove.KindGuestTimeout, Message: doing + ": Docker took too long.", Err: ctx.Err()}
	case ctx.Err() != nil:
		return ctx.Err()
	case client.IsErrConnectionFailed(err):
		return trove.Errorf(trove.KindUnavailable, "%s: Docker does not answer on %s: %w", doing, r.o.Socket, err).
			WithAction("Start Docker (systemctl start docker), and let the agent's user (uid %d) write to %s: it belongs in that file's group.", os.Geteuid(), r.o.Socket)
	}
	return trove.Errorf(trove.KindGuest, "%s: %w", doing, err)
}

func gone(err error) bool { return errdefs.IsNotFound(err) }

// check refuses handles of other runtimes.
func check(h runtime.Handle) error {
	if h.Runtime != Name {
		return trove.Errorf(trove.KindInternal, "a handle of runtime %q came to runtime %q", h.Runtime, Name)
	}
	return nil
}

// process is the container's first process as the kernel knows it.
func process(h runtime.Handle) proc.Handle {
	return proc.Handle{PID: h.PID, StartTime: h.StartTime, BootID: h.BootID}
}

func checkSpec(s runtime.Spec) error {
	if s.InstanceID == "" || s.Name == "" || strings.ContainsRune(s.InstanceID+s.Name, 0) {
		return trove.Errorf(trove.KindInternal, "a program needs an instance and a name, it has %q and %q", s.InstanceID, s.Name)
	}
	return nil
}
