package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/identity/keystonetest"
	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// backbone is a region for measuring: a RabbitMQ, a MariaDB and a Keystone of
// its own, a migrated database, and roles as processes.
type backbone struct {
	bin, dir, config string
	rabbit           *rabbittest.Server
	maria            *dbtest.Server
	keystone         *keystonetest.Server
	store            *store.Store
	db               *sql.DB
	version          string // of the datastore that instances are of
	master, logins   secret.String
	running          []*role
}

const (
	database    = "trove_bench"
	serversWait = 3 * time.Minute
)

// backboneFigures measures what needs a region.
func (b *bench) backboneFigures(ctx context.Context) (err error) {
	r, err := newBackbone(ctx, b.bin)
	if r != nil {
		defer func() {
			if b.verbose || err != nil {
				r.printLogs()
			}
			err = errors.Join(err, r.remove())
		}()
	}
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, *backbone) error
	}{{"roles", b.roles}, {"conductor", b.conductor}, {"guests", b.guests}, {"api", b.rest}} {
		if b.wants(part.name) {
			if err := part.measure(ctx, r); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			r.stopAll()
		}
	}
	return nil
}

// manyFiles lets the servers that are started have as many connections as the
// machine allows.
func manyFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

func newBackbone(ctx context.Context, bin string) (*backbone, error) {
	ctx, cancel := context.WithTimeout(ctx, serversWait)
	defer cancel()
	bin, err := filepath.Abs(bin)
	if err == nil {
		err = manyFiles()
	}
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gtb")
	if err != nil {
		return nil, err
	}
	// The engines' user must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r := &backbone{bin: bin, dir: dir, config: filepath.Join(dir, "trove.conf"),
		master: secret.New(rand.Text()), logins: secret.New(rand.Text() + rand.Text())}
	ended := make(chan error, 3)
	for _, start := range []func() error{
		func() (err error) {
			r.rabbit, err = rabbittest.Run(ctx, r.sub("rabbitmq"), rabbittest.Options{Management: true})
			return err
		},
		func() (err error) { r.maria, err = dbtest.Run(ctx, dbtest.MariaDB); return err },
		func() (err error) {
			r.keystone, err = keystonetest.Run(ctx, r.sub("keystone"), keystonetest.Options{})
			return err
		},
	} {
		go func() { ended <- start() }()
	}
	for range 3 {
		err = errors.Join(err, <-ended)
	}
	if err == nil {
		err = r.openDatabase(ctx)
	}
	if err == nil {
		err = r.configure()
	}
	return r, err
}

// sub makes a directory.
func (r *backbone) sub(name string) string {
	path := filepath.Join(r.dir, name)
	_ = os.Mkdir(path, 0o700) // whoever uses it finds out
	return path
}

func (r *backbone) openDatabase(ctx context.Context) error {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.InterpolateParams = "root", "unix", r.maria.Socket(), true
	root, err := mysql.NewConnector(c)
	if err != nil {
		return err
	}
	admin := sql.OpenDB(root)
	defer admin.Close()
	if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+database); err != nil {
		return err
	}
	c.DBName = database
	if root, err = mysql.NewConnector(c); err != nil {
		return err
	}
	r.db = sql.OpenDB(root)
	r.db.SetMaxIdleConns(1)
	if r.store, err = store.Open(ctx, store.Config{URL: secret.New(r.maria.URL(database))}); err != nil {
		return err
	}
	if err := r.store.Migrate(ctx); err != nil {
		return err
	}
	r.version, err = r.store.EnsureVersion(ctx, trove.DatastoreVersion{DatastoreName: "mariadb", Name: "10.11", Number: "10.11",
		Manager: "mariadb", Active: true}, true)
	return err
}

func (r *backbone) configure() error {
	lines := []string{
		"[DEFAULT]", "transport_url = rabbit://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + r.rabbit.Addr() + "/",
		"control_exchange = trove", "bind_host = 127.0.0.1",
		"taskmanager_rpc_encr_key = " + rand.Text(), "inst_rpc_key_encr_key = " + r.master.Reveal(),
		"max_instances_per_tenant = -1", "max_volumes_per_tenant = -1", "max_ram_per_tenant = -1",
		"[database]", "connection = " + r.maria.URL(database),
		"[keystone_authtoken]", "auth_type = password", "auth_url = " + r.keystone.URL(), "www_authenticate_uri = " + r.keystone.URL(),
		"username = " + keystonetest.ServiceName, "password = " + keystonetest.Password, "project_name = service",
		"user_domain_id = default", "project_domain_id = default",
		"[gotrove]", "cloud = local", "data_dir = " + filepath.Join(r.dir, "data"), "run_dir = " + filepath.Join(r.dir, "run"),
		fmt.Sprintf("loopback_range = 127.%d.1.0/24", 140+os.Getpid()%60), "rate_per_minute = -1", "metrics_listen = 127.0.0.1:0",
		"guest_agent = " + filepath.Join(r.bin, "trove-guestagent"), "engine_user = nobody",
		"rabbit_management_url = " + r.rabbit.ManagementURL(), "rabbit_management_user = " + rabbittest.AdminName,
		"rabbit_management_password = " + rabbittest.AdminPassword, "guest_login_key = " + r.logins.Reveal(),
	}
	return os.WriteFile(r.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// remove stops everything and leaves nothing.
func (r *backbone) remove() error {
	r.stopAll()
	var err error
	if r.store != nil {
		err = errors.Join(r.store.Close(), r.db.Close())
	}
	if r.keystone != nil {
		r.keystone.Stop()
	}
	if r.rabbit != nil {
		r.rabbit.Stop()
	}
	if r.maria != nil {
		r.maria.Remove()
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

func (r *backbone) printLogs() {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "*.log"))
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			fmt.Fprintf(os.Stderr, "%s:\n%s\n", filepath.Base(name), b[max(0, len(b)-8000):])
		}
	}
}

