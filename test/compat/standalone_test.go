// Package compat tries clients that others wrote, as they come, against a real
// standalone with real engines: Debian's openstack command with python-troveclient,
// gophercloud, and gophercloud's own acceptance tests. What a client cannot do
// yet must be refused so that the client tells its user why.
//
// One standalone serves all tests of the package. What the original's API says
// in detail is tested in internal/api, what survives a kill in test/e2e.
package compat

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/secret"
)

// patience bounds every wait. A machine under load is slow, not wrong.
const patience = 90 * time.Second

// tick is how often a wait looks.
const tick = 50 * time.Millisecond

var engines = []string{"mariadb", "postgresql"}

// service is the standalone of this test run; nil in short mode.
var service *standalone

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	os.Exit(func() (code int) {
		dir, err := os.MkdirTemp("", "gtc") // short: sockets are below it
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		service = &standalone{dir: dir}
		err = service.setUp()
		if err == nil {
			code = m.Run()
			err = service.stop()
		}
		if left := service.killLeftovers(); err == nil && len(left) > 0 {
			err = fmt.Errorf("troved ended and left %v", left)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if code != 0 {
			service.logs()
		}
		return code
	}())
}

// standalone is a troved with data of its own and two users: admin of project
// demo, whom its openrc is for, and mia, a member of project other.
type standalone struct {
	dir           string // everything is below
	api, identity int    // ports
	cmd           *exec.Cmd
	ended         chan error
	admin, member map[string]string // OS_ variables
}

func (s *standalone) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *standalone) setUp() error {
	// The engines' user must be able to pass.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", s.path("bin")+"/",
		"github.com/gotrove/gotrove/cmd/troved", "github.com/gotrove/gotrove/cmd/trove-guestagent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	var err error
	if s.api, err = porttest.Free(); err != nil {
		return err
	}
	if s.identity, err = porttest.Free(); err != nil {
		return err
	}
	config := fmt.Sprintf(`[DEFAULT]
bind_port = %d
max_instances_per_tenant = 30
max_volumes_per_tenant = 100
[gotrove]
identity_port = %d
data_dir = %s
run_dir = %s
loopback_range = 127.%d.199.0/24
rate_per_minute = 100000
engine_user = nobody
ready_data_directories = 1
`, s.api, s.identity, s.path("home"), s.path("run"), 130+os.Getpid()%80)
	if err := os.WriteFile(s.path("troved.conf"), []byte(config), 0o644); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	// Users are read at the start, so the second one needs another.
	if err := errors.Join(s.readOpenRC(), s.stop(), s.addMember()); err != nil {
		return err
	}
	return s.start()
}

// start starts troved and waits until it serves.
func (s *standalone) start() error {
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.path("bin", "troved"), "standalone", "--config-file", s.path("troved.conf"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A test run that is killed takes its standalone along, engines and all.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.cmd.Wait() }()
	return poll("troved serves", tick, func() error {
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("troved ended: %w", err)
		default:
		}
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
}

// stop asks troved to end and waits for it.
func (s *standalone) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.ended
		return errors.New("troved did not end")
	}
}

func (s *standalone) readOpenRC() error {
	b, err := os.ReadFile(s.path("home", "openrc"))
	if err != nil {
		return err
	}
	s.admin = map[string]string{}
	for line := range strings.Lines(string(b)) {
		if kv, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			k, v, _ := strings.Cut(kv, "=")
			s.admin[k] = strings.Trim(v, `'`)
		}
	}
	return nil
}

func (s *standalone) addMember() error {
	const name, project, password = "mia", "other", "mia's password"
	file := s.path("home", "identity", "users.json")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var d map[string][]any
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	hash, err := secret.NewHasher(1).Hash(context.Background(), secret.New(password))
	if err != nil {
		return err
	}
	d["projects"] = append(d["projects"], map[string]any{"id": project + "-id", "name": project, "enabled": true})
	d["users"] = append(d["users"], map[string]any{"id": name + "-id", "name": name, "password_hash": hash, "enabled": true,
		"assignments": []any{map[string]any{"project_id": project + "-id", "roles": []string{"member"}}}})
	if b, err = json.Marshal(d); err != nil {
		return err
	}
	s.member = maps.Clone(s.admin)
	s.member["OS_USERNAME"], s.member["OS_PASSWORD"], s.member["OS_PROJECT_NAME"] = name, password, project
	return os.WriteFile(file, b, 0o600)
}

// environ is a client's whole environment: nothing of who runs the tests.
func (s *standalone) environ(who map[string]string) []string {
	env := []string{"PATH=/usr/bin:/bin", "HOME=" + s.dir, "LANG=C.UTF-8", "PYTHONWARNINGS=ignore"}
	for k, v := range who {
		env = append(env, k+"="+v)
	}
	return env
}

// killLeftovers kills what troved left running and says what it was.
func (s *standalone) killLeftovers() (left []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		var pid int
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cwd, _ := os.Readlink(dir + "/cwd")
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil || !bytes.Contains(cmdline, []byte(s.path("home"))) && !strings.HasPrefix(cwd, s.path("home")) {
			continue
		}
		left = append(left, fmt.Sprintf("%d %q", pid, cmdline))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return left
}

// logs prints what helps to find out why a test failed.
func (s *standalone) logs() {
	files, _ := filepath.Glob(s.path("home", "instances", "*", "console.log"))
	for _, f := range append([]string{s.path("log")}, files...) {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(os.Stderr, "%s:\n%s\n", f, b[max(0, len(b)-8000):])
	}
}

// poll tries f every so often until it succeeds or patience ends.
func poll(what string, every time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		case <-again.C:
		}
	}
}

func eventually(t *testing.T, what string, every time.Duration, f func() error) {
	t.Helper()
	if err := poll(what, every, f); err != nil {
		t.Fatal(err)
	}
}

// needsEngines skips a test in short mode.
func needsEngines(t *testing.T) {
	t.Helper()
	if service == nil {
		t.Skip("needs database engines")
	}
}

// login logs in to an engine as a stranger would, over the network.
func login(t *testing.T, datastore, address, user, password, database string) error {
	t.Helper()
	driver, dsn := "mysql", fmt.Sprintf("%s:%s@tcp(%s:3306)/%s", user, password, address, database)
	if datastore == "postgresql" {
		driver, dsn = "pgx", fmt.Sprintf("postgres://%s:%s@%s:5432/%s?sslmode=disable", user, password, address, database)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var one int
	return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}
