package local

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of <linux/fs.h> and <linux/quota.h>; x/sys has no names for them.
const (
	fsIocGetXattr     = 0x801c581f
	fsIocSetXattr     = 0x401c5820
	xflagProjInherit  = 0x200
	qSetQuota         = 0x800008
	projectQuota      = 2
	quotaBlockLimits  = 1 // QIF_BLIMITS
	sysQuotactlFD     = 443
	quotaBlock        = 1024
	firstProject      = 1 << 24 // leaves the low numbers to the operator
	projectNumberMask = 1<<24 - 1
)

type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

type dqblk struct {
	hardBlocks, softBlocks, space, hardInodes, softInodes, inodes, blockTime, inodeTime uint64
	valid                                                                               uint32
	_                                                                                   uint32
}

// projectOf gives an instance's volume its project number.
func projectOf(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return firstProject | h.Sum32()&projectNumberMask
}

// setQuota makes dir, which must be empty, a project of the file system with a
// hard limit in GiB; 0 takes the limit away. It fails where the file system has
// no project quotas (ext4 and xfs mounted with prjquota have) or we may not.
func setQuota(dir string, project uint32, gib int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	limit := dqblk{hardBlocks: uint64(gib) << 30 / quotaBlock, softBlocks: uint64(gib) << 30 / quotaBlock, valid: quotaBlockLimits}
	if _, _, errno := unix.Syscall6(sysQuotactlFD, d.Fd(), qSetQuota<<8|projectQuota, uintptr(project), uintptr(unsafe.Pointer(&limit)), 0, 0); errno != 0 {
		if errors.Is(errno, unix.ESRCH) || errors.Is(errno, unix.ENOSYS) || errors.Is(errno, unix.EOPNOTSUPP) {
			return errors.New("the file system has no project quotas (mount option prjquota)")
		}
		return fmt.Errorf("set project quota: %w", errno)
	}
	if gib == 0 {
		return nil
	}
	var x fsxattr
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), fsIocGetXattr, uintptr(unsafe.Pointer(&x))); errno != 0 {
		return fmt.Errorf("read project of %s: %w", dir, errno)
	}
	x.projid, x.xflags = project, x.xflags|xflagProjInherit
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), fsIocSetXattr, uintptr(unsafe.Pointer(&x))); errno != 0 {
		return fmt.Errorf("set project of %s: %w", dir, errno)
	}
	return nil
}
