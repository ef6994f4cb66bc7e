package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// Start runs the program, or returns the handle of the one that runs. What an
// earlier one left is removed first; of its processes none is left, since they
// end with the first.
func (r *Runtime) Start(ctx context.Context, s runtime.Spec) (runtime.Handle, error) {
	if err := checkSpec(s); err != nil {
		return runtime.Handle{}, err
	}
	if len(s.Argv) == 0 {
		return runtime.Handle{}, trove.Errorf(trove.KindInternal, "program %s has no command", s.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	unlock, err := lockDir(ctx, s.Dir)
	if err != nil {
		return runtime.Handle{}, err
	}
	defer unlock()
	for {
		found, err := r.list(ctx, s)
		if err != nil {
			return runtime.Handle{}, err
		}
		for _, c := range found {
			if h, ok, err := r.running(ctx, c); ok || err != nil {
				return h, err
			}
		}
		for _, c := range found {
			if err := r.remove(ctx, c); err != nil {
				return runtime.Handle{}, err
			}
		}
		h, err := r.start(ctx, s)
		if !errors.Is(err, errTaken) {
			return h, err
		}
		// Docker is still removing what had the name, or it is somebody else's.
		if err := nap(ctx, 50*time.Millisecond); err != nil {
			return h, errTaken
		}
	}
}

// lockDir keeps other agents from starting the program meanwhile: a container that
// was made and not yet started is to them as one that an agent left behind. The
// lock goes with the process.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, trove.Errorf(trove.KindGuest, "directory of the container: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nap(ctx, 20*time.Millisecond)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
}

func nap(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// name is the container's, of which there can be only one.
func name(s runtime.Spec) string { return "gotrove-" + s.InstanceID + "-" + s.Name }

var errTaken = trove.Errorf(trove.KindConflict, "another container has the name of this instance's").
	WithAction("docker ps -a shows it: remove it if it is not in use.")

// list gives the program's containers, whatever they do.
func (r *Runtime) list(ctx context.Context, s runtime.Spec) ([]string, error) {
	found, err := r.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.
		Add("label", labelInstance+"="+s.InstanceID, labelProgram+"="+s.Name)})
	if err != nil {
		return nil, r.explain(ctx, "look for containers of "+s.Name, err)
	}
	var ids []string
	for _, c := range found.Items {
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// running gives the handle of a container that runs.
func (r *Runtime) running(ctx context.Context, id string) (h runtime.Handle, ok bool, err error) {
	c, err := r.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if gone(err) {
		return h, false, nil
	}
	if err != nil {
		return h, false, r.explain(ctx, "look at container "+short(id), err)
	}
	st := c.Container.State
	if st == nil || !st.Running || st.Restarting || st.Pid == 0 {
		return h, false, nil
	}
	h = r.handle(id, st.Pid)
	// It may have ended since, with Docker yet to note it.
	return h, process(h).Running(), nil
}

// handle names this one run of a container.
func (r *Runtime) handle(id string, pid int) runtime.Handle {
	h := runtime.Handle{Runtime: Name, Container: id, PID: pid, BootID: r.boot}
	if st, err := proc.ReadStat(pid); err == nil {
		h.StartTime = st.StartTime
	}
	return h
}

func short(id string) string { return id[:min(12, len(id))] }

// start makes the container and starts it; none stays if it cannot.
func (r *Runtime) start(ctx context.Context, s runtime.Spec) (h runtime.Handle, err error) {
	if err := openLog(s.LogFile); err != nil {
		return h, trove.Errorf(trove.KindGuest, "log of %s cannot be opened: %w", s.Name, err)
	}
	options, err := r.options(s)
	if err != nil {
		return h, err
	}
	if r.o.Port != nil {
		if err := r.ensureCard(ctx, s.InstanceID); err != nil {
			return h, err
		}
	}
	made, err := r.create(ctx, options)
	if gone(err) { // the image has gone
		if err := r.Fetch(ctx, nil); err != nil {
			return h, err
		}
		made, err = r.create(ctx, options)
	}
	if errdefs.IsConflict(err) {
		return h, errTaken
	}
	if err != nil {
		return h, r.explain(ctx, "make a container of image "+r.o.Image, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove(context.WithoutCancel(ctx), made))
			if r.o.Port != nil {
				// Docker's driver forgets one whose card was not there when Docker started,
				// though Docker shows it.
				err = errors.Join(err, r.removeCardNetwork(context.WithoutCancel(ctx), s.InstanceID))
			}
		}
	}()
	if path := s.Argv[0]; filepath.IsAbs(path) {
		// The shell that opens the log would only say so in the log.
		_, err := r.api.ContainerStatPath(ctx, made, client.ContainerStatPathOptions{Path: path})
		if gone(err) {
			return h, trove.Errorf(trove.KindGuest, "program %s is not in image %s", path, r.o.Image)
		}
		if err != nil {
			return h, r.explain(ctx, "look for "+path, err)
		}
	}
	if _, err := r.api.ContainerStart(ctx, made, client.ContainerStartOptions{}); err != nil {
		return h, r.explain(ctx, "start container of "+s.Name, err)
	}
	c, err := r.api.ContainerInspect(ctx, made, client.ContainerInspectOptions{})
	if err != nil {
		return h, r.explain(ctx, "look at container of "+s.Name, err)
	}
	return r.handle(made, c.Container.State.Pid), nil
}

// openLog makes the log if it is not there: the container opens it by its path.
func openLog(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// intoLog appends what a program writes to the log, as a plain process does, and
// is gone.
const intoLog = `exec "$@" >>"$GOTROVE_LOG" 2>&1`

// Docker's own health check, for people who look at it: the agent asks the
// engine itself.
const (
	healthInterval = 10 * time.Second
	healthTimeout  = 5 * time.Second
	healthRetries  = 3
	healthStart    = 10 * time.Second
)

func (r *Runtime) options(s runtime.Spec) (client.ContainerCreateOptions, error) {
	none := client.ContainerCreateOptions{}
	log := s.LogFile
	if log == "" {
		log = os.DevNull
	}
	c := &container.Config{
		Image: r.o.Image, User: r.o.User, WorkingDir: s.Dir, StopSignal: signalName(s.StopSignal),
		Env: append([]string{"GOTROVE_INSTANCE=" + s.InstanceID, "GOTROVE_PROGRAM=" + s.Name, "GOTROVE_LOG=" + log}, s.Env...),
		// Cmd holds what Docker would otherwise take of the image.
		Entrypoint: []string{"/bin/sh", "-c", intoLog, "sh"}, Cmd: s.Argv,
		Labels: map[string]string{labelInstance: s.InstanceID, labelProgram: s.Name},
		// One of the image's may want a secret in its environment.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	if len(s.Health) > 0 {
		c.Healthcheck = &container.HealthConfig{Test: append([]string{"CMD"}, s.Health...), Interval: healthInterval,
			Timeout: healthTimeout, Retries: healthRetries, StartPeriod: healthStart}
	}
	dirs := append([]string{s.Dir}, s.Dirs...)
	if s.LogFile != "" {
		dirs = append(dirs, filepath.Dir(s.LogFile))
	}
	h := r.hostConfig(dirs)
	h.Memory, h.MemorySwap = memoryLimit(r.o.MemoryMB)
	h.ShmSize = max(64, int64(r.o.MemoryMB)/4) << 20 // PostgreSQL's workers share memory there
	// Docker starts nothing by itself on a card: that may have another name when the
	// machine has started, and the network be on the wrong one. The agent looks.
	if r.o.Restart && r.o.Port == nil {
		h.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}
	}
	net, err := r.network(s, c, h)
	if err != nil {
		return none, err
	}
	return client.ContainerCreateOptions{Name: name(s), Config: c, HostConfig: h, NetworkingConfig: net}, nil
}

// hostConfig is what all containers have: no rights but those of the user, and
// the directories.
func (r *Runtime) hostConfig(dirs []string) *container.HostConfig {
	h := &container.HostConfig{
		CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		LogConfig: container.LogConfig{Type: "none"},
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if dir != "" {
			h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: dir, Target: dir})
		}
	}
	return h
}

