// Package enginetest is the conformance suite of engine.Engine: every engine
// passes it on every runtime.
//
// It looks at an engine as a client does: by real connections to the server at
// its address. It knows no engine; what it must, its Harness tells.
package enginetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/runtime"
)

// limit is how long anything may take on a loaded machine.
const limit = 90 * time.Second

// Harness is what the suite needs of an engine and a runtime.
type Harness struct {
	New     func(t *testing.T, s engine.Settings) engine.Engine
	Runtime func(t *testing.T) runtime.Runtime // one that knows nothing of earlier ones
	// Image is what the server is run from, and Runtime runs it as containers;
	// empty: the programs of this machine.
	Image string
	// Connect opens a client's connection; nothing need be sent yet.
	Connect func(ctx context.Context, t Target) (*sql.DB, error)
	// Port is the engine's standard port.
	Port int
	// Administrator is the account the agent uses itself.
	Administrator string
	// ReservedDatabases and ReservedUsers must be refused and never listed.
	ReservedDatabases, ReservedUsers []string
	// Hosts: users are told apart by the host they come from.
	Hosts bool
	// MemoryQuery asks for the size of the engine's main buffer, as one integer.
	MemoryQuery string
	// Override is a setting of a configuration group, Value what OverrideQuery
	// then answers, as text.
	Override, OverrideQuery string
	OverrideValue           any
	OverrideAnswer          string
}

// Target is where and as whom a client connects.
type Target struct {
	Address, User, Password, Database string
	Port                              int
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if os.Geteuid() == 0 {
		t.Fatal("no engine runs as root: call enginetest.Main in TestMain")
	}
	templates := t.TempDir()
	open(t, templates)
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"life", life},
		{"databases", databases},
		{"users", users},
		{"grants", grants},
		{"root", root},
		{"hosts", hosts},
		{"names and passwords that are hard to quote", nasty},
		{"reserved names", reserved},
		{"the flavor and configuration groups are in force", configuration},
		{"committed rows survive a kill", killed},
		{"a server that hangs is not ready", hangs},
		{"a half-made data directory is made again", halfMade},
		{"a foreign data directory is not touched", foreign},
		{"no template", noTemplate},
		{"a read-only volume", readOnly},
		{"a full disk", fullDisk},
		{"a port that is taken", portTaken},
		{"programs that are missing", missingPrograms},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, &suite{Harness: h, templates: templates}) })
	}
}

type suite struct {
	Harness
	templates string
}

// instance is one engine of a test with its directories.
type instance struct {
	suite    *suite
	settings engine.Settings
	engine   engine.Engine
	runtime  runtime.Runtime
	handle   runtime.Handle
}

