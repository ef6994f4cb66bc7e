// Package rabbittest starts a RabbitMQ of its own for a test: Debian's
// rabbitmq-server as an ordinary child process, with free ports, its own
// directories, node name, cookie and epmd, so that neither the machine's
// service nor another test is touched. A test may stop, kill, freeze and start
// it again on the same data and ports, and have TLS and the management API.
//
// It is for tests only. It knows nothing of package rpc; what it gives is an
// address and logins.
package rabbittest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/proc/proctest"
)

// Administrator is the login that may do everything on the virtual host, and in
// the management API.
const (
	AdminName     = "trove"
	AdminPassword = "trove-test"
)

const (
	binaries     = "/usr/lib/rabbitmq/bin"
	serverScript = binaries + "/rabbitmq-server"
	startTimeout = 3 * time.Minute
	// attempts at a start: another program may take a port before we do.
	attempts = 3
)

// Options are what a server is started with.
type Options struct {
	Logins []Login
	// VirtualHosts besides "/"; the administrator may do everything there too.
	VirtualHosts []string
	// Management enables the management plugin; see ManagementURL.
	Management bool
	// TLS is a second listener, with TLS; see TLSAddr.
	TLS *TLS
	// Join makes the server a node of the cluster of this one, which must run.
	Join *Server
}

// TLS are the files of a listener; see NewAuthority.
type TLS struct {
	CAFile, CertFile, KeyFile string
	// RequireClient: a client must have a certificate of CAFile.
	RequireClient bool
}

// Login is a user with rights on the virtual host "/". The three expressions
// are RabbitMQ's; an empty one gives no right. Topics limits the routing keys
// it may write, by topic exchange.
type Login struct {
	Name, Password         string
	Configure, Write, Read string
	Topics                 map[string]string
}

// Server is a RabbitMQ with its data. Its methods are for one goroutine.
type Server struct {
	dir     string
	options Options
	ports   ports
	epmd    *process
	node    *process
}

// ports are those of one server, the same for all its life.
type ports struct{ amqp, tls, management, epmd, distribution int }

// Start runs a RabbitMQ until the test ends.
func Start(tb testing.TB, logins ...Login) *Server {
	tb.Helper()
	return StartWith(tb, Options{Logins: logins})
}

// StartWith is Start with options.
func StartWith(tb testing.TB, o Options) *Server {
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

// Require skips the test with -short, and fails it where RabbitMQ is not
// installed.
func Require(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs RabbitMQ")
	}
	if _, err := os.Stat(serverScript); err != nil {
		tb.Fatalf("%v: install Debian's package rabbitmq-server", err)
	}
}

