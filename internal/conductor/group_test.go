package conductor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func beatOf(n int) store.InstanceBeat { return store.InstanceBeat{InstanceID: strconv.Itoa(n)} }

// A beat that comes alone is written at once; those that come meanwhile go
// together, in their order, and each gets its own result.
func TestBeatsGoInGroups(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var groups []int
		var order []string
		odd := errors.New("odd")
		g := group{write: func(_ context.Context, beats []store.InstanceBeat) []store.BeatResult {
			time.Sleep(10 * time.Millisecond) // of the test's own clock
			groups = append(groups, len(beats))
			results := make([]store.BeatResult, len(beats))
			for i, b := range beats {
				order = append(order, b.InstanceID)
				n, _ := strconv.Atoi(b.InstanceID)
				results[i].Applied = n%3 == 0
				if n%2 == 1 {
					results[i].Err = odd
				}
			}
			return results
		}}
		const n = 2*groupMost + 11
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if applied, err := g.add(t.Context(), beatOf(i)); applied != (i%3 == 0) || (i%2 == 1) != errors.Is(err, odd) {
					t.Errorf("beat %d: %v, %v", i, applied, err)
				}
			})
			synctest.Wait() // they come one after the other
		}
		wg.Wait()
		if want := []int{1, groupMost, groupMost, 10}; !slices.Equal(groups, want) {
			t.Errorf("groups of %v, want %v", groups, want)
		}
		for i, id := range order {
			if id != strconv.Itoa(i) {
				t.Fatalf("beat %s was written at place %d", id, i)
			}
		}
		synctest.Wait()
		if g.running || g.waiting != nil {
			t.Error("something is kept though nothing waits")
		}
		began := time.Now()
		if _, err := g.add(t.Context(), beatOf(0)); err != nil || time.Since(began) != 10*time.Millisecond {
			t.Errorf("alone: %v after %s", err, time.Since(began))
		}
	})
}

// Who waits no longer holds up nobody, and what cannot wait is refused so that
// it comes again.
func TestBeatsThatCannotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		written := 0
		g := group{write: func(_ context.Context, beats []store.InstanceBeat) []store.BeatResult {
			<-free
			written += len(beats)
			return make([]store.BeatResult, len(beats))
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range waitMost + 1 {
			wg.Go(func() {
				if _, err := g.add(ctx, beatOf(i)); !trove.IsKind(err, trove.KindUnavailable) {
					t.Errorf("in time: %v", err)
				}
			})
			if i == 0 {
				synctest.Wait() // the first is being written
			}
		}
		synctest.Wait()
		before := time.Now()
		if _, err := g.add(ctx, beatOf(0)); !trove.IsKind(err, trove.KindUnavailable) || time.Since(before) > 0 {
			t.Errorf("one too many: %v after %s", err, time.Since(before))
		}
		wg.Wait()
		close(free)
		synctest.Wait()
		if written != waitMost+1 {
			t.Errorf("%d beats were written", written)
		}
	})
}

// Many at once, for the race detector.
func TestBeatsOfManyHandlers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string]int{}
	g := group{write: func(_ context.Context, beats []store.InstanceBeat) []store.BeatResult {
		results := make([]store.BeatResult, len(beats))
		mu.Lock()
		defer mu.Unlock()
		for i, b := range beats {
			got[b.InstanceID]++
			results[i].Err = errors.New(b.InstanceID)
		}
		return results
	}}
	const handlers, each = 64, 100
	var wg sync.WaitGroup
	for h := range handlers {
		wg.Go(func() {
			for n := range each {
				id := fmt.Sprintf("%d-%d", h, n)
				if _, err := g.add(t.Context(), store.InstanceBeat{InstanceID: id}); err == nil || err.Error() != id {
					t.Errorf("beat %s got the result of %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	if len(got) != handlers*each {
		t.Errorf("%d of %d beats were written", len(got), handlers*each)
	}
}
