// Package process runs an engine's server as a plain process of this machine.
//
// A program is started in a session of its own, so that it outlives the agent,
// and tagged in its environment, so that an agent that was killed before it
// could write the handle down finds it again. A handle is a pid with the start
// time of the process and the boot of the machine: a pid alone is given to
// another process sooner or later. The package knows nothing of any engine.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// Name is the runtime's name in handles.
const Name = "process"

// killWait bounds how long a killed process may take to go; the kernel can
// hold one that waits for a broken disk.
const killWait = 30 * time.Second

// Options say how programs run.
type Options struct {
	// Credential is the user programs run as; nil: the caller's own. Only root
	// can set it.
	Credential *syscall.Credential
}

// Runtime runs programs as processes.
type Runtime struct {
	cred *syscall.Credential
	uid  uint32
	boot string

	mu       sync.Mutex // held while a program is started, so that it is not twice
	children map[tag]*child
}

var _ runtime.Runtime = (*Runtime)(nil)

// child is the last program of a tag this Runtime started itself. Its end is
// taken from the kernel at once: no zombie stays.
type child struct {
	handle runtime.Handle
	ended  chan struct{}
	state  runtime.State // once ended is closed
}

// New makes a Runtime.
func New(o Options) (*Runtime, error) {
	boot, err := proc.BootID()
	if err != nil {
		return nil, fmt.Errorf("read the machine's boot id: %w", err)
	}
	r := &Runtime{cred: o.Credential, uid: uint32(os.Geteuid()), boot: boot, children: map[tag]*child{}}
	if o.Credential != nil {
		r.uid = o.Credential.Uid
	}
	return r, nil
}

// Fetch does nothing: the programs are those of this machine.
func (r *Runtime) Fetch(context.Context, func(runtime.Progress)) error { return nil }

// Start runs the program, or returns the handle of the one with the same tag
// that runs, unless there can be none. What an earlier one left behind is killed first. The program's
// environment is s.Env, a PATH and the tag: nothing of the agent's own.
func (r *Runtime) Start(ctx context.Context, s runtime.Spec) (runtime.Handle, error) {
	t, err := tagOf(s)
	if err != nil {
		return runtime.Handle{}, err
	}
	if len(s.Argv) == 0 {
		return runtime.Handle{}, trove.Errorf(trove.KindInternal, "program %s has no command", s.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.New && r.children[t] == nil {
		return r.start(s, t)
	}
	left, err := r.withTag(t)
	if err != nil {
		return runtime.Handle{}, err
	}
	if h, ok := r.leader(left); ok {
		return h, nil
	}
	if len(left) > 0 {
		if err := r.killAll(ctx, func() ([]proc.Process, error) { return r.withTag(t) }); err != nil {
			return runtime.Handle{}, fmt.Errorf("end what is left of %s: %w", s.Name, err)
		}
	}
	return r.start(s, t)
}

func (r *Runtime) start(s runtime.Spec, t tag) (runtime.Handle, error) {
	path, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return runtime.Handle{}, trove.Errorf(trove.KindGuest, "program %s cannot be run: %w", s.Argv[0], err)
	}
	log, err := r.openLog(s.LogFile)
	if err != nil {
		return runtime.Handle{}, trove.Errorf(trove.KindGuest, "log of %s cannot be opened: %w", s.Name, err)
	}
	defer log.Close()
	kills, countsKills := oomKills()
	cmd := &exec.Cmd{
		Path: path, Args: s.Argv, Dir: s.Dir, Stdout: log, Stderr: log,
		Env:         append(append(t.env(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), s.Env...),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: r.cred},
	}
	if err := cmd.Start(); err != nil {
		return runtime.Handle{}, trove.Errorf(trove.KindGuest, "program %s cannot be started: %w", s.Argv[0], err)
	}
	// Readable even if the program has ended already: it is taken from the
	// kernel below.
	st, err := proc.ReadStat(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return runtime.Handle{}, fmt.Errorf("read start time of %s: %w", s.Name, err)
	}
	protectAgent(cmd.Process.Pid)
	c := &child{
		handle: runtime.Handle{Runtime: Name, PID: cmd.Process.Pid, StartTime: st.StartTime, BootID: r.boot},
		ended:  make(chan struct{}),
	}
	r.children[t] = c
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		c.state = endState(cmd.ProcessState)
		if n, ok := oomKills(); ok && countsKills && n > kills && c.state.ExitCode != 0 {
			c.state.Detail += ": the kernel ended a program for want of memory"
		}
		close(c.ended)
	}()
	return c.handle, nil
}

func (r *Runtime) openLog(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	if r.cred != nil {
		if err := f.Chown(int(r.cred.Uid), int(r.cred.Gid)); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// endState tells how a process ended.
func endState(p *os.ProcessState) runtime.State {
	ws, ok := p.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return runtime.State{ExitCode: -1}
	case ws.Signaled():
		return runtime.State{ExitCode: -1, Detail: fmt.Sprintf("ended by signal %d (%s)", ws.Signal(), ws.Signal())}
	}
	return runtime.State{ExitCode: ws.ExitStatus(), Detail: fmt.Sprintf("ended with exit code %d", ws.ExitStatus())}
}

// Find looks for the running program of the tag.
func (r *Runtime) Find(_ context.Context, s runtime.Spec) (runtime.Handle, bool, error) {
	t, err := tagOf(s)
	if err != nil {
		return runtime.Handle{}, false, err
	}
	all, err := r.withTag(t)
	if err != nil {
		return runtime.Handle{}, false, err
	}
	h, ok := r.leader(all)
	return h, ok, nil
}

// leader is the program among the processes of a tag: the oldest that leads a
// session.
func (r *Runtime) leader(all []proc.Process) (runtime.Handle, bool) {
	var first proc.Process
	for _, p := range all {
		if p.Stat.Leader() && (first.PID == 0 || p.StartTime < first.StartTime) {
			first = p
		}
	}
	if first.PID == 0 {
		return runtime.Handle{}, false
	}
	return runtime.Handle{Runtime: Name, PID: first.PID, StartTime: first.StartTime, BootID: r.boot}, true
}

// withTag lists the processes of our user that have the tag.
func (r *Runtime) withTag(t tag) ([]proc.Process, error) {
	all, err := proc.Tagged(t.env()...)
	return r.ours(all), err
}

// ours keeps the processes of our user: a tag can be forged by anybody.
func (r *Runtime) ours(all []proc.Process) []proc.Process {
	return slices.DeleteFunc(all, func(p proc.Process) bool { return p.UID != int(r.uid) })
}

// found is the handle as the kernel knows it.
func found(h runtime.Handle) proc.Handle {
	return proc.Handle{PID: h.PID, StartTime: h.StartTime, BootID: h.BootID}
}

// State tells whether the handle's program runs and, if this Runtime started
// it, how it ended.
func (r *Runtime) State(_ context.Context, h runtime.Handle) (runtime.State, error) {
	if err := r.check(h); err != nil {
		return runtime.State{}, err
	}
	if c := r.child(h); c != nil {
		select {
		case <-c.ended:
			return c.state, nil
		default:
		}
	}
	if h.BootID != r.boot {
		return runtime.State{ExitCode: -1, Detail: "the machine has been restarted since"}, nil
	}
	return runtime.State{Running: found(h).Running(), ExitCode: -1}, nil
}

// Wait returns when the program has ended, whoever started it, or with ctx's
// error.
func (r *Runtime) Wait(ctx context.Context, h runtime.Handle) (runtime.State, error) {
	if err := r.check(h); err != nil {
		return runtime.State{}, err
	}
	if c := r.child(h); c != nil {
		select {
		case <-c.ended:
			return c.state, nil
		case <-ctx.Done():
			return runtime.State{}, ctx.Err()
		}
	}
	if err := found(h).Wait(ctx); err != nil {
		return runtime.State{}, err
	}
	return r.State(ctx, h)
}

// Stop asks the program to stop and, after grace, kills it. Whatever it
// started and left behind is killed too. A program that does not run is no
// error.
func (r *Runtime) Stop(ctx context.Context, h runtime.Handle, sig os.Signal, grace time.Duration) error {
	if err := r.check(h); err != nil {
		return err
	}
	p := found(h)
	if !p.Running() {
		return nil
	}
	ask, ok := sig.(syscall.Signal)
	if !ok {
		ask = syscall.SIGTERM
	}
	// Taken before it goes: its children have another parent afterwards.
	family, err := r.family(h.PID)
	if err != nil {
		return err
	}
	if err := p.Signal(ask); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, grace)
	err = p.Wait(wait)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		later, ferr := r.family(h.PID)
		if ferr != nil {
			return ferr
		}
		family = append(family, later...)
		if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, killWait)
		defer cancel()
		err = p.Wait(wait)
	}
	if err != nil {
		return err
	}
	if c := r.child(h); c != nil {
		select {
		case <-c.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return r.killAll(ctx, func() ([]proc.Process, error) { return r.left(h.PID, family) })
}

// family is every process a program started, as far as they can be told.
func (r *Runtime) family(pid int) ([]proc.Process, error) {
	all, err := proc.List()
	if err != nil {
		return nil, err
	}
	all = r.ours(all)
	member := map[int]bool{pid: true}
	var found []proc.Process
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !member[p.PID] && (member[p.Stat.PPID] || p.Stat.Session == pid) {
				member[p.PID], grown = true, true
				found = append(found, p)
			}
		}
	}
	return found, nil
}

// left is who still lives of the family, and of the program's session.
func (r *Runtime) left(session int, family []proc.Process) ([]proc.Process, error) {
	known := map[proc.Handle]bool{}
	for _, p := range family {
		known[p.Handle] = true
	}
	all, err := proc.List()
	return slices.DeleteFunc(r.ours(all), func(p proc.Process) bool {
		return !known[p.Handle] && p.Stat.Session != session
	}), err
}

// killAll kills what list gives until it gives nothing more.
func (r *Runtime) killAll(ctx context.Context, list func() ([]proc.Process, error)) error {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	return proc.Kill(ctx, list)
}

func (r *Runtime) child(h runtime.Handle) *child {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.children {
		if c.handle == h {
			return c
		}
	}
	return nil
}

func (r *Runtime) check(h runtime.Handle) error {
	if h.Runtime != Name {
		return trove.Errorf(trove.KindInternal, "a handle of runtime %q came to runtime %q", h.Runtime, Name)
	}
	return nil
}

func tagOf(s runtime.Spec) (tag, error) {
	t := tag{s.InstanceID, s.Name}
	if t.instance == "" || t.program == "" || strings.ContainsRune(t.instance+t.program, 0) {
		return tag{}, trove.Errorf(trove.KindInternal, "a program needs an instance and a name, it has %q and %q", t.instance, t.program)
	}
	return t, nil
}
