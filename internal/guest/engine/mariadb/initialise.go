package mariadb

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// recipe is counted up whenever what build makes changes, so that no older
// template is used.
const recipe = 2

// buildTime bounds making the system tables on a slow disk.
const buildTime = 10 * time.Minute

// room is what a data directory needs.
const room = (smallestRedo + 32) << 20

// maxSocket is how long the path of a Unix socket may be.
const maxSocket = 107

// noAccounts leaves only the account the server's own views run as, which is
// locked: the installer makes a root without a password on every address of
// the machine.
const noAccounts = `DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';
DELETE FROM mysql.db;
DELETE FROM mysql.proxies_priv;
`

// Initialise makes what the server needs. The data directory comes last, so
// that once it is there everything is.
func (e *Engine) Initialise(ctx context.Context) error {
	p, err := programs(e.set)
	if err != nil {
		return err
	}
	if n := len(e.socket()); n > maxSocket {
		return trove.Errorf(trove.KindGuest, "the path of the socket %s has %d characters, %d are possible", e.socket(), n, maxSocket).
			WithAction("use a shorter run directory")
	}
	made, err := e.Initialised()
	if err != nil {
		return err
	}
	if !made {
		if err := e.portFree(); err != nil {
			return err
		}
	}
	for _, dir := range []string{filepath.Dir(e.set.DataDir), e.set.SecretsDir, e.set.ConfigDir, e.set.RunDir, e.set.LogDir, e.tmpDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return template.Explain(err, e.set.DataDir)
		}
	}
	if err := e.administrator(made); err != nil {
		return err
	}
	if err := e.configureBase(); err != nil {
		return err
	}
	if made {
		return nil
	}
	return e.makeData(ctx, p)
}

// portFree tells early, and by name, what would keep the server from starting.
func (e *Engine) portFree() error {
	if e.set.Listen != "" {
		return nil // in a network of its own
	}
	at := net.JoinHostPort(e.set.Address, strconv.Itoa(e.set.Port))
	l, err := net.Listen("tcp", at)
	if err != nil {
		return trove.Errorf(trove.KindConflict, "MariaDB cannot listen on %s: %w", at, err).
			WithAction("end the program that listens there, or give the instance another address")
	}
	return l.Close()
}

func (e *Engine) makeData(ctx context.Context, p Programs) error {
	version, name, err := p.version(ctx, e.set)
	if err != nil {
		return err
	}
	if !serves(version, e.set.Version) {
		return trove.Errorf(trove.KindGuest, "MariaDB %s is wanted but %s is %s", e.set.Version, p.Server, version).
			WithAction("use a datastore version that is installed, or install MariaDB %s", e.set.Version)
	}
	if e.set.TemplateDir == "" {
		return template.Make(ctx, e.set.DataDir, func(dir string) error { return build(ctx, tools(e.set), p, dir) })
	}
	from, err := ensureTemplate(ctx, e.set, p, name)
	if err != nil {
		return err
	}
	return template.Copy(ctx, from, e.set.DataDir, nil)
}

// Template builds the template of the installed version and returns its path,
// so that the first instance need not wait for it.
func Template(ctx context.Context, s engine.Settings) (string, error) {
	p, err := programs(s)
	if err != nil {
		return "", err
	}
	_, name, err := p.version(ctx, s)
	if err != nil {
		return "", err
	}
	return ensureTemplate(ctx, s, p, name)
}

func ensureTemplate(ctx context.Context, s engine.Settings, p Programs, name string) (string, error) {
	return template.Ensure(ctx, s.TemplateDir, name, func(dir string) error { return build(ctx, tools(s), p, dir) })
}

// build makes a data directory with the system tables and no accounts.
func build(ctx context.Context, by runtime.Tools, p Programs, dir string) error {
	if err := template.Room(dir, room); err != nil {
		return err
	}
	// In the directory, which is all that the program surely sees.
	extra := filepath.Join(dir, "gotrove.sql")
	if err := os.WriteFile(extra, []byte(noAccounts), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	_, err := by.Run(ctx, runtime.Tool{Dir: dir, Argv: []string{p.InstallDB, "--no-defaults", "--datadir=" + dir, "--extra-file=" + extra,
		"--skip-test-db", "--skip-name-resolve", "--force", "--auth-root-authentication-method=normal",
		"--innodb-log-file-size=" + strconv.Itoa(smallestRedo<<20),
		// The whole directory is made durable afterwards.
		"--innodb-flush-method=nosync"}})
	if err != nil {
		return err
	}
	return os.Remove(extra)
}

// administrator sees to it that the administrator's password is known and that
// the server is told it when it starts. A password that is there is in force
// with the data directory that is there; a new directory gets a new one.
func (e *Engine) administrator(made bool) error {
	if made {
		_, err := e.password()
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	password := newPassword()
	account := "'" + administrator + "'@'localhost'"
	// Each line is one statement, and the server goes on after one that fails.
	statements := "SET SESSION sql_log_off=1;\nSET SESSION sql_log_bin=0;\n" +
		"CREATE OR REPLACE USER " + account + " IDENTIFIED BY '" + password + "';\n" +
		"GRANT ALL PRIVILEGES ON *.* TO " + account + " WITH GRANT OPTION;\n"
	// First what the server reads, then what we read: with the second there,
	// the first has been.
	if err := writeFile(e.initFile(), statements); err != nil {
		return err
	}
	return writeFile(e.adminFile(), "[client]\nuser = "+administrator+"\npassword = "+password+"\nhost = localhost\n")
}

// password is the administrator's.
func (e *Engine) password() (string, error) {
	b, err := os.ReadFile(e.adminFile())
	if err != nil {
		return "", template.Explain(err, e.adminFile())
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "password" {
			return strings.TrimSpace(value), nil
		}
	}
	return "", trove.Errorf(trove.KindGuest, "%s holds no password", e.adminFile()).
		WithAction("remove it and restart the instance: a new one is made")
}

// newPassword makes 36 random letters and digits, as the original does.
func newPassword() string { return (rand.Text() + rand.Text())[:36] }

// writeFile writes a file only its owner may read, all of it or nothing.
func writeFile(path, content string) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return template.Explain(err, path)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = template.Explain(err, path)
		}
	}()
	_, err = tmp.WriteString(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return template.SyncDir(filepath.Dir(path))
}
