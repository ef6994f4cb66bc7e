// Package runtimetest is the conformance suite of runtime.Runtime: every
// runtime passes it.
package runtimetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

// limit is how long anything may take on a loaded machine.
const limit = 60 * time.Second

// Harness is what the suite needs of the runtime under test.
type Harness struct {
	// New makes a Runtime that knows nothing of earlier ones, as a restarted
	// agent does.
	New func(t *testing.T) runtime.Runtime
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"a program runs and its output goes to the log", output},
		{"exit code of our own program", exitCode},
		{"a killed program says so", killedProgram},
		{"starting twice gives the same program", startTwice},
		{"a new runtime finds the program and waits for it", reattach},
		{"other instances and programs are not found", notOthers},
		{"a reused pid and an earlier boot are not running", staleHandle},
		{"stop asks first", stopAsks},
		{"stop kills after grace, with what the program started", stopKills},
		{"waiting ends with its context", waitContext},
		{"what a dead program left is ended before the next starts", leftovers},
		{"a missing program is named", missing},
		{"the agent's environment stays with the agent", environment},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, h) })
	}
}

func shell(t *testing.T, script string) runtime.Spec {
	t.Helper()
	dir := t.TempDir()
	return runtime.Spec{
		InstanceID: "test-" + strings.ToLower(rand.Text()),
		Name:       "shell", Argv: []string{"/bin/sh", "-c", script}, Dir: dir,
		LogFile: filepath.Join(dir, "log"), StopSignal: syscall.SIGTERM,
	}
}

func start(t *testing.T, r runtime.Runtime, s runtime.Spec) runtime.Handle {
	t.Helper()
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Stop(context.WithoutCancel(t.Context()), h, syscall.SIGKILL, limit); err != nil {
			t.Errorf("cleanup: Stop: %v", err)
		}
	})
	return h
}

func wait(t *testing.T, r runtime.Runtime, h runtime.Handle) runtime.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	s, err := r.Wait(ctx, h)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if s.Running {
		t.Fatalf("Wait returned with a running program: %+v", s)
	}
	return s
}

func isRunning(t *testing.T, r runtime.Runtime, h runtime.Handle) bool {
	t.Helper()
	s, err := r.State(t.Context(), h)
	if err != nil {
		t.Fatalf("State: %v", err)
	}
	return s.Running
}

// logged waits until the log holds text and returns all of it.
func logged(t *testing.T, s runtime.Spec, text string) string {
	t.Helper()
	var b []byte
	Eventually(t, fmt.Sprintf("log holds %q", text), func() error {
		var err error
		if b, err = os.ReadFile(s.LogFile); err != nil {
			return err
		}
		if !bytes.Contains(b, []byte(text)) {
			return fmt.Errorf("log is %q", b)
		}
		return nil
	})
	return string(b)
}

// Eventually polls check until it gives nil and fails the test after a minute.
func Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func output(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "echo out; echo err >&2; exec sleep 1000")
	if err := os.WriteFile(s.LogFile, []byte("before\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	p := start(t, r, s)
	if !isRunning(t, r, p) {
		t.Error("not running after Start")
	}
	if got := logged(t, s, "err"); !strings.HasPrefix(got, "before\nout\n") {
		t.Errorf("log is %q: what was there must stay", got)
	}
}

func exitCode(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "exit 7")
	p := start(t, r, s)
	if got := wait(t, r, p); got.ExitCode != 7 || got.Detail == "" {
		t.Errorf("state is %+v, want exit code 7 with a detail", got)
	}
	if got, err := r.State(t.Context(), p); err != nil || got.Running || got.ExitCode != 7 {
		t.Errorf("State after the end is %+v, %v", got, err)
	}
	if _, ok, err := r.Find(t.Context(), s); ok || err != nil {
		t.Errorf("Find after the end: %v, %v", ok, err)
	}
}

func killedProgram(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "echo up; exec sleep 1000")
	p := start(t, r, s)
	logged(t, s, "up")
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, r, p); got.ExitCode != -1 || !strings.Contains(got.Detail, "killed") {
		t.Errorf("state is %+v, want a detail that says killed", got)
	}
}

func startTwice(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "echo started; exec sleep 1000")
	first := start(t, r, s)
	logged(t, s, "started")
	for _, again := range []runtime.Runtime{r, h.New(t)} {
		if got, err := again.Start(t.Context(), s); err != nil || got != first {
			t.Errorf("second Start gives %+v, %v, want %+v", got, err, first)
		}
	}
	if n := strings.Count(logged(t, s, "started"), "started"); n != 1 {
		t.Errorf("%d programs were started", n)
	}
}

