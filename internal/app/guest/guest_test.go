package guest

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // how clients of PostgreSQL connect

	"github.com/gotrove/gotrove/internal/broker"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// asAgent makes this program a trove-guestagent.
const asAgent = "GOTROVE_TEST_AS_AGENT"

// limit is how long anything may take on a loaded machine.
const limit = 90 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := Main(ctx, "test", os.Args[1:], os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	flag.Parse()
	if *update {
		os.Exit(m.Run()) // an unprivileged user could not write the golden files
	}
	os.Exit(enginetest.Main(m))
}

// plane is the control plane: a broker, and a conductor that takes notes.
type plane struct {
	socket string
	conn   *amqp.Conn
	client *rpc.Client
	guests *guestapi.Client
	bus    *guestlogin.Bus

	mu       sync.Mutex
	beats    []conductor.Heartbeat
	failures []conductor.Failure
	senders  map[string]string // the request that the first report under a login says
	told     chan struct{}
}

func (p *plane) note(ctx context.Context, sender conductor.Sender, add func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	add()
	if _, known := p.senders[sender.Login]; !known {
		p.senders[sender.Login] = rpc.ContextFrom(ctx).RequestID
	}
	close(p.told)
	p.told = make(chan struct{})
	return nil
}

func (p *plane) Heartbeat(ctx context.Context, sender conductor.Sender, h conductor.Heartbeat) error {
	return p.note(ctx, sender, func() { p.beats = append(p.beats, h) })
}
func (p *plane) ReportRoot(context.Context, conductor.Sender, conductor.RootReport) error { return nil }
func (p *plane) NotifyFailure(ctx context.Context, sender conductor.Sender, f conductor.Failure) error {
	return p.note(ctx, sender, func() { p.failures = append(p.failures, f) })
}

// until waits until what was reported fulfils check.
func (p *plane) until(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		p.mu.Lock()
		told, ok := p.told, check()
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-told:
		case <-deadline:
			t.Fatalf("no %s; reported were %s", what, p.report())
		}
	}
}

func (p *plane) report() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _ := json.Marshal(struct{ Beats, Failures any }{p.beats, p.failures})
	return string(b)
}

func (p *plane) last() string {
	for _, b := range slices.Backward(p.beats) {
		if b.Payload.ServiceStatus != "" {
			return b.Payload.ServiceStatus
		}
	}
	return ""
}

func (p *plane) untilStatus(t *testing.T, s trove.ServiceStatus) {
	t.Helper()
	p.until(t, "status "+s.Description, func() bool { return p.last() == s.Description })
}

func (p *plane) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beats, p.failures = nil, nil
}

type queues struct{ conn *amqp.Conn }

func (q queues) DeclareGuestQueues(ctx context.Context, names ...string) error {
	return rpc.DeclareQueues(ctx, q.conn, "trove", names...)
}
func (q queues) DeleteQueues(ctx context.Context, names ...string) error {
	return rpc.DeleteQueues(ctx, q.conn, names...)
}

func newPlane(t *testing.T, dir string) *plane {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	p := &plane{socket: filepath.Join(dir, "bus.sock"), senders: map[string]string{}, told: make(chan struct{})}
	logins := guestlogin.New(bytes.Repeat([]byte("k"), 32), guestlogin.Place{Exchange: "trove"}, p.socket)
	b := broker.New(broker.Options{Auth: logins, Logger: log})
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		if err := b.Serve(context.Background(), l); err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Error(err)
		}
	}()
	closing := func(f func(context.Context) error) {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = f(ctx)
		})
	}
	closing(func(ctx context.Context) error { err := b.Shutdown(ctx); <-serving; return err })
	if p.conn, err = amqp.New(amqp.Config{URL: logins.URL(guestlogin.ControlPlane).Reveal(), Log: log}); err != nil {
		t.Fatal(err)
	}
	closing(p.conn.Close)
	p.client = rpc.NewClient(p.conn, rpc.ClientOptions{Exchange: "trove", ReplyExchange: guestlogin.ReplyExchange("trove"), Log: log})
	closing(p.client.Close)
	p.guests = guestapi.NewClient(p.client, limit, limit)
	p.bus = guestlogin.NewBus(logins, queues{p.conn}, func(login string) { b.CloseConnections(login) })
	server := rpc.NewServer(p.conn, conductor.Handler(p), rpc.ServerOptions{Exchange: "trove", Topic: conductor.Topic, Log: log})
	closing(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := server.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// machine is where one agent runs.
type machine struct {
	id, conf, state, address string
	port                     int
	log                      *os.File
	agent                    *exec.Cmd
}

func (p *plane) machine(t *testing.T, dir, manager string, port int) *machine {
	t.Helper()
	m := &machine{id: "11111111-2222-3333-4444-" + strconv.Itoa(100000000000+os.Getpid()), conf: filepath.Join(dir, "conf.d"),
		state: filepath.Join(dir, "agent"), port: port}
	for n := 1; ; n++ {
		m.address = fmt.Sprintf("127.32.%d.%d", os.Getpid()%250+1, n)
		l, err := net.Listen("tcp", net.JoinHostPort(m.address, strconv.Itoa(port)))
		if err == nil {
			l.Close()
			break
		}
		if n > 200 {
			t.Fatal(err)
		}
	}
	url, err := p.bus.EnsureGuest(t.Context(), m.id)
	if err != nil {
		t.Fatal(err)
	}
	options := []osloconf.Option{
		{Name: "data_dir", Value: filepath.Join(dir, "volume")}, {Name: "state_dir", Value: m.state},
		{Name: "run_dir", Value: filepath.Join(dir, "run")}, {Name: "log_dir", Value: filepath.Join(dir, "log")},
		{Name: "template_dir", Value: filepath.Join(dir, "templates")}, {Name: "address", Value: m.address},
		{Name: "volume_size", Value: "1"}, {Name: "stop_engine_on_exit", Value: "true"},
		{Name: "reply_exchange", Value: guestlogin.ReplyExchange("trove")},
	}
	text, err := osloconf.Render(osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{
		{Name: "guest_id", Value: m.id}, {Name: "datastore_manager", Value: manager},
		{Name: "transport_url", Value: url}, {Name: "control_exchange", Value: "trove"},
	}}, osloconf.Group{Name: "gotrove", Options: options})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{m.conf, m.state, filepath.Join(dir, "volume", "conf.d"), filepath.Join(dir, "run"), filepath.Join(dir, "log")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(m.conf, "guest.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if m.log, err = os.Create(filepath.Join(dir, "agent.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(m.log.Name())
			t.Logf("the agent's log:\n%s", b)
		}
		m.log.Close()
	})
	return m
}

func (m *machine) start(t *testing.T) {
	t.Helper()
	m.agent = exec.Command("/proc/self/exe", "--config-dir", m.conf)
	m.agent.Env = append(os.Environ(), asAgent+"=1", "GOTROVE_INSTANCE="+m.id)
	m.agent.Stderr = m.log
	m.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.agent.Start(); err != nil {
		t.Fatal(err)
	}
}

// killAll ends whatever of the machine runs at the end of a failed test.
func (m *machine) killAll(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := proc.Kill(ctx, func() ([]proc.Process, error) { return proc.Tree("GOTROVE_INSTANCE=" + m.id) }); err != nil {
		t.Error(err)
	}
}

func (m *machine) enginePID(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.state, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s struct{ Handle struct{ PID int } }
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s.Handle.PID
}

func (m *machine) open(t *testing.T, manager, user, password, database string) (*sql.DB, error) {
	t.Helper()
	at := net.JoinHostPort(m.address, strconv.Itoa(m.port))
	driver, dsn := "pgx", fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, at, database)
	if manager == "mariadb" {
		c := mysql.NewConfig()
		c.User, c.Passwd, c.Net, c.Addr, c.DBName = user, password, "tcp", at, database
		driver, dsn = "mysql", c.FormatDSN()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db, db.PingContext(t.Context())
}

// TestInstance follows an instance through all that may happen to it, over a
// real bus, with a real engine.
func TestInstance(t *testing.T) {
	for manager, port := range map[string]int{"mariadb": 3306, "postgresql": 5432} {
		t.Run(manager, func(t *testing.T) {
			if found, err := kinds[manager].installed(t.Context()); err != nil || len(found) == 0 {
				t.Skipf("%s is not installed (%v)", manager, err)
			}
			instance(t, manager, port)
		})
	}
}

