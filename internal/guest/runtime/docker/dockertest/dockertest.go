// Package dockertest starts a Docker of its own for tests: a daemon with its own
// data, socket and containerd, without a bridge or firewall rules, which ends
// with the test's process. It needs root, Debian's docker.io and the images that
// packaging/images/build makes.
package dockertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sets of images that packaging/images/build makes.
const (
	Stable = "stable" // mariadb, postgres
	MySQL  = "mysql"
)

// limit is how long a daemon may take to start or stop on a loaded machine.
const limit = 2 * time.Minute

// Options of a daemon.
type Options struct {
	Sets        []string // of images it has; one that was not built is an error
	GID         int      // the group that may use it; 0: root's
	LiveRestore bool     // containers outlive it when it is stopped
	Bridge      string   // a bridge there is, with an address; none if empty
}

// Daemon is a Docker.
type Daemon struct {
	Socket string
	o      Options
	run    string // sockets and pid file
	data   string
	below  *program // containerd, which outlives dockerd as on every machine
	daemon *program
	log    *os.File
}

// program is one that was started and has perhaps ended.
type program struct {
	cmd   *exec.Cmd
	ended chan error
}

func (d *Daemon) program(name string, args ...string) (*program, error) {
	p := &program{exec.Command(name, args...), make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = d.log, d.log
	p.cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's signals are for the test
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// await polls until check is true, the program ends or time is up.
func (p *program) await(check func() bool) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("%s ended: %w", p.cmd.Path, err)
		case <-deadline.C:
			return fmt.Errorf("%s does not answer", p.cmd.Path)
		}
	}
	return nil
}

func (p *program) end(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	select {
	case err := <-p.ended:
		p.ended <- err
		return nil
	case <-deadline.C:
		return fmt.Errorf("%s does not end", p.cmd.Path)
	}
}

// imagesDir is where packaging/images/build puts what it makes.
func imagesDir() (string, error) {
	if dir := os.Getenv("GOTROVE_IMAGES"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "gotrove", "images"), err
}

// Missing says why tests with these sets of images cannot run here; empty if
// they can.
func Missing(sets ...string) string {
	if os.Geteuid() != 0 {
		return "a Docker of our own needs root"
	}
	for _, program := range []string{"/usr/sbin/dockerd", "/usr/bin/containerd", "/usr/bin/docker"} {
		if _, err := os.Stat(program); err != nil {
			return "Docker is not installed: scripts/install docker"
		}
	}
	if err := mayMount(); err != nil {
		return "a Docker of our own needs the right to mount: " + err.Error()
	}
	dir, err := imagesDir()
	if err != nil {
		return err.Error()
	}
	for _, set := range sets {
		if _, err := os.Stat(filepath.Join(dir, set, "manifest.json")); err != nil {
			return fmt.Sprintf("there are no images in %s: packaging/images/build %s", filepath.Join(dir, set), set)
		}
	}
	return ""
}

func mayMount() error {
	dir, err := os.MkdirTemp("", "gtm")
	if err != nil {
		return err
	}
	defer os.Remove(dir) //nolint:errcheck // an empty directory
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return err
	}
	return unix.Unmount(dir, 0)
}

// Images gives the images of a set by repository: mariadb:10.11.
func Images(set string) (map[string]string, error) {
	dir, err := imagesDir()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, set, "manifest.json"))
	if err != nil {
		return nil, err
	}
	var manifest []struct{ RepoTags []string }
	if err := json.Unmarshal(b, &manifest); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, m := range manifest {
		for _, ref := range m.RepoTags {
			name, _, _ := strings.Cut(ref, ":")
			out[name] = ref
		}
	}
	return out, nil
}

