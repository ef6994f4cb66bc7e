package cloud

import (
	"context"
	"errors"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Observer is told of each call to a cloud. It must not wait.
type Observer interface {
	// CloudCalled: operation is the method's name; outcome is ok, not_found,
	// refused (the cloud will not), unavailable, cancelled or error.
	CloudCalled(operation, outcome string, took time.Duration)
}

// Observed is c with o told of each call.
func Observed(c Cloud, o Observer) Cloud { return &observed{c, o} }

type observed struct {
	cloud    Cloud
	observer Observer
}

// end tells of a call that has ended.
func (c *observed) end(operation string, began time.Time, err error) {
	c.observer.CloudCalled(operation, outcomeOf(err), time.Since(began))
}

func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	switch trove.KindOf(err) {
	case trove.KindNotFound:
		return "not_found"
	case trove.KindUnavailable:
		return "unavailable"
	case trove.KindOverLimit, trove.KindBadRequest, trove.KindForbidden, trove.KindConflict:
		return "refused"
	}
	if errors.Is(err, context.Canceled) {
		return "cancelled"
	}
	return "error"
}

// through makes a call that has a result.
func through[T any](c *observed, operation string, call func() (T, error)) (T, error) {
	began := time.Now()
	v, err := call()
	c.end(operation, began, err)
	return v, err
}

// only is through for a call that has none.
func only(c *observed, operation string, call func() error) error {
	began := time.Now()
	err := call()
	c.end(operation, began, err)
	return err
}

func (c *observed) Flavors(ctx context.Context) ([]trove.Flavor, error) {
	return through(c, "flavors", func() ([]trove.Flavor, error) { return c.cloud.Flavors(ctx) })
}

func (c *observed) Flavor(ctx context.Context, id string) (trove.Flavor, error) {
	return through(c, "flavor", func() (trove.Flavor, error) { return c.cloud.Flavor(ctx, id) })
}

func (c *observed) CheckNICs(ctx context.Context, nics []trove.NIC) error {
	return only(c, "check_nics", func() error { return c.cloud.CheckNICs(ctx, nics) })
}

func (c *observed) EnsureSecurityGroup(ctx context.Context, o Owner, rules []Rule) error {
	return only(c, "ensure_security_group", func() error { return c.cloud.EnsureSecurityGroup(ctx, o, rules) })
}

func (c *observed) EnsurePorts(ctx context.Context, o Owner, nics []trove.NIC, access trove.Access) ([]Port, error) {
	return through(c, "ensure_ports", func() ([]Port, error) { return c.cloud.EnsurePorts(ctx, o, nics, access) })
}

func (c *observed) EnsureVolume(ctx context.Context, o Owner, size int, volumeType string) (Volume, error) {
	return through(c, "ensure_volume", func() (Volume, error) { return c.cloud.EnsureVolume(ctx, o, size, volumeType) })
}

func (c *observed) EnsureServer(ctx context.Context, s ServerSpec) (Server, error) {
	return through(c, "ensure_server", func() (Server, error) { return c.cloud.EnsureServer(ctx, s) })
}

func (c *observed) EnsurePublic(ctx context.Context, o Owner, public bool) ([]trove.Address, error) {
	return through(c, "ensure_public", func() ([]trove.Address, error) { return c.cloud.EnsurePublic(ctx, o, public) })
}

func (c *observed) StartResize(ctx context.Context, o Owner, f trove.Flavor) error {
	return only(c, "start_resize", func() error { return c.cloud.StartResize(ctx, o, f) })
}

func (c *observed) ConfirmResize(ctx context.Context, o Owner) (bool, error) {
	return through(c, "confirm_resize", func() (bool, error) { return c.cloud.ConfirmResize(ctx, o) })
}

func (c *observed) RevertResize(ctx context.Context, o Owner) (bool, error) {
	return through(c, "revert_resize", func() (bool, error) { return c.cloud.RevertResize(ctx, o) })
}

func (c *observed) Volume(ctx context.Context, o Owner) (Volume, error) {
	return through(c, "volume", func() (Volume, error) { return c.cloud.Volume(ctx, o) })
}

func (c *observed) StartGrow(ctx context.Context, o Owner, size int) error {
	return only(c, "start_grow", func() error { return c.cloud.StartGrow(ctx, o, size) })
}

func (c *observed) DetachVolume(ctx context.Context, o Owner) (bool, error) {
	return through(c, "detach_volume", func() (bool, error) { return c.cloud.DetachVolume(ctx, o) })
}

func (c *observed) AttachVolume(ctx context.Context, o Owner) (bool, error) {
	return through(c, "attach_volume", func() (bool, error) { return c.cloud.AttachVolume(ctx, o) })
}

func (c *observed) Inspect(ctx context.Context, o Owner) (View, error) {
	return through(c, "inspect", func() (View, error) { return c.cloud.Inspect(ctx, o) })
}

func (c *observed) Server(ctx context.Context, o Owner) (Server, error) {
	return through(c, "server", func() (Server, error) { return c.cloud.Server(ctx, o) })
}

func (c *observed) Servers(ctx context.Context) (map[string]Server, error) {
	return through(c, "servers", func() (map[string]Server, error) { return c.cloud.Servers(ctx) })
}

func (c *observed) Tagged(ctx context.Context) ([]string, error) {
	return through(c, "tagged", func() ([]string, error) { return c.cloud.Tagged(ctx) })
}

func (c *observed) Evidence(ctx context.Context, o Owner) (string, error) {
	return through(c, "evidence", func() (string, error) { return c.cloud.Evidence(ctx, o) })
}

func (c *observed) DeleteServer(ctx context.Context, o Owner) (bool, error) {
	return through(c, "delete_server", func() (bool, error) { return c.cloud.DeleteServer(ctx, o) })
}

func (c *observed) DeleteVolume(ctx context.Context, o Owner) (bool, error) {
	return through(c, "delete_volume", func() (bool, error) { return c.cloud.DeleteVolume(ctx, o) })
}

func (c *observed) DeletePorts(ctx context.Context, o Owner) error {
	return only(c, "delete_ports", func() error { return c.cloud.DeletePorts(ctx, o) })
}

func (c *observed) DeleteSecurityGroup(ctx context.Context, o Owner) error {
	return only(c, "delete_security_group", func() error { return c.cloud.DeleteSecurityGroup(ctx, o) })
}
