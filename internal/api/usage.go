package api

import (
	"context"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/api/view"
)

const (
	// usageAge is how old the use of a volume may be that is shown. An agent
	// tells no more often than that, however often people ask; one that does not
	// answer is not waited for again before.
	usageAge = 10 * time.Second
	// usagesMost bounds the instances whose use is remembered.
	usagesMost = 4096
)

// usages remembers what agents last said of the use of their volumes.
type usages struct {
	mu    sync.Mutex
	known map[string]*usage
}

// usage is an answer, or one that is still awaited.
type usage struct {
	asked time.Time
	ready chan struct{} // closed when the rest is there
	value view.Usage
	err   error
}

// of gives the use of an instance's volume, with ask unless it was asked for
// lately; those who want the same at the same time ask once. An answer that did
// not come because who asked went away is asked for anew.
func (u *usages) of(ctx context.Context, id string, now time.Time, ask func(context.Context, string) (view.Usage, error)) (view.Usage, error) {
	u.mu.Lock()
	a := u.known[id]
	mine := a == nil || now.Sub(a.asked) >= usageAge || now.Before(a.asked)
	if mine {
		if u.known == nil || len(u.known) >= usagesMost {
			u.known = map[string]*usage{} // the rest is asked for again
		}
		a = &usage{asked: now, ready: make(chan struct{})}
		u.known[id] = a
	}
	u.mu.Unlock()
	if mine {
		defer close(a.ready)
		a.value, a.err = ask(ctx, id)
		if a.err != nil && ctx.Err() != nil {
			u.mu.Lock()
			if u.known[id] == a {
				delete(u.known, id)
			}
			u.mu.Unlock()
		}
		return a.value, a.err
	}
	select {
	case <-a.ready:
		return a.value, a.err
	case <-ctx.Done():
		return view.Usage{}, ctx.Err()
	}
}
