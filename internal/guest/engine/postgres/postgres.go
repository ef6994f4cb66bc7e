// Package postgres is the engine PostgreSQL, any major version of which the
// programs are found.
//
// The agent connects as the superuser postgres over the socket in the run
// directory, which only its own user may enter; over the network that account
// is refused, and there is no password of it anywhere. Users made through the
// service connect with SCRAM; PUBLIC may connect to no database, so a user
// reaches those it was granted. PostgreSQL has no host in a user's name: it is
// always trove.AnyHost.
//
// The data directory is a copy of one made by initdb once per machine, with a
// system identifier of its own. The package runs no server: the runtime does.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// Manager is the datastore manager's name.
const Manager = "postgresql"

const (
	defaultPort = 5432
	superuser   = "postgres"
	// recipe is part of the template's name: raised when what initdb is asked
	// for, or what is done to its result, changes.
	recipe = 3
	// maxSocketDir is what is left of a socket's 107 characters.
	maxSocketDir = 90
)

// Engine is one PostgreSQL server. Its methods may be used at once.
type Engine struct {
	set engine.Settings

	mu    sync.Mutex
	pool  *pgxpool.Pool // made on first use
	found *Installation // once it was asked for
}

// New makes the engine of an instance. Nothing is looked for yet.
func New(s engine.Settings) *Engine {
	if s.Port == 0 {
		s.Port = defaultPort
	}
	return &Engine{set: s}
}

// Manager gives the datastore manager's name.
func (e *Engine) Manager() string { return Manager }

// Initialise makes the data directory and writes the configuration.
func (e *Engine) Initialise(ctx context.Context) error {
	if len(e.set.RunDir) > maxSocketDir {
		return trove.Errorf(trove.KindGuest, "The run directory %s is too long for a socket in it.", e.set.RunDir).
			WithAction("Configure a run_dir of at most %d characters.", maxSocketDir)
	}
	found, err := e.installation(ctx)
	if err != nil {
		return err
	}
	made, err := e.Initialised()
	if err != nil {
		return err
	}
	if !made {
		if err := e.portFree(); err != nil {
			return err
		}
		if err := e.makeData(ctx, found); err != nil {
			return err
		}
	}
	return e.writeBase(found)
}

// installation finds the programs of the settings' version. They are asked for
// their version once: its major part does not change under us.
func (e *Engine) installation(ctx context.Context) (Installation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.found == nil {
		found, err := find(ctx, e.set)
		if err != nil {
			return Installation{}, err
		}
		e.found = &found
	}
	return *e.found, nil
}

// Initialised reports whether the data directory was made.
func (e *Engine) Initialised() (bool, error) { return template.Made(e.set.DataDir) }

func (e *Engine) makeData(ctx context.Context, found Installation) error {
	if e.set.TemplateDir == "" {
		return template.Make(ctx, e.set.DataDir, func(dir string) error { return initdb(ctx, tools(e.set), found, dir) })
	}
	path, err := ensureTemplate(ctx, e.set, found)
	if err != nil {
		return err
	}
	return template.Copy(ctx, path, e.set.DataDir, func(dir string) error { return setIdentity(dir, newIdentity()) })
}

// Template builds the template of the settings' version and returns its path,
// so that the first instance need not wait for it.
func Template(ctx context.Context, s engine.Settings) (string, error) {
	found, err := find(ctx, s)
	if err != nil {
		return "", err
	}
	return ensureTemplate(ctx, s, found)
}

func ensureTemplate(ctx context.Context, s engine.Settings, found Installation) (string, error) {
	name := fmt.Sprintf("%s-%s-%d", Manager, found.Version, recipe)
	build := func(dir string) error {
		if err := initdb(ctx, tools(s), found, dir); err != nil {
			return err
		}
		return makeSpare(ctx, tools(s), found, dir)
	}
	if _, hash, ok := strings.Cut(found.content, ":"); ok {
		name += "-" + hash[:min(12, len(hash))]
	}
	return template.Ensure(ctx, s.TemplateDir, name, build)
}

