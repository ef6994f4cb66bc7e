// Package keystonetest starts a Keystone of its own for a test: Debian's
// keystone with SQLite in a temporary directory, served by uwsgi on a free port
// of the loopback, with projects, users, roles and a catalog. A test may stop,
// kill, freeze and start it again on the same data and port, and ask it for
// tokens as people get them.
//
// It is for tests only. It knows nothing of package keystone; what it gives is
// an address and logins. The first start takes some 15 s.
package keystonetest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/proc/proctest"
)

// What there is from the start. All names are in the domain Default.
const (
	AdminName    = "admin" // role admin in the projects admin, demo and other
	DemoName     = "demo"  // role member in the project demo
	ServiceName  = "trove" // role service in the project service: the service's own login
	DemoProject  = "demo"
	OtherProject = "other"
	Region       = "RegionOne"
	DomainName   = "Default"
	// Password is everybody's.
	Password = "keystone-test"
)

const (
	manage       = "/usr/bin/keystone-manage"
	wsgi         = "/usr/bin/keystone-wsgi-public"
	uwsgi        = "/usr/bin/uwsgi"
	startTimeout = 3 * time.Minute
	// attempts at a start: another program may take the port before we do.
	attempts = 3
)

// Options are what a server is started with.
type Options struct {
	// TokenLife is how long tokens are valid; an hour if zero.
	TokenLife time.Duration
	// DatabaseURL is the catalog's service of type database, without the project:
	// http://127.0.0.1:8779/v1.0. None if empty.
	DatabaseURL string
}

// Server is a Keystone with its data. Its methods are for one goroutine; those
// of Client are for any.
type Server struct {
	dir     string
	options Options
	port    int
	child   *exec.Cmd
	exited  chan struct{}
}

// Start runs a Keystone until the test ends.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	Require(tb)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := Run(ctx, tb.TempDir(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

// Require skips the test with -short, and fails it where Keystone is not
// installed.
func Require(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs Keystone")
	}
	for _, path := range []string{manage, wsgi, uwsgi} {
		if _, err := os.Stat(path); err != nil {
			tb.Fatalf("%v: install Debian's package keystone", err)
		}
	}
}

// Run starts a Keystone in dir and returns when people can log in. The caller
// stops it. For a TestMain; a test uses Start.
func Run(ctx context.Context, dir string, o Options) (*Server, error) {
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	s := &Server{dir: dir, options: o}
	var err error
	if s.port, err = porttest.Free(); err != nil {
		return nil, err
	}
	if err := s.install(ctx); err != nil {
		return nil, err
	}
	for range attempts {
		if err = s.Start(ctx); err == nil || ctx.Err() != nil {
			break
		}
		if s.port, err = porttest.Free(); err != nil {
			break
		}
	}
	if err == nil {
		if err = s.furnish(ctx); err != nil {
			err = s.told(err)
		}
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// URL is where Keystone is, with its version: http://127.0.0.1:12345/v3.
func (s *Server) URL() string { return "http://" + s.address() + "/v3" }

func (s *Server) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Start runs a server that was stopped again, on the same data and port, and
// returns when it answers.
func (s *Server) Start(ctx context.Context) error {
	out, err := os.OpenFile(s.path("out.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c := exec.Command(uwsgi, "--plugin", "python3", "--http-socket", s.address(), "--wsgi-file", wsgi,
		"--threads", "8", "--enable-threads", "--need-app", "--buffer-size", "65535", "--listen", "100", "--disable-logging",
		// uwsgi closes each connection; who is not told may use it once more.
		"--add-header", "Connection: close")
	if err := s.begin(c, out); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return s.told(errors.New("it ended before it was ready"))
		case <-ctx.Done():
			s.Stop()
			return s.told(fmt.Errorf("not ready in time: %w", err))
		}
	}
}

// Stop kills the server, at once, and waits until it is gone.
func (s *Server) Stop() {
	if s.child != nil {
		s.signal(syscall.SIGKILL)
		<-s.exited
		s.child = nil
	}
}

// Pause freezes the server: connections are taken and nothing answers.
func (s *Server) Pause() error { return proctest.FreezeGroup(s.child.Process.Pid) }

// Resume ends Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	if s.child != nil {
		_ = syscall.Kill(-s.child.Process.Pid, sig)
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
		"OS_KEYSTONE_CONFIG_FILES=" + s.path("keystone.conf")}
}

// begin starts a child and what it starts as one process group. A test that is
// killed takes it along.
func (s *Server) begin(c *exec.Cmd, out *os.File) error {
	c.Env, c.Dir, c.Stdout, c.Stderr = s.environment(), s.dir, out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.child, s.exited = c, exited
	go func() {
		_ = c.Wait()
		close(exited)
	}()
	return nil
}

func (s *Server) answers(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(), nil)
	if err != nil {
		return err
	}
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// install makes the configuration, the keys and the database.
func (s *Server) install(ctx context.Context) error {
	// The fewest rounds: tests log in often, and their passwords are no secret.
	config := fmt.Sprintf(`[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///%s?timeout=60
[token]
expiration = %d
[fernet_tokens]
key_repository = %[3]s
[fernet_receipts]
key_repository = %[3]s
[credential]
key_repository = %[3]s
[identity]
password_hash_rounds = 4
`, s.path("keystone.db"), int(s.options.TokenLife.Seconds()), s.path("keys"))
	if err := os.WriteFile(s.path("keystone.conf"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(s.path("keys"), 0o700); err != nil {
		return err
	}
	for _, name := range []string{"0", "1"} {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		if err := os.WriteFile(filepath.Join(s.path("keys"), name), []byte(base64.URLEncoding.EncodeToString(key)), 0o600); err != nil {
			return err
		}
	}
	if err := s.manage(ctx, "db_sync"); err != nil {
		return err
	}
	// Its threads would keep one another out of the database for longer than
	// they wait.
	if err := s.run(ctx, "/usr/bin/sqlite3", s.path("keystone.db"), "PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	return s.manage(ctx, "bootstrap", "--bootstrap-password", Password, "--bootstrap-region-id", Region,
		"--bootstrap-public-url", s.URL(), "--bootstrap-internal-url", s.URL(), "--bootstrap-admin-url", s.URL())
}

func (s *Server) manage(ctx context.Context, arguments ...string) error {
	return s.run(ctx, manage, append([]string{"--config-file", s.path("keystone.conf")}, arguments...)...)
}

func (s *Server) run(ctx context.Context, program string, arguments ...string) error {
	c := exec.CommandContext(ctx, program, arguments...)
	c.Env, c.Dir = s.environment(), s.dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", c, err, tail(out))
	}
	return nil
}

// told adds what the server wrote to an error.
func (s *Server) told(err error) error {
	log, _ := os.ReadFile(s.path("out.log"))
	return fmt.Errorf("keystone: %w\n%s", err, tail(log))
}

func tail(b []byte) []byte {
	if len(b) > 4000 {
		return b[len(b)-4000:]
	}
	return b
}