// reserve is what the rest of a machine needs beside its only container, MiB.
const reserve = 64

// memoryLimit is in bytes; swap is none beyond it. A machine with no more memory
// than the flavor keeps some for the agent and Docker: memory that runs out is
// to end the engine, and not them.
func memoryLimit(mb int) (memory, withSwap int64) {
	if mb <= 0 {
		return 0, 0
	}
	var si syscall.Sysinfo_t
	if syscall.Sysinfo(&si) == nil {
		if total := int(uint64(si.Totalram) * uint64(si.Unit) >> 20); total > 4*reserve {
			mb = min(mb, total-reserve)
		}
	}
	return int64(mb) << 20, int64(mb) << 20
}

// network sets how clients reach the container.
func (r *Runtime) network(s runtime.Spec, c *container.Config, h *container.HostConfig) (*network.NetworkingConfig, error) {
	if r.o.Port != nil {
		return r.onCard(s.InstanceID, h), nil
	}
	h.NetworkMode = container.NetworkMode(r.o.Network)
	if r.o.Network == HostNetwork {
		return nil, nil
	}
	var address netip.Addr
	if r.o.Address != "" {
		var err error
		if address, err = netip.ParseAddr(r.o.Address); err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "the instance's address: %w", err)
		}
	}
	if r.o.Network == BridgeNetwork {
		if s.Port == 0 {
			return nil, nil
		}
		port, _ := network.PortFrom(uint16(s.Port), network.TCP)
		c.ExposedPorts = network.PortSet{port: {}}
		h.PortBindings = network.PortMap{port: {{HostIP: address, HostPort: port.Port()}}}
		return nil, nil
	}
	end := &network.EndpointSettings{}
	if address.IsValid() {
		end.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: address}
		if address.Is6() {
			end.IPAMConfig = &network.EndpointIPAMConfig{IPv6Address: address}
		}
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{r.o.Network: end}}, nil
}