// Run starts a RabbitMQ in dir and returns when it takes logins. The caller
// stops it. For a TestMain; a test uses Start.
func Run(ctx context.Context, dir string, o Options) (*Server, error) {
	var err error
	for n := range attempts {
		s := &Server{dir: filepath.Join(dir, strconv.Itoa(n)), options: o}
		if err = os.Mkdir(s.dir, 0o700); err != nil {
			return nil, err
		}
		if s.ports, err = choosePorts(); err != nil {
			return nil, err
		}
		if o.Join != nil {
			s.ports.epmd = o.Join.ports.epmd
		}
		if err = s.writeFiles(); err != nil {
			return nil, err
		}
		if err = s.Start(ctx); err == nil {
			return s, nil
		}
		s.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// Addr is the TCP address it listens on.
func (s *Server) Addr() string { return local(s.ports.amqp) }

// TLSAddr is the TCP address of the listener with TLS, if there is one.
func (s *Server) TLSAddr() string { return local(s.ports.tls) }

// ManagementURL is where the management API is, if it is enabled, without the
// path "/api".
func (s *Server) ManagementURL() string { return "http://" + local(s.ports.management) }

// URL is the address with the administrator's login, virtual host "/".
func (s *Server) URL() string { return s.URLFor(AdminName, AdminPassword) }

// URLFor is the address with a login.
func (s *Server) URLFor(name, password string) string {
	return (&url.URL{Scheme: "amqp", User: url.UserPassword(name, password), Host: s.Addr(), Path: "/"}).String()
}

// Start runs a server that was stopped, shut down or killed again, on the same
// data and ports, and returns when it takes logins.
func (s *Server) Start(ctx context.Context) error {
	err := s.spawn(ctx)
	if err == nil {
		err = s.waitReady(ctx)
	}
	if err != nil {
		log, _ := os.ReadFile(s.path("out.log"))
		return fmt.Errorf("rabbitmq-server: %w\n%s", err, tail(log, 4000))
	}
	return nil
}

// Shutdown ends the server as an operator does and waits until it is gone, at
// most until ctx ends; then it is killed.
func (s *Server) Shutdown(ctx context.Context) {
	s.node.signal(syscall.SIGTERM)
	select {
	case <-s.node.gone():
	case <-ctx.Done():
	}
	s.Stop()
}

// Stop kills the server, at once, and waits until it is gone. RabbitMQ then
// sometimes loses what was declared since its start, durable or not (one of
// fifty kills on a busy machine): what has to be kept needs a Shutdown first.
func (s *Server) Stop() {
	s.node.kill()
	s.epmd.kill()
	s.node, s.epmd = nil, nil
}

// Pause freezes the server: its connections stay open and nothing answers.
func (s *Server) Pause() error { return proctest.FreezeGroup(s.node.pid) }

// Resume ends Pause.
func (s *Server) Resume() { s.node.signal(syscall.SIGCONT) }

// Ctl runs rabbitmqctl on the server. It takes seconds.
func (s *Server) Ctl(ctx context.Context, arguments ...string) error {
	c := exec.CommandContext(ctx, binaries+"/rabbitmqctl", append([]string{"--node", s.nodeName()}, arguments...)...)
	c.Env, c.Dir = s.environment(), s.dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w\n%s", arguments[0], err, tail(out, 4000))
	}
	return nil
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) nodeName() string { return "t" + strconv.Itoa(s.ports.amqp) + "@localhost" }

func (s *Server) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8",
		"ERL_EPMD_PORT=" + strconv.Itoa(s.ports.epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + s.nodeName(),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(s.ports.distribution),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_CONFIG_FILE=" + s.path("rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + s.path("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + s.path("mnesia"),
		"RABBITMQ_LOG_BASE=" + s.path("log"),
		"RABBITMQ_FEATURE_FLAGS_FILE=" + s.path("feature_flags"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + s.path("generated"),
		"RABBITMQ_SCHEMA_DIR=" + s.path("schema"),
		"RABBITMQ_PID_FILE=" + s.path("pid"),
		// Idle schedulers that spin would slow down everything else here.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none",
		// Makes the script exec the Erlang machine in place of itself.
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

func (s *Server) spawn(ctx context.Context) error {
	out, err := os.OpenFile(s.path("out.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if s.options.Join == nil {
		if err := s.spawnMapper(ctx, out); err != nil {
			return fmt.Errorf("epmd: %w", err)
		}
	}
	s.node, err = begin(exec.Command(serverScript), s.environment(), s.dir, out)
	return err
}

// spawnMapper starts the port mapper. The node would do so too, and leave it
// behind as a daemon; it has to listen before the node looks for it.
func (s *Server) spawnMapper(ctx context.Context, out *os.File) (err error) {
	epmd := exec.Command("epmd", "-address", "127.0.0.1", "-port", strconv.Itoa(s.ports.epmd))
	if s.epmd, err = begin(epmd, s.environment(), s.dir, out); err != nil {
		return err
	}
	return s.poll(ctx, s.epmd, func() error { return dial(ctx, local(s.ports.epmd)) })
}

func (s *Server) waitReady(ctx context.Context) error {
	err := s.poll(ctx, s.node, func() error {
		c, err := amqp.DialConfig(s.URL(), amqp.Config{Dial: amqp.DefaultDial(10 * time.Second)})
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err == nil && s.options.TLS != nil {
		err = s.poll(ctx, s.node, func() error { return dial(ctx, s.TLSAddr()) })
	}
	if err == nil && s.options.Management {
		err = s.poll(ctx, s.node, func() error { return s.managed(ctx) })
	}
	return err
}

// managed asks the management API for something that needs all of it.
func (s *Server) managed(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ManagementURL()+"/api/overview", nil)
	if err != nil {
		return err
	}
	r.SetBasicAuth(AdminName, AdminPassword)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New("management API: " + answer.Status)
	}
	return nil
}

// poll tries f until it succeeds, p ends or ctx does.
func (s *Server) poll(ctx context.Context, p *process, f func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.gone():
			return errors.New("it ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w: %w", ctx.Err(), err)
		}
	}
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
