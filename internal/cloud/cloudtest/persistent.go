package cloudtest

import (
	"context"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/trove"
)

// Persistent is c for who tries again what is KindUnavailable, as flows do: for
// a cloud that fails now and then.
func Persistent(c cloud.Cloud) cloud.Cloud { return persistent{c} }

type persistent struct{ cloud.Cloud }

// again calls until the answer is another than KindUnavailable.
func again1[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 10*time.Millisecond) {
		v, err := call()
		if !trove.IsKind(err, trove.KindUnavailable) {
			return v, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return v, err
		}
	}
}

func again0(ctx context.Context, call func() error) error {
	_, err := again1(ctx, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (p persistent) Flavors(ctx context.Context) ([]trove.Flavor, error) {
	return again1(ctx, func() ([]trove.Flavor, error) { return p.Cloud.Flavors(ctx) })
}

func (p persistent) Flavor(ctx context.Context, id string) (trove.Flavor, error) {
	return again1(ctx, func() (trove.Flavor, error) { return p.Cloud.Flavor(ctx, id) })
}

func (p persistent) CheckNICs(ctx context.Context, nics []trove.NIC) error {
	return again0(ctx, func() error { return p.Cloud.CheckNICs(ctx, nics) })
}

func (p persistent) EnsureSecurityGroup(ctx context.Context, o cloud.Owner, rules []cloud.Rule) error {
	return again0(ctx, func() error { return p.Cloud.EnsureSecurityGroup(ctx, o, rules) })
}

func (p persistent) EnsurePorts(ctx context.Context, o cloud.Owner, nics []trove.NIC, access trove.Access) ([]cloud.Port, error) {
	return again1(ctx, func() ([]cloud.Port, error) { return p.Cloud.EnsurePorts(ctx, o, nics, access) })
}

func (p persistent) EnsureVolume(ctx context.Context, o cloud.Owner, size int, kind string) (cloud.Volume, error) {
	return again1(ctx, func() (cloud.Volume, error) { return p.Cloud.EnsureVolume(ctx, o, size, kind) })
}

func (p persistent) EnsureServer(ctx context.Context, s cloud.ServerSpec) (cloud.Server, error) {
	return again1(ctx, func() (cloud.Server, error) { return p.Cloud.EnsureServer(ctx, s) })
}

func (p persistent) EnsurePublic(ctx context.Context, o cloud.Owner, public bool) ([]trove.Address, error) {
	return again1(ctx, func() ([]trove.Address, error) { return p.Cloud.EnsurePublic(ctx, o, public) })
}

func (p persistent) StartResize(ctx context.Context, o cloud.Owner, f trove.Flavor) error {
	return again0(ctx, func() error { return p.Cloud.StartResize(ctx, o, f) })
}

func (p persistent) ConfirmResize(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.ConfirmResize(ctx, o) })
}

func (p persistent) RevertResize(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.RevertResize(ctx, o) })
}

func (p persistent) Volume(ctx context.Context, o cloud.Owner) (cloud.Volume, error) {
	return again1(ctx, func() (cloud.Volume, error) { return p.Cloud.Volume(ctx, o) })
}

func (p persistent) StartGrow(ctx context.Context, o cloud.Owner, size int) error {
	return again0(ctx, func() error { return p.Cloud.StartGrow(ctx, o, size) })
}

func (p persistent) DetachVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.DetachVolume(ctx, o) })
}

func (p persistent) AttachVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.AttachVolume(ctx, o) })
}

func (p persistent) Inspect(ctx context.Context, o cloud.Owner) (cloud.View, error) {
	return again1(ctx, func() (cloud.View, error) { return p.Cloud.Inspect(ctx, o) })
}

func (p persistent) Server(ctx context.Context, o cloud.Owner) (cloud.Server, error) {
	return again1(ctx, func() (cloud.Server, error) { return p.Cloud.Server(ctx, o) })
}

func (p persistent) Tagged(ctx context.Context) ([]string, error) {
	return again1(ctx, func() ([]string, error) { return p.Cloud.Tagged(ctx) })
}

func (p persistent) Servers(ctx context.Context) (map[string]cloud.Server, error) {
	return again1(ctx, func() (map[string]cloud.Server, error) { return p.Cloud.Servers(ctx) })
}

func (p persistent) Evidence(ctx context.Context, o cloud.Owner) (string, error) {
	return again1(ctx, func() (string, error) { return p.Cloud.Evidence(ctx, o) })
}

func (p persistent) DeleteServer(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.DeleteServer(ctx, o) })
}

func (p persistent) DeleteVolume(ctx context.Context, o cloud.Owner) (bool, error) {
	return again1(ctx, func() (bool, error) { return p.Cloud.DeleteVolume(ctx, o) })
}

func (p persistent) DeletePorts(ctx context.Context, o cloud.Owner) error {
	return again0(ctx, func() error { return p.Cloud.DeletePorts(ctx, o) })
}

func (p persistent) DeleteSecurityGroup(ctx context.Context, o cloud.Owner) error {
	return again0(ctx, func() error { return p.Cloud.DeleteSecurityGroup(ctx, o) })
}
