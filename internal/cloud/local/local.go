// Package local is a cloud that is this machine: a server is a trove-guestagent
// process, a volume a directory, an address one of the loopback range.
//
// It owns everything under <data>/instances, <data>/addresses and <run>/<short
// id>, the memory control groups of instances, and the agents' processes. An
// agent runs in a session of its own and outlives us; it is found again by its
// handle, or by the tag in its environment. Engines are the agents' business:
// they are only ever touched to end them with their instance.
//
//	<data>/instances/<id>/server.json   there is a server, and which
//	                      handle.json   its agent: pid, start time, boot id
//	                      root/         the server's files (root/etc/trove/conf.d), which
//	                                    the agent reads and cannot replace
//	                      agent/        the agent's own state
//	                      volume.json, volume/   the volume
//	                      log/, console.log      what engine and agent say
//	                      health.json   that its agent did not start lately
//	<data>/addresses/<ip>               whose the address is
//	<data>/locks/                       file locks: of an instance, of all addresses,
//	                                    of the process that supervises
//
// Any number of processes of one machine may use a data directory: what is true
// is in the files, and nothing of it is remembered. One of them supervises the
// agents; when it ends, another does.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// Network is the id of the only network there is.
const Network = "local"

// cgroupParent is the control group that holds the instances', unless Options
// name another.
const cgroupParent = "gotrove"

// User is whom agents and engines run as.
type User struct {
	Name     string
	UID, GID int
	Groups   []int // beside GID
}

// Credential is the user to a process that is started.
func (u *User) Credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// Options of a local cloud. DataDir, RunDir, Agent, Flavors and Range are needed.
type Options struct {
	DataDir     string
	RunDir      string // for sockets: short
	Agent       string // path of trove-guestagent
	TemplateDir string // data directories to copy from; <data>/templates
	BinDir      string // of the engines' programs; empty: the agent finds them
	Flavors     []trove.Flavor
	Range       netip.Prefix   // of loopback addresses
	Ports       map[string]int // an engine's standard port by manager
	User        *User          // nil: our own user
	// DockerSocket has agents run their engines as containers of the Docker that
	// listens there; empty: as processes.
	DockerSocket string
	// CgroupParent is the name of the control group that holds the instances'.
	CgroupParent string        // gotrove
	StopGrace    time.Duration // for agent and engine to stop cleanly; 60 s
	Log          *slog.Logger
}

// Cloud is this machine as a cloud.
type Cloud struct {
	o      Options
	groups cgroups
	log    *slog.Logger

	// changed tells Run that there may be a server it does not watch.
	changed chan struct{}

	mu    sync.Mutex
	locks map[string]*keyLock
}

var _ cloud.Cloud = (*Cloud)(nil)

// health is health.json: how starting an instance's agent went lately. There is
// none where all went well.
type health struct {
	Failures int       `json:"failures"` // in a row
	Fault    string    `json:"fault"`
	Running  time.Time `json:"running"` // since when; zero if it does not
}

type keyLock struct {
	turn  chan struct{}
	users int
}

// server is server.json.
type server struct {
	InstanceID string       `json:"instance_id"`
	ProjectID  string       `json:"project_id"`
	Name       string       `json:"name"`
	Manager    string       `json:"manager"`
	Flavor     trove.Flavor `json:"flavor"`
	Address    string       `json:"address"`
	Created    time.Time    `json:"created"`
	// Resize is how far a resize is, empty if there is none.
	Resize   string        `json:"resize,omitempty"`
	Previous *trove.Flavor `json:"previous_flavor,omitempty"`
}

