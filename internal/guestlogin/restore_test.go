package guestlogin_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

// forgetful are the queues of a broker that can be away.
type forgetful struct {
	mu    sync.Mutex
	there map[string]bool
	err   error
	bad   string // a queue that cannot be declared
}

func (q *forgetful) DeclareGuestQueues(_ context.Context, names ...string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range names {
		if n == q.bad {
			return trove.Errorf(trove.KindConflict, "queue %s is another", n)
		}
	}
	for _, n := range names {
		q.there[n] = true
	}
	return q.err
}

func (q *forgetful) DeleteQueues(_ context.Context, names ...string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range names {
		delete(q.there, n)
	}
	return q.err
}

// forget is what a broker does that starts anew.
func (q *forgetful) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.there)
}

func (q *forgetful) of(ids ...string) error {
	var want []string
	for _, id := range ids {
		want = append(want, guest.Queues(id)...)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if got := slices.Sorted(maps.Keys(q.there)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		return fmt.Errorf("queues %v, not %v", got, want)
	}
	return nil
}

func TestRestore(t *testing.T) {
	ids := make([]string, 250)
	for i := range ids {
		ids[i] = fmt.Sprintf("i%03d", i)
	}
	t.Run("all", func(t *testing.T) {
		q := &forgetful{there: map[string]bool{}}
		r := guestlogin.NewRestorer(q, func(context.Context) ([]string, error) { return ids, nil }, nil, quiet)
		if err := r.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := q.of(ids...); err != nil {
			t.Error(err)
		}
	})
	t.Run("a deletion meanwhile", func(t *testing.T) {
		q := &forgetful{there: map[string]bool{}}
		lists := [][]string{ids, ids[1:]}
		r := guestlogin.NewRestorer(q, func(context.Context) ([]string, error) {
			list := lists[0]
			lists = lists[1:]
			return list, nil
		}, nil, quiet)
		if err := r.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := q.of(ids[1:]...); err != nil {
			t.Error(err)
		}
	})
	t.Run("one that is another", func(t *testing.T) {
		q := &forgetful{there: map[string]bool{}, bad: guest.Queues(ids[7])[0]}
		r := guestlogin.NewRestorer(q, func(context.Context) ([]string, error) { return ids, nil }, nil, quiet)
		if err := r.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := q.of(slices.Concat(ids[:7], ids[8:])...); err != nil {
			t.Error(err)
		}
	})
}

// A broker that comes back without queues has them again at once, one that
// forgets without a word within two minutes.
func TestRestorerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &forgetful{there: map[string]bool{}}
		connected := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		r := guestlogin.NewRestorer(q, func(context.Context) ([]string, error) { return []string{"a"}, nil }, connected, quiet)
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			if err := q.of("a"); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		check("at the start")
		q.forget()
		connected <- struct{}{}
		check("after a login")
		q.forget()
		time.Sleep(2 * time.Minute)
		check("after two minutes")
		q.mu.Lock()
		q.err = trove.Errorf(trove.KindUnavailable, "the broker is away")
		q.mu.Unlock()
		connected <- struct{}{}
		synctest.Wait()
		q.mu.Lock()
		q.err = nil
		clear(q.there)
		q.mu.Unlock()
		time.Sleep(4 * time.Second)
		check("soon after a failure")
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
