package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// machine is a machine's block devices as the kernel shows them, in a
// directory: what a disk is made of is a file or a loop device.
type machine struct {
	t   *testing.T
	dir string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t, t.TempDir()}
	m.write("proc/self/mountinfo", "20 1 254:0 / / rw - ext4 /dev/vda rw\n")
	m.disk("vda", map[string]string{"dev": "254:0", "serial": ""})
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// disk adds a disk of 8 MiB that holds nothing; attributes go over the usual
// ones.
func (m *machine) disk(name string, attributes map[string]string) {
	m.t.Helper()
	all := map[string]string{"size": "16384", "ro": "0", "dev": fmt.Sprintf("254:%d", 16*(int(name[len(name)-1])-'a'))}
	for k, v := range attributes {
		all[k] = v
	}
	for k, v := range all {
		m.write("sys/block/"+name+"/"+k, v+"\n")
	}
	m.write("dev/"+name, strings.Repeat("\x00", 8<<20))
}

func (m *machine) volume(c Config) *Volume {
	c.sys, c.dev, c.proc = m.path("sys"), m.path("dev"), m.path("proc")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Wait == 0 {
		c.Wait = time.Millisecond
	}
	return New(c)
}

const volumeID = "0f2b9a52-6a0b-4f0e-9c1d-3a5d5e1b7c11"

func TestFind(t *testing.T) {
	short := volumeID[:20]
	for name, c := range map[string]struct {
		id   string
		make func(m *machine)
		want string // a disk, or
		kind trove.Kind
		says string
	}{
		"virtio, which keeps 20 letters": {id: volumeID, want: "vdc", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": "config"})
			m.disk("vdc", map[string]string{"serial": short})
		}},
		"NVMe": {id: volumeID, want: "nvme0n1", make: func(m *machine) {
			m.disk("nvme0n1", map[string]string{"device/serial": short + "  "})
		}},
		"SCSI": {id: volumeID, want: "sdb", make: func(m *machine) {
			m.disk("sdb", map[string]string{"device/vpd_pg80": "\x00\x80\x00\x24" + volumeID})
		}},
		"a serial number that only begins alike": {id: volumeID, kind: trove.KindNotFound, says: "vdb (8 MiB, serial", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": volumeID[:8]})
		}},
		"another volume's": {id: volumeID, kind: trove.KindNotFound, make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": "1" + short[1:]})
		}},
		"with partitions": {id: volumeID, kind: trove.KindConflict, says: "partition vdb1", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": short, "vdb1/partition": "1"})
		}},
		"mounted elsewhere": {id: volumeID, kind: trove.KindConflict, says: "mounted at /srv/x y", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": short})
			m.write("proc/self/mountinfo", `20 1 254:0 / / rw - ext4 /dev/vda rw
21 1 254:16 / /srv/x\040y rw shared:1 - ext4 /dev/vdb rw
`)
		}},
		"used as swap space": {id: volumeID, kind: trove.KindConflict, says: "swap", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": short})
			m.write("proc/swaps", "Filename\tType\n"+m.path("dev/vdb")+" partition 1 0 -2\n")
		}},
		"part of something": {id: volumeID, kind: trove.KindConflict, says: "dm-0", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": short, "holders/dm-0": ""})
		}},
		"read-only":        {id: volumeID, kind: trove.KindNotFound, make: func(m *machine) { m.disk("vdb", map[string]string{"serial": short, "ro": "1"}) }},
		"without a medium": {id: volumeID, kind: trove.KindNotFound, make: func(m *machine) { m.disk("vdb", map[string]string{"serial": short, "size": "0"}) }},
		"nothing named, one disk": {want: "vdb", make: func(m *machine) {
			m.disk("vdb", nil)
			m.disk("sr0", nil)
			m.disk("loop0", nil)
			m.disk("zram0", nil)
		}},
		"nothing named, one with a number": {want: "vdc", make: func(m *machine) {
			m.disk("vdb", nil)
			m.disk("vdc", map[string]string{"serial": short})
		}},
		"nothing named, two": {kind: trove.KindConflict, says: "vdb", make: func(m *machine) {
			m.disk("vdb", map[string]string{"serial": "a"})
			m.disk("vdc", map[string]string{"serial": "b"})
		}},
		"nothing named, but for a config drive": {kind: trove.KindNotFound, make: func(m *machine) {
			m.disk("vdb", nil)
			sh(m.t, "mkfs.ext4", "-q", "-L", "config-2", m.path("dev/vdb"))
		}},
		"nothing named, only the system's": {kind: trove.KindNotFound, make: func(*machine) {}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			c.make(m)
			d, err := m.volume(Config{ID: c.id}).find(context.Background())
			if c.want != "" {
				if err != nil || d.name != c.want {
					t.Errorf("%q, %v; want %s", d.name, err, c.want)
				}
				return
			}
			if !trove.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q, %v; want %v and %q", d.name, err, c.kind, c.says)
			}
			if trove.ActionOf(err) == "" {
				t.Error("nothing says what to do")
			}
		})
	}
}

// A volume that is attached late is waited for.
func TestWaitsForTheDevice(t *testing.T) {
	m := newMachine(t)
	v := m.volume(Config{ID: volumeID, Wait: time.Minute})
	got := make(chan disk, 1)
	go func() {
		d, err := v.await(context.Background())
		if err != nil {
			t.Error(err)
		}
		got <- d
	}()
	m.write("other/serial", volumeID[:20])
	m.write("other/ro", "0")
	m.write("other/dev", "254:16")
	m.write("other/size", "16384")
	if err := os.Rename(m.path("other"), m.path("sys/block/vdb")); err != nil {
		t.Fatal(err)
	}
	if d := <-got; d.name != "vdb" {
		t.Errorf("found %+v", d)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.volume(Config{ID: "another", Wait: time.Minute}).await(ctx); err != context.Canceled {
		t.Errorf("after the end of the context: %v", err)
	}
}

// blkid ends in the same way when there is nothing and when it could not look: a
// disk that cannot be read is not an empty one.
func TestUnreadableIsNotEmpty(t *testing.T) {
	m := newMachine(t)
	m.disk("vdb", nil)
	v := m.volume(Config{})
	d, err := v.find(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if is, err := v.probe(context.Background(), d); err != nil || is != (fileSystem{}) {
		t.Errorf("an empty disk: %v, %v", is, err)
	}
	if err := os.Remove(d.path); err != nil {
		t.Fatal(err)
	}
	if is, err := v.probe(context.Background(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its device node: %v, %v", is, err)
	}
	if err := os.Mkdir(d.path, 0o755); err != nil { // it opens, and no byte can be read
		t.Fatal(err)
	}
	if is, err := v.probe(context.Background(), d); err == nil {
		t.Errorf("a disk that cannot be read: %v", is)
	}
}
