// Package volume brings the volume of an instance into use: it finds the block
// device that the cloud attached, makes a file system on it if it is provably
// empty, mounts it, grows it, lets go of it.
//
// A device is found by the volume's id, which hypervisors give it as its serial
// number, never by its name: names change with the order in which devices
// appear. What holds anything at all is never formatted. Everything may be done
// again at any time, and after any crash.
//
// It knows nothing of engines and of who asks.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/trove"
)

// Config says which volume, and where it belongs.
type Config struct {
	// ID is the volume's id in the cloud. If it is empty, the only disk that
	// nothing else is on is the volume; it must be empty, or carry our label.
	ID string
	// MountPoint is an absolute path; it is made if it is not there.
	MountPoint string
	// StateFile remembers a file system that was begun. Its directory is there.
	StateFile string
	// Wait is how long the device may take to appear; 60 s if 0.
	Wait time.Duration
	Log  *slog.Logger
	// Reached is told each stage when it is over; nil: nobody.
	Reached func(s Stage, detail string)

	sys, dev, proc string // for tests: in place of /sys, /dev, /proc
}

// Stage is how far a volume has come.
type Stage string

// Stages in their order. One that there is nothing to do for is left out.
const (
	Found     Stage = "volume found"
	Formatted Stage = "volume formatted"
	Mounted   Stage = "volume mounted"
)

// Volume is the volume of an instance. Its methods must not run at once.
type Volume struct{ c Config }

// limits of what is run, generous: the machine may be emulated, the volume
// large, the storage busy.
const (
	defaultWait  = time.Minute
	lookEvery    = 200 * time.Millisecond
	formatLimit  = 10 * time.Minute
	checkLimit   = 30 * time.Minute
	growLimit    = 30 * time.Minute
	unmountLimit = 15 * time.Second
)

// New is the volume that c names. It does nothing yet.
func New(c Config) *Volume {
	if c.Wait <= 0 {
		c.Wait = defaultWait
	}
	if c.Reached == nil {
		c.Reached = func(Stage, string) {}
	}
	for _, d := range []struct {
		at  *string
		std string
	}{{&c.sys, "/sys"}, {&c.dev, "/dev"}, {&c.proc, "/proc"}} {
		if *d.at == "" {
			*d.at = d.std
		}
	}
	return &Volume{c: c}
}

// Ensure has the volume mounted at its mount point when it returns nil, as
// large as its device. Errors: KindNotFound if there is no such device within
// the wait, KindConflict if it is not ours to use, KindGuest if a program
// failed.
func (v *Volume) Ensure(ctx context.Context) error {
	if m, ok, err := v.mountedHere(); err != nil {
		return err
	} else if ok {
		if err := v.done(); err != nil {
			return err
		}
		v.c.Reached(Mounted, m.source+" at "+v.c.MountPoint+", as before")
		return v.growMounted(ctx, m)
	}
	d, err := v.await(ctx)
	if err != nil {
		return err
	}
	v.c.Reached(Found, fmt.Sprintf("%s, %s, serial %q", d.name, size(d.size), d.serial))
	fsys, err := v.fileSystem(ctx, d)
	if err != nil {
		return err
	}
	if err := v.check(ctx, d, fsys); err != nil {
		return err
	}
	if err := v.mount(d, fsys); err != nil {
		return err
	}
	v.c.Reached(Mounted, fmt.Sprintf("%s %s UUID %s at %s", d.name, fsys.Type, fsys.UUID, v.c.MountPoint))
	m, ok, err := v.mountedHere()
	if err != nil || !ok {
		return errors.Join(err, trove.Errorf(trove.KindInternal, "%s was mounted at %s and is not there", d.name, v.c.MountPoint))
	}
	return v.growMounted(ctx, m)
}

// Mounted reports whether the volume is at its mount point.
func (v *Volume) Mounted() (bool, error) {
	_, ok, err := v.mountedHere()
	return ok, err
}

// Unmount lets go of the volume, so that it can be detached; it waits a while
// for the last who uses it. A volume that is not mounted is left as it is.
func (v *Volume) Unmount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, unmountLimit)
	defer cancel()
	for {
		if _, ok, err := v.mountedHere(); err != nil || !ok {
			return err
		}
		err := unix.Unmount(v.c.MountPoint, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // there may be another one on top of it
		case !errors.Is(err, unix.EBUSY):
			return trove.Errorf(trove.KindGuest, "The volume cannot be unmounted from %s: %w", v.c.MountPoint, err)
		}
		if !pause(ctx) {
			return trove.Errorf(trove.KindConflict, "The volume at %s is in use and cannot be unmounted.", v.c.MountPoint).
				WithAction("Stop the database first; `fuser -vm %s` names who uses it.", v.c.MountPoint)
		}
	}
}