// Start starts a daemon with its images.
func Start(o Options) (*Daemon, error) {
	if why := Missing(o.Sets...); why != "" {
		return nil, errors.New(why)
	}
	images, err := imagesDir()
	if err != nil {
		return nil, err
	}
	base, err := ensureBase(filepath.Join(images, "roots"), images, o.Sets)
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(filepath.Join(images, "roots"), fmt.Sprintf("run-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	if err := cloneTree(base, data); err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	d, err := launch(data, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	return d, nil
}

func launch(data string, o Options) (*Daemon, error) {
	// Short: socket paths hold about 100 characters.
	run, err := os.MkdirTemp("/tmp", "gtd")
	if err != nil {
		return nil, err
	}
	d := &Daemon{Socket: filepath.Join(run, "docker.sock"), o: o, run: run, data: data}
	if err := os.Chmod(run, 0o755); err != nil {
		return nil, err
	}
	if d.log, err = os.Create(filepath.Join(run, "log")); err != nil {
		return nil, err
	}
	if err := errors.Join(d.startContainerd(), d.Start()); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func (d *Daemon) startContainerd() (err error) {
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(d.data, "containerd"), filepath.Join(d.run, "c"), d.containerd())
	path := filepath.Join(d.run, "containerd.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if d.below, err = d.program("/usr/bin/containerd", "--config", path, "--log-level", "warn"); err != nil {
		return err
	}
	return d.below.await(func() bool {
		c, err := net.DialTimeout("unix", d.containerd(), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (d *Daemon) containerd() string { return filepath.Join(d.run, "containerd.sock") }

// Start starts dockerd again after Kill or Down.
func (d *Daemon) Start() (err error) {
	bridge := d.o.Bridge
	if bridge == "" {
		bridge = "none"
	}
	config := filepath.Join(d.run, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		return err
	}
	if d.daemon, err = d.program("/usr/sbin/dockerd", "--config-file", config, "--host", "unix://"+d.Socket,
		"--containerd", d.containerd(), "--data-root", d.data, "--exec-root", filepath.Join(d.run, "x"), "--pidfile", filepath.Join(d.run, "pid"),
		"--bridge", bridge, "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "overlay2",
		"--group", strconv.Itoa(d.o.GID), "--log-level", "warn", "--live-restore="+strconv.FormatBool(d.o.LiveRestore),
		"--shutdown-timeout", "10"); err != nil {
		return err
	}
	if err := d.daemon.await(d.answers); err != nil {
		return fmt.Errorf("%w\n%s", err, d.Log())
	}
	return nil
}

func (d *Daemon) answers() bool {
	c, err := net.DialTimeout("unix", d.Socket, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET /_ping HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	b, _ := io.ReadAll(io.LimitReader(c, 1<<10))
	return bytes.Contains(b, []byte(" 200 "))
}

// Log is the end of what the daemon said.
func (d *Daemon) Log() string {
	b, _ := os.ReadFile(d.log.Name())
	return string(b[max(0, len(b)-4<<10):])
}

// Kill kills dockerd: its containers go on.
func (d *Daemon) Kill() error { return d.daemon.end(syscall.SIGKILL) }

// Down stops dockerd, with its containers unless it has LiveRestore.
func (d *Daemon) Down() error { return d.daemon.end(syscall.SIGTERM) }

// Stop ends the daemon and all its containers, and removes its data.
func (d *Daemon) Stop() error {
	err := errors.Join(d.daemon.end(syscall.SIGTERM), d.below.end(syscall.SIGTERM))
	// What is left: containers of a dockerd that was killed, and their shims.
	err = errors.Join(err, d.sweep(), unmountBelow(d.run), unmountBelow(d.data))
	d.log.Close()
	return errors.Join(err, os.RemoveAll(d.run), os.RemoveAll(d.data))
}

// sweep kills the daemon's shims, which name its directory in their arguments,
// with the containers below them.
func (d *Daemon) sweep() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	children := map[int][]int{}
	var todo []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if _, rest, ok := strings.Cut(string(stat), ") "); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				parent, _ := strconv.Atoi(f[1])
				children[parent] = append(children[parent], pid)
			}
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if name, _, _ := bytes.Cut(args, []byte{0}); bytes.Contains(name, []byte("containerd")) && bytes.Contains(args, []byte(d.run+"/")) {
			todo = append(todo, pid)
		}
	}
	for len(todo) > 0 {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return nil
}

// unmountBelow takes away what containers had mounted.
func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, line := range slices.Backward(strings.Split(string(b), "\n")) { // what was mounted last goes first
		f := strings.Fields(line)
		if len(f) > 1 && (f[1] == dir || strings.HasPrefix(f[1], dir+"/")) {
			_ = unix.Unmount(f[1], unix.MNT_DETACH) // one that stays shows when the directory is removed
		}
	}
	return nil
}

// Docker runs the docker command on the daemon.
func (d *Daemon) Docker(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/docker", append([]string{"--host", "unix://" + d.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// ensureBase makes a daemon's data directory with the images, once: loading them
// takes longer than most tests.
func ensureBase(root, images string, sets []string) (string, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(root, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and lets go of it
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if err := sweepRoots(root); err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, set := range sets {
		configs, err := filepath.Glob(filepath.Join(images, set, "*.json"))
		if err != nil {
			return "", err
		}
		for _, c := range configs {
			b, err := os.ReadFile(c)
			if err != nil {
				return "", err
			}
			sum.Write(b)
		}
	}
	base := filepath.Join(root, "base-"+strings.Join(sets, "+")+"-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(base); err == nil {
		return base, nil
	}
	// Those of older images are of no use any more.
	old, _ := filepath.Glob(filepath.Join(root, "base-"+strings.Join(sets, "+")+"-*"))
	part := filepath.Join(root, "part")
	for _, dir := range append(old, part) {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	d, err := launch(part, Options{})
	if err != nil {
		return "", err
	}
	for _, set := range sets {
		if err := d.load(filepath.Join(images, set)); err != nil {
			return "", errors.Join(err, d.Stop())
		}
	}
	if err := d.Down(); err != nil {
		return "", err
	}
	if err := os.Rename(part, base); err != nil {
		return "", err
	}
	return base, d.Stop()
}

func (d *Daemon) load(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	pack := exec.CommandContext(ctx, "tar", "-C", dir, "-cf", "-", ".")
	load := exec.CommandContext(ctx, "/usr/bin/docker", "--host", "unix://"+d.Socket, "load", "--quiet")
	var err error
	if load.Stdin, err = pack.StdoutPipe(); err != nil {
		return err
	}
	if err := pack.Start(); err != nil {
		return err
	}
	out, err := load.CombinedOutput()
	return errors.Join(pack.Wait(), err, saidIf(err, out))
}

func saidIf(err error, out []byte) error {
	if err == nil {
		return nil
	}
	return errors.New(string(out))
}

// sweepRoots removes what processes that are gone left behind. The lock is held.
func sweepRoots(root string) error {
	left, err := filepath.Glob(filepath.Join(root, "run-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "run-"), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			if err := errors.Join(unmountBelow(dir), os.RemoveAll(dir)); err != nil {
				return err
			}
		}
	}
	return nil
}

// cloneTree copies a daemon's data directory. The files of images, which nothing
// ever writes, are linked and not copied.
func cloneTree(from, to string) error {
	return errors.Join(
		run("cp", "-a", "--link", from+"/overlay2", to+"/"),
		run("sh", "-c", `for d in "$1"/* ; do [ "${d##*/}" = overlay2 ] || cp -a "$d" "$2/"; done`, "sh", from, to))
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
