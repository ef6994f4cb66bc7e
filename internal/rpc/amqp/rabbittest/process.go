package rabbittest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/gotrove/gotrove/internal/proc/porttest"
)

// process is a child and what it starts: one process group. A nil one is gone.
type process struct {
	pid    int
	exited chan struct{}
}

func begin(c *exec.Cmd, environment []string, dir string, out *os.File) (*process, error) {
	c.Env, c.Dir, c.Stdout, c.Stderr = environment, dir, out, out
	// A test that is killed takes it along.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: c.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = c.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) gone() <-chan struct{} {
	if p == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return p.exited
}

// signal is for the group: the Erlang machine has little programs of its own.
func (p *process) signal(s syscall.Signal) {
	if p != nil {
		_ = syscall.Kill(-p.pid, s)
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.gone()
}

func choosePorts() (p ports, err error) {
	for _, into := range []*int{&p.amqp, &p.tls, &p.management, &p.epmd, &p.distribution} {
		if *into, err = porttest.Free(); err != nil {
			return p, err
		}
	}
	return p, nil
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func dial(ctx context.Context, address string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func (s *Server) writeFiles() error {
	definitions, err := json.Marshal(s.definitions())
	if err != nil {
		return err
	}
	config := "listeners.tcp.default = " + s.Addr() + "\n" +
		"load_definitions = " + s.path("definitions.json") + "\n" +
		"log.console = true\nlog.console.level = warning\nlog.file = false\n" +
		"disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.absolute = 1GB\n"
	plugins := ""
	if s.options.Management {
		config += fmt.Sprintf("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n", s.ports.management)
		plugins = "rabbitmq_management"
	}
	if t := s.options.TLS; t != nil {
		config += fmt.Sprintf("listeners.ssl.default = %s\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\n",
			s.TLSAddr(), t.CAFile, t.CertFile, t.KeyFile)
		if t.RequireClient {
			config += "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
		}
	}
	if j := s.options.Join; j != nil {
		config += fmt.Sprintf("cluster_formation.peer_discovery_backend = classic_config\ncluster_formation.classic_config.nodes.1 = %s\ncluster_formation.classic_config.nodes.2 = %s\n",
			j.nodeName(), s.nodeName())
		const cookie = ".erlang.cookie"
		b, err := os.ReadFile(j.path(cookie))
		if err == nil {
			err = os.WriteFile(s.path(cookie), b, 0o400)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(s.path("definitions.json"), definitions, 0o600),
		os.WriteFile(s.path("rabbitmq.conf"), []byte(config), 0o600),
		os.WriteFile(s.path("enabled_plugins"), []byte("["+plugins+"].\n"), 0o600),
	)
}

func (s *Server) definitions() any {
	type object = map[string]any
	users := []object{{"name": AdminName, "password": AdminPassword, "tags": "administrator"}}
	hosts, rights, topics := []object{}, []object{}, []object{}
	for _, v := range append([]string{"/"}, s.options.VirtualHosts...) {
		hosts = append(hosts, object{"name": v})
		rights = append(rights, object{"user": AdminName, "vhost": v, "configure": ".*", "write": ".*", "read": ".*"})
	}
	for _, l := range s.options.Logins {
		users = append(users, object{"name": l.Name, "password": l.Password, "tags": ""})
		rights = append(rights, object{"user": l.Name, "vhost": "/",
			"configure": expression(l.Configure), "write": expression(l.Write), "read": expression(l.Read)})
		for exchange, keys := range l.Topics {
			topics = append(topics, object{"user": l.Name, "vhost": "/", "exchange": exchange, "write": keys, "read": ".*"})
		}
	}
	return object{"vhosts": hosts, "users": users, "permissions": rights, "topic_permissions": topics}
}

// expression keeps an empty expression from matching everything's empty name.
func expression(s string) string {
	if s == "" {
		return "^$"
	}
	return s
}
