package local_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/proc"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestConsoleIsBounded(t *testing.T) {
	o := options(t)
	c := open(t, o)
	create(t, c, o, "chatty")
	console := filepath.Join(o.DataDir, "instances", "chatty", "console.log")
	if err := os.WriteFile(console, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, c) // looks at once
	eventually(t, "the console is cut", func() bool {
		st, err := os.Stat(console)
		return err == nil && st.Size() < 1<<20
	})
	if st, err := os.Stat(console + ".1"); err != nil || st.Size() != 2<<20 {
		t.Errorf("kept: %v, %v", st, err)
	}
}

// A volume's size is a limit on a file system with project quotas.
func TestVolumeQuota(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	o := options(t)
	image := filepath.Join(filepath.Dir(o.DataDir), "image")
	if err := os.MkdirAll(o.DataDir, 0o711); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(2<<30), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop,prjquota", image, o.DataDir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", o.DataDir).Run() })
	c := open(t, o)
	owner := cloud.Owner{InstanceID: "small", Manager: "mariadb"}
	if _, err := c.EnsureVolume(t.Context(), owner, 1, ""); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(o.DataDir, "instances", "small", "volume", "data", "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := syscall.Fallocate(int(file.Fd()), 0, 0, 512<<20); err != nil {
		t.Errorf("half of the volume: %v", err)
	}
	// Root may break a quota, so another user tries.
	if err := os.Chmod(file.Name(), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"volume", "volume/data"} {
		if err := os.Chmod(filepath.Join(o.DataDir, "instances", "small", d), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/usr/bin/fallocate", "-l", "1200M", file.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "quota") {
		t.Errorf("more than the volume: %v: %s", err, out)
	}
	if gone, err := c.DeleteVolume(t.Context(), owner); !gone || err != nil {
		t.Error(gone, err)
	}
}

func TestDataDirectoryThatCannotBeWritten(t *testing.T) {
	for name, c := range map[string]struct {
		options, want string
		kind          trove.Kind
	}{
		"read-only": {"ro", "read-only", trove.KindUnavailable},
		"full":      {"size=64k,mode=0711", "disk is full", trove.KindOverLimit}, // no other try: a creation ends
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			cl := open(t, o)
			dir := filepath.Join(o.DataDir, "instances", "sick")
			if err := os.MkdirAll(dir, 0o711); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("mount", "-t", "tmpfs", "-o", c.options, "none", dir).CombinedOutput(); err != nil {
				t.Skipf("mount: %v: %s", err, out)
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
			_ = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600)
			_, err := cl.EnsureVolume(t.Context(), cloud.Owner{InstanceID: "sick", Manager: "mariadb"}, 1, "")
			if !trove.IsKind(err, c.kind) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), c.want) || trove.ActionOf(err) == "" {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// An engine whose agent is away is stopped too.
func TestStopAllWithoutAgent(t *testing.T) {
	o := options(t)
	c := open(t, o)
	create(t, c, o, "alone")
	agent, engine := one(t, "alone", "trove-guestagent"), one(t, "alone", "engine")
	if err := errors.Join(agent.Signal(syscall.SIGKILL), agent.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := c.StopAll(t.Context()); err != nil || engine.Running() {
		t.Errorf("engine runs: %v, %v", engine.Running(), err)
	}
}

// One damaged record harms nobody else.
func TestDamagedRecord(t *testing.T) {
	o := options(t)
	c := open(t, o)
	create(t, c, o, "fine")
	dir := filepath.Join(o.DataDir, "instances", "torn")
	if err := errors.Join(os.Mkdir(dir, 0o711), os.WriteFile(filepath.Join(dir, "server.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Servers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("servers are %v, %v", all, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.StopAll(ended); err != nil { // even so
		t.Error(err)
	}
	if found, _ := proc.Tagged("GOTROVE_INSTANCE=fine"); len(found) > 0 {
		t.Errorf("runs on: %v", found)
	}
	o2 := cloud.Owner{InstanceID: "torn"}
	if gone, err := c.DeleteServer(t.Context(), o2); !gone || err != nil || exists(dir) {
		t.Errorf("a torn instance cannot be deleted: %v, %v", gone, err)
	}
}

// TestBegunFiles: what a killed process had begun to write is taken away, or it
// would keep an instance's directory for ever.
func TestBegunFiles(t *testing.T) {
	t.Parallel()
	o := options(t)
	if _, err := local.New(o); err != nil {
		t.Fatal(err)
	}
	instance := filepath.Join(o.DataDir, "instances", "i1")
	if err := os.Mkdir(instance, 0o711); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(instance, "server.json")
	begun := []string{filepath.Join(o.DataDir, "addresses", ".claim.1"), filepath.Join(instance, ".server.json.2")}
	for _, f := range append(begun, whole) {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := local.New(o); err != nil {
		t.Fatal(err)
	}
	for _, f := range begun {
		if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", f, err)
		}
	}
	if _, err := os.Stat(whole); err != nil {
		t.Error(err)
	}
}

func TestBadInstanceID(t *testing.T) {
	c := open(t, options(t))
	for _, id := range []string{"", "..", "a/b", "../../etc"} {
		if _, err := c.DeleteVolume(t.Context(), cloud.Owner{InstanceID: id}); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