// Grow makes the file system as large as its device: in use if it is mounted,
// else after a check.
func (v *Volume) Grow(ctx context.Context) error {
	if m, ok, err := v.mountedHere(); err != nil {
		return err
	} else if ok {
		return v.growMounted(ctx, m)
	}
	d, err := v.await(ctx)
	if err != nil {
		return err
	}
	fsys, err := v.probe(ctx, d)
	if err == nil {
		err = v.known(d, fsys)
	}
	if err != nil {
		return err
	}
	if !fsys.ext() {
		return nil // XFS grows when it is mounted, which Ensure sees to
	}
	if err := v.run(ctx, checkLimit, checkOK, "e2fsck", "-f", "-p", d.path); err != nil {
		return err
	}
	return v.run(ctx, growLimit, 0, "resize2fs", d.path)
}

// growMounted grows a mounted file system that is smaller than its device.
func (v *Volume) growMounted(ctx context.Context, m mount) error {
	d, err := v.byNumber(m.device)
	if err != nil {
		return err
	}
	switch {
	case m.fstype == "xfs":
		return v.run(ctx, growLimit, 0, "xfs_growfs", v.c.MountPoint) // nothing happens if it is as large
	case !fileSystem{Type: m.fstype}.ext():
		return nil
	}
	used, err := extSize(d.path)
	if err != nil {
		return err
	}
	if d.size-used < extBlockMax { // the device need not be a whole number of blocks
		return nil
	}
	v.c.Log.InfoContext(ctx, "the volume has grown: so does its file system", "device", d.name, "from", size(used), "to", size(d.size))
	return v.run(ctx, growLimit, 0, "resize2fs", d.path)
}

// mount mounts what was just looked at.
func (v *Volume) mount(d disk, fsys fileSystem) error {
	if err := os.MkdirAll(v.c.MountPoint, 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	if entries, err := os.ReadDir(v.c.MountPoint); err == nil && len(entries) > 0 {
		return trove.Errorf(trove.KindConflict, "The mount point %s is not empty: it holds %s.", v.c.MountPoint, entries[0].Name()).
			WithAction("Look at what is there, move it away, and start the agent again.")
	}
	guard(v.c.MountPoint)
	err := unix.Mount(d.path, v.c.MountPoint, fsys.Type, unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV, "")
	if err != nil {
		return trove.Errorf(trove.KindGuest, "The volume %s (%s) cannot be mounted at %s: %w", d.name, fsys.Type, v.c.MountPoint, err)
	}
	return v.own()
}

// own makes a fresh volume the agent's, whose user the engine's is too. A new
// file system is root's.
func (v *Volume) own() error {
	i, err := os.Stat(v.c.MountPoint)
	if err != nil {
		return err
	}
	if st, ok := i.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || os.Geteuid() == 0 {
		return nil
	}
	if err := os.Chown(v.c.MountPoint, os.Geteuid(), os.Getegid()); err != nil {
		return fmt.Errorf("take over the volume: %w", err)
	}
	return nil
}

// immutable is FS_IMMUTABLE_FL of linux/fs.h.
const immutable = 0x10

// guard keeps everyone, root too, from writing into the mount point while
// nothing is mounted there: a database that is started too early would be a new
// one on the system's disk. Not all file systems can.
func guard(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|immutable)
	}
}

// await finds the device, waiting for it.
func (v *Volume) await(ctx context.Context) (disk, error) {
	limited, cancel := context.WithTimeout(ctx, v.c.Wait)
	defer cancel()
	for {
		d, err := v.find(ctx) // a look that was begun is ended: programs have limits of their own
		switch {
		case err == nil:
			return d, nil
		case !trove.IsKind(err, trove.KindNotFound) && !errors.Is(err, fs.ErrNotExist):
			return disk{}, err
		case !pause(limited):
			if ctx.Err() != nil {
				return disk{}, ctx.Err()
			}
			return disk{}, err
		}
	}
}

func pause(ctx context.Context) bool {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// size writes bytes as people say the size of a disk.
func size(bytes int64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%.4g GiB", float64(bytes)/(1<<30))
}

func (v *Volume) path(root string, parts ...string) string {
	return filepath.Join(append([]string{root}, parts...)...)
}
