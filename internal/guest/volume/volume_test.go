package volume

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// bench is a machine with one volume that is a loop device.
type bench struct {
	*machine
	loop, file string
	stages     []string
	v          *Volume
}

const benchSize = 32 << 20

func newBench(t *testing.T) *bench {
	t.Helper()
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root for loop devices")
	}
	b := &bench{machine: newMachine(t)}
	b.file = b.path("volume.img")
	if err := os.WriteFile(b.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(b.file, benchSize); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", b.file).CombinedOutput()
	if err != nil {
		t.Skipf("this machine gives us no loop device: %v %s", err, out)
	}
	b.loop = strings.TrimSpace(string(out))
	t.Cleanup(func() { sh(t, "losetup", "-d", b.loop) })
	var st unix.Stat_t
	if err := unix.Stat(b.loop, &st); err != nil {
		t.Fatal(err)
	}
	b.disk("vdb", map[string]string{"serial": volumeID[:20], "size": fmt.Sprint(benchSize >> 9),
		"dev": fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))})
	if err := os.Remove(b.path("dev/vdb")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.loop, b.path("dev/vdb")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b.path("proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc", b.path("proc")); err != nil { // what is mounted is the truth
		t.Fatal(err)
	}
	b.v = b.volume(Config{ID: volumeID, MountPoint: b.path("mnt"), StateFile: b.path("volume.json"),
		Reached: func(s Stage, _ string) { b.stages = append(b.stages, string(s)) }})
	t.Cleanup(func() {
		_ = unix.Unmount(b.path("mnt"), unix.MNT_DETACH)
		_ = exec.Command("chattr", "-i", b.path("mnt")).Run()
	})
	return b
}

func (b *bench) ensure() error {
	b.stages = nil
	return b.v.Ensure(context.Background())
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) is(stages ...Stage) {
	b.t.Helper()
	var want []string
	for _, s := range stages {
		want = append(want, string(s))
	}
	if !slices.Equal(b.stages, want) {
		b.t.Errorf("stages %q, want %q", b.stages, want)
	}
}

