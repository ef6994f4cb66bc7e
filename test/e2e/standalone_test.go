// Package e2e tries the whole system as a user would: real binaries, real
// engines, real clients, and kill -9.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. A machine under load is slow, not wrong.
const patience = 90 * time.Second

var bin string // the directory of the built programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gotrove-e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/",
			"github.com/gotrove/gotrove/cmd/troved", "github.com/gotrove/gotrove/cmd/trove-guestagent",
			"github.com/gotrove/gotrove/cmd/trovectl")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// ranges hands each standalone of this process addresses of its own.
var ranges atomic.Int32

// standalone is a troved with data of its own.
type standalone struct {
	t        *testing.T
	home     string
	run      string
	config   string
	api, id  int // ports
	addrs    string
	cmd      *exec.Cmd
	log      *os.File
	clientID map[string]string // openrc
}

// newStandalone starts one and stops and removes it at the end of the test.
// extra are lines of its configuration.
func newStandalone(t *testing.T, extra ...string) *standalone {
	t.Helper()
	if testing.Short() {
		t.Skip("needs database engines")
	}
	// Not t.TempDir: the engines' user must be able to pass, and a socket's
	// path is short.
	dir, err := os.MkdirTemp("", "gt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &standalone{t: t, home: filepath.Join(dir, "home"), run: filepath.Join(dir, "run"), config: filepath.Join(dir, "troved.conf")}
	s.api, s.id = freePort(t), freePort(t)
	s.addrs = fmt.Sprintf("127.%d.%d.0/24", 40+os.Getpid()%80, ranges.Add(1))
	lines := append([]string{"[DEFAULT]", fmt.Sprintf("bind_port = %d", s.api), "max_instances_per_tenant = 100", "max_volumes_per_tenant = 400",
		"[gotrove]", fmt.Sprintf("identity_port = %d", s.id), "data_dir = " + s.home, "run_dir = " + s.run,
		"loopback_range = " + s.addrs, "rate_per_minute = -1", "guest_agent = " + filepath.Join(bin, "trove-guestagent"),
		"engine_user = nobody"}, extra...)
	if err := os.WriteFile(s.config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		s.killEverything()
		if t.Failed() {
			b, _ := os.ReadFile(s.log.Name())
			t.Logf("log of troved:\n%s", tail(b, 12000))
			for _, console := range glob(s.home + "/instances/*/console.log") {
				b, _ := os.ReadFile(console)
				t.Logf("%s:\n%s", console, tail(b, 3000))
			}
		}
		s.log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	s.start()
	return s
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts troved and waits until it serves.
func (s *standalone) start() {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(bin, "troved"), "standalone", "--config-file", s.config)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("troved serves", func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthcheck", s.api))
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("healthcheck: %s", resp.Status)
		}
		return nil
	})
	s.clientID = map[string]string{}
	b, err := os.ReadFile(filepath.Join(s.home, "openrc"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			s.clientID[k] = strings.Trim(v, `"'`)
		}
	}
}

// stop asks troved to end and waits for it.
func (s *standalone) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.wait()
}

// kill9 kills troved alone.
func (s *standalone) kill9() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	s.wait()
}

func (s *standalone) wait() {
	s.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-ended
		s.t.Error("troved did not end")
	}
	s.cmd = nil
}

// processes are the pids of agents and engines of this standalone.
func (s *standalone) processes() []int {
	var pids []int
	for _, dir := range glob("/proc/[0-9]*") {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil || s.cmd != nil && pid == s.cmd.Process.Pid {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cwd, _ := os.Readlink(dir + "/cwd")
		if bytes.Contains(cmdline, []byte(s.home)) || strings.HasPrefix(cwd, s.home) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *standalone) killEverything() {
	s.eventually("all processes are gone", func() error {
		pids := s.processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("still there: %v", pids)
		}
		return nil
	})
}

// eventually tries f until it succeeds or patience ends.
func (s *standalone) eventually(what string, f func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// command runs a program with the openrc in its environment.
func (s *standalone) command(stdin string, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if ours := filepath.Join(bin, name); !strings.Contains(name, "/") {
		if _, err := os.Stat(ours); err == nil {
			name = ours
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.home, "LANG=C.UTF-8"}
	for k, v := range s.clientID {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdin = strings.NewReader(stdin)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// must runs a program that must succeed and returns what it printed.
func (s *standalone) must(name string, args ...string) string {
	s.t.Helper()
	out, errs, err := s.command("", name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs)
	}
	return strings.TrimSpace(out)
}

// passwordFile writes a password where trovectl reads it.
func (s *standalone) passwordFile(password string) string {
	s.t.Helper()
	f := filepath.Join(filepath.Dir(s.home), "password")
	if err := os.WriteFile(f, []byte(password), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return f
}

type instance struct {
	ID, Name, Status, Address string
	Operating                 string `json:"Operating status"`
	Fault                     string
}

func (s *standalone) show(id string) (instance, error) {
	out, errs, err := s.command("", "trovectl", "instance", "show", id, "-f", "json")
	if err != nil {
		return instance{}, fmt.Errorf("show: %w: %s", err, errs)
	}
	var raw map[string]any
	if err := json.Unmarshal([]byte(out), &raw); err != nil {
		return instance{}, err
	}
	text := func(k string) string { v, _ := raw[k].(string); return v }
	i := instance{ID: text("ID"), Name: text("Name"), Status: text("Status"), Operating: text("Operating status"), Fault: text("Fault")}
	if list, ok := raw["Address"].([]any); ok && len(list) > 0 {
		i.Address, _ = list[0].(string)
	}
	return i, nil
}

// create makes an instance with database d and user u and waits until it serves.
func (s *standalone) create(name, datastore, password string) instance {
	s.t.Helper()
	s.must("trovectl", "instance", "create", name, "--datastore", datastore, "--flavor", "db.tiny", "--database", "d",
		"--user", "u", "--password-file", s.passwordFile(password), "--wait", "--timeout", patience.String())
	i, err := s.show(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// query runs SQL as u by the engine's own client.
func (s *standalone) query(i instance, password, sql string) (string, error) {
	out, errs, err := s.command("", "trovectl", "instance", "connect", i.ID, "--user", "u", "--database", "d",
		"--password-file", s.passwordFile(password), "--execute", sql)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, errs)
	}
	return strings.TrimSpace(out), nil
}

func (s *standalone) mustQuery(i instance, password, sql string) string {
	s.t.Helper()
	out, err := s.query(i, password, sql)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return out
}