// Find looks for the running container of the program.
func (r *Runtime) Find(ctx context.Context, s runtime.Spec) (runtime.Handle, bool, error) {
	if err := checkSpec(s); err != nil {
		return runtime.Handle{}, false, err
	}
	found, err := r.list(ctx, s)
	if err != nil {
		return runtime.Handle{}, false, err
	}
	for _, id := range found {
		if h, ok, err := r.running(ctx, id); ok || err != nil {
			return h, ok, err
		}
	}
	return runtime.Handle{}, false, nil
}

// State tells whether the program runs and, as long as Docker or this Runtime
// knows, how it ended.
func (r *Runtime) State(ctx context.Context, h runtime.Handle) (runtime.State, error) {
	if err := check(h); err != nil {
		return runtime.State{}, err
	}
	if process(h).Running() {
		return runtime.State{Running: true, ExitCode: -1}, nil
	}
	return r.how(ctx, h), ctx.Err()
}

// how tells how a program ended. What Docker does not tell is not known: that it
// has ended is.
func (r *Runtime) how(ctx context.Context, h runtime.Handle) runtime.State {
	if st, ok := r.remembered(h); ok {
		return st
	}
	if h.BootID != r.boot {
		return runtime.State{ExitCode: -1, Detail: "the machine has been restarted since"}
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		c, err := r.api.ContainerInspect(ctx, h.Container, client.ContainerInspectOptions{})
		switch st := c.Container.State; {
		case gone(err):
			return runtime.State{ExitCode: -1, Detail: "its container was removed"}
		case err != nil:
			return runtime.State{ExitCode: -1, Detail: "Docker does not tell how it ended"}
		case st.Pid != 0 && st.Pid == h.PID: // the kernel knows better, Docker will
			if nap(ctx, 20*time.Millisecond) != nil {
				return runtime.State{ExitCode: -1}
			}
		case st.Running && !st.Restarting:
			return runtime.State{ExitCode: -1, Detail: "Docker has started it again since"}
		default:
			return endState(st)
		}
	}
}

// endState tells how a container ended. A shell's exit codes above 128, which
// are Docker's too, name the signal.
func endState(st *container.State) runtime.State {
	const signalled = 128
	switch {
	case st.OOMKilled:
		return runtime.State{ExitCode: -1, Detail: "killed by the kernel for want of memory"}
	case st.ExitCode > signalled && st.ExitCode <= signalled+64:
		sig := syscall.Signal(st.ExitCode - signalled)
		return runtime.State{ExitCode: -1, Detail: fmt.Sprintf("ended by signal %d (%s)", sig, sig)}
	case st.Error != "":
		return runtime.State{ExitCode: st.ExitCode, Detail: fmt.Sprintf("ended with exit code %d: %s", st.ExitCode, st.Error)}
	}
	return runtime.State{ExitCode: st.ExitCode, Detail: fmt.Sprintf("ended with exit code %d", st.ExitCode)}
}

// Wait returns when the program has ended, or with ctx's error. It needs no
// Docker to do so.
func (r *Runtime) Wait(ctx context.Context, h runtime.Handle) (runtime.State, error) {
	if err := check(h); err != nil {
		return runtime.State{}, err
	}
	if err := process(h).Wait(ctx); err != nil {
		return runtime.State{}, err
	}
	return r.State(ctx, h)
}

