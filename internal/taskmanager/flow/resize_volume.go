package flow

import (
	"context"
	"strings"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work"
)

// ResizeVolume is the state of KindResizeVolume.
type ResizeVolume struct {
	Request taskmanager.ResizeVolume `json:"request"`
	// Offline: the cloud does not grow what is attached, so that the engine
	// must be stopped meanwhile.
	Offline bool         `json:"offline,omitempty"`
	Volume  cloud.Volume `json:"volume"` // as it was
	Details string       `json:"details,omitempty"`
}

type volumeRun = work.Run[ResizeVolume]

// resizeVolume grows an instance's volume:
//
//	grow it while it is in use ──────────────────────────────────────▶ file system
//	  │ the cloud cannot                                                  ▲
//	  ▼                                                                   │
//	stop the engine ─▶ unmount ─▶ detach ─▶ grow ─▶ attach ───────────────┘
//	                                                  then mount, start the engine
//
// Whatever fails leaves the volume in use again. One that has grown stays so.
func (f *Flows) resizeVolume() work.Registered {
	type step = work.Step[ResizeVolume]
	return work.Flow[ResizeVolume]{
		Kind:    KindResizeVolume,
		Timeout: f.opts.ResizeTimeout,
		Steps: []step{
			{Name: "check", Do: f.volumeCheck},
			{Name: "grow", Do: f.volumeGrow},
			{Name: "grown", Do: f.volumeGrown},
			{Name: "stop", Do: f.offline(func(ctx context.Context, _ *trove.Instance, r *volumeRun) work.Outcome {
				return patient(f.guest.StopDB(ctx, r.Subject()), r.Attempt())
			}), Undo: f.takeBack(func(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
				return stubborn(f.guest.Restart(ctx, inst.ID, undoOnce(r.ID(), r.Attempt())))
			})},
			{Name: "unmount", Do: f.offline(func(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
				return patient(f.guest.UnmountVolume(ctx, inst.ID, device(inst, r.State.Volume)), r.Attempt())
			}), Undo: f.takeBack(func(ctx context.Context, inst *trove.Instance, _ *volumeRun) work.Outcome {
				d, err := f.device(ctx, inst)
				if err != nil {
					return work.Retry(err)
				}
				return stubborn(f.guest.MountVolume(ctx, inst.ID, d))
			})},
			{Name: "detach", Do: f.offline(func(ctx context.Context, inst *trove.Instance, _ *volumeRun) work.Outcome {
				return f.when(f.cloud.DetachVolume(ctx, ownerOf(inst)))
			}), Undo: f.takeBack(func(ctx context.Context, inst *trove.Instance, _ *volumeRun) work.Outcome {
				return f.gone(f.cloud.AttachVolume(ctx, ownerOf(inst)))
			})},
			{Name: "extend", Do: f.offline(func(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
				return outcome(f.cloud.StartGrow(ctx, ownerOf(inst), r.State.Request.NewSize))
			})},
			{Name: "extended", Do: f.offline(f.volumeExtended)},
			{Name: "attach", Do: f.offline(func(ctx context.Context, inst *trove.Instance, _ *volumeRun) work.Outcome {
				return f.when(f.cloud.AttachVolume(ctx, ownerOf(inst)))
			})},
			{Name: "file_system", Do: f.volumeFileSystem},
			{Name: "mount", Do: f.offline(func(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
				d, err := f.device(ctx, inst)
				if err != nil {
					return work.Fail(err)
				}
				return patient(f.guest.MountVolume(ctx, inst.ID, d), r.Attempt())
			})},
			{Name: "start", Do: f.offline(func(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
				return patient(f.guest.Restart(ctx, inst.ID, once("start", r.ID())), r.Attempt())
			})},
			{Name: "finish", Do: func(_ context.Context, r *volumeRun) work.Outcome {
				size := r.State.Request.NewSize
				r.EndWith(store.Change{Task: trove.TaskResizing, VolumeSize: &size, Uses: trove.QuotaDelta{trove.ResourceVolumes: size}})
				return work.Next()
			}},
		},
		Expired: func(_ context.Context, _ *volumeRun, step string, last error) error {
			return late("The resize", step, f.opts.ResizeTimeout, last)
		},
		Failed: f.volumeFailed,
	}
}

// offline is a step of a volume that must be detached, nothing for others.
func (f *Flows) offline(do func(context.Context, *trove.Instance, *volumeRun) work.Outcome) func(context.Context, *volumeRun) work.Outcome {
	return func(ctx context.Context, r *volumeRun) work.Outcome {
		if !r.State.Offline {
			return work.Next()
		}
		inst, err := f.store.Instance(ctx, r.Subject())
		if err != nil {
			return work.Fail(err)
		}
		return do(ctx, inst, r)
	}
}

// takeBack is offline for an undo, nothing for an instance on its way out.
func (f *Flows) takeBack(undo func(context.Context, *trove.Instance, *volumeRun) work.Outcome) func(context.Context, *volumeRun) work.Outcome {
	return func(ctx context.Context, r *volumeRun) work.Outcome {
		inst, err := f.store.Instance(ctx, r.Subject())
		if beingDeleted(inst, err) || !r.State.Offline {
			return work.Next()
		}
		if err != nil {
			return work.Retry(err)
		}
		return undo(ctx, inst, r)
	}
}

