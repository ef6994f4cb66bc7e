// Package rabbittest starts a RabbitMQ of its own for a test: Debian's
// rabbitmq-server as an ordinary child process, with free ports, its own
// directories, node name, cookie and epmd, so that neither the machine's
// service nor another test is touched.
//
// It is for tests only. It knows nothing of package rpc; what it gives is an
// address and logins.
package rabbittest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Administrator is the login that may do everything on the virtual host.
const (
	AdminName     = "trove"
	AdminPassword = "trove-test"
)

const (
	serverScript = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	startTimeout = 2 * time.Minute
)

// Login is a user with rights on the virtual host "/". The three expressions
// are RabbitMQ's; an empty one gives no right. Topics limits the routing keys
// it may write, by topic exchange.
type Login struct {
	Name, Password         string
	Configure, Write, Read string
	Topics                 map[string]string
}

// Server is a running RabbitMQ.
type Server struct {
	addr   string
	dir    string
	epmd   *exec.Cmd
	node   *exec.Cmd
	exited chan struct{}
}

// Start runs a RabbitMQ until the test ends.
func Start(tb testing.TB, logins ...Login) *Server {
	tb.Helper()
	Require(tb)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := Run(ctx, tb.TempDir(), logins...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

// Require ends the test where RabbitMQ is not installed: as skipped with
// -short, otherwise as failed.
func Require(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat(serverScript); err != nil {
		if testing.Short() {
			tb.Skip("RabbitMQ is not installed (Debian package rabbitmq-server)")
		}
		tb.Fatalf("%v: install Debian's package rabbitmq-server", err)
	}
}

// Run starts a RabbitMQ in dir and returns when it takes logins. The caller
// stops it. For a TestMain; a test uses Start.
func Run(ctx context.Context, dir string, logins ...Login) (*Server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s := &Server{addr: "127.0.0.1:" + strconv.Itoa(ports[0]), dir: dir}
	if err := s.writeFiles(logins); err != nil {
		return nil, err
	}
	if err := s.spawn(ports); err != nil {
		s.Stop()
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		s.Stop()
		log, _ := os.ReadFile(filepath.Join(dir, "out.log"))
		return nil, fmt.Errorf("rabbitmq-server: %w\n%s", err, tail(log, 4000))
	}
	return s, nil
}

// Addr is the TCP address it listens on.
func (s *Server) Addr() string { return s.addr }

// URL is the address with the administrator's login, virtual host "/".
func (s *Server) URL() string { return s.URLFor(AdminName, AdminPassword) }

// URLFor is the address with a login.
func (s *Server) URLFor(name, password string) string {
	return (&url.URL{Scheme: "amqp", User: url.UserPassword(name, password), Host: s.addr, Path: "/"}).String()
}

// Stop kills the server and waits until it is gone.
func (s *Server) Stop() {
	for _, c := range []*exec.Cmd{s.node, s.epmd} {
		if c == nil || c.Process == nil {
			continue
		}
		// The group: the Erlang machine has little programs of its own.
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
	if s.exited != nil {
		<-s.exited
		s.exited = nil
	}
	if s.epmd != nil && s.epmd.Process != nil {
		_ = s.epmd.Wait()
	}
	s.node, s.epmd = nil, nil
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) writeFiles(logins []Login) error {
	type object = map[string]any
	users := []object{{"name": AdminName, "password": AdminPassword, "tags": "administrator"}}
	rights := []object{{"user": AdminName, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}}
	topics := []object{}
	for _, l := range logins {
		users = append(users, object{"name": l.Name, "password": l.Password, "tags": ""})
		rights = append(rights, object{"user": l.Name, "vhost": "/",
			"configure": expression(l.Configure), "write": expression(l.Write), "read": expression(l.Read)})
		for exchange, keys := range l.Topics {
			topics = append(topics, object{"user": l.Name, "vhost": "/", "exchange": exchange, "write": keys, "read": ".*"})
		}
	}
	definitions, err := json.Marshal(object{
		"vhosts": []object{{"name": "/"}}, "users": users, "permissions": rights, "topic_permissions": topics,
	})
	if err != nil {
		return err
	}
	config := "listeners.tcp.default = " + s.addr + "\n" +
		"load_definitions = " + s.path("definitions.json") + "\n" +
		"log.console = true\nlog.console.level = warning\nlog.file = false\n" +
		"disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.absolute = 1GB\n"
	return errors.Join(
		os.WriteFile(s.path("definitions.json"), definitions, 0o600),
		os.WriteFile(s.path("rabbitmq.conf"), []byte(config), 0o600),
		os.WriteFile(s.path("enabled_plugins"), []byte("[].\n"), 0o600),
	)
}

// expression keeps an empty expression from matching everything's empty name.
func expression(s string) string {
	if s == "" {
		return "^$"
	}
	return s
}

func (s *Server) spawn(ports []int) error {
	// Run here and not by the node, which would leave it behind as a daemon.
	s.epmd = exec.Command("epmd", "-address", "127.0.0.1", "-port", strconv.Itoa(ports[1]))
	s.node = exec.Command(serverScript)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LANG=C.UTF-8",
		"ERL_EPMD_PORT=" + strconv.Itoa(ports[1]), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=t" + strconv.Itoa(ports[0]) + "@localhost",
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(ports[2]),
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
	for _, c := range []*exec.Cmd{s.epmd, s.node} {
		c.Env, c.Dir = env, s.dir
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	}
	out, err := os.Create(s.path("out.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	s.node.Stdout, s.node.Stderr = out, out
	if err := s.epmd.Start(); err != nil {
		return err
	}
	if err := s.node.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func(node *exec.Cmd, exited chan struct{}) {
		_ = node.Wait()
		close(exited)
	}(s.node, s.exited)
	return nil
}

func (s *Server) waitReady(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := amqp.DialConfig(s.URL(), amqp.Config{Dial: amqp.DefaultDial(10 * time.Second)})
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return errors.New("it ended before it took a login")
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w", err)
		}
	}
}

// freePorts are ports nobody listens on now; another program may still take
// one before we do, which then fails loudly.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
