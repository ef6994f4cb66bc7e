package proc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc"
)

// start runs a shell script in a session of its own, reaped when it ends.
func start(t *testing.T, script string, env ...string) proc.Handle {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h, err := proc.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { _ = cmd.Wait(); close(reaped) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-h.PID, syscall.SIGKILL)
		<-reaped
	})
	return h
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHandleNamesOneProcess(t *testing.T) {
	h := start(t, "sleep 600")
	if !h.Running() {
		t.Fatal("not running")
	}
	stored, _ := json.Marshal(h)
	var again proc.Handle
	if err := json.Unmarshal(stored, &again); err != nil || again != h {
		t.Errorf("stored as %s, read back as %v, %v", stored, again, err)
	}
	for name, other := range map[string]proc.Handle{
		"reused pid":   {PID: h.PID, StartTime: h.StartTime - 1, BootID: h.BootID},
		"earlier boot": {PID: h.PID, StartTime: h.StartTime, BootID: "no"},
		"none":         {},
	} {
		if other.Running() {
			t.Errorf("%s: runs", name)
		}
		if err := other.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: signal: %v", name, err)
		}
		if err := other.Wait(deadline(t)); err != nil {
			t.Errorf("%s: wait: %v", name, err)
		}
	}
	if !h.Running() {
		t.Error("a stranger's handle killed it")
	}
}

func TestWait(t *testing.T) {
	h := start(t, "sleep 600")
	ctx, cancel := context.WithCancel(deadline(t))
	done := make(chan error, 1)
	go func() { done <- h.Wait(ctx) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
	go func() { done <- h.Wait(deadline(t)) }()
	if err := h.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("wait: %v", err)
	}
	if h.Running() {
		t.Error("runs after its end")
	}
}

func TestKillTakesTheWholeTree(t *testing.T) {
	tag := fmt.Sprintf("GOTROVE_TEST_TAG=%d-%d", os.Getpid(), time.Now().UnixNano())
	// The grandchild has neither the tag nor the session.
	start(t, "env -i setsid sleep 600 & sleep 600", tag)
	find := func() ([]proc.Process, error) { return proc.Tree(tag) }
	ctx := deadline(t)
	var tree, tagged []proc.Process
	for len(tree) != 3 || len(tagged) != 2 { // the shell and two sleeps; env has taken the tag off one
		var err, err2 error
		tree, err = find()
		tagged, err2 = proc.Tagged(tag)
		if err := errors.Join(err, err2, ctx.Err()); err != nil {
			t.Fatalf("tree is %v, tagged %v: %v", tree, tagged, err)
		}
	}
	if err := proc.Kill(ctx, find); err != nil {
		t.Fatal(err)
	}
	for _, p := range tree {
		if p.Running() {
			t.Errorf("%d runs on", p.PID)
		}
	}
}
