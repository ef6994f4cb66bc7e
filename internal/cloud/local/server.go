package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// configDir is where the agent reads its files, below the instance's root.
const configDir = "etc/trove/conf.d"

// optionsFile holds what this cloud tells the agent. Its name sorts last, so
// that it is the last word.
const optionsFile = "zz-local.conf"

// killLimit bounds how long killed processes may take to be gone.
const killLimit = 30 * time.Second

// EnsureServer writes the agent's files and has it run.
func (c *Cloud) EnsureServer(ctx context.Context, s cloud.ServerSpec) (_ cloud.Server, err error) {
	defer func() { err = noRoom(err) }()
	id := s.InstanceID
	if err := checkID(id); err != nil {
		return cloud.Server{}, err
	}
	if len(s.Ports) == 0 || len(s.Ports[0].Addresses) == 0 {
		return cloud.Server{}, trove.Errorf(trove.KindBadRequest, "instance %s has no address", id)
	}
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return cloud.Server{}, err
	}
	defer unlock()
	var srv server
	there, err := readJSON(c.path(id, "server.json"), &srv)
	if err != nil {
		return cloud.Server{}, err
	}
	if !there {
		srv = server{
			InstanceID: id, ProjectID: s.ProjectID, Name: s.Name, Manager: s.Manager, Flavor: s.Flavor,
			Address: s.Ports[0].Addresses[0].Address, Created: time.Now().UTC(),
		}
		if err := os.MkdirAll(c.path(id), 0o711); err != nil {
			return cloud.Server{}, durable.Explain(err)
		}
		if err := c.writeFiles(id, s.Files); err != nil {
			return cloud.Server{}, err
		}
		// From here on the server exists, and the supervisor keeps it running.
		if err := writeJSON(c.path(id, "server.json"), srv); err != nil {
			return cloud.Server{}, err
		}
	}
	start := c.ensureAgent
	if _, err := os.Stat(c.path(id, "agent")); errors.Is(err, fs.ErrNotExist) {
		start = c.startAgent // no agent is looked for that cannot be there: a delete ends with its directory
	}
	if _, err := start(ctx, srv); err != nil {
		return cloud.Server{}, err
	}
	c.setHealth(ctx, id, health{Running: time.Now()})
	select {
	case c.changed <- struct{}{}:
	default:
	}
	return c.view(srv), nil
}

// writeFiles writes files by their absolute path below the instance's root.
func (c *Cloud) writeFiles(id string, files map[string][]byte) error {
	root := c.path(id, "root")
	// The directories are ours: whoever could replace one would have us write
	// elsewhere.
	if err := os.MkdirAll(filepath.Join(root, configDir), 0o755); err != nil {
		return durable.Explain(err)
	}
	for path, data := range files {
		rel := strings.TrimPrefix(filepath.Clean("/"+path), "/") // Clean keeps .. inside
		if rel == "" {
			return trove.Errorf(trove.KindBadRequest, "%q is not the path of a file", path)
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(rel)), 0o755); err != nil {
			return durable.Explain(err)
		}
		if err := c.writeOwn(filepath.Join(root, rel), data); err != nil {
			return err
		}
	}
	return nil
}