// Where the original mounts volumes; an agent of ours knows its own place.
var mountPoints = map[string]string{"mysql": "/var/lib/mysql", "mariadb": "/var/lib/mysql", "postgresql": "/var/lib/postgresql"}

const defaultDevice = "/dev/vdb"

func device(inst *trove.Instance, v cloud.Volume) guest.Device {
	d := guest.Device{DevicePath: v.Device, MountPoint: mountPoints[inst.Version.Manager]}
	if d.DevicePath == "" {
		d.DevicePath = defaultDevice
	}
	return d
}

// device is where the volume is now: attached again, it may be elsewhere.
func (f *Flows) device(ctx context.Context, inst *trove.Instance) (guest.Device, error) {
	v, err := f.cloud.Volume(ctx, ownerOf(inst))
	return device(inst, v), err
}

func (f *Flows) volumeCheck(ctx context.Context, r *volumeRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return work.Done()
	}
	if err != nil {
		return work.Fail(err)
	}
	if r.State.Volume, err = f.cloud.Volume(ctx, ownerOf(inst)); err != nil {
		return work.Fail(err)
	}
	if fault := r.State.Volume.Fault; fault != "" {
		// It would be refused only after the database was stopped.
		return work.Fail(trove.Errorf(trove.KindUnprocessable, "The volume of the instance is in status %s.", fault).
			WithAction("Look at volume %s in the cloud.", r.State.Volume.ID))
	}
	return f.mustRun(ctx, inst)
}

func (f *Flows) volumeGrow(ctx context.Context, r *volumeRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	err = f.cloud.StartGrow(ctx, ownerOf(inst), r.State.Request.NewSize)
	if trove.IsKind(err, trove.KindConflict) {
		r.State.Offline = true
		return work.Next()
	}
	return outcome(err)
}

// volumeGrown only looks: a driver that cannot grow what is attached may say so
// only after it was asked, by leaving the volume as it is.
func (f *Flows) volumeGrown(ctx context.Context, r *volumeRun) work.Outcome {
	if r.State.Offline {
		return work.Next()
	}
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	v, err := f.cloud.Volume(ctx, ownerOf(inst))
	switch {
	case err != nil:
		return work.Fail(err)
	case v.Ready && v.Size >= r.State.Request.NewSize:
		return work.Next()
	case v.Fault != "":
		return f.volumeBroken(ctx, inst, v, r)
	case v.Ready:
		r.State.Offline = true
		r.Report(ctx, "the cloud cannot grow the volume while it is in use: the database is stopped meanwhile", nil)
		return work.Next()
	}
	return work.Nap(f.opts.PollInterval)
}

func (f *Flows) volumeExtended(ctx context.Context, inst *trove.Instance, r *volumeRun) work.Outcome {
	v, err := f.cloud.Volume(ctx, ownerOf(inst))
	switch {
	case err != nil:
		return work.Fail(err)
	case v.Ready && v.Size >= r.State.Request.NewSize:
		return work.Next()
	case v.Ready:
		return f.volumeBroken(ctx, inst, v, r)
	}
	return work.Nap(f.opts.PollInterval)
}

func (f *Flows) volumeBroken(ctx context.Context, inst *trove.Instance, v cloud.Volume, r *volumeRun) work.Outcome {
	r.State.Details = f.evidenceOf(ctx, inst)
	why := v.Fault
	if why == "" {
		why = "it does not say why"
	}
	return work.Fail(trove.Errorf(trove.KindInternal, "The cloud did not grow the volume: %s", why).
		WithAction("Look at volume %s in the cloud, and whether there is room for %d GiB.", v.ID, r.State.Request.NewSize))
}

func (f *Flows) volumeFileSystem(ctx context.Context, r *volumeRun) work.Outcome {
	inst, err := f.store.Instance(ctx, r.Subject())
	if err != nil {
		return work.Fail(err)
	}
	d, err := f.device(ctx, inst)
	if err != nil {
		return work.Fail(err)
	}
	d.Online = !r.State.Offline
	return patient(f.guest.ResizeFS(ctx, inst.ID, d), r.Attempt())
}

// volumeFailed records the size that the volume has, which the cloud knows: a
// volume that has grown costs its size.
func (f *Flows) volumeFailed(ctx context.Context, r *volumeRun, fail work.Failure) error {
	inst, err := f.store.Instance(ctx, r.Subject())
	if beingDeleted(inst, err) {
		return nil
	}
	if err != nil {
		return err
	}
	was := inst.VolumeSize
	if r.State.Volume.Size > 0 {
		was = r.State.Volume.Size // the row may have been written by who was killed over this
	}
	size := was
	if v, err := f.cloud.Volume(ctx, ownerOf(inst)); err == nil && v.Size > size {
		size = v.Size
	}
	cause, details := "The volume was not resized: ", r.State.Details
	if size > was {
		cause = "The volume has grown, but its file system may not have: "
		details = strings.TrimSpace("An agent grows the file system of a volume that has grown whenever it mounts it: restart the instance.\n\n" + details)
	}
	r.EndWith(store.Change{Task: trove.TaskResizing, VolumeSize: &size,
		Uses: trove.QuotaDelta{trove.ResourceVolumes: size}, Fault: f.newFault(cause, fail, details)})
	return nil
}