func reattach(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done")
	first := start(t, r, s)
	logged(t, s, "up")
	second := h.New(t)
	found, ok, err := second.Find(t.Context(), s)
	if err != nil || !ok || found != first {
		t.Fatalf("Find gives %+v, %v, %v, want %+v", found, ok, err, first)
	}
	if !isRunning(t, second, found) {
		t.Error("found but not running")
	}
	ended := make(chan error, 1)
	go func() {
		st, err := second.Wait(t.Context(), found)
		if err == nil && st.Running {
			err = errors.New("still running")
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("Wait returned while the program runs: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough to see a Wait that does not wait
	}
	if err := second.Stop(t.Context(), found, syscall.SIGTERM, limit); err != nil {
		t.Errorf("Stop of a found program: %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(limit):
		t.Fatal("Wait does not return")
	}
	if isRunning(t, second, found) || isRunning(t, r, first) {
		t.Error("running after Stop")
	}
}

func notOthers(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "echo up; exec sleep 1000")
	start(t, r, s)
	logged(t, s, "up")
	for _, other := range []runtime.Spec{
		{InstanceID: s.InstanceID, Name: "other"},
		{InstanceID: s.InstanceID + "0", Name: s.Name},
		{InstanceID: s.InstanceID[:len(s.InstanceID)-1], Name: s.Name},
	} {
		if p, ok, err := r.Find(t.Context(), other); ok || err != nil {
			t.Errorf("Find(%+v) gives %+v, %v, %v", other, p, ok, err)
		}
	}
}

func staleHandle(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "exec sleep 1000")
	p := start(t, r, s)
	reused, booted := p, p
	reused.StartTime--
	booted.BootID = "00000000-0000-0000-0000-000000000000"
	if p.Container != "" {
		reused.Container, booted.Container = "gone", "gone"
	}
	for _, stale := range []runtime.Handle{reused, booted} {
		if isRunning(t, r, stale) {
			t.Errorf("%+v is running", stale)
		}
		if got := wait(t, r, stale); got.ExitCode != -1 {
			t.Errorf("%+v has exit code %d", stale, got.ExitCode)
		}
		if err := r.Stop(t.Context(), stale, syscall.SIGKILL, 0); err != nil {
			t.Errorf("Stop(%+v): %v", stale, err)
		}
	}
	if !isRunning(t, r, p) {
		t.Error("stopping a stale handle stopped another program")
	}
	if _, err := r.State(t.Context(), runtime.Handle{Runtime: "another", PID: 1}); err == nil {
		t.Error("a handle of another runtime is taken")
	}
}

func stopAsks(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "trap 'echo asked; exit 4' INT; echo up; while :; do sleep 0.05; done")
	p := start(t, r, s)
	logged(t, s, "up")
	if err := r.Stop(t.Context(), p, syscall.SIGINT, limit); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	logged(t, s, "asked")
	if got, err := r.State(t.Context(), p); err != nil || got.Running || got.ExitCode != 4 {
		t.Errorf("state is %+v, %v, want exit code 4", got, err)
	}
	if err := r.Stop(t.Context(), p, syscall.SIGINT, limit); err != nil {
		t.Errorf("Stop of a stopped program: %v", err)
	}
}

func stopKills(t *testing.T, h Harness) {
	// One child in the program's session, one in its own.
	r, s := h.New(t), shell(t, "trap '' TERM; sleep 1000 & setsid sleep 1000 & echo up; while :; do sleep 0.05; done")
	p := start(t, r, s)
	logged(t, s, "up")
	if err := r.Stop(t.Context(), p, syscall.SIGTERM, 200*time.Millisecond); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	if isRunning(t, r, p) {
		t.Error("running after Stop")
	}
	if left := processes(t, s); len(left) > 0 {
		t.Errorf("children live: %+v", left)
	}
}

// processes are those of the program, as the kernel shows them: pids that a
// program writes down may be of a namespace of its own.
func processes(t *testing.T, s runtime.Spec) []proc.Process {
	t.Helper()
	all, err := proc.Tagged("GOTROVE_INSTANCE=" + s.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func waitContext(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "echo up; exec sleep 1000")
	p := start(t, r, s)
	logged(t, s, "up")
	for _, r := range []runtime.Runtime{r, h.New(t)} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := r.Wait(ctx, p)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait gives %v, want the context's error", err)
		}
	}
}

func leftovers(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "sleep 1000 & echo up; exec sleep 1000")
	p := start(t, r, s)
	logged(t, s, "up")
	old := processes(t, s)
	if len(old) < 2 {
		t.Fatalf("the program and its child are %+v", old)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, r, p)
	if _, ok, err := r.Find(t.Context(), s); ok || err != nil {
		t.Errorf("Find takes what a dead program left for the program: %v, %v", ok, err)
	}
	if again := start(t, r, s); again == p {
		t.Error("the dead program was given")
	}
	for _, o := range old {
		if o.Running() {
			t.Errorf("%+v, which the dead program left, still lives", o.Handle)
		}
	}
}

func missing(t *testing.T, h Harness) {
	r, s := h.New(t), shell(t, "")
	s.Argv = []string{"/nowhere/server"}
	_, err := r.Start(t.Context(), s)
	if !trove.IsKind(err, trove.KindGuest) || !strings.Contains(err.Error(), "/nowhere/server") {
		t.Errorf("Start gives %v, want a guest error that names the program", err)
	}
}

func environment(t *testing.T, h Harness) {
	t.Setenv("GOTROVE_TEST_SECRET", "s3cret")
	r, s := h.New(t), shell(t, "env; echo up; exec sleep 1000")
	s.Env = []string{"GIVEN=yes"}
	start(t, r, s)
	got := logged(t, s, "up")
	if strings.Contains(got, "s3cret") {
		t.Error("the program has the agent's environment")
	}
	for _, want := range []string{"GIVEN=yes", "GOTROVE_INSTANCE=" + s.InstanceID, "PATH="} {
		if !strings.Contains(got, want) {
			t.Errorf("environment lacks %s: %s", want, got)
		}
	}
}
