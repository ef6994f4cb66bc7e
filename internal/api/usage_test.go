package api

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/api/view"
)

// An agent is asked once in a while, however many want to know; what is shown
// is never older, and one that is silent costs its wait once.
func TestUsagesAreRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var u usages
		asked := 0
		silent := errors.New("silent")
		ask := func(ctx context.Context, id string) (view.Usage, error) {
			asked++
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				return view.Usage{}, ctx.Err()
			}
			if id == "silent" {
				return view.Usage{}, silent
			}
			return view.Usage{Used: float64(asked)}, nil
		}
		want := func(id string, calls int, used float64, err error) {
			t.Helper()
			got, e := u.of(t.Context(), id, time.Now(), ask)
			if asked != calls || got.Used != used || !errors.Is(e, err) {
				t.Errorf("%s: %v, %v after %d calls; want %v, %v after %d", id, got, e, asked, used, err, calls)
			}
		}
		var wg sync.WaitGroup
		for range 5 { // at once
			wg.Go(func() { want("a", 1, 1, nil) })
		}
		wg.Wait()
		want("a", 1, 1, nil)
		want("b", 2, 2, nil)
		want("silent", 3, 0, silent)
		began := time.Now()
		want("silent", 3, 0, silent)
		if time.Since(began) > 0 {
			t.Error("a silent agent was waited for twice")
		}
		time.Sleep(usageAge)
		want("a", 4, 4, nil)
		// Who went away before the answer spoils it for nobody.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := u.of(ctx, "c", time.Now(), ask); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		want("c", 6, 6, nil)
		for i := range usagesMost + 10 {
			if _, err := u.of(t.Context(), strconv.Itoa(i), time.Now(), ask); err != nil || len(u.known) > usagesMost {
				t.Fatalf("%v, %d are remembered", err, len(u.known))
			}
		}
	})
}
