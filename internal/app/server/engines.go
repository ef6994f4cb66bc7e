package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// discoverWait bounds the search for engines.
const discoverWait = 20 * time.Second

// engineUser is whom agents and engines run as: nil, for our own user, unless
// we are root.
func engineUser(name string) (*local.User, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] engine_user: there is no user %q; as root, guest agents and engines run as an unprivileged user", name).
			WithAction("useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin %s", name)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if uid == 0 {
		return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] engine_user: %q is root; engines run as an unprivileged user", name)
	}
	return &local.User{Name: name, UID: uid, GID: gid}, nil
}

// installAgent puts the guest agent where the engines' user may run it: the
// directory it was built in may be closed to others, and an agent that runs
// must not change under an upgrade.
func installAgent(c *Config) (string, error) {
	to := c.path("bin", "trove-guestagent")
	same, err := sameContents(c.GuestAgent, to)
	if err != nil {
		return "", trove.Errorf(trove.KindUnavailable, "the guest agent cannot be read: %w", err).
			WithAction("make build, or name its path in [gotrove] guest_agent")
	}
	if same {
		return to, nil
	}
	if err := os.MkdirAll(c.path("bin"), 0o755); err != nil {
		return "", durable.Explain(err)
	}
	return to, durable.CopyFile(to, c.GuestAgent, 0o755)
}

// sameContents tells whether file b holds what file a does; one that cannot be
// read does not. It needs little memory: what a start takes once, an idle process
// keeps for long.
func sameContents(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, nil
	}
	defer fb.Close()
	var ba, bb [32 << 10]byte
	for {
		na, errA := io.ReadFull(fa, ba[:])
		nb, errB := io.ReadFull(fb, bb[:])
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case errA != nil && !endA:
			return false, errA
		case !bytes.Equal(ba[:na], bb[:nb]), endA != endB:
			return false, nil
		case endA:
			return true, nil
		}
	}
}

// found is one engine on this machine, as `trove-guestagent engines` tells it.
type found struct {
	Manager string `json:"manager"`
	Version string `json:"version"`
	BinDir  string `json:"bin_dir"`
	// TemplateArgs are what trove-guestagent template needs to use it.
	TemplateArgs []string `json:"template_args"`
}

// discover asks the guest agent which engines this machine has.
func discover(ctx context.Context, agent string, u *local.User, o *engineOptions) ([]found, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverWait)
	defer cancel()
	cmd := agentCommand(ctx, u, agent, o.discoverArgs()...)
	var errs strings.Builder
	cmd.Stderr = &limited{&errs, 4096}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s engines: %w: %s", agent, err, strings.TrimSpace(errs.String()))
	}
	var engines []found
	if err := json.Unmarshal(out, &engines); err != nil {
		return nil, fmt.Errorf("%s engines: %w", agent, err)
	}
	return engines, nil
}

// agentCommand is a short run of the agent as the engines' user.
func agentCommand(ctx context.Context, u *local.User, agent string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, agent, args...)
	if u != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.Credential()}
	}
	return cmd
}

// limited writes at most n bytes.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.n)]
	l.n -= len(keep)
	_, err := l.w.Write(keep)
	return len(p), err
}

// registerEngines makes the datastore versions of the engines that are here,
// and closes those that are not any more to new instances.
func registerEngines(ctx context.Context, s *store.Store, engines []found, log *slog.Logger) error {
	present := map[string]bool{}
	slices.SortFunc(engines, func(a, b found) int { return compareVersions(b.Version, a.Version) })
	defaulted := map[string]bool{}
	for _, e := range engines {
		id, err := s.EnsureVersion(ctx, trove.DatastoreVersion{
			DatastoreName: e.Manager, Name: e.Version, Number: e.Version, Manager: e.Manager, Active: true,
		}, !defaulted[e.Manager])
		if err != nil {
			return err
		}
		if err := s.SetVersionActive(ctx, id, true); err != nil {
			return err
		}
		defaulted[e.Manager] = true
		present[id] = true
	}
	all, err := s.Datastores(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		for _, v := range d.Versions {
			if present[v.ID] || !v.Active {
				continue
			}
			log.WarnContext(ctx, "an engine is not on this machine any more: no new instances of it", "datastore", d.Name, "version", v.Name)
			if err := s.SetVersionActive(ctx, v.ID, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// compareVersions compares versions number by number.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, _ := strconv.Atoi(as[i])
		y, _ := strconv.Atoi(bs[i])
		if x != y {
			return x - y
		}
	}
	return len(as) - len(bs)
}
