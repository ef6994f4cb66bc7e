package enginetest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/proc/proctest"
	"github.com/gotrove/gotrove/internal/trove"
)

// app is the database and user of most tests.
var app = trove.User{Name: "app", Password: "app-Passw0rd", Host: trove.AnyHost, Databases: []string{"shop"}}

// withApp makes the database and the user.
func (i *instance) withApp(t *testing.T) {
	t.Helper()
	if err := i.engine.CreateDatabase(t.Context(), trove.Database{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	if err := i.engine.CreateUser(t.Context(), app); err != nil {
		t.Fatal(err)
	}
}

// life follows an instance from nothing to its second agent.
func life(t *testing.T, s *suite) {
	i := s.make(t, s.settings(t))
	is := func(want bool) {
		t.Helper()
		if got, err := i.engine.Initialised(); err != nil || got != want {
			t.Fatalf("Initialised is %v, %v, want %v", got, err, want)
		}
	}
	is(false)
	if err := i.engine.Ready(t.Context()); err == nil {
		t.Error("Ready before there is anything")
	}
	i.initialise(t)
	is(true)
	i.initialise(t) // the agent was restarted before it could start the server
	i.start(t)
	i.withApp(t)
	i.mayUse(t, i.target(app.Name, app.Password, "shop"))

	// The administrator's account is for the agent on this machine only.
	i.mayNotConnect(t, i.target(s.Administrator, "", ""))
	i.mayNotConnect(t, i.target("root", "", ""))
	i.mayNotConnect(t, i.target("", "", ""))
	i.secretsAreSafe(t)

	// The agent is restarted and finds its server.
	second := s.make(t, i.settings)
	found, err := second.runtime.Start(t.Context(), second.spec(t))
	if err != nil || found != i.handle {
		t.Fatalf("a second agent's Start gives %+v, %v, want %+v", found, err, i.handle)
	}
	second.handle = found
	second.initialise(t)
	if err := second.engine.Ready(t.Context()); err != nil {
		t.Errorf("Ready of the second agent: %v", err)
	}
	if err := second.engine.Started(t.Context()); err != nil {
		t.Errorf("Started of the second agent: %v", err)
	}
	if _, err := second.engine.User(t.Context(), app.Name, app.Host); err != nil {
		t.Errorf("the second agent does not see the user: %v", err)
	}

	i.stop(t)
	if err := i.engine.Ready(t.Context()); err == nil {
		t.Error("Ready of a stopped server")
	}
	i.start(t)
	i.mayUse(t, i.target(app.Name, app.Password, "shop"))
}

// secretsAreSafe looks for the administrator's password where others may read.
func (i *instance) secretsAreSafe(t *testing.T) {
	t.Helper()
	var secrets []string
	err := filepath.WalkDir(i.settings.SecretsDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == "password" {
				secrets = append(secrets, strings.Trim(strings.TrimSpace(v), `"'`))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets) == 0 {
		return // PostgreSQL's agent needs no password on its own socket
	}
	for _, secret := range append(secrets, app.Password) {
		if len(secret) < 8 {
			t.Errorf("a password of %d characters", len(secret))
		}
		for _, where := range []string{i.settings.LogDir, i.settings.ConfigDir, i.settings.RunDir} {
			notIn(t, where, secret)
		}
		if strings.Contains(i.engine.LogTail(), secret) {
			t.Error("LogTail tells a password")
		}
		args, err := os.ReadFile("/proc/" + strconv.Itoa(i.handle.PID) + "/cmdline")
		if err == nil && strings.Contains(string(args), secret) {
			t.Error("the command line tells a password")
		}
	}
}

func notIn(t *testing.T, dir, secret string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), secret) {
			t.Errorf("%s tells a password", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func killed(t *testing.T, s *suite) {
	i := s.started(t)
	i.withApp(t)
	db := i.mayConnect(t, i.target(app.Name, app.Password, "shop"))
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE kept (n INT)"); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if _, err := db.ExecContext(t.Context(), "INSERT INTO kept VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		before := i.handle
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if _, err := i.runtime.Wait(ctx, before); err != nil {
			t.Fatal(err)
		}
		cancel()
		// What it started ends a moment later, and may answer till then.
		eventually(t, "a killed server is not ready", func(ctx context.Context) error {
			if i.engine.Ready(ctx) == nil {
				return errors.New("it is")
			}
			return nil
		})
		i.start(t)
		if i.handle == before {
			t.Error("the killed server was found")
		}
		if got := text(t, db, "SELECT COUNT(*) FROM kept"); got != strconv.Itoa(round+1) {
			t.Errorf("%s rows are left of %d", got, round+1)
		}
	}
}

// A server that hangs must not pass for ready because of connections that were
// made before.
func hangs(t *testing.T, s *suite) {
	i := s.started(t)
	if err := proctest.Freeze(i.handle.PID); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proctest.Thaw(i.handle.PID) }) // or it could not be stopped
	eventually(t, "a server that hangs is not ready", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if i.engine.Ready(ctx) == nil {
			return errors.New("it is")
		}
		return nil
	})
	if err := syscall.Kill(i.handle.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on and is ready", i.engine.Ready)
}

func configuration(t *testing.T, s *suite) {
	small := s.started(t)
	admin := func(i *instance) string {
		t.Helper()
		root, err := i.engine.EnableRoot(t.Context(), "root-Passw0rd")
		if err != nil {
			t.Fatal(err)
		}
		return text(t, i.mayConnect(t, i.target(root.Name, "root-Passw0rd", "")), s.MemoryQuery)
	}
	set := s.settings(t)
	set.MemoryMB = 2048
	big := s.make(t, set)
	big.initialise(t)
	if err := big.engine.Configure(t.Context(), map[string]any{s.Override: s.OverrideValue}); err != nil {
		t.Fatal(err)
	}
	big.start(t)
	a, errA := strconv.ParseInt(admin(small), 10, 64)
	b, errB := strconv.ParseInt(admin(big), 10, 64)
	if errA != nil || errB != nil || a <= 0 || b <= a {
		t.Errorf("memory of 512 MiB is %d (%v), of 2048 MiB %d (%v)", a, errA, b, errB)
	}
	client := func() string {
		t.Helper()
		return text(t, big.mayConnect(t, big.target("root", "root-Passw0rd", "")), s.OverrideQuery)
	}
	if got := client(); got != s.OverrideAnswer {
		t.Errorf("the override is %q, want %q", got, s.OverrideAnswer)
	}
	// Taken away, the base's value is back; a restarted agent changes nothing.
	if err := big.engine.Configure(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	big.stop(t)
	big.start(t)
	if got := client(); got == s.OverrideAnswer {
		t.Errorf("the override %q stays", got)
	}
	err := big.engine.Configure(t.Context(), map[string]any{s.Override: "1\nport=1"})
	if !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("a value of two lines gives %v", err)
	}
	err = big.engine.Configure(t.Context(), map[string]any{"a=1\nb": 1})
	if !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("a name of two lines gives %v", err)
	}
	big.stop(t)
	big.start(t) // what was refused is not in force
}

