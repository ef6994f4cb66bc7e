package mariadb_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/enginetest"
	"github.com/gotrove/gotrove/internal/guest/engine/mariadb"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
	"github.com/gotrove/gotrove/internal/trove"
)

// server is a MariaDB whose start a test takes apart.
type server struct {
	*mariadb.Engine
	set     engine.Settings
	runtime *process.Runtime
	handle  runtime.Handle
}

func newServer(t *testing.T) *server {
	t.Helper()
	if _, _, ok, err := mariadb.Installed(t.Context()); !ok || err != nil {
		t.Skip("MariaDB is not installed: apt-get install mariadb-server-core ", err)
	}
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	s := &server{set: engine.Settings{
		InstanceID: enginetest.InstanceID(dir), DataDir: in("v", "data"), SecretsDir: in("v", "conf.d"), ConfigDir: in("etc"),
		RunDir: in("run"), LogDir: in("log"), Address: "127.30.255.254", Port: 33060, MemoryMB: 512,
	}}
	if s.runtime, err = process.New(process.Options{}); err != nil {
		t.Fatal(err)
	}
	s.Engine = mariadb.New(s.set)
	t.Cleanup(func() { s.Close() })
	if err := s.Initialise(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) start(t *testing.T, change func(*runtime.Spec)) {
	t.Helper()
	spec, err := s.Command()
	if err != nil {
		t.Fatal(err)
	}
	change(&spec)
	if s.handle, err = s.runtime.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
}

func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.runtime.Stop(context.WithoutCancel(t.Context()), s.handle, syscall.SIGTERM, time.Minute); err != nil {
		t.Error(err)
	}
}

func (s *server) ready(t *testing.T) {
	t.Helper()
	runtimetest.Eventually(t, "Ready", func() error { return s.Ready(t.Context()) })
}

func asIs(*runtime.Spec) {}

func (s *server) initFileThere() bool {
	_, err := os.Lstat(filepath.Join(s.set.SecretsDir, "init.sql"))
	return !errors.Is(err, fs.ErrNotExist)
}