func instance(t *testing.T, manager string, port int) {
	dir, err := os.MkdirTemp("", "a") // t.TempDir makes paths too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := newPlane(t, dir)
	m := p.machine(t, dir, manager, port)
	t.Cleanup(func() { m.killAll(t) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*limit)
	defer cancel()

	m.start(t)
	p.untilStatus(t, trove.ServiceNew)
	password := "app-Passw0rd"
	began := time.Now()
	err = p.guests.Prepare(ctx, m.id, guestapi.Prepare{Databases: []rpcapi.Database{{Name: "shop"}},
		Users: []rpcapi.User{{Name: "app", Password: &password, Host: "%", Databases: []rpcapi.Database{{Name: "shop"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	p.untilStatus(t, trove.ServiceHealthy)
	t.Logf("prepared in %s", time.Since(began).Round(time.Millisecond))
	db, err := m.open(t, manager, "app", password, "shop")
	if err != nil {
		t.Fatal(err)
	}
	exec := func(q string) {
		t.Helper()
		if _, err := db.ExecContext(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	exec("CREATE TABLE kept (n INT)")
	exec("INSERT INTO kept VALUES (1)")
	p.mu.Lock()
	if _, known := p.senders[guestlogin.Name(m.id)]; len(p.senders) != 1 || !known {
		t.Errorf("the reports came from %v", p.senders)
	}
	p.mu.Unlock()

	// A killed agent finds its engine; clients notice nothing.
	pid := m.enginePID(t)
	p.forget()
	if err := errors.Join(m.agent.Process.Kill(), ended(m.agent)); err != nil {
		t.Fatal(err)
	}
	exec("INSERT INTO kept VALUES (2)")
	m.start(t)
	p.untilStatus(t, trove.ServiceHealthy)
	if now := m.enginePID(t); now != pid {
		t.Errorf("the engine's pid is %d, was %d", now, pid)
	}
	exec("INSERT INTO kept VALUES (3)")

	// Calls, answered by the exchange a guest may answer by.
	if err := p.guests.Ping(ctx, m.id); err != nil {
		t.Error(err)
	}
	if s, err := p.guests.FilesystemStats(ctx, m.id); err != nil || s.Total != 1 || s.Used <= 0 || s.Used >= 1 {
		t.Errorf("filesystem %+v, %v", s, err)
	}
	if l, err := p.guests.ListUsers(ctx, m.id, guestapi.List{}); err != nil || len(l.Items) != 1 || l.Items[0].Name != "app" {
		t.Errorf("users %+v, %v", l, err)
	}
	if err := p.guests.GrantAccess(ctx, m.id, "nobody", "%", []string{"shop"}); err == nil {
		t.Error("a grant to nobody succeeds")
	}
	root, err := p.guests.EnableRoot(ctx, m.id, "")
	if err != nil || len(root.Password) != 36 {
		t.Fatalf("root %v", err)
	}
	if _, err := m.open(t, manager, root.Name, root.Password, "shop"); err != nil {
		t.Errorf("root cannot connect: %v", err)
	}
	if err := p.guests.DisableRoot(ctx, m.id); err != nil {
		t.Error(err)
	}

	// Casts: one that works, twice; one that does not.
	for range 2 {
		msg := guestapi.CreateDatabasesMessage(m.id, []trove.Database{{Name: "second"}})
		msg.UniqueID = "the-same"
		if err := p.client.Cast(ctx, msg); err != nil {
			t.Fatal(err)
		}
	}
	p.until(t, "second word that the cast is done", func() bool {
		n := 0
		for _, b := range p.beats {
			for _, id := range b.Payload.Done {
				if id == "the-same" {
					n++
				}
			}
		}
		return n == 2
	})
	bad := guestapi.CreateUsersMessage(m.id, []trove.User{{Name: "os_admin", Password: "hidden-Passw0rd"}})
	if err := p.client.Cast(ctx, bad); err != nil {
		t.Fatal(err)
	}
	p.until(t, "failure", func() bool { return len(p.failures) == 1 })
	if f := p.failures[0]; !strings.Contains(f.Message, "os_admin") || strings.Contains(p.report(), "hidden") {
		t.Errorf("failure %+v", f)
	}

	// A killed engine is back with what was committed.
	p.forget()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.untilStatus(t, trove.ServiceCrashed)
	p.untilStatus(t, trove.ServiceHealthy)
	rows := func() (n int) {
		t.Helper()
		fresh, err := m.open(t, manager, "app", password, "shop")
		if err != nil {
			t.Fatal(err)
		}
		if err := fresh.QueryRowContext(ctx, "SELECT COUNT(*) FROM kept").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := rows(); n != 3 {
		t.Errorf("%d rows of 3", n)
	}
	if err := p.guests.Restart(ctx, m.id, "00112233445566778899aabbccddeeff"); err != nil {
		t.Error(err)
	}
	if now := m.enginePID(t); now == pid {
		t.Error("restart kept the engine's process")
	}
	// Asked again, as by a task manager that took over from one that was killed.
	pid = m.enginePID(t)
	if err := p.guests.Restart(ctx, m.id, "00112233445566778899aabbccddeeff"); err != nil {
		t.Error(err)
	}
	if now := m.enginePID(t); now != pid {
		t.Error("one request restarted the engine twice")
	}

	// A power cut, and the end.
	pid = m.enginePID(t)
	if err := errors.Join(m.agent.Process.Kill(), ended(m.agent), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	p.forget()
	m.start(t)
	p.untilStatus(t, trove.ServiceHealthy)
	if n := rows(); n != 3 {
		t.Errorf("%d rows of 3", n)
	}
	pid = m.enginePID(t)
	if err := m.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.agent.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	p.untilStatus(t, trove.ServiceShutdown)
	if left, err := proc.Tree("GOTROVE_INSTANCE=" + m.id); err != nil || len(left) > 0 || syscall.Kill(pid, 0) == nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	b, err := os.ReadFile(m.log.Name())
	if err != nil || strings.Contains(string(b), "Passw0rd") || strings.Contains(string(b), root.Password) {
		t.Errorf("the agent's log tells a password, or %v", err)
	}
}

func ended(c *exec.Cmd) error {
	if err := c.Wait(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			return err
		}
	}
	return nil
}

func TestEnginesAndTemplate(t *testing.T) {
	var out bytes.Buffer
	if code := Main(t.Context(), "test", []string{"engines"}, &out, io.Discard); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	var found []installation
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, i := range found {
		if i.Version == "" || i.BinDir == "" {
			t.Errorf("%+v", i)
		}
		out.Reset()
		args := []string{"template", "--manager", i.Manager, "--template-dir", dir}
		if code := Main(t.Context(), "test", args, &out, os.Stderr); code != 0 {
			t.Errorf("%v: exit code %d", args, code)
		}
		if path := strings.TrimSpace(out.String()); !strings.HasPrefix(path, dir) {
			t.Errorf("the template is at %q", path)
		}
	}
}

func TestWrongCommandLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := "[DEFAULT]\nguest_id = i\ntransport_url = rabbit://u:hidden@127.0.0.1:1/\ndatastore_manager = %s\n" +
		"[gotrove]\ndata_dir = /d\nstate_dir = /s\nrun_dir = /r\nlog_dir = /l\naddress = 127.0.0.1\nruntime = %s\n"
	for _, c := range []struct {
		name, conf string
		args       []string
		code       int
		says       string
	}{
		{"unknown flag", "", []string{"--nonsense"}, 2, "nonsense"},
		{"argument", "", []string{"nonsense"}, 2, "usage"},
		{"no file", "", []string{"--config-file", file + ".gone"}, 1, file + ".gone"},
		{"option missing", "[DEFAULT]\nguest_id = i\n", []string{"--config-file", file}, 1, "is not set"},
		{"unknown engine", fmt.Sprintf(all, "oracle", "process"), []string{"--config-file", file}, 1, "mariadb, mysql, postgresql"},
		{"unknown runtime", fmt.Sprintf(all, "mariadb", "podman"), []string{"--config-file", file}, 1, "podman"},
		{"template of nothing", "", []string{"template"}, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(c.conf)
			var errs bytes.Buffer
			if code := Main(t.Context(), "test", c.args, io.Discard, &errs); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(errs.String(), c.says) || strings.Contains(errs.String(), "hidden") {
				t.Errorf("it says %q", errs.String())
			}
		})
	}
}
