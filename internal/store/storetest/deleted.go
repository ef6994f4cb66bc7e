package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// Of any number of ids, those are told that were deleted a while ago and that
// nothing works on.
func testDeleted(t *testing.T, f *fixture) {
	ctx := deadline(t)
	live, gone, busy := f.create(t, f.draft()), f.create(t, f.draft()), f.create(t, f.draft())
	if _, err := f.AcceptWork(ctx, store.NewWork{ID: trove.NewID(), Kind: "other", Subject: busy, RequestID: trove.NewID(), Step: "s", State: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	ok(t, f.FinishDelete(ctx, gone))
	ok(t, f.FinishDelete(ctx, busy))
	ids := []string{live, busy}
	for n := range 1100 { // more than one query holds
		ids = append(ids, fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
	}
	ids = append(ids, gone)
	for grace, want := range map[time.Duration][]string{-time.Hour: {gone}, time.Hour: nil} {
		got, err := f.Deleted(ctx, ids, grace)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("deleted for %s: %q, %v; want %q", grace, got, err, want)
		}
	}
	if got, err := f.Deleted(ctx, nil, 0); err != nil || len(got) != 0 {
		t.Errorf("of none: %q, %v", got, err)
	}
}