// portFree tells early and clearly what the server would tell only in its log.
func (e *Engine) portFree() error {
	if e.set.Listen != "" {
		return nil // in a network of its own
	}
	at := net.JoinHostPort(e.set.Address, strconv.Itoa(e.set.Port))
	l, err := net.Listen("tcp", at)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return trove.Errorf(trove.KindGuest, "Another program listens on %s already.", at).
			WithAction("Stop that program, or give the instance another address.")
	case err != nil:
		return trove.Errorf(trove.KindGuest, "PostgreSQL cannot listen on %s: %w.", at, err).
			WithAction("Give the instance an address of this machine.")
	}
	return l.Close()
}

// Command is how to run the server. What a server that was killed left behind
// is removed, since it would keep the next one from starting.
func (e *Engine) Command() (runtime.Spec, error) {
	var bin string
	// Of a container nothing remains, and each server in one has the same pid,
	// its own, in whose name it may take over a lock.
	if e.set.Tools == nil {
		var err error
		if bin, err = binDir(e.set); err != nil {
			return runtime.Spec{}, err
		}
		if err := e.clearRemains(); err != nil {
			return runtime.Spec{}, err
		}
	}
	return runtime.Spec{
		InstanceID: e.set.InstanceID,
		Name:       Manager,
		Argv:       []string{filepath.Join(bin, "postgres"), "-D", e.set.DataDir, "-c", "config_file=" + e.configFile()},
		Env:        []string{"LANG=C", "LC_MESSAGES=C"},
		Dir:        e.set.DataDir,
		LogFile:    e.logFile(),
		StopSignal: unix.SIGINT, // the fast shutdown: sessions are ended
		Dirs:       []string{filepath.Dir(e.set.DataDir), e.set.ConfigDir, e.set.RunDir},
		Port:       e.set.Port,
		Health:     []string{"pg_isready", "--quiet", "--host", e.set.RunDir, "--port", strconv.Itoa(e.set.Port)},
	}, nil
}

func (e *Engine) logFile() string { return filepath.Join(e.set.LogDir, "postgresql.log") }

// Ready asks the server one question, once it says that it takes any.
func (e *Engine) Ready(ctx context.Context) error {
	if e.starting() {
		return trove.Errorf(trove.KindUnavailable, "PostgreSQL is starting")
	}
	pool, err := e.admin()
	if err != nil {
		return err
	}
	var one int
	return pool.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// starting reports whether the server's own file says so, as pg_ctl would ask:
// it refuses each connection in a process made for that, which it can do without
// while it starts.
func (e *Engine) starting() bool {
	const statusLine = 8
	b, err := os.ReadFile(filepath.Join(e.set.DataDir, "postmaster.pid"))
	if err != nil {
		return false // whether it answers will show
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= statusLine && strings.TrimSpace(lines[statusLine-1]) == "starting"
}

// Started takes from PUBLIC the right to connect to the system's databases, so
// that a user without grants reaches none; and the right to make objects in
// schema public of new databases, which PostgreSQL gave everyone before 15.
func (e *Engine) Started(ctx context.Context) error {
	pool, err := e.admin()
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC"); err != nil {
		return fmt.Errorf("close the system's databases: %w", err)
	}
	var version int
	if err := pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version >= 150000 {
		return nil
	}
	return e.in(ctx, "template1", func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		return err
	})
}

// LogTail gives the last lines of the server's log.
func (e *Engine) LogTail() string {
	const most = 8 << 10
	const lines = 20
	f, err := os.Open(e.logFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(info.Size(), most))
	n, _ := f.ReadAt(b, info.Size()-int64(len(b)))
	all := strings.Split(strings.TrimRight(strings.ToValidUTF8(string(b[:n]), "?"), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Close lets go of connections.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pool != nil {
		e.pool.Close()
		e.pool = nil
	}
	return nil
}