// New makes the directories. It starts nothing: see Run.
func New(o Options) (*Cloud, error) {
	if o.TemplateDir == "" {
		o.TemplateDir = filepath.Join(o.DataDir, "templates")
	}
	if o.Ports == nil {
		o.Ports = map[string]int{"mariadb": 3306, "mysql": 3306, "postgresql": 5432}
	}
	if o.CgroupParent == "" {
		o.CgroupParent = cgroupParent
	}
	if o.StopGrace == 0 {
		o.StopGrace = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if !o.Range.IsValid() || !o.Range.Addr().IsLoopback() {
		return nil, trove.Errorf(trove.KindBadRequest, "%s is not a range of loopback addresses such as 127.20.0.0/16", o.Range)
	}
	if o.User != nil && o.User.UID == os.Geteuid() {
		o.User = nil
	}
	if o.User != nil && os.Geteuid() != 0 {
		return nil, trove.Errorf(trove.KindBadRequest, "Only root can run the databases as user %s.", o.User.Name)
	}
	c := &Cloud{o: o, log: o.Log, changed: make(chan struct{}, 1), locks: map[string]*keyLock{}}
	for _, dir := range []string{o.DataDir, o.RunDir, filepath.Join(o.DataDir, "instances"), filepath.Join(o.DataDir, "addresses")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, durable.Explain(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(o.DataDir, "locks"), 0o700); err != nil {
		return nil, durable.Explain(err)
	}
	durable.Spread(filepath.Join(o.DataDir, "instances"))
	if err := c.ownDir(o.TemplateDir); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(o.DataDir, "instances"), o.RunDir} {
		if err := c.checkReachable(dir); err != nil {
			return nil, err
		}
	}
	if err := c.sweep(); err != nil {
		return nil, err
	}
	c.groups = findCgroups(o.CgroupParent, o.Log)
	return c, nil
}

// sweepWait is how long a sweep waits for who uses what it would look at.
const sweepWait = time.Second

// sweep removes the files that whoever was killed had begun to write: ours all
// begin with a dot until they are whole, and are written under a lock. Where
// another holds it, that one is alive, and the next start sweeps.
func (c *Cloud) sweep() error {
	data := os.DirFS(c.o.DataDir) // whose path may hold what a pattern gives a meaning
	for _, begun := range []string{"addresses/.*", "instances/*/.*"} {
		found, err := fs.Glob(data, begun)
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := c.sweepFile(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cloud) sweepFile(f string) error {
	ctx, cancel := context.WithTimeout(context.Background(), sweepWait)
	defer cancel()
	take := func() (func(), error) { return c.lockAddresses(ctx) }
	if parts := strings.Split(f, "/"); parts[0] == "instances" {
		take = func() (func(), error) { return c.lock(ctx, parts[1]) }
	}
	unlock, err := take()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(filepath.Join(c.o.DataDir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return durable.Explain(err)
	}
	return nil
}

// checkReachable finds a directory on the way to dir that the agents' user may
// not enter: agents would fail with a message that says less.
func (c *Cloud) checkReachable(dir string) error {
	if c.o.User == nil {
		return nil
	}
	for d := dir; ; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o001 == 0 && ownerOf(st) != c.o.User.UID {
			return &trove.Error{Kind: trove.KindBadRequest, Message: fmt.Sprintf("User %s, whom the databases run as, may not enter %s (mode %04o).", c.o.User.Name, d, st.Mode().Perm()),
				Action: "Choose another data directory, or let others enter: chmod o+x " + d}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

var goodID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$`)

func checkID(id string) error {
	if !goodID.MatchString(id) {
		return trove.Errorf(trove.KindBadRequest, "%q is not an instance id", id)
	}
	return nil
}

// path is a path of an instance.
func (c *Cloud) path(id string, elem ...string) string {
	return filepath.Join(append([]string{c.o.DataDir, "instances", id}, elem...)...)
}

// runDir holds an instance's sockets, whose paths must be short.
func (c *Cloud) runDir(id string) string {
	short := strings.ReplaceAll(id, "-", "")
	return filepath.Join(c.o.RunDir, short[:min(12, len(short))])
}

// ownDir makes a directory of the agents' user that nobody else may read.
func (c *Cloud) ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return durable.Explain(err)
	}
	return c.own(dir)
}

func (c *Cloud) own(path string) error {
	if c.o.User == nil {
		return nil
	}
	return durable.Explain(os.Lchown(path, c.o.User.UID, c.o.User.GID))
}

// writeOwn writes a file of the agents' user, with secrets perhaps.
func (c *Cloud) writeOwn(path string, data []byte) error {
	uid, gid := -1, -1
	if c.o.User != nil {
		uid, gid = c.o.User.UID, c.o.User.GID
	}
	return durable.WriteFileAs(path, data, 0o600, uid, gid)
}

// noRoom makes of a full disk, which is worth no other try before somebody makes
// room, an error that ends what it befell.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &trove.Error{Kind: trove.KindOverLimit, Message: err.Error(), Action: trove.ActionOf(err), Err: err}
	}
	return err
}

// readJSON reads a file of ours; ok is false if it is not there.
func readJSON(path string, v any) (ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, durable.Explain(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return true, nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// remove takes files and directories away, and the instance's directory with
// the last of them.
func (c *Cloud) remove(id string, paths ...string) error {
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return durable.Explain(err)
		}
	}
	if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if entries, rerr := os.ReadDir(c.path(id)); rerr == nil && len(entries) > 0 {
			return nil
		}
		return durable.Explain(err)
	}
	return nil
}

// Flavors gives the sizes a server may have.
func (c *Cloud) Flavors(context.Context) ([]trove.Flavor, error) {
	return append([]trove.Flavor(nil), c.o.Flavors...), nil
}

// Flavor gives one of them.
func (c *Cloud) Flavor(_ context.Context, id string) (trove.Flavor, error) {
	for _, f := range c.o.Flavors {
		if f.ID == id {
			return f, nil
		}
	}
	return trove.Flavor{}, trove.Errorf(trove.KindNotFound, "Flavor %s could not be found.", id)
}

// EnsureSecurityGroup does nothing: only this machine reaches its loopback
// addresses.
func (c *Cloud) EnsureSecurityGroup(context.Context, cloud.Owner, []cloud.Rule) error { return nil }

// DeleteSecurityGroup does nothing.
func (c *Cloud) DeleteSecurityGroup(context.Context, cloud.Owner) error { return nil }

// volume is volume.json.
type volume struct {
	Size     int  `json:"size"` // GiB
	Enforced bool `json:"enforced"`
}

// EnsureVolume makes the directory that is the volume. Its size is a limit
// where the file system has project quotas, else only told.
func (c *Cloud) EnsureVolume(ctx context.Context, o cloud.Owner, size int, _ string) (_ cloud.Volume, err error) {
	defer func() { err = noRoom(err) }()
	if err := checkID(o.InstanceID); err != nil {
		return cloud.Volume{}, err
	}
	unlock, err := c.lock(ctx, o.InstanceID)
	if err != nil {
		return cloud.Volume{}, err
	}
	defer unlock()
	id := o.InstanceID
	var v volume
	there, err := readJSON(c.path(id, "volume.json"), &v)
	if err != nil {
		return cloud.Volume{}, err
	}
	if !there {
		if err := os.MkdirAll(c.path(id), 0o711); err != nil {
			return cloud.Volume{}, durable.Explain(err)
		}
		dir := c.path(id, "volume")
		if err := c.ownDir(dir); err != nil {
			return cloud.Volume{}, err
		}
		v.Size = size
		if err := setQuota(dir, projectOf(id), size); err == nil {
			v.Enforced = true
		} else {
			c.log.InfoContext(ctx, "the size of the volume is told, not enforced", "instance_id", id, "reason", err)
		}
		for _, sub := range []string{"data", "conf.d"} {
			if err := c.ownDir(filepath.Join(dir, sub)); err != nil {
				return cloud.Volume{}, err
			}
		}
		if err := writeJSON(c.path(id, "volume.json"), v); err != nil {
			return cloud.Volume{}, err
		}
		if free, err := durable.FreeSpace(dir); err == nil && free < int64(size)<<30 {
			c.log.WarnContext(ctx, "the disk holds less than the volume's size", "instance_id", id, "size_gib", size, "free_gib", free>>30)
		}
	}
	return cloud.Volume{ID: id, Size: v.Size, Ready: true, Attached: c.exists(id)}, nil
}

// DeleteVolume removes the directory.
func (c *Cloud) DeleteVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	if err := checkID(o.InstanceID); err != nil {
		return false, err
	}
	unlock, err := c.lock(ctx, o.InstanceID)
	if err != nil {
		return false, err
	}
	defer unlock()
	id := o.InstanceID
	if _, err := os.Stat(c.path(id, "server.json")); err == nil {
		return false, trove.Errorf(trove.KindConflict, "the volume of instance %s is in use by its server", id)
	}
	if _, err := os.Stat(c.path(id, "volume")); err == nil {
		_ = setQuota(c.path(id, "volume"), projectOf(id), 0) // forgets the limit
	}
	return true, c.remove(id, c.path(id, "volume"), c.path(id, "volume.json"))
}

// instanceTag marks every process of an instance.
func instanceTag(id string) string { return "GOTROVE_INSTANCE=" + id }

const agentName = "trove-guestagent"

// agents finds the instance's agents by tag. What an agent starts may inherit
// the tags, but does not lead a session.
func agents(id string) ([]proc.Process, error) {
	found, err := proc.Tagged(instanceTag(id), "GOTROVE_PROGRAM="+agentName)
	if err != nil {
		return nil, err
	}
	var out []proc.Process
	for _, p := range found {
		if p.Stat.Leader() {
			out = append(out, p)
		}
	}
	return out, nil
}
