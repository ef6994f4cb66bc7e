// Package e2e tries the whole system as a user would: real binaries, real
// engines, real clients, and kill -9.
package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc/porttest"
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
	t       *testing.T
	dir     string // holds all of it
	home    string
	run     string
	config  string
	api, id int // ports
	addrs   string
	owner   *syscall.Credential // whom troved runs as; nil: as we do
	wrap    []string            // a command that runs troved
	cmd     *exec.Cmd
	log     *os.File
	openrc  map[string]string
	token   string
	project string
	deleted []string // instances
	mounted bool     // home is a file system of its own
}

// newStandalone starts one and stops and removes it at the end of the test.
// extra are lines of its configuration.
func newStandalone(t *testing.T, extra ...string) *standalone {
	t.Helper()
	s := prepare(t, extra...)
	s.start()
	return s
}

// prepare makes all that a standalone needs and does not start it.
func prepare(t *testing.T, extra ...string) *standalone {
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
	s := &standalone{t: t, dir: dir, home: filepath.Join(dir, "home"), run: filepath.Join(dir, "run"), config: filepath.Join(dir, "troved.conf")}
	s.api, s.id = freePort(t), freePort(t)
	s.addrs = fmt.Sprintf("127.%d.%d.", 40+os.Getpid()%80, ranges.Add(1))
	s.configure(extra...)
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.t = t // a subtest's is over
		s.stop()
		s.killEverything()
		if t.Failed() {
			t.Logf("log of troved:\n%s", tail(reads.ReplaceAllString(readFile(s.log.Name()), ""), 16000))
			for _, console := range glob(s.home + "/instances/*/console.log") {
				t.Logf("%s:\n%s", console, tail(readFile(console), 3000))
			}
		}
		s.log.Close()
		if s.mounted {
			if err := syscall.Unmount(s.home, 0); err != nil {
				t.Errorf("unmount: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return s
}

func (s *standalone) configure(extra ...string) {
	s.t.Helper()
	lines := append([]string{"[DEFAULT]", fmt.Sprintf("bind_port = %d", s.api), "max_instances_per_tenant = 100", "max_volumes_per_tenant = 400",
		"[gotrove]", fmt.Sprintf("identity_port = %d", s.id), "data_dir = " + s.home, "run_dir = " + s.run,
		"loopback_range = " + s.addrs + "0/24", "rate_per_minute = -1", "guest_agent = " + filepath.Join(bin, "trove-guestagent"),
		"engine_user = nobody", "ready_data_directories = 1"}, extra...)
	if err := os.WriteFile(s.config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// unprivileged has troved itself run as somebody who may do nothing special.
func (s *standalone) unprivileged() {
	s.t.Helper()
	if os.Geteuid() != 0 {
		return // it does so anyway
	}
	s.owner = nobody(s.t)
	if err := os.Chown(s.dir, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
		s.t.Fatal(err)
	}
}

func nobody(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// needRoot skips what an ordinary user cannot do to a machine.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

// reads are lines of a log that say least.
var reads = regexp.MustCompile(`(?m)^.*"msg":"request","method":"GET".*"status":200.*\n`)

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func readFile(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func freePort(t *testing.T) int {
	t.Helper()
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// troved is the command that runs this standalone.
func (s *standalone) troved(args ...string) *exec.Cmd {
	words := append(append([]string{}, s.wrap...), filepath.Join(bin, "troved"))
	words = append(append(words, args...), "--config-file", s.config)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8"}
	if s.owner != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	}
	return cmd
}

// start starts troved and waits until it serves.
func (s *standalone) start() {
	s.t.Helper()
	s.cmd = s.troved("standalone")
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
	s.openrc, s.token = map[string]string{}, ""
	b, err := os.ReadFile(filepath.Join(s.home, "openrc"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			s.openrc[k] = strings.Trim(v, `"'`)
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
	if how := s.wait(); !how.Success() {
		s.t.Errorf("troved was asked to stop: %s", how)
	}
}

// kill9 kills troved alone.
func (s *standalone) kill9() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	s.wait()
}

func (s *standalone) wait() *os.ProcessState {
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
	how := s.cmd.ProcessState
	s.cmd = nil
	return how
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
