package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Tool is a program of an engine's that runs to its end.
type Tool struct {
	Argv  []string // no secrets: everyone can read them
	Env   []string
	Dir   string
	Dirs  []string // what a container may read and write beside Dir
	Named bool     // it insists that its user has a name
}

// Tools runs an engine's own programs where its server is run from.
type Tools interface {
	// Run runs a program to its end, or until ctx ends, and gives what it
	// wrote: the end of it, if that is much. An exit code other than 0 is an
	// error of KindGuest with the last lines.
	Run(ctx context.Context, t Tool) (string, error)
	// Content names what the programs are of, such as an image, exactly: other
	// programs, another name. Empty: they are those of this machine.
	Content(ctx context.Context) (string, error)
}

// Host runs the programs of this machine as the agent's own user.
type Host struct{}

// toolStop is how long a tool that is killed may take to let go of its output.
const toolStop = 10 * time.Second

// Content is empty.
func (Host) Content(context.Context) (string, error) { return "", nil }

// Run runs the program in a process group of its own, so that a script and the
// server it runs both go when ctx ends.
func (Host) Run(ctx context.Context, t Tool) (string, error) {
	cmd := exec.CommandContext(ctx, t.Argv[0], t.Argv[1:]...)
	cmd.Dir = t.Dir
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, t.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = toolStop
	if t.Named {
		asNamedUser(cmd)
	}
	var out Tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", Failed(t, err, out.String())
	}
	return out.String(), nil
}

// Failed words the end of a tool that failed.
func Failed(t Tool, err error, output string) error {
	if said := lastLines(output, 5); said != "" {
		return trove.Errorf(trove.KindGuest, "%s failed: %w: %s", t.Argv[0], err, said)
	}
	return trove.Errorf(trove.KindGuest, "%s failed: %w", t.Argv[0], err)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " / ")
}

// asNamedUser lets cmd see a user that has a name, where the user we run as has
// none: in a user namespace of its own it is nobody, while its files are ours.
func asNamedUser(cmd *exec.Cmd) {
	uid, gid := os.Geteuid(), os.Getegid()
	if _, err := user.LookupId(strconv.Itoa(uid)); !errors.As(err, new(user.UnknownUserIdError)) {
		return
	}
	const nobody = 65534
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: uid, Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: gid, Size: 1}}
}

// tailSize is how much of a tool's output is kept.
const tailSize = 16 << 10

// Tail keeps the end of what is written to it.
type Tail struct{ b []byte }

// Write keeps the end of all that was written.
func (t *Tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.b[max(0, len(t.b)-tailSize):]) }