func halfMade(t *testing.T, s *suite) {
	i := s.make(t, s.settings(t))
	part := template.Partial(i.settings.DataDir)
	if err := os.MkdirAll(filepath.Join(part, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := i.engine.Initialised(); err != nil || got {
		t.Fatalf("Initialised is %v, %v", got, err)
	}
	// Cut off at once, and then made.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.engine.Initialise(ctx); err == nil {
		t.Error("Initialise ignores its context")
	}
	if got, err := i.engine.Initialised(); err != nil || got {
		t.Fatalf("Initialised is %v, %v", got, err)
	}
	i.initialise(t)
	if _, err := os.Lstat(part); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-made directory is still there: %v", err)
	}
	i.start(t)
	i.withApp(t)
	i.mayUse(t, i.target(app.Name, app.Password, "shop"))
}

func foreign(t *testing.T, s *suite) {
	i := s.make(t, s.settings(t))
	thesis := filepath.Join(i.settings.DataDir, "thesis")
	if err := os.MkdirAll(i.settings.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(thesis, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := i.engine.Initialise(t.Context())
	if !trove.IsKind(err, trove.KindConflict) || !strings.Contains(err.Error(), i.settings.DataDir) || trove.ActionOf(err) == "" {
		t.Errorf("Initialise gives %v (%s)", err, trove.ActionOf(err))
	}
	if b, err := os.ReadFile(thesis); err != nil || string(b) != "years of work" {
		t.Errorf("what was there became %q, %v", b, err)
	}
}

func noTemplate(t *testing.T, s *suite) {
	set := s.settings(t)
	set.TemplateDir = ""
	i := s.make(t, set)
	i.initialise(t)
	i.start(t)
	i.withApp(t)
	i.mayUse(t, i.target(app.Name, app.Password, "shop"))
	i.mayNotConnect(t, i.target(s.Administrator, "", ""))
	i.mayNotConnect(t, i.target("root", "", ""))
}

func readOnly(t *testing.T, s *suite) {
	i := s.make(t, s.settings(t))
	volume := filepath.Dir(i.settings.DataDir)
	if err := os.Chmod(volume, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(volume, 0o700) //nolint:errcheck // for the removal
	i.failsToInitialise(t, i.settings.DataDir)
	if err := os.Chmod(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	i.initialise(t)
}

// failsToInitialise wants an error for people that names path, and nothing left.
func (i *instance) failsToInitialise(t *testing.T, path string) {
	t.Helper()
	err := i.engine.Initialise(t.Context())
	if err == nil || trove.IsKind(err, trove.KindInternal) || !strings.Contains(err.Error(), path) || trove.ActionOf(err) == "" {
		t.Errorf("Initialise gives %v (kind %v, action %q), want it to name %s and to say what to do", err, trove.KindOf(err), trove.ActionOf(err), path)
	}
	if got, err := i.engine.Initialised(); err != nil || got {
		t.Errorf("Initialised is %v, %v", got, err)
	}
	for _, left := range []string{i.settings.DataDir, template.Partial(i.settings.DataDir)} {
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left behind: %v", left, err)
		}
	}
}

func fullDisk(t *testing.T, s *suite) {
	small := os.Getenv(envSmall)
	if small == "" {
		t.Skip("a small file system cannot be mounted here")
	}
	for name, change := range map[string]func(*engine.Settings){
		"template": func(*engine.Settings) {},
		"built":    func(set *engine.Settings) { set.TemplateDir = "" },
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp(small, "v")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir) //nolint:errcheck // the file system goes with the test
			set := s.settings(t)
			set.DataDir = filepath.Join(dir, "data")
			change(&set)
			s.make(t, set).failsToInitialise(t, set.DataDir)
		})
	}
}

