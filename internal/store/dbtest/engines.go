package dbtest

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// programs are those of an engine, and the signal that ends it in order.
type programs struct {
	server, install string
	stop            syscall.Signal
}

// find looks for an engine's programs.
func find(e Engine) (programs, error) {
	switch e {
	case MariaDB:
		server, err := first("/usr/sbin/mariadbd")
		install, err2 := first("/usr/bin/mariadb-install-db")
		if err := errors.Join(err, err2); err != nil {
			return programs{}, fmt.Errorf("%w: install Debian's package mariadb-server-core", err)
		}
		return programs{server, install, syscall.SIGTERM}, nil
	case PostgreSQL:
		server, err := first("/usr/lib/postgresql/*/bin/postgres")
		install, err2 := first("/usr/lib/postgresql/*/bin/initdb")
		if err := errors.Join(err, err2); err != nil {
			return programs{}, fmt.Errorf("%w: install Debian's package postgresql", err)
		}
		return programs{server, install, syscall.SIGINT}, nil
	}
	return programs{}, fmt.Errorf("no such engine: %s", e)
}

func first(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("there is no %s", pattern)
	}
	if err != nil {
		return "", err
	}
	return found[len(found)-1], nil
}

// nobody owns PostgreSQL's files and process where we are root: it refuses to
// run as root.
const nobody = 65534

// install makes the data directory and the login.
func (s *Server) install(ctx context.Context) error {
	var c *exec.Cmd
	if s.Engine == MariaDB {
		c = exec.CommandContext(ctx, s.programs.install, "--no-defaults", "--datadir="+s.path("data"), "--user="+userName(),
			"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	} else {
		if err := os.WriteFile(s.path("password"), []byte(Password+"\n"), 0o600); err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			if err := errors.Join(os.Chown(s.dir, nobody, nobody), os.Chown(s.path("password"), nobody, nobody)); err != nil {
				return err
			}
		}
		c = exec.CommandContext(ctx, s.programs.install, "--pgdata="+s.path("data"), "--username="+User, "--pwfile="+s.path("password"),
			"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged()}
	}
	c.Dir = s.dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", s.programs.install, err, out)
	}
	if s.Engine == MariaDB {
		return os.WriteFile(s.path("init.sql"), []byte("CREATE USER IF NOT EXISTS "+User+"@'127.0.0.1' IDENTIFIED BY '"+Password+"';\n"+
			"CREATE USER IF NOT EXISTS "+User+"@localhost IDENTIFIED BY '"+Password+"';\n"+
			"GRANT ALL ON `trove%`.* TO "+User+"@'127.0.0.1';\nGRANT ALL ON `trove%`.* TO "+User+"@localhost;\n"), 0o600)
	}
	return nil
}

func (s *Server) command() *exec.Cmd {
	if s.Engine == MariaDB {
		return exec.Command(s.programs.server, append([]string{"--no-defaults", "--user=" + userName(), "--datadir=" + s.path("data"), "--socket=" + s.Socket(),
			"--bind-address=127.0.0.1", "--port=" + strconv.Itoa(s.port), "--pid-file=" + s.path("pid"), "--init-file=" + s.path("init.sql"),
			"--skip-name-resolve", "--max-connections=500", "--performance-schema=OFF",
			"--innodb-buffer-pool-size=128M", "--innodb-log-file-size=64M", "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite"}, s.options...)...)
	}
	c := exec.Command(s.programs.server, append([]string{"-D", s.path("data"), "-p", strconv.Itoa(s.port), "-k", s.Socket(), "-h", "127.0.0.1",
		"-c", "fsync=off", "-c", "max_connections=300", "-c", "shared_buffers=64MB", "-c", "autovacuum_naptime=5s"}, s.options...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged()}
	return c
}

// RequireTLS starts the server again with a certificate and its key, in PEM:
// nobody is let in over TCP without TLS from now on.
func (s *Server) RequireTLS(ctx context.Context, cert, key []byte) error {
	files := map[string][]byte{"cert.pem": cert, "key.pem": key}
	s.options = []string{"--ssl-cert=" + s.path("cert.pem"), "--ssl-key=" + s.path("key.pem"), "--require-secure-transport=ON"}
	if s.Engine == PostgreSQL {
		files["data/pg_hba.conf"] = []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n")
		s.options = []string{"-c", "ssl=on", "-c", "ssl_cert_file=" + s.path("cert.pem"), "-c", "ssl_key_file=" + s.path("key.pem")}
	}
	for name, content := range files {
		err := os.WriteFile(s.path(name), content, 0o600)
		if err == nil && s.Engine == PostgreSQL && os.Geteuid() == 0 {
			err = os.Chown(s.path(name), nobody, nobody)
		}
		if err != nil {
			return err
		}
	}
	s.Shutdown(ctx)
	return s.Start(ctx)
}

func userName() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return os.Getenv("USER")
}

func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

func (s *Server) admin(database string) (*sql.DB, error) {
	var db *sql.DB
	var err error
	if s.Engine == MariaDB {
		c := mysql.NewConfig()
		c.User, c.Net, c.Addr, c.DBName = "root", "unix", s.Socket(), database
		c.Timeout, c.Logger = 10*time.Second, &mysql.NopLogger{}
		var connector driver.Connector
		if connector, err = mysql.NewConnector(c); err == nil {
			db = sql.OpenDB(connector)
		}
	} else {
		db, err = sql.Open("pgx", s.URL(cmp.Or(database, "postgres")))
	}
	if err == nil {
		db.SetMaxOpenConns(4)
		db.SetMaxIdleConns(1)
	}
	return db, err
}

// process is a child: one process group. A nil one is gone.
type process struct {
	pid    int
	exited chan struct{}
}

func begin(c *exec.Cmd, out *os.File) (*process, error) {
	c.Stdout, c.Stderr = out, out
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A test that is killed takes it along.
	c.SysProcAttr.Setpgid, c.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
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

func (p *process) signal(sig syscall.Signal) {
	if p != nil {
		_ = syscall.Kill(p.pid, sig)
	}
}

// kill is for the group: PostgreSQL is many processes.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.exited
}
