package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/durable"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// usageFresh is how old a measurement may be to be told.
	usageFresh = 10 * time.Second
	// usageLimit bounds one walk over the volume; an older figure is told then.
	usageLimit = 5 * time.Second
	// usageWatch is how often a volume with a quota is looked at.
	usageWatch = time.Minute
	// usageWarn is the share of the quota from which the log warns.
	usageWarn = 0.9

	gib = 1 << 30
)

// usage measures an instance's volume: a file system of its own, or a
// directory with a quota on a file system it shares.
type usage struct {
	dir string
	log *slog.Logger

	walking chan struct{} // held by who walks
	mu      sync.Mutex
	quota   int64 // bytes, 0: the file system is the volume
	used    int64
	at      time.Time // of used; zero: never measured
}

func newUsage(dir string, quota int64, log *slog.Logger) *usage {
	return &usage{dir: dir, quota: quota, log: log, walking: make(chan struct{}, 1)}
}

func (u *usage) setQuota(bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.quota = bytes
}

func (u *usage) getQuota() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.quota
}

// stats gives the figures of get_filesystem_stats.
func (u *usage) stats(ctx context.Context) (guestapi.FilesystemStats, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(u.dir, &fs); err != nil {
		return guestapi.FilesystemStats{}, fmt.Errorf("measure the volume %s: %w", u.dir, err)
	}
	block := int64(fs.Bsize)
	out := guestapi.FilesystemStats{
		BlockSize:   block,
		TotalBlocks: int64(fs.Blocks),
		FreeBlocks:  int64(fs.Bfree),
		AvailBlocks: int64(fs.Bavail),
		Extra:       map[string]int64{},
	}
	if quota := u.getQuota(); quota > 0 {
		used, err := u.measure(ctx)
		if err != nil {
			return guestapi.FilesystemStats{}, err
		}
		// What is left of the quota, but never more than the disk has.
		left := max(0, quota-used)
		out.TotalBlocks = quota / block
		out.FreeBlocks = min(left/block, out.FreeBlocks)
		out.AvailBlocks = min(left/block, out.AvailBlocks)
		out.Total, out.Used = gigabytes(quota), gigabytes(used)
	} else {
		out.Total, out.Used = gigabytes(out.TotalBlocks*block), gigabytes((out.TotalBlocks-out.FreeBlocks)*block)
	}
	out.Free = out.FreeBlocks * block
	return out, nil
}

// gigabytes rounds to two digits as the original does; something is never 0.
func gigabytes(bytes int64) float64 {
	g := math.Round(float64(bytes)/gib*100) / 100
	if g == 0 && bytes > 0 {
		return 0.01
	}
	return g
}

// measure gives the bytes on disk under the directory, a few seconds old at
// most unless walking takes longer.
func (u *usage) measure(ctx context.Context) (int64, error) {
	if used, ok := u.cached(usageFresh); ok {
		return used, nil
	}
	select {
	case u.walking <- struct{}{}:
		defer func() { <-u.walking }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if used, ok := u.cached(usageFresh); ok { // somebody else just did it
		return used, nil
	}
	limited, cancel := context.WithTimeout(ctx, usageLimit)
	defer cancel()
	used, err := diskUse(limited, u.dir)
	if err != nil {
		if old, ok := u.cached(math.MaxInt64); ok {
			return old, nil
		}
		return 0, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used, u.at = used, time.Now()
	return used, nil
}

func (u *usage) cached(age time.Duration) (int64, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.used, !u.at.IsZero() && time.Since(u.at) <= age
}

// diskUse sums the blocks of all files under dir, like du. What vanishes
// meanwhile is not counted.
func diskUse(ctx context.Context, dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// watch warns when the quota is nearly used up, once each time it becomes so.
func (u *usage) watch(ctx context.Context) {
	if u.getQuota() <= 0 {
		return
	}
	timer := time.NewTimer(jitter(usageWatch))
	defer timer.Stop()
	warned := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		used, err := u.measure(ctx)
		quota := u.getQuota()
		full := err == nil && float64(used) >= usageWarn*float64(quota)
		if full && !warned {
			u.log.Warn("the volume is nearly full", "used_gib", gigabytes(used), "size_gib", gigabytes(quota))
		}
		if err == nil {
			warned = full
		}
		timer.Reset(jitter(usageWatch))
	}
}

const (
	// roomToRun is what an engine cannot do without on its disk, in bytes.
	roomToRun = 64 << 10
	// roomToFail is more than an engine that ended over a full disk gives back.
	roomToFail = 16 << 20
	// lookEvery is how often a disk is looked at while it may stop an engine.
	lookEvery = 50 * time.Millisecond
	// fullLately is how long after a disk was full a failure is put down to it:
	// what failed has perhaps cleaned up.
	fullLately = 5 * time.Second
)

// fewerThan reports whether fewer than n bytes are left of the volume's disk.
func (a *Agent) fewerThan(n int64) bool {
	free, err := durable.FreeSpace(a.cfg.VolumeDir)
	return err == nil && free < n
}

// blameDisk gives what failed on a full disk that cause. Engines, and what they
// start, name it in many ways or in a log that is full too.
func (a *Agent) blameDisk(err error) error {
	a.mu.Lock()
	lately := !a.fullAt.IsZero() && time.Since(a.fullAt) < fullLately
	a.mu.Unlock()
	if err == nil || errors.Is(err, errFull) || !lately && !a.fewerThan(roomToFail) {
		return err
	}
	return trove.Errorf(trove.KindGuest, "The disk of %s is full: %w", a.cfg.VolumeDir, err).
		WithAction("Make room on the file system that holds it.")
}

// errFull is the cause of what was given up by watchDisk.
var errFull = errors.New("the database server waits for room")

// watchDisk gives up, with the cause, what runs under ctx if the disk is full
// for a while: there are servers that wait for room without an end, and say so
// only in a log that is full too. It returns when ctx ends.
func (a *Agent) watchDisk(ctx context.Context, giveUp context.CancelCauseFunc) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var since time.Time // when it was found full, of one time without a gap
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !a.fewerThan(roomToRun) {
			since = time.Time{}
			continue
		}
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		a.mu.Lock()
		a.fullAt = now
		a.mu.Unlock()
		if now.Sub(since) >= a.cfg.Timing.FullGrace {
			giveUp(trove.Errorf(trove.KindGuest, "The disk of %s is full: %w.", a.cfg.VolumeDir, errFull).
				WithAction("Make room on the file system that holds it."))
			return
		}
	}
}
