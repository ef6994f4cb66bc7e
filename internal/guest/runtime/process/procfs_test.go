package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/guest/runtime"
)

func TestOOMCounters(t *testing.T) {
	got := oomCounters("5:memory:/trove/a\n1:name=systemd:/x\n0::/trove/b\nnonsense\n")
	want := []string{"/sys/fs/cgroup/memory/trove/a/memory.oom_control", "/sys/fs/cgroup/trove/b/memory.events"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestProtectAgent needs root to lower a score first.
func TestProtectAgent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("lowering the out-of-memory score needs root")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()         //nolint:errcheck // killed
	defer cmd.Process.Kill() //nolint:errcheck // already gone is fine
	for from, want := range map[string]string{"-500": "0", "300": "300"} {
		path := procPath(cmd.Process.Pid, "oom_score_adj")
		if err := os.WriteFile(path, []byte(from), 0); err != nil {
			t.Skipf("the score cannot be set here: %v", err)
		}
		protectAgent(cmd.Process.Pid)
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("from %s the score became %q, %v, want %s", from, b, err, want)
		}
	}
}

// TestCredential needs root to give a program another user.
func TestCredential(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user needs root")
	}
	const uid = 65534
	r, err := New(Options{Credential: &syscall.Credential{Uid: uid, Gid: uid}})
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	s := runtime.Spec{InstanceID: "credential-" + strconv.Itoa(os.Getpid()), Name: "sleep", Argv: []string{"sleep", "1000"}, LogFile: log, Dir: "/"}
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.WithoutCancel(t.Context()), h, syscall.SIGKILL, 0) //nolint:errcheck // the test has ended
	for _, path := range []string{log, procPath(h.PID, "")} {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil || st.Uid != uid {
			t.Errorf("%s belongs to %d, %v, want %d", path, st.Uid, err, uid)
		}
	}
	if found, ok, err := r.Find(t.Context(), s); err != nil || !ok || found != h {
		t.Errorf("Find gives %+v, %v, %v", found, ok, err)
	}
}