// options is the file that tells the agent where it is. It is written anew
// before each start, since our own configuration may have changed.
func (c *Cloud) options(srv server) ([]byte, error) {
	id := srv.InstanceID
	var v volume // none: nothing is told of its size
	if _, err := readJSON(c.path(id, "volume.json"), &v); err != nil {
		return nil, err
	}
	opts := []osloconf.Option{
		{Name: "data_dir", Value: c.path(id, "volume")}, // holds data and conf.d
		{Name: "state_dir", Value: c.path(id, "agent")},
		{Name: "run_dir", Value: c.runDir(id)},
		{Name: "log_dir", Value: c.path(id, "log")},
		{Name: "template_dir", Value: c.o.TemplateDir},
		{Name: "address", Value: srv.Address},
		{Name: "volume_size", Value: strconv.Itoa(v.Size)}, // GiB
		{Name: "memory_mb", Value: strconv.Itoa(srv.Flavor.RAM)},
		{Name: "stop_engine_on_exit", Value: "true"},
	}
	if c.o.DockerSocket != "" {
		// Restarted by Docker, an engine would outlive us.
		opts = append(opts, osloconf.Option{Name: "runtime", Value: "docker"},
			osloconf.Option{Name: "docker_socket", Value: c.o.DockerSocket}, osloconf.Option{Name: "docker_restart", Value: "false"})
	} else {
		opts = append(opts, osloconf.Option{Name: "runtime", Value: "process"})
	}
	if p := c.o.Ports[srv.Manager]; p != 0 {
		opts = append(opts, osloconf.Option{Name: "port", Value: strconv.Itoa(p)})
	}
	if c.o.BinDir != "" {
		opts = append(opts, osloconf.Option{Name: "bin_dir", Value: c.o.BinDir})
	}
	return osloconf.Render(osloconf.Group{Name: "gotrove", Options: opts})
}

// Server gives the instance's server.
func (c *Cloud) Server(_ context.Context, o cloud.Owner) (cloud.Server, error) {
	if err := checkID(o.InstanceID); err != nil {
		return cloud.Server{}, err
	}
	var srv server
	there, err := readJSON(c.path(o.InstanceID, "server.json"), &srv)
	if err != nil {
		return cloud.Server{}, err
	}
	if !there {
		return cloud.Server{}, trove.Errorf(trove.KindNotFound, "instance %s has no server", o.InstanceID)
	}
	return c.view(srv), nil
}

// Servers gives all servers.
func (c *Cloud) Servers(ctx context.Context) (map[string]cloud.Server, error) {
	all, err := c.servers(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]cloud.Server, len(all))
	for _, srv := range all {
		out[srv.InstanceID] = c.view(srv)
	}
	return out, nil
}

// servers reads all records. A damaged one is told and left out: the others
// must not suffer for it.
func (c *Cloud) servers(ctx context.Context) ([]server, error) {
	entries, err := os.ReadDir(filepath.Join(c.o.DataDir, "instances"))
	if err != nil {
		return nil, durable.Explain(err)
	}
	var out []server
	for _, e := range entries {
		var srv server
		there, err := readJSON(c.path(e.Name(), "server.json"), &srv)
		if err != nil {
			c.log.ErrorContext(ctx, "an instance is left out", "instance_id", e.Name(), "error", err)
		} else if there {
			out = append(out, srv)
		}
	}
	return out, nil
}

// manyFailures in a row make a server's status ERROR until its agent has
// settled again; less is a restart that nobody need notice.
const (
	manyFailures = 5
	settled      = 10 * time.Second
)

func (c *Cloud) view(srv server) cloud.Server {
	s := cloud.Server{ID: srv.InstanceID, Status: trove.ServerActive, FlavorID: srv.Flavor.ID, Addresses: c.addresses(srv.Address), Created: srv.Created}
	if srv.Resize != "" {
		s.Status = srv.Resize
	}
	if h := c.getHealth(srv.InstanceID); h.Failures >= manyFailures && (h.Running.IsZero() || time.Since(h.Running) < settled) {
		s.Status, s.Fault = trove.ServerError, h.Fault
	}
	return s
}

// setHealth writes down how an agent's start went. The instance's lock is held.
// What cannot be written is not told, and nothing else suffers.
func (c *Cloud) setHealth(ctx context.Context, id string, h health) {
	path := c.path(id, "health.json")
	err := writeHealth(path, h)
	if err != nil {
		c.log.WarnContext(ctx, "an agent's health was not written", "instance_id", id, "error", err)
	}
}

