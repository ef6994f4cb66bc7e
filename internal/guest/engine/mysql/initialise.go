package mysql

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

// buildTime bounds making the system tables on a slow disk.
const buildTime = 10 * time.Minute

// maxSocket is how long the path of a Unix socket may be.
const maxSocket = 107

// Initialise makes what the server needs. The data directory comes last, so
// that once it is there everything is.
func (e *Engine) Initialise(ctx context.Context) error {
	if _, err := e.d.server(e.set); err != nil {
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
	return e.makeData(ctx)
}

// portFree tells early, and by name, what would keep the server from starting.
func (e *Engine) portFree() error {
	if e.set.Listen != "" {
		return nil // in a network of its own
	}
	at := net.JoinHostPort(e.set.Address, strconv.Itoa(e.set.Port))
	l, err := net.Listen("tcp", at)
	if err != nil {
		return trove.Errorf(trove.KindConflict, "%s cannot listen on %s: %w", e.d.Product, at, err).
			WithAction("end the program that listens there, or give the instance another address")
	}
	return l.Close()
}

func (e *Engine) makeData(ctx context.Context) error {
	version, name, err := e.d.version(ctx, e.set)
	if err != nil {
		return err
	}
	if !serves(version, e.set.Version) {
		return trove.Errorf(trove.KindGuest, "%s %s is wanted but %s is here", e.d.Product, e.set.Version, version).
			WithAction("use a datastore version that is installed, or install %s %s", e.d.Product, e.set.Version)
	}
	if e.set.TemplateDir == "" {
		return template.Make(ctx, e.set.DataDir, func(dir string) error { return e.d.build(ctx, e.set, dir) })
	}
	from, err := e.d.ensureTemplate(ctx, e.set, name)
	if err != nil {
		return err
	}
	return template.Copy(ctx, from, e.set.DataDir, nil)
}

// Template builds the template of the installed version and returns its path,
// so that the first instance need not wait for it.
func (d *Dialect) Template(ctx context.Context, s engine.Settings) (string, error) {
	_, name, err := d.version(ctx, s)
	if err != nil {
		return "", err
	}
	return d.ensureTemplate(ctx, s, name)
}

func (d *Dialect) ensureTemplate(ctx context.Context, s engine.Settings, name string) (string, error) {
	return template.Ensure(ctx, s.TemplateDir, name, func(dir string) error { return d.build(ctx, s, dir) })
}

// build makes a data directory with the system tables and no accounts.
func (d *Dialect) build(ctx context.Context, s engine.Settings, dir string) error {
	if err := template.Room(dir, d.Room); err != nil {
		return err
	}
	installer, err := d.installer(s)
	if err != nil {
		return err
	}
	// In the directory, which is all that the program surely sees; hidden, or
	// MySQL would not take it for empty.
	extra := filepath.Join(dir, ".gotrove.sql")
	if err := os.WriteFile(extra, []byte(d.NoAccounts), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	if _, err := tools(s).Run(ctx, runtime.Tool{Dir: dir, Argv: append([]string{installer}, d.InstallArgs(dir, extra)...)}); err != nil {
		return err
	}
	// What is to be an instance's own the server makes as it starts.
	own := []string{extra, filepath.Join(dir, "auto.cnf")}
	keys, _ := filepath.Glob(filepath.Join(dir, "*.pem")) // the pattern is good
	for _, path := range append(own, keys...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
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
		e.d.SetUser(account, "'"+password+"'") + "GRANT ALL PRIVILEGES ON *.* TO " + account + " WITH GRANT OPTION;\n"
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