// role is a process of one role.
type role struct {
	cmd   *exec.Cmd
	ended chan struct{}
	url   string // of an API
	began time.Time
	took  time.Duration // from exec until it said that it serves
}

func (p *role) pid() int { return p.cmd.Process.Pid }

// start starts a role (api, taskmanager or conductor) and returns when it
// serves.
func (r *backbone) start(ctx context.Context, name string) (*role, error) {
	n := strconv.Itoa(len(r.running))
	words := filepath.Join(r.dir, n+".notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: words, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer notify.Close()
	port, err := porttest.Free()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(r.dir, name+"-"+n+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &role{ended: make(chan struct{}), url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	p.cmd = exec.Command(filepath.Join(r.bin, "troved"), name, "--config-file", r.config)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "LANG=C.UTF-8", "NOTIFY_SOCKET=" + words,
		"OS_DEFAULT__HOST=" + name + n, "OS_DEFAULT__BIND_PORT=" + strconv.Itoa(port)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	r.running = append(r.running, p)
	deadline, _ := ctx.Deadline()
	if err := notify.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = notify.SetReadDeadline(time.Unix(1, 0)) })()
	go func() { // one that ends says no more
		<-p.ended
		_ = notify.SetReadDeadline(time.Unix(1, 0))
	}()
	for b := make([]byte, 64); ; {
		n, err := notify.Read(b)
		if err != nil {
			return nil, fmt.Errorf("%s does not serve: %w", name, err)
		}
		if string(b[:n]) == "READY=1" {
			p.took = time.Since(p.began)
			return p, nil
		}
	}
}

// end signals a role and waits until it is gone.
func (p *role) end(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	wait := time.NewTimer(stopWait)
	defer wait.Stop()
	select {
	case <-p.ended:
	case <-wait.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (r *backbone) stopAll() {
	for _, p := range r.running {
		p.end(syscall.SIGTERM)
	}
}

// processOf finds the process of a program whose command line or environment
// has a word.
func processOf(program, word string) (int, error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		name, _, _ := strings.Cut(string(b), "\x00")
		if strings.Contains(filepath.Base(name), program) && strings.Contains(string(b)+string(env), word) {
			return pid, nil
		}
	}
	return 0, errors.Join(err, fmt.Errorf("there is no %s with %s", program, word))
}

// servers are the processes of RabbitMQ and MariaDB.
func (r *backbone) servers() (rabbit, maria int, err error) {
	_, port, _ := net.SplitHostPort(r.rabbit.Addr())
	rabbit, err = processOf("beam", "t"+port+"@localhost")
	if err == nil {
		_, port, _ = net.SplitHostPort(r.maria.Addr())
		maria, err = processOf("mariadbd", "--port="+port)
	}
	return rabbit, maria, err
}

// seedGuest is an instance that was written for a measurement.
type seedGuest struct {
	id   string
	keys *keyring.Agent
}

const bulk = 500 // rows of one INSERT

// seed writes instances of a project, with keys of a form, that are HEALTHY and
// ACTIVE.
func (r *backbone) seed(ctx context.Context, project string, n int, form seal.Form) ([]seedGuest, error) {
	ring, err := keyring.New(keyring.Config{Master: []secret.String{r.master}, NewKeys: true, NewForm: form}, nil, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return nil, err
	}
	guests := make([]seedGuest, n)
	keys := make([]string, n)
	for i := range guests {
		guests[i].id = trove.NewID()
		keys[i] = ring.MakeKey()
		text, err := ring.OpenKey(ctx, guests[i].id, keys[i])
		if err != nil {
			return nil, err
		}
		if guests[i].keys, err = keyring.NewAgent(guests[i].id, secret.New(text)); err != nil {
			return nil, err
		}
	}
	for from := 0; from < n; from += bulk {
		var values [3][]string
		var args [3][]any
		for i, g := range guests[from:min(from+bulk, n)] {
			values[0] = append(values[0], "(?, NOW() - INTERVAL ? SECOND, NOW(), ?, ?, 1, 'No tasks for the instance.', '1', 1, ?, 0, ?, 'RegionOne', ?, ?)")
			args[0] = append(args[0], g.id, (from+i)%86400, fmt.Sprintf("db-%d", from+i), trove.NewID(), project, r.version, keys[from+i], `{"is_public": false}`)
			values[1] = append(values[1], "(?, ?, ?, ?, NOW())")
			args[1] = append(args[1], trove.NewID(), g.id, trove.ServiceHealthy.Code, trove.ServiceHealthy.Description)
			values[2] = append(values[2], "(?, ?, ?, ?)")
			args[2] = append(args[2], g.id, string(trove.ServerActive), `[{"address": "10.0.0.1", "type": "private", "network": "n"}]`, time.Now().UnixMicro())
		}
		for i, into := range []string{
			`instances (id, created, updated, name, compute_instance_id, task_id, task_description, flavor_id, volume_size,
				tenant_id, deleted, datastore_version_id, region_id, encrypted_key, access)`,
			"service_statuses (id, instance_id, status_id, status_description, updated_at)",
			"observed (instance_id, server_status, addresses, seen_at)",
		} {
			if _, err := r.db.ExecContext(ctx, "INSERT INTO "+into+" VALUES "+strings.Join(values[i], ", "), args[i]...); err != nil {
				return nil, err
			}
		}
	}
	return guests, nil
}
