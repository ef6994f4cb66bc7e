package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

// disk is a whole block device.
type disk struct {
	name   string // vdb
	path   string // /dev/vdb
	number string // 254:16
	serial string
	size   int64 // bytes
}

// shortSerial is how much of a serial number the narrowest disk interfaces
// (virtio-blk, NVMe) carry.
const shortSerial = 20

// isVolume reports whether a serial number is that of a volume.
func isVolume(serial, id string) bool {
	return serial != "" && (serial == id || len(serial) == shortSerial && strings.HasPrefix(id, serial))
}

// find gives the volume's disk: KindNotFound if it is not there (yet),
// KindConflict if it is not clear which one it is.
func (v *Volume) find(ctx context.Context) (disk, error) {
	all, err := v.disks()
	if err != nil {
		return disk{}, err
	}
	var found []disk
	for _, d := range all {
		if v.c.ID != "" {
			if isVolume(d.serial, v.c.ID) {
				found = append(found, d)
			}
			continue
		}
		free, err := v.free(ctx, d)
		if err != nil {
			return disk{}, err
		}
		if free {
			found = append(found, d)
		}
	}
	if v.c.ID == "" && len(found) > 1 {
		// Disks that are part of the server (ephemeral, swap) have no serial.
		if named := slices.DeleteFunc(slices.Clone(found), func(d disk) bool { return d.serial == "" }); len(named) > 0 {
			found = named
		}
	}
	switch len(found) {
	case 1:
		return found[0], v.mayUse(found[0])
	case 0:
		return disk{}, trove.Errorf(trove.KindNotFound, "There is no disk for the volume %s. The disks of this server are: %s.", v.c.ID, list(all)).
			WithAction("Look whether the volume is attached to the server: openstack server volume list SERVER.")
	}
	return disk{}, trove.Errorf(trove.KindConflict, "It is not clear which disk is the volume: %s could be.", list(found)).
		WithAction("Name the volume's id in [gotrove] volume_id of the agent's configuration.")
}

func list(disks []disk) string {
	if len(disks) == 0 {
		return "none"
	}
	var out []string
	for _, d := range disks {
		out = append(out, fmt.Sprintf("%s (%s, serial %q)", d.name, size(d.size), d.serial))
	}
	return strings.Join(out, ", ")
}

// mayUse refuses a disk that something else is on.
func (v *Volume) mayUse(d disk) error {
	by, err := v.usedBy(d)
	if err != nil || by == "" {
		return err
	}
	return trove.Errorf(trove.KindConflict, "The volume's disk %s is in use: %s.", d.name, by).
		WithAction("Unmount it, or remove its partitions if nobody needs what is on them.")
}

// free reports whether a disk could be the volume when none was named.
func (v *Volume) free(ctx context.Context, d disk) (bool, error) {
	if by, err := v.usedBy(d); err != nil || by != "" {
		return false, err
	}
	p, err := v.probe(ctx, d)
	if err != nil {
		return false, err
	}
	// A config drive may look like a disk.
	return p.Type != "iso9660" && p.Label != "config-2", nil
}

// usedBy says what is on a disk that keeps others from using it; empty if
// nothing is.
func (v *Volume) usedBy(d disk) (string, error) {
	mounts, err := v.mounts()
	if err != nil {
		return "", err
	}
	dir := v.path(v.c.sys, "block", d.name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.device == d.number || m.source == d.path { // the root may be known by its name only
			return "it is mounted at " + m.point, nil
		}
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "partition")); err == nil {
			return "it has a partition " + e.Name(), nil
		}
	}
	if holders, err := os.ReadDir(filepath.Join(dir, "holders")); err == nil && len(holders) > 0 {
		return holders[0].Name() + " is made of it", nil
	}
	swaps, err := os.ReadFile(v.path(v.c.proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for line := range strings.Lines(string(swaps)) {
		if name, _, _ := strings.Cut(line, " "); strings.TrimSpace(name) == d.path {
			return "it is swap space", nil
		}
	}
	return "", nil
}

// notDisks are block devices that no volume is.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock"}

// disks are the disks of this machine that could be written to.
func (v *Volume) disks() ([]disk, error) {
	entries, err := os.ReadDir(v.path(v.c.sys, "block"))
	if err != nil {
		return nil, err
	}
	var out []disk
	for _, e := range entries {
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			continue
		}
		d, ok, err := v.disk(e.Name())
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, d)
		}
	}
	return out, nil
}

// disk reads what the kernel says of one; ok is false if it is none to write
// to, or is gone.
func (v *Volume) disk(name string) (d disk, ok bool, err error) {
	attribute := func(path ...string) string {
		b, readErr := os.ReadFile(v.path(v.c.sys, append([]string{"block", name}, path...)...))
		if readErr != nil && !gone(readErr) {
			err = errors.Join(err, readErr)
		}
		return strings.Trim(string(b), " \t\n\x00")
	}
	sectors := attribute("size")
	if sectors == "" || sectors == "0" || attribute("ro") == "1" {
		return disk{}, false, err
	}
	n, parseErr := strconv.ParseInt(sectors, 10, 64)
	if parseErr != nil {
		return disk{}, false, fmt.Errorf("size of %s: %w", name, parseErr)
	}
	d = disk{name: name, path: v.path(v.c.dev, name), number: attribute("dev"), size: n << 9}
	for _, at := range [][]string{{"serial"}, {"device", "serial"}} { // virtio-blk; NVMe
		if d.serial == "" {
			d.serial = attribute(at...)
		}
	}
	if d.serial == "" { // SCSI: page 0x80 of the vital product data, after four bytes
		b, readErr := os.ReadFile(v.path(v.c.sys, "block", name, "device", "vpd_pg80"))
		if readErr == nil && len(b) > 4 {
			d.serial = string(bytes.Trim(b[4:], " \n\x00"))
		}
	}
	return d, true, err
}

// gone is an error of what is not there, or was and is not any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// byNumber gives the disk that a mounted file system is on.
func (v *Volume) byNumber(number string) (disk, error) {
	entries, err := os.ReadDir(v.path(v.c.sys, "block"))
	if err != nil {
		return disk{}, err
	}
	for _, e := range entries {
		if d, ok, err := v.disk(e.Name()); err == nil && ok && d.number == number {
			return d, nil
		}
	}
	return disk{}, trove.Errorf(trove.KindNotFound, "What is mounted at %s is on no disk of its own (device %s).", v.c.MountPoint, number)
}

// mount is a mounted file system.
type mount struct{ device, point, fstype, source string }

// mountedHere gives what is mounted at the mount point, the last if several are.
func (v *Volume) mountedHere() (mount, bool, error) {
	all, err := v.mounts()
	if err != nil {
		return mount{}, false, err
	}
	for _, m := range slices.Backward(all) {
		if m.point == filepath.Clean(v.c.MountPoint) {
			return m, true, nil
		}
	}
	return mount{}, false, nil
}

// mounts reads what is mounted in this process's view.
func (v *Volume) mounts() ([]mount, error) {
	b, err := os.ReadFile(v.path(v.c.proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	var out []mount
	for line := range strings.Lines(string(b)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		out = append(out, mount{device: l[2], point: unescape(l[4]), fstype: r[0], source: unescape(r[1])})
	}
	return out, nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	for _, e := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return s
}
