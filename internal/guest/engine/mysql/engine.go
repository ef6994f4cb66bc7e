package mysql

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// Port is the standard port of all servers of the family.
const Port = 3306

// administrator is the account the agent uses, from this machine only.
const administrator = "os_admin"

// Engine is the server of one instance.
type Engine struct {
	d   *Dialect
	set engine.Settings

	mu sync.Mutex
	db *sql.DB // nil until first used
}

var _ engine.Engine = (*Engine)(nil)

// NewOf makes the engine of an instance whose server is of the dialect. It
// touches nothing.
func NewOf(d *Dialect, s engine.Settings) *Engine {
	if s.Port == 0 {
		s.Port = Port
	}
	return &Engine{d: d, set: s}
}

// Manager is the datastore manager's name.
func (e *Engine) Manager() string { return e.d.Manager }

// Initialised reports whether the data directory is whole, which it becomes
// last.
func (e *Engine) Initialised() (bool, error) { return template.Made(e.set.DataDir) }

// Command is what to run. The server reads our files only; until Started has
// been called it makes the administrator's account as it starts.
func (e *Engine) Command() (runtime.Spec, error) {
	server, err := e.d.server(e.set)
	if err != nil {
		return runtime.Spec{}, err
	}
	argv := []string{server, "--defaults-file=" + e.configFile()}
	if _, err := os.Lstat(e.initFile()); err == nil {
		argv = append(argv, "--init-file="+e.initFile())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return runtime.Spec{}, template.Explain(err, e.initFile())
	}
	return runtime.Spec{
		InstanceID: e.set.InstanceID, Name: e.d.Manager, Argv: argv, Dir: e.set.DataDir, LogFile: e.logFile(), StopSignal: syscall.SIGTERM,
		Env:  []string{"UMASK=0600", "UMASK_DIR=0700"},
		Dirs: []string{filepath.Dir(e.set.DataDir), e.set.SecretsDir, e.set.ConfigDir, e.set.RunDir}, Port: e.set.Port,
		// Whom it does not know it answers too, and that is enough.
		Health: []string{e.d.Admin, "--no-defaults", "--socket=" + e.socket(), "ping"},
	}, nil
}

// Ready asks the server something.
func (e *Engine) Ready(ctx context.Context) error {
	db, err := e.open()
	if err != nil {
		return err
	}
	var one int
	if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return trove.Errorf(trove.KindUnavailable, "%s does not answer: %w", e.d.Product, err)
	}
	return nil
}

// Started removes the init file: the server has read it and the account is
// there, for Ready used it.
func (e *Engine) Started(ctx context.Context) error {
	if err := e.Ready(ctx); err != nil {
		return err
	}
	if err := os.Remove(e.initFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return template.Explain(err, e.initFile())
	}
	return nil
}

// Prepared does nothing: nothing is held ready.
func (e *Engine) Prepared(context.Context) error { return nil }

// logTail is how much of the log is told.
const logTail = 4 << 10

// LogTail gives the last lines of the server's log.
func (e *Engine) LogTail() string {
	f, err := os.Open(e.logFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	b := make([]byte, min(size, logTail))
	if _, err := f.ReadAt(b, size-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	text := strings.ToValidUTF8(string(b), "?")
	if int64(len(b)) < size { // from a line's beginning
		_, text, _ = strings.Cut(text, "\n")
	}
	// The server writes no passwords to its log; should one ever quote what it
	// read, ours does not get out this way.
	if password, err := e.password(); err == nil {
		text = strings.ReplaceAll(text, password, "***")
	}
	return strings.TrimSpace(text)
}

// Close lets go of the connections.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.db == nil {
		return nil
	}
	err := e.db.Close()
	e.db = nil
	return err
}

// open gives the pool of the administrator's connections. It is small, for the
// agent is to stay small.
func (e *Engine) open() (*sql.DB, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.db != nil {
		return e.db, nil
	}
	password, err := e.password()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, trove.Errorf(trove.KindUnavailable, "%s has not been initialised in %s", e.d.Product, e.set.DataDir)
	}
	if err != nil {
		return nil, err
	}
	c := mysql.NewConfig()
	c.Net, c.Addr = "unix", e.socket()
	c.User, c.Passwd = administrator, password
	c.Timeout = 10 * time.Second
	// Values are put into statements by the driver: account statements take no
	// parameters otherwise.
	c.InterpolateParams = true
	c.Logger = &mysql.NopLogger{} // what fails is returned
	c.Params = e.d.Session
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, trove.Errorf(trove.KindInternal, "connect to %s: %w", e.d.Product, err)
	}
	e.db = sql.OpenDB(connector)
	e.db.SetMaxOpenConns(4)
	e.db.SetMaxIdleConns(1)
	e.db.SetConnMaxIdleTime(time.Minute)
	return e.db, nil
}

func (e *Engine) socket() string       { return filepath.Join(e.set.RunDir, e.d.Manager+".sock") }
func (e *Engine) logFile() string      { return filepath.Join(e.set.LogDir, e.d.Manager+".log") }
func (e *Engine) configFile() string   { return filepath.Join(e.set.ConfigDir, "my.cnf") }
func (e *Engine) overridesDir() string { return filepath.Join(e.set.ConfigDir, "conf.d") }
func (e *Engine) initFile() string     { return filepath.Join(e.set.SecretsDir, "init.sql") }
func (e *Engine) adminFile() string    { return filepath.Join(e.set.SecretsDir, administrator+".cnf") }
func (e *Engine) tmpDir() string       { return filepath.Join(filepath.Dir(e.set.DataDir), "tmp") }