func writeHealth(path string, h health) error {
	if h.Failures > 0 {
		return writeJSON(path, h)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// getHealth reads it; one that cannot be read is none.
func (c *Cloud) getHealth(id string) (h health) {
	if _, err := readJSON(c.path(id, "health.json"), &h); err != nil {
		return health{}
	}
	return h
}

const maxEvidence = 4 << 10

// Evidence gives the ends of the console and of the newest log.
func (c *Cloud) Evidence(_ context.Context, o cloud.Owner) (string, error) {
	if err := checkID(o.InstanceID); err != nil {
		return "", err
	}
	files := []string{c.path(o.InstanceID, "console.log")}
	if newest := newestFile(c.path(o.InstanceID, "log")); newest != "" {
		files = append(files, newest)
	}
	var b strings.Builder
	for _, f := range files {
		text, err := tail(f, int64(maxEvidence/len(files)-64))
		if errors.Is(err, fs.ErrNotExist) || err == nil && text == "" {
			continue
		}
		if err != nil {
			return "", durable.Explain(err)
		}
		fmt.Fprintf(&b, "%s:\n%s\n", filepath.Base(f), strings.TrimRight(text, "\n"))
	}
	return b.String(), nil
}

func newestFile(dir string) string {
	entries, _ := os.ReadDir(dir)
	var newest string
	var at time.Time
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && st.Size() > 0 && st.ModTime().After(at) {
			newest, at = filepath.Join(dir, e.Name()), st.ModTime()
		}
	}
	return newest
}

// tail gives the last whole lines of a file, at most n bytes.
func tail(path string, n int64) (string, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	cut := st.Size() > n
	if cut {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return "", err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, n))
	text := strings.ToValidUTF8(string(b), "\uFFFD")
	if len(text) > int(n) { // replacement grew it
		text = strings.ToValidUTF8(text[len(text)-int(n):], "")
		cut = true
	}
	if cut {
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	return text, err
}

// DeleteServer ends everything of the instance that runs, at once, and removes
// what the server had. The volume stays.
func (c *Cloud) DeleteServer(ctx context.Context, o cloud.Owner) (bool, error) {
	id := o.InstanceID
	if err := checkID(id); err != nil {
		return false, err
	}
	unlock, err := c.lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	// First the record: nobody starts the agent again.
	if err := os.Remove(c.path(id, "server.json")); err == nil {
		if err := durable.SyncDir(c.path(id)); err != nil {
			return false, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, durable.Explain(err)
	}
	kill, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	if err := c.killAll(kill, id); err != nil {
		return false, err
	}
	if err := c.removeContainers(kill, id); err != nil {
		return false, err
	}
	if err := c.groups.remove(kill, id); err != nil {
		return false, err
	}
	if err := os.RemoveAll(c.runDir(id)); err != nil {
		return false, durable.Explain(err)
	}
	return true, c.remove(id, c.path(id, "handle.json"), c.path(id, "health.json"), c.path(id, "root"), c.path(id, "agent"), c.path(id, "log"), c.path(id, "console.log"), c.path(id, "console.log.1"))
}

// removeContainers has the agent's program remove what the agent left in
// Docker: it is the one of us that knows how.
func (c *Cloud) removeContainers(ctx context.Context, id string) error {
	if c.o.DockerSocket == "" {
		return nil
	}
	out, err := exec.CommandContext(ctx, c.o.Agent, "remove", "--docker-socket", c.o.DockerSocket, id).CombinedOutput()
	if err != nil {
		return trove.Errorf(trove.KindInternal, "the containers of instance %s cannot be removed: %w: %s", id, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// killAll kills every process of the instance and returns when they are gone.
func (c *Cloud) killAll(ctx context.Context, id string) error {
	return proc.Kill(ctx, func() ([]proc.Process, error) {
		found, err := proc.Tree(instanceTag(id))
		if err != nil {
			return nil, err
		}
		for _, pid := range c.groups.pids(id) {
			if !c.groups.holds(pid, id) {
				continue
			}
			if h, err := proc.Of(pid); err == nil {
				found = append(found, proc.Process{Handle: h})
			}
		}
		return found, nil
	})
}
