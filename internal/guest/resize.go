package guest

import (
	"context"

	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// StartDB starts the engine as its server is now: the configuration is made
// anew of the memory there is. What the request says of it is for agents that
// cannot make one.
func (a *Agent) StartDB(ctx context.Context, requestID string, _ guestapi.NewMemory) error {
	return a.restartOnce(ctx, requestID, a.initialise)
}

// initialise has the engine make its configuration anew. The holder of ops
// calls it.
func (a *Agent) initialise(ctx context.Context) error {
	err := a.cfg.Engine.Initialise(ctx)
	a.configured = err == nil
	return err
}

// ResetConfiguration makes the configuration anew and starts nothing.
func (a *Agent) ResetConfiguration(ctx context.Context, _ guestapi.NewMemory) error {
	if err := a.beginPrepared(ctx); err != nil {
		return err
	}
	defer a.unlock()
	return a.initialise(ctx)
}

// MountVolume mounts the volume, which is found by its id: the device may have
// another name than whoever asks believes.
func (a *Agent) MountVolume(ctx context.Context, d guestapi.Device) error {
	return a.withVolume(ctx, "mounted", d, Volume.Ensure)
}

// UnmountVolume lets go of the volume. The engine must have been stopped.
func (a *Agent) UnmountVolume(ctx context.Context, d guestapi.Device) error {
	return a.withVolume(ctx, "unmounted", d, func(v Volume, ctx context.Context) error {
		// Asked while nobody can start it: a container keeps no one from
		// unmounting what it writes to.
		if a.state.get().ShouldRun {
			return trove.Errorf(trove.KindUnprocessable, "The volume is in use by the database server.").
				WithAction("Stop the database first.")
		}
		return v.Unmount(ctx)
	})
}

// ResizeFS makes the file system as large as the volume, and takes notice of a
// directory's new quota.
func (a *Agent) ResizeFS(ctx context.Context, d guestapi.Device) error {
	if err := a.withVolume(ctx, "grown", d, Volume.Grow); err != nil {
		return err
	}
	if a.cfg.Quota == nil {
		return nil
	}
	quota, err := a.cfg.Quota()
	if err != nil {
		return err
	}
	a.usage.setQuota(quota)
	return nil
}

// withVolume does something with the volume while nobody else changes the
// engine; nothing where it is a directory.
func (a *Agent) withVolume(ctx context.Context, what string, d guestapi.Device, do func(Volume, context.Context) error) error {
	if a.cfg.Volume == nil {
		return nil
	}
	if err := a.lock(ctx); err != nil {
		return err
	}
	defer a.unlock()
	if err := do(a.cfg.Volume, ctx); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "volume "+what, "asked_for_device", d.DevicePath, "asked_for_mount_point", d.MountPoint)
	return nil
}