func portTaken(t *testing.T, s *suite) {
	take := func(set engine.Settings) net.Listener {
		t.Helper()
		l, err := net.Listen("tcp", net.JoinHostPort(set.Address, strconv.Itoa(s.Port)))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	i := s.make(t, s.settings(t))
	l := take(i.settings)
	i.failsToInitialise(t, net.JoinHostPort(i.settings.Address, strconv.Itoa(s.Port)))
	l.Close()
	i.initialise(t)

	// Taken later, the server cannot start, and its log tells why.
	l = take(i.settings)
	defer l.Close()
	i.launch(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	st, err := i.runtime.Wait(ctx, i.handle)
	if err != nil || st.Running || st.ExitCode == 0 {
		t.Fatalf("the server on a taken port is %+v, %v", st, err)
	}
	if tail := i.engine.LogTail(); !strings.Contains(tail, strconv.Itoa(s.Port)) {
		t.Errorf("LogTail does not name port %d: %s", s.Port, tail)
	}
	if err := i.engine.Ready(t.Context()); err == nil {
		t.Error("Ready of a server that has not started")
	}
	l.Close()
	i.start(t)
}

func missingPrograms(t *testing.T, s *suite) {
	set := s.settings(t)
	if s.Image != "" {
		// One whose registry nobody is.
		const image = "127.0.0.1:1/nothing:1"
		set.Tools = openDocker(t, image)
		s.make(t, set).failsToInitialise(t, image)
		return
	}
	set.BinDir = filepath.Join(filepath.Dir(set.RunDir), "nothing")
	i := s.make(t, set)
	i.failsToInitialise(t, set.BinDir)
	if spec, err := i.engine.Command(); err == nil {
		t.Errorf("Command gives %v", spec.Argv)
	}
}