// open lets everyone through dir, which t.TempDir made in one of its own.
func open(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// settings are those of a new instance on an address of its own.
func (s *suite) settings(t *testing.T) engine.Settings {
	t.Helper()
	dir, err := os.MkdirTemp("", "i") // t.TempDir makes paths too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	set := engine.Settings{
		InstanceID:  InstanceID(dir),
		DataDir:     filepath.Join(dir, "v", "data"),
		SecretsDir:  filepath.Join(dir, "v", "conf.d"),
		ConfigDir:   filepath.Join(dir, "etc"),
		RunDir:      filepath.Join(dir, "run"),
		LogDir:      filepath.Join(dir, "log"),
		TemplateDir: s.templates,
		Address:     address(t, s.Port),
		MemoryMB:    512,
	}
	if s.Image != "" {
		set.Tools = openDocker(t, s.Image)
	}
	for _, d := range []string{filepath.Join(dir, "v"), set.SecretsDir, set.ConfigDir, set.RunDir, set.LogDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return set
}

// address finds a loopback address whose port is free, of a range production
// does not use.
func address(t *testing.T, port int) string {
	t.Helper()
	for range 100 {
		var b [2]byte
		_, _ = rand.Read(b[:]) // never fails
		n := binary.BigEndian.Uint16(b[:])
		a := fmt.Sprintf("127.30.%d.%d", n>>8, n&0xff|1)
		l, err := net.Listen("tcp", net.JoinHostPort(a, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		l.Close()
		return a
	}
	t.Fatal("no free address")
	return ""
}

// make makes an engine's object on settings and lets go of it with the test.
func (s *suite) make(t *testing.T, set engine.Settings) *instance {
	t.Helper()
	i := &instance{suite: s, settings: set, engine: s.New(t, set), runtime: s.Runtime(t)}
	t.Cleanup(func() { i.engine.Close() })
	return i
}

// started is an instance that serves.
func (s *suite) started(t *testing.T) *instance {
	t.Helper()
	i := s.make(t, s.settings(t))
	i.initialise(t)
	i.start(t)
	return i
}

func (i *instance) initialise(t *testing.T) {
	t.Helper()
	if err := i.engine.Initialise(t.Context()); err != nil {
		t.Fatalf("Initialise: %v", err)
	}
}

func (i *instance) spec(t *testing.T) runtime.Spec {
	t.Helper()
	spec, err := i.engine.Command()
	if err != nil {
		t.Fatalf("Command: %v", err)
	}
	return spec
}

// launch starts the server without waiting for it.
func (i *instance) launch(t *testing.T) {
	t.Helper()
	h, err := i.runtime.Start(t.Context(), i.spec(t))
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	i.handle = h
	t.Cleanup(func() {
		if err := i.runtime.Stop(context.WithoutCancel(t.Context()), h, syscall.SIGKILL, 0); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
}

// start starts the server and waits until it serves, as the agent does.
func (i *instance) start(t *testing.T) {
	t.Helper()
	i.launch(t)
	eventually(t, "Ready", func(ctx context.Context) error {
		st, err := i.runtime.State(ctx, i.handle)
		if err != nil {
			return err
		}
		if !st.Running {
			t.Fatalf("the server has ended: %+v\n%s", st, i.engine.LogTail())
		}
		return i.engine.Ready(ctx)
	})
	if err := i.engine.Started(t.Context()); err != nil {
		t.Fatalf("Started: %v", err)
	}
}

func (i *instance) stop(t *testing.T) {
	t.Helper()
	spec := i.spec(t)
	if err := i.runtime.Stop(t.Context(), i.handle, spec.StopSignal, limit); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if st, err := i.runtime.State(t.Context(), i.handle); err != nil || st.Running || st.ExitCode > 0 {
		t.Fatalf("after a clean stop the state is %+v, %v\n%s", st, err, i.engine.LogTail())
	}
}

// target is where clients of the instance connect.
func (i *instance) target(user, password, database string) Target {
	return Target{Address: i.settings.Address, Port: i.suite.Port, User: user, Password: password, Database: database}
}

// client connects as a client and returns the error of a first query.
func (i *instance) client(t *testing.T, to Target) (*sql.DB, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	db, err := i.suite.Connect(ctx, to)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxIdleConns(0) // each query logs in: rights are those of now
	var one int
	if err := db.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return nil, err
	}
	return db, nil
}

// mayConnect fails the test unless the client can connect.
func (i *instance) mayConnect(t *testing.T, to Target) *sql.DB {
	t.Helper()
	db, err := i.client(t, to)
	if err != nil {
		t.Fatalf("%s cannot connect to %q: %v", to.User, to.Database, err)
	}
	return db
}

// mayNotConnect fails the test if the client can connect, or is kept off by
// anything but the server's answer.
func (i *instance) mayNotConnect(t *testing.T, to Target) {
	t.Helper()
	_, err := i.client(t, to)
	if err == nil {
		t.Errorf("%s can connect to %q and must not", to.User, to.Database)
		return
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		t.Errorf("%s was not refused by the server: %v", to.User, err)
	}
}

// mayUse fails the test unless the client can make, fill and read a table.
func (i *instance) mayUse(t *testing.T, to Target) {
	t.Helper()
	db := i.mayConnect(t, to)
	table := "t" + strings.ToLower(rand.Text()[:8])
	for _, q := range []string{"CREATE TABLE " + table + " (n INT)", "INSERT INTO " + table + " VALUES (42)"} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s in %q: %s: %v", to.User, to.Database, q, err)
		}
	}
	if got := text(t, db, "SELECT n FROM "+table); got != "42" {
		t.Errorf("read %q of a table that holds 42", got)
	}
}

// text is the answer of a query with one value.
func text(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	var s string
	if err := db.QueryRowContext(t.Context(), query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

// eventually calls check until it gives nil and fails the test at the limit.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
