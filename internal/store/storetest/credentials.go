package storetest

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func testCredentials(t *testing.T, f *fixture) {
	ctx, id := deadline(t), f.ready(t)
	want := func(what string, c store.GuestCredentials, key string) {
		t.Helper()
		got, err := f.GuestCredentials(ctx, id)
		ok(t, err)
		if d := cmp.Diff(c, got); d != "" {
			t.Errorf("%s: %s", what, d)
		}
		if got := f.get(t, id).EncryptedKey; got != key {
			t.Errorf("%s: the key is %q", what, got)
		}
		current, pending, err := f.InstanceKeys(ctx, id)
		ok(t, err)
		if current != key || pending != c.PendingKey {
			t.Errorf("%s: keys %q and %q", what, current, pending)
		}
	}
	want("at first", store.GuestCredentials{}, "")
	ok(t, f.ConfirmRotation(ctx, id, 1))
	want("confirmed before it began", store.GuestCredentials{}, "")

	// Of several that begin at once one counts, and all are told which.
	var begun sync.Map
	var group sync.WaitGroup
	for _, key := range []string{"k1", "k2", "k3"} {
		group.Go(func() {
			c, err := f.BeginRotation(ctx, id, key)
			if err != nil || c.Pending != 1 || c.Generation != 0 {
				t.Errorf("begun: %+v, %v", c, err)
			}
			begun.Store(c.PendingKey, true)
		})
	}
	group.Wait()
	var key string
	n := 0
	begun.Range(func(k, _ any) bool { key = k.(string); n++; return true })
	if n != 1 {
		t.Errorf("%d keys were begun", n)
	}
	want("begun", store.GuestCredentials{Pending: 1, PendingKey: key}, "")
	all, err := f.RotatedCredentials(ctx)
	ok(t, err)
	if d := cmp.Diff(map[string]store.GuestCredentials{id: {Pending: 1, PendingKey: key}}, all); d != "" {
		t.Error(d)
	}
	ok(t, f.ConfirmRotation(ctx, id, 2))
	want("another confirmed", store.GuestCredentials{Pending: 1, PendingKey: key}, "")
	for range 2 {
		ok(t, f.ConfirmRotation(ctx, id, 1))
		want("confirmed", store.GuestCredentials{Generation: 1}, key)
	}
	if _, err := f.BeginRotation(ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	ok(t, f.ConfirmRotation(ctx, id, 2))
	want("without a key", store.GuestCredentials{Generation: 2}, key)

	ok(t, f.BeginDelete(ctx, id, nil))
	ok(t, f.FinishDelete(ctx, id))
	if all, err := f.RotatedCredentials(ctx); err != nil || len(all) != 0 {
		t.Errorf("after a deletion: %v, %v", all, err)
	}
	_, _, err = f.InstanceKeys(ctx, id)
	kind(t, err, trove.KindNotFound)
	_, err = f.BeginRotation(ctx, id, "")
	kind(t, err, trove.KindNotFound)
}