// Stop asks the program to stop and, after grace, kills it with all it started.
// Its container is removed. A program that does not run is no error.
func (r *Runtime) Stop(ctx context.Context, h runtime.Handle, sig os.Signal, grace time.Duration) error {
	if err := check(h); err != nil {
		return err
	}
	if !process(h).Running() {
		return r.drop(ctx, h)
	}
	if r.o.Restart {
		// Or Docker would start again what we stop.
		_, err := r.api.ContainerUpdate(ctx, h.Container, client.ContainerUpdateOptions{
			RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyDisabled}})
		if err != nil && !gone(err) {
			return r.explain(ctx, "stop container "+short(h.Container), err)
		}
	}
	if sig == nil {
		sig = syscall.SIGTERM
	}
	for _, s := range []struct {
		signal os.Signal
		wait   time.Duration
	}{{sig, grace}, {syscall.SIGKILL, killWait}} {
		if err := r.signal(ctx, h, s.signal); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, s.wait)
		err := process(h).Wait(wait)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return r.drop(ctx, h)
		}
	}
	return trove.Errorf(trove.KindGuest, "container %s does not end", short(h.Container))
}

// signal sends a signal to the first process: itself where it may, and else by
// Docker.
func (r *Runtime) signal(ctx context.Context, h runtime.Handle, sig os.Signal) error {
	err := process(h).Signal(sig)
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	_, err = r.api.ContainerKill(ctx, h.Container, client.ContainerKillOptions{Signal: signalName(sig)})
	if err != nil && !gone(err) && !errdefs.IsConflict(err) && process(h).Running() {
		return r.explain(ctx, "stop container "+short(h.Container), err)
	}
	return nil
}

func signalName(s os.Signal) string {
	if n, ok := s.(syscall.Signal); ok {
		return fmt.Sprint(int(n))
	}
	return ""
}

// drop removes the container of a program that has ended and remembers how.
func (r *Runtime) drop(ctx context.Context, h runtime.Handle) error {
	if _, known := r.remembered(h); known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	st := r.how(ctx, h)
	c, err := r.api.ContainerInspect(ctx, h.Container, client.ContainerInspectOptions{})
	if gone(err) {
		return nil
	}
	if err != nil {
		return r.explain(ctx, "look at container "+short(h.Container), err)
	}
	if st := c.Container.State; st.Running && !st.Restarting && st.Pid != h.PID {
		return nil // a later run of it, which is not meant
	}
	if err := r.remove(ctx, h.Container); err != nil {
		return err
	}
	r.state.Lock()
	defer r.state.Unlock()
	r.ended = append(r.ended[max(0, len(r.ended)+1-maxEnded):], ended{h, st})
	return nil
}

func (r *Runtime) remembered(h runtime.Handle) (runtime.State, bool) {
	r.state.Lock()
	defer r.state.Unlock()
	for _, e := range r.ended {
		if e.handle == h {
			return e.state, true
		}
	}
	return runtime.State{}, false
}

// remove removes a container with the volumes its image made it have, and waits
// for one that is being removed.
func (r *Runtime) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return r.explain(ctx, "remove container "+short(id), remove(ctx, r.api, id))
}

func remove(ctx context.Context, api *client.Client, id string) error {
	for {
		_, err := api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case err == nil, gone(err):
			return nil
		case !errdefs.IsConflict(err): // a conflict: it is being removed
			return err
		}
		if err := nap(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// RemoveInstance ends and removes all containers of an instance, for when its
// agent cannot. No Docker, no containers: that is no error.
func RemoveInstance(ctx context.Context, socket, instanceID string) error {
	if socket == "" {
		socket = Socket
	}
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r, err := New(Options{Socket: socket, Image: "none", User: "none"})
	if err != nil {
		return err
	}
	defer r.Close()
	found, err := r.api.ContainerList(ctx, client.ContainerListOptions{All: true,
		Filters: client.Filters{}.Add("label", labelInstance+"="+instanceID)})
	if err != nil {
		return r.explain(ctx, "look for containers of instance "+instanceID, err)
	}
	for _, c := range found.Items {
		if err := r.remove(ctx, c.ID); err != nil {
			return err
		}
	}
	return r.removeCardNetwork(ctx, instanceID)
}
