package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// agentOOMScore protects the agent: when memory runs out the engine goes, and
// the agent restarts it. The agent raises what it starts.
const agentOOMScore = "-500"

// The console is cut when it is this long; the rest is kept once.
const maxConsole = 4 << 20

// findAgent finds the running agent by its handle or its tag.
func (c *Cloud) findAgent(id string) (proc.Handle, bool, error) {
	var h proc.Handle
	if _, err := readJSON(c.path(id, "handle.json"), &h); err != nil {
		return h, false, err
	}
	if h.Running() {
		return h, true, nil
	}
	// Its starter may have been killed before it wrote the handle.
	found, err := agents(id)
	if err != nil || len(found) == 0 {
		return proc.Handle{}, false, err
	}
	h = found[0].Handle
	c.keepHandle(id, h)
	return h, true, nil
}

// keepHandle writes down which process the agent is. One that cannot be written,
// as on a full disk, is found by its tag again: it works meanwhile.
func (c *Cloud) keepHandle(id string, h proc.Handle) {
	if err := writeJSON(c.path(id, "handle.json"), h); err != nil {
		c.log.Warn("the guest agent's handle was not written", "instance_id", id, "error", err)
	}
}

// ensureAgent finds the server's agent or starts it. The instance's lock is
// held.
func (c *Cloud) ensureAgent(ctx context.Context, srv server) (proc.Handle, error) {
	h, ok, err := c.findAgent(srv.InstanceID)
	if ok || err != nil {
		return h, err
	}
	return c.startAgent(ctx, srv)
}

func (c *Cloud) startAgent(ctx context.Context, srv server) (proc.Handle, error) {
	id := srv.InstanceID
	for _, dir := range []string{c.path(id, "log"), c.path(id, "agent"), c.runDir(id)} {
		if err := c.ownDir(dir); err != nil {
			return proc.Handle{}, err
		}
	}
	if err := c.tell(srv); err != nil {
		return proc.Handle{}, err
	}
	conf := c.path(id, "root", configDir)
	if err := c.rotate(id); err != nil {
		return proc.Handle{}, err
	}
	console, err := os.OpenFile(c.path(id, "console.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return proc.Handle{}, durable.Explain(err)
	}
	defer console.Close()
	cmd := &exec.Cmd{
		Path: c.o.Agent,
		Args: []string{agentName, "--config-dir", conf},
		Dir:  c.path(id, "agent"),
		Env: []string{
			instanceTag(id), "GOTROVE_PROGRAM=" + agentName, "HOME=" + c.path(id, "agent"), "LANG=C.UTF-8",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		},
		Stdout: console, Stderr: console,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // outlives us, whatever signal our terminal sends
	}
	if u := c.o.User; u != nil {
		cmd.SysProcAttr.Credential = u.Credential()
	}
	unlimited, err := c.groups.start(cmd, id, srv.Flavor.RAM)
	if err != nil {
		return proc.Handle{}, c.explainStart(err)
	}
	if unlimited != nil {
		c.log.WarnContext(ctx, "the memory limit is not enforced", "instance_id", id, "error", unlimited)
	}
	h, err := proc.Of(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // takes note of its end: no zombie stays
	if errors.Is(err, os.ErrProcessDone) {
		return h, &trove.Error{Kind: trove.KindInternal, Message: fmt.Sprintf("The guest agent of instance %s ended at once.", id), Err: err}
	}
	if err != nil {
		return h, err
	}
	if os.Geteuid() == 0 {
		// Best effort: it only decides who goes first when memory runs out.
		_ = os.WriteFile("/proc/"+strconv.Itoa(h.PID)+"/oom_score_adj", []byte(agentOOMScore), 0)
	}
	c.keepHandle(id, h)
	c.log.InfoContext(ctx, "started the guest agent", "instance_id", id, "pid", h.PID)
	return h, nil
}

func (c *Cloud) explainStart(err error) error {
	e := &trove.Error{Kind: trove.KindInternal, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Message = fmt.Sprintf("The guest agent %s is missing.", c.o.Agent)
		e.Action = "Install trove-guestagent there, or set the path to it."
	case errors.Is(err, fs.ErrPermission):
		who := "this user"
		if c.o.User != nil {
			who = "user " + c.o.User.Name
		}
		e.Message = fmt.Sprintf("The guest agent %s cannot be run by %s: permission denied.", c.o.Agent, who)
		e.Action = "Put it where that user may run it, such as /usr/local/bin."
	default:
		e.Message = fmt.Sprintf("The guest agent %s cannot be started: %v.", c.o.Agent, err)
	}
	return e
}

// rotate keeps the console's size bounded.
func (c *Cloud) rotate(id string) error {
	return durable.CutLog(c.path(id, "console.log"), maxConsole)
}

// openRegular opens a file that others than we may have put there: it follows
// no link and waits for no pipe.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a file", path))
	}
	return f, nil
}

func ownerOf(st fs.FileInfo) int {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}
