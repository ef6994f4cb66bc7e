package proctest_test

import (
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/proc/proctest"
)

func TestFreeze(t *testing.T) {
	t.Parallel()
	c := exec.Command("/bin/sh", "-c", "while read -r line; do echo $line; done")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	pid := c.Process.Pid
	var echoed atomic.Int64
	heard := make(chan struct{}, 100)
	go func() {
		b := make([]byte, 1)
		for {
			if _, err := out.Read(b); err != nil {
				return
			}
			if b[0] == '\n' {
				echoed.Add(1)
				heard <- struct{}{}
			}
		}
	}()
	say := func() {
		if _, err := in.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
	}
	wait := func() {
		select {
		case <-heard:
		case <-time.After(30 * time.Second):
			t.Fatal("it does not answer")
		}
	}
	for round, f := range []struct{ freeze, thaw func(int) error }{
		{proctest.Freeze, proctest.Thaw}, {proctest.FreezeGroup, proctest.ThawGroup},
	} {
		say()
		wait()
		if err := f.freeze(pid); err != nil {
			t.Fatal(err)
		}
		if s, err := proc.ReadStat(pid); err != nil || s.State != 'T' {
			t.Errorf("state %c, %v", s.State, err)
		}
		say()
		if n := echoed.Load(); n != int64(2*round+1) {
			t.Errorf("a frozen process has answered %d times", n)
		}
		if err := f.thaw(pid); err != nil {
			t.Fatal(err)
		}
		wait()
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if err := proctest.Freeze(pid); !errors.Is(err, syscall.ESRCH) && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("of a process that has ended: %v", err)
	}
}