func (b *bench) hash() string {
	b.t.Helper()
	text, err := os.ReadFile(b.file)
	b.must(err)
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

func (b *bench) uuid() string { return sh(b.t, "blkid", "-p", "-s", "UUID", "-o", "value", b.loop) }

func TestEmptyVolumeIsFormattedOnce(t *testing.T) {
	b := newBench(t)
	b.must(b.ensure())
	b.is(Found, Formatted, Mounted)
	uuid := b.uuid()
	b.must(os.WriteFile(b.path("mnt/data"), []byte("mine"), 0o600))

	b.must(b.ensure()) // an agent that was started again
	b.is(Mounted)

	b.must(b.v.Unmount(context.Background()))
	b.must(b.v.Unmount(context.Background())) // done already
	if on, err := b.v.Mounted(); on || err != nil {
		t.Errorf("mounted %v, %v after unmounting", on, err)
	}
	if err := os.WriteFile(b.path("mnt/data"), nil, 0o600); err == nil {
		t.Error("the mount point takes files while nothing is mounted there")
	}

	b.must(b.ensure()) // a server that was started again
	b.is(Found, Mounted)
	if text, err := os.ReadFile(b.path("mnt/data")); string(text) != "mine" || b.uuid() != uuid {
		t.Errorf("the data are %q, %v, UUID %s, was %s", text, err, b.uuid(), uuid)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	if _, err := exec.LookPath("mkswap"); err != nil {
		t.Skip(err)
	}
	write := func(at int64, text string) func(b *bench) {
		return func(b *bench) {
			f, err := os.OpenFile(b.loop, os.O_WRONLY, 0)
			b.must(err)
			_, err = f.WriteAt([]byte(text), at)
			b.must(err)
			b.must(f.Close())
		}
	}
	for name, c := range map[string]struct {
		put  func(b *bench)
		says string
	}{
		"a partition table":            {write(446, "\x00\x01\x01\x00\x83\x01\x01\x00\x01\x00\x00\x00\x00\x80\x00\x00"+strings.Repeat("\x00", 48)+"\x55\xaa"), "partition table (dos)"},
		"swap space":                   {func(b *bench) { sh(b.t, "mkswap", "-q", b.loop) }, "swap"},
		"LVM":                          {write(512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\xa1\xce\x9c\x8e\x20\x00\x00\x00LVM2 001"), ""},
		"something unknown":            {write(0, "an encrypted disk"), "not known"},
		"something unknown inside":     {write(900<<10, "x"), "not known"},
		"something unknown at its end": {write(benchSize-1, "x"), "not known"},
		"a file system without its first block": {func(b *bench) {
			sh(b.t, "mkfs.ext4", "-q", "-F", b.loop)
			write(0, strings.Repeat("\x00", 4096))(b)
		}, "not known"},
		"a file system that cannot be repaired by itself": {func(b *bench) {
			sh(b.t, "mkfs.ext4", "-q", "-F", "-b", "1024", b.loop)
			write(2048, strings.Repeat("\xff", 4096))(b) // group descriptors
		}, "e2fsck failed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.put(b)
			sh(t, "sync")
			before := b.hash()
			err := b.ensure()
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			t.Log(err, trove.ActionOf(err))
			sh(t, "sync")
			if strings.HasPrefix(c.says, "e2fsck") {
				return // which repairs what it can
			}
			if trove.ActionOf(err) == "" || !trove.IsKind(err, trove.KindConflict) {
				t.Errorf("%v has kind %v and action %q", err, trove.KindOf(err), trove.ActionOf(err))
			}
			if b.hash() != before {
				t.Error("the disk is not what it was")
			}
		})
	}
}

// What another made is mounted as it is.
func TestVolumeThatHoldsDataIsMounted(t *testing.T) {
	b := newBench(t)
	sh(t, "mkfs.ext4", "-q", "-F", b.loop)
	uuid := b.uuid()
	b.must(b.ensure())
	b.is(Found, Mounted)
	if b.uuid() != uuid {
		t.Error("it was formatted")
	}
}

// Where no id was told, only a disk that is empty is made a volume, and only what
// an agent made is taken for one: a disk of somebody else's may be the only one.
func TestWithoutAnIDNothingForeignIsUsed(t *testing.T) {
	for name, put := range map[string]func(b *bench){
		"without a label":         func(b *bench) { sh(b.t, "mkfs.ext4", "-q", "-F", b.loop) },
		"with a label of its own": func(b *bench) { sh(b.t, "mkfs.ext4", "-q", "-F", "-L", "home", b.loop) },
		"of another kind":         func(b *bench) { sh(b.t, "mkfs.ext3", "-q", "-F", b.loop) },
		"with a number, all the same": func(b *bench) {
			sh(b.t, "mkfs.ext4", "-q", "-F", b.loop)
			b.write("sys/block/vdb/serial", "a-foreign-one\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.v.c.ID = ""
			b.write("sys/block/vdb/serial", "\n")
			put(b)
			sh(t, "sync")
			before := b.hash()
			for _, use := range []func() error{b.ensure, func() error { return b.v.Grow(context.Background()) }} {
				if err := use(); !trove.IsKind(err, trove.KindConflict) || !strings.Contains(trove.ActionOf(err), "volume_id") {
					t.Errorf("%v (%s), want a refusal that says what to do", err, trove.ActionOf(err))
				}
			}
			if mounted, err := b.v.Mounted(); mounted || err != nil {
				t.Errorf("mounted: %t, %v", mounted, err)
			}
			sh(t, "sync")
			if b.hash() != before {
				t.Error("the disk is not what it was")
			}
		})
	}
	t.Run("its own is used again", func(t *testing.T) {
		b := newBench(t)
		b.v.c.ID = ""
		b.write("sys/block/vdb/serial", "\n")
		b.must(b.ensure())
		b.is(Found, Formatted, Mounted)
		uuid := b.uuid()
		b.must(b.v.Unmount(context.Background()))
		b.must(b.v.Grow(context.Background()))
		b.must(b.ensure())
		b.is(Found, Mounted)
		if b.uuid() != uuid {
			t.Error("it was formatted again")
		}
	})
}

func TestFormattingThatWasCutOff(t *testing.T) {
	const uuid = "6b2f1d2e-8f31-4f7e-9a54-0d9d7c1e2b3a"
	mine := fmt.Sprintf(`{"serial":%q,"size":%d,"uuid":%q}`, volumeID[:20], benchSize, uuid)
	other := strings.Replace(mine, volumeID[:20], "another-volume-12345", 1)
	partly := func(b *bench) {
		sh(b.t, "sh", "-c", "head -c 40000 /dev/urandom | dd conv=notrunc bs=4k seek=1 status=none of="+b.loop)
	}
	whole := func(b *bench) { sh(b.t, "mkfs.ext4", "-q", "-F", "-U", uuid, b.loop) }
	for name, c := range map[string]struct {
		put    func(b *bench)
		record string
		again  bool
	}{
		"in the middle":                 {partly, mine, true},
		"after its last write":          {whole, mine, true},
		"in the middle, of another one": {partly, other, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.put(b)
			b.write("volume.json", c.record)
			err := b.ensure()
			if !c.again {
				if !trove.IsKind(err, trove.KindConflict) {
					t.Errorf("%v, want a refusal", err)
				}
				return
			}
			b.must(err)
			b.is(Found, Formatted, Mounted)
			if _, err := os.Stat(b.path("volume.json")); err == nil {
				t.Error("the record of it is still there: the next start would format again")
			}
		})
	}
}

// A record that is left over must never outlive the mount.
func TestMountedVolumeIsNeverFormattedLater(t *testing.T) {
	b := newBench(t)
	b.must(b.ensure())
	b.write("volume.json", fmt.Sprintf(`{"serial":%q,"size":%d,"uuid":%q}`, volumeID[:20], benchSize, b.uuid()))
	b.must(os.WriteFile(b.path("mnt/data"), []byte("mine"), 0o600))
	b.must(b.ensure())
	b.must(b.v.Unmount(context.Background()))
	b.must(b.ensure())
	b.is(Found, Mounted)
	if _, err := os.Stat(b.path("mnt/data")); err != nil {
		t.Error(err)
	}
}

// A record that comes back, as with a system's disk of another day, does not
// either.
func TestReturnedRecordFormatsNothing(t *testing.T) {
	b := newBench(t)
	b.must(b.ensure())
	b.must(os.WriteFile(b.path("mnt/data"), []byte("mine"), 0o600))
	b.must(b.v.Unmount(context.Background()))
	b.write("volume.json", fmt.Sprintf(`{"serial":%q,"size":%d,"uuid":%q}`, volumeID[:20], benchSize, b.uuid()))
	b.must(b.ensure())
	b.is(Found, Mounted)
	if _, err := os.Stat(b.path("mnt/data")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.path("volume.json")); err == nil {
		t.Error("the record is still there")
	}
}

func (b *bench) enlarge(to int64) {
	b.t.Helper()
	b.must(os.Truncate(b.file, to))
	sh(b.t, "losetup", "-c", b.loop)
	b.write("sys/block/vdb/size", fmt.Sprint(to>>9))
}

// capable reports whether this process has a capability; containers' roots lack
// some.
func capable(t *testing.T, capability int) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	text, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set&(1<<capability) != 0
}

func TestGrow(t *testing.T) {
	capacity := func(b *bench) int64 {
		var st unix.Statfs_t
		b.must(unix.Statfs(b.path("mnt"), &st))
		return int64(st.Blocks) * st.Bsize
	}
	inUse := capable(t, unix.CAP_SYS_RESOURCE)
	for name, grow := range map[string]func(b *bench){
		"in use": func(b *bench) { b.must(b.v.Grow(context.Background())) },
		"unmounted": func(b *bench) {
			b.must(b.v.Unmount(context.Background()))
			b.must(b.v.Grow(context.Background()))
			b.must(b.ensure())
		},
		"by itself, at the next start": func(b *bench) {
			b.must(b.v.Unmount(context.Background()))
			b.must(b.ensure())
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "unmounted" && !inUse {
				t.Skip("here nobody may resize a file system in use")
			}
			b := newBench(t)
			b.must(b.ensure())
			b.must(os.WriteFile(b.path("mnt/data"), []byte("mine"), 0o600))
			was := capacity(b)
			b.enlarge(40 << 20)
			grow(b)
			if got := capacity(b); got < was+6<<20 {
				t.Errorf("%d bytes, were %d on a disk that grew by 8 MiB", got, was)
			}
			if text, err := os.ReadFile(b.path("mnt/data")); string(text) != "mine" {
				t.Errorf("the data are %q, %v", text, err)
			}
			b.must(b.v.Grow(context.Background())) // nothing to do
		})
	}
}

func TestVolumeInUseStaysMounted(t *testing.T) {
	b := newBench(t)
	b.must(b.ensure())
	f, err := os.Create(b.path("mnt/open"))
	b.must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := b.v.Unmount(ctx); !trove.IsKind(err, trove.KindConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	b.must(f.Close())
	b.must(b.v.Unmount(context.Background()))
}

// A database that was begun on the system's disk must not vanish under a mount.
func TestMountPointMustBeEmpty(t *testing.T) {
	b := newBench(t)
	b.write("mnt/data/ibdata1", "")
	if err := b.ensure(); !trove.IsKind(err, trove.KindConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	if on, _ := b.v.Mounted(); on {
		t.Error("it is mounted over data")
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	b := newBench(t)
	b.v.c.dev = filepath.Join(b.dir, "none")
	if err := b.ensure(); err == nil {
		t.Error("a device that cannot be read is used")
	}
}