// TestNobodyGetsInBeforeTheAdministrator starts the server on its fresh data
// directory without the init file: not one account may let anyone in.
func TestNobodyGetsInBeforeTheAdministrator(t *testing.T) {
	s := newServer(t)
	s.start(t, func(spec *runtime.Spec) { spec.Argv = spec.Argv[:2] })
	for _, user := range []string{"root", "", "nobody", "mysql", "mariadb.sys", "os_admin"} {
		c := mysql.NewConfig()
		c.Net, c.Addr, c.User, c.Logger = "unix", filepath.Join(s.set.RunDir, "mariadb.sock"), user, &mysql.NopLogger{}
		connector, err := mysql.NewConnector(c)
		if err != nil {
			t.Fatal(err)
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		runtimetest.Eventually(t, "an answer to "+user, func() error {
			err := db.PingContext(t.Context())
			if _, refused := errors.AsType[*mysql.MySQLError](err); refused {
				return nil
			}
			if err == nil {
				t.Fatalf("user %q gets in without a password", user)
			}
			return err
		})
	}
}

// TestAgentKilledBeforeStarted: the server was started, the agent killed
// before it could take the init file away; the next agent does.
func TestAgentKilledBeforeStarted(t *testing.T) {
	s := newServer(t)
	s.start(t, asIs)
	s.ready(t)
	s.stop(t)
	s.Engine = mariadb.New(s.set)
	if err := s.Initialise(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.initFileThere() {
		t.Fatal("the init file went before Started")
	}
	s.start(t, asIs)
	s.ready(t)
	if err := s.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.initFileThere() {
		t.Error("the init file stays after Started")
	}
	s.stop(t)
	s.start(t, asIs)
	s.ready(t)
}

// TestLostAdministrator: os_admin.cnf is gone. A new password is made and is
// in force from the next start.
func TestLostAdministrator(t *testing.T) {
	s := newServer(t)
	s.start(t, asIs)
	s.ready(t)
	if err := s.Started(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateUser(t.Context(), trove.User{Name: "kept", Password: "kept-Passw0rd"}); err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	if err := os.Remove(filepath.Join(s.set.SecretsDir, "os_admin.cnf")); err != nil {
		t.Fatal(err)
	}
	s.Engine = mariadb.New(s.set)
	if err := s.Ready(t.Context()); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("Ready without a password gives %v", err)
	}
	if err := s.Initialise(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.start(t, asIs)
	s.ready(t)
	if _, err := s.User(t.Context(), "kept", ""); err != nil {
		t.Error(err)
	}
}

// TestPasswordsStayOutOfTheServersLogs turns on all logs a configuration group
// can turn on.
func TestPasswordsStayOutOfTheServersLogs(t *testing.T) {
	s := newServer(t)
	general, slow := filepath.Join(s.set.LogDir, "general.log"), filepath.Join(s.set.LogDir, "slow.log")
	err := s.Configure(t.Context(), map[string]any{
		"general_log": 1, "general_log_file": general, "slow_query_log": 1, "slow_query_log_file": slow, "long_query_time": 0, "log_slow_filter": "",
		"sql_mode": "NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, asIs)
	s.ready(t)
	const password = `s3cr3t'\"-Passw0rd`
	if err := s.CreateUser(t.Context(), trove.User{Name: "user", Password: password}); err != nil {
		t.Fatal(err)
	}
	again := "again-s3cr3t"
	if err := s.AlterUser(t.Context(), "user", "", trove.UserAttributes{Password: &again}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnableRoot(t.Context(), password); err != nil {
		t.Fatal(err)
	}
	db, err := connect(t.Context(), targetOf(s, "root", password))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var canary string
	if err := db.QueryRowContext(t.Context(), "SELECT 'canary'").Scan(&canary); err != nil {
		t.Fatal(err)
	}
	admin, err := os.ReadFile(filepath.Join(s.set.SecretsDir, "os_admin.cnf"))
	if err != nil {
		t.Fatal(err)
	}
	_, adminPassword, _ := strings.Cut(string(admin), "password = ")
	adminPassword, _, _ = strings.Cut(adminPassword, "\n")
	for _, log := range []string{general, slow} {
		var b []byte
		// A statement is logged after it has been answered.
		runtimetest.Eventually(t, log+" logs, else it proves nothing", func() (err error) {
			if b, err = os.ReadFile(log); err == nil && !strings.Contains(string(b), "canary") {
				err = errors.New("no canary")
			}
			return err
		})
		for _, secret := range []string{"s3cr3t", adminPassword} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s holds a password: %s", log, b)
			}
		}
	}
	// Root cannot read the agent's secrets through the server either.
	var content sql.NullString
	err = db.QueryRowContext(t.Context(), "SELECT LOAD_FILE(?)", filepath.Join(s.set.SecretsDir, "os_admin.cnf")).Scan(&content)
	if err != nil || content.Valid {
		t.Errorf("root reads os_admin.cnf through the server: %v", err)
	}
}

func targetOf(s *server, user, password string) enginetest.Target {
	return enginetest.Target{Address: s.set.Address, Port: s.set.Port, User: user, Password: password}
}

// TestAccessEndsAtOnce: who is dropped or disabled does not go on by a
// connection that is open.
func TestAccessEndsAtOnce(t *testing.T) {
	s := newServer(t)
	s.start(t, asIs)
	s.ready(t)
	open := func(user string) *sql.Conn {
		t.Helper()
		db, err := connect(t.Context(), targetOf(s, user, "a-Passw0rd"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	create := func(u trove.User) {
		t.Helper()
		u.Password = "a-Passw0rd"
		if err := s.CreateUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"o`brien", "both", "stays"} {
		create(trove.User{Name: name})
	}
	create(trove.User{Name: "both", Host: "192.0.2.1"})
	if _, err := s.EnableRoot(t.Context(), "a-Passw0rd"); err != nil {
		t.Fatal(err)
	}
	dropped, root, both, stays := open("o`brien"), open("root"), open("both"), open("stays")
	if err := errors.Join(s.DropUser(t.Context(), "o`brien", ""), s.DropUser(t.Context(), "both", "192.0.2.1"), s.DisableRoot(t.Context())); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*sql.Conn{"dropped user": dropped, "root": root} {
		runtimetest.Eventually(t, name+" is off", func() error {
			if c.PingContext(t.Context()) == nil {
				return errors.New("still connected")
			}
			return nil
		})
	}
	for name, c := range map[string]*sql.Conn{"user of another host": both, "another user": stays} {
		if err := c.PingContext(t.Context()); err != nil {
			t.Errorf("%s lost the connection: %v", name, err)
		}
	}
}
