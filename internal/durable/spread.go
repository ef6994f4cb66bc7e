package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// topDir is ext4's attribute T (chattr +T): what is in the directory is not
// related.
const topDir = 0x00020000

// Spread has ext4 put each directory made in dir into a block group of its own.
// Otherwise a new instance gets the group of the one deleted before it, whose
// inodes are kept from reuse for minutes: making a thousand files then looks at
// a thousand of them for each, which was most of the time a creation took. It
// is best effort: other file systems have no such attribute and need none.
func Spread(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	flags, err := unix.IoctlGetInt(int(d.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}
