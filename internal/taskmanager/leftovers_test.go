package taskmanager_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/openstack"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/taskmanager"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// aged is a store whose deletions are an hour old.
type aged struct{ *store.Store }

func (a aged) Deleted(ctx context.Context, ids []string, grace time.Duration) ([]string, error) {
	return a.Store.Deleted(ctx, ids, grace-time.Hour)
}

// A task manager that was frozen made a volume, a group and a port of an instance
// that another one deleted meanwhile. They go; nobody else's do.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	s, f := worktest.Store(t), openstacktest.New(t)
	c, err := openstack.New(openstack.Options{AuthURL: f.AuthURL(), Username: openstacktest.User, Password: secret.New(openstacktest.Password),
		UserDomainName: "Default", ProjectID: openstacktest.Project, Region: openstacktest.Region, ManagementNetworks: []string{openstacktest.Management},
		ListEvery: 2 * time.Millisecond, Settle: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	left := func(id string) {
		f.Put("volumes", map[string]any{"name": "trove-" + id, "size": 1, "status": "available", "attachments": []any{}})
		f.Put("security-groups", map[string]any{"name": "trove_sg-" + id, "security_group_rules": []any{}})
		f.Put("ports", map[string]any{"name": "trove-" + id, "network_id": openstacktest.Management, "device_id": "", "fixed_ips": []any{}})
	}
	deleted, live, busy, stranger := trove.NewID(), trove.NewID(), trove.NewID(), trove.NewID()
	for _, id := range []string{deleted, live, busy} {
		instance(t, s, id, trove.TaskNone, "")
		left(id)
	}
	left(stranger)
	if _, err := s.AcceptWork(t.Context(), store.NewWork{ID: trove.NewID(), Kind: "delete_instance", Subject: busy, RequestID: trove.NewID(), Step: "finish", State: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{deleted, busy} {
		if err := s.FinishDelete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	// Names that only look like ours.
	f.Put("volumes", map[string]any{"name": "my-trove-" + deleted, "size": 1, "status": "available", "attachments": []any{}})
	f.Put("volumes", map[string]any{"name": deleted, "size": 1, "status": "available", "attachments": []any{}})

	removed := 0
	sweep := func(from taskmanager.LeftoversStore, times int) {
		t.Helper()
		l := taskmanager.NewLeftovers(from, c, func() { removed++ }, quiet)
		for range times {
			if err := l.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := func(what, id string, want int) {
		t.Helper()
		if got := f.Left(id); len(got) != want {
			t.Errorf("%s: there is %q, want %d things", what, got, want)
		}
	}
	sweep(s, 2)
	there("within the grace", deleted, 5)
	sweep(aged{s}, 1)
	there("seen once", deleted, 5)
	l := taskmanager.NewLeftovers(aged{s}, c, func() { removed++ }, quiet)
	for end := time.After(worktest.Patience); removed == 0; { // Cinder takes its time
		if err := l.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-end:
			t.Fatalf("it stays: %q", f.Left(deleted))
		case <-time.After(5 * time.Millisecond):
		}
	}
	there("deleted", deleted, 2) // those of others
	for range 3 {
		if err := l.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	there("live", live, 3)
	there("still worked on", busy, 3)
	there("of another control plane", stranger, 3)
	if removed != 1 {
		t.Errorf("%d instances were counted, want 1", removed)
	}
}
