// Package dbtest starts a database server of its own for tests: Debian's
// MariaDB or PostgreSQL as an ordinary child process, with free ports and its
// own directories, so that neither the machine's service nor another test is
// touched. A server can be stopped, killed, frozen and started again.
//
// Servers write their log before they answer a commit but never sync it: what
// was committed survives the end of the process, not of the machine.
//
// It is for tests only. It knows nothing of package store; what it gives is a
// URL as [database] connection has it.
package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver that Admin needs

	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/proc/proctest"
)

// Engine is a kind of server.
type Engine string

// The engines there are.
const (
	MariaDB    Engine = "mariadb"
	PostgreSQL Engine = "postgresql"
)

// The login that every database belongs to. The password has what a URL must
// quote.
const (
	User     = "trove"
	Password = "p@ss/w:rd#%?"
)

// startTimeout bounds one start, on a machine that does a lot else.
const startTimeout = 3 * time.Minute

// attempts is how often a start is tried with other ports.
const attempts = 3

// Server is a database server with its data. Start, Stop, Kill, Shutdown,
// Pause and Resume are for one goroutine.
type Server struct {
	Engine Engine

	programs programs
	dir      string
	port     int
	options  []string // more of the program's
	process  *process
	made     sync.Mutex
	count    int
}

// Start runs a server until the test ends. Where the engine is not installed
// the test is skipped with -short and fails otherwise; with -short it is always
// skipped.
func Start(tb testing.TB, e Engine) *Server {
	tb.Helper()
	Require(tb, e)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := Run(ctx, e)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Remove)
	return s
}

// Require skips the test with -short, and fails it where the engine is not
// installed.
func Require(tb testing.TB, e Engine) {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("needs a %s server", e)
	}
	if _, err := find(e); err != nil {
		tb.Fatal(err)
	}
}

// Shared is one server for all tests of a binary, started by the first that
// wants it: a package variable of the tests, which TestMain stops.
type Shared struct {
	Engine Engine

	mu     sync.Mutex
	server *Server
	err    error
}

// Get gives the server, as Start does.
func (s *Shared) Get(tb testing.TB) *Server {
	tb.Helper()
	Require(tb, s.Engine)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil && s.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		s.server, s.err = Run(ctx, s.Engine)
	}
	if s.err != nil {
		tb.Fatal(s.err)
	}
	return s.server
}

// Stop ends the server, if there is one.
func (s *Shared) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.Remove()
		s.server = nil
	}
}

// Run starts a server and returns when it answers. The caller removes it.
func Run(ctx context.Context, e Engine) (*Server, error) {
	programs, err := find(e)
	if err != nil {
		return nil, err
	}
	for range attempts {
		s := &Server{Engine: e, programs: programs}
		if s.port, err = porttest.Free(); err != nil {
			return nil, err
		}
		// Short: paths of sockets have a limit.
		if s.dir, err = os.MkdirTemp("", "dbtest"); err != nil {
			return nil, err
		}
		if err = s.install(ctx); err == nil {
			err = s.Start(ctx)
		}
		if err == nil {
			return s, nil
		}
		s.Remove()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Start runs a server that was stopped or killed again, on the same data and
// port, and returns when it takes logins.
func (s *Server) Start(ctx context.Context) error {
	out, err := os.OpenFile(s.path("out.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if s.process, err = begin(s.command(), out); err != nil {
			return err
		}
		// After a kill PostgreSQL refuses to start until the last of its
		// processes has noticed.
		if err = s.waitReady(ctx); !errors.Is(err, errEnded) || s.Engine != PostgreSQL || n == 100 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err != nil {
		log, _ := os.ReadFile(s.path("out.log"))
		return fmt.Errorf("%s: %w\n%s", s.Engine, err, log[max(0, len(log)-4000):])
	}
	return nil
}

var errEnded = errors.New("it ended before it was ready")

func (s *Server) waitReady(ctx context.Context) error {
	db, err := s.admin("")
	if err != nil {
		return err
	}
	defer db.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ping, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := db.PingContext(ping)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.process.gone():
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w", err)
		}
	}
}

// Shutdown ends the server as an operator does, and waits until it is gone, at
// most until ctx ends; then it is killed.
func (s *Server) Shutdown(ctx context.Context) {
	s.process.signal(s.programs.stop)
	select {
	case <-s.process.gone():
	case <-ctx.Done():
	}
	s.Kill()
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	s.process.kill()
	s.process = nil
}

// Pause freezes the server: its connections stay open and nothing answers.
func (s *Server) Pause() error { return proctest.FreezeGroup(s.process.pid) }

// Resume ends Pause.
func (s *Server) Resume() { s.process.signal(syscall.SIGCONT) }

// Remove kills the server and removes its data.
func (s *Server) Remove() {
	s.Kill()
	_ = os.RemoveAll(s.dir)
}

// Addr is the TCP address it listens on.
func (s *Server) Addr() string { return local(s.port) }

// Socket is the path of its Unix socket; of PostgreSQL, the directory.
func (s *Server) Socket() string {
	if s.Engine == PostgreSQL {
		return s.dir
	}
	return s.path("s")
}

// Database makes an empty database, dropped when the test ends, and returns
// its URL.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.made.Lock()
	s.count++
	name := "trove_" + strconv.Itoa(s.count)
	s.made.Unlock()
	db := s.Admin(tb)
	create, drop := "CREATE DATABASE "+name, "DROP DATABASE "+name
	if s.Engine == PostgreSQL {
		create, drop = create+" OWNER "+User, drop+" WITH (FORCE)"
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := db.ExecContext(ctx, create); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		// A test may have left the server stopped: then it is removed as well.
		_, _ = db.ExecContext(ctx, drop)
	})
	return s.URL(name)
}

// URL is the address of a database, with the login.
func (s *Server) URL(database string) string {
	scheme := "mysql+pymysql"
	if s.Engine == PostgreSQL {
		scheme = "postgresql"
	}
	return fmt.Sprintf("%s://%s@%s/%s", scheme, url.UserPassword(User, Password), s.Addr(), database)
}

// Admin is a connection that may do everything, closed when the test ends.
func (s *Server) Admin(tb testing.TB) *sql.DB { return s.AdminOf(tb, "") }

// AdminOf is Admin in a database.
func (s *Server) AdminOf(tb testing.TB, database string) *sql.DB {
	tb.Helper()
	db, err := s.admin(database)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }
