package conductor

import (
	"context"
	"sync"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// groupMost is how many beats one transaction writes: enough that its commit
	// costs next to nothing for each, few enough that it takes some 20 ms.
	groupMost = 512
	// waitMost bounds the beats that wait. There are never as many: each is held
	// by a request that is handled.
	waitMost = 4096
)

// group writes heartbeats in groups: while one transaction is under way, those
// that come wait, and go all together into the next. A beat that comes alone is
// written at once; the more come, the less each costs.
//
//	handler ─┐                ┌─ result
//	handler ─┼─ waiting ─ run ┼─ result      each handler returns, and its
//	handler ─┘  (next group)  └─ result      message is acknowledged, after the commit
//
// There is one goroutine, and only while there is something to write.
type group struct {
	write func(context.Context, []store.InstanceBeat) []store.BeatResult

	mu      sync.Mutex
	waiting []waiter
	running bool
}

type waiter struct {
	beat   store.InstanceBeat
	result chan store.BeatResult // has room for it: who waits may have gone
}

// add writes a beat and returns when that is committed, or is known not to be.
// If ctx ends before, the beat may be written all the same.
func (g *group) add(ctx context.Context, b store.InstanceBeat) (applied bool, err error) {
	w := waiter{b, make(chan store.BeatResult, 1)}
	g.mu.Lock()
	if len(g.waiting) >= waitMost {
		g.mu.Unlock()
		return false, trove.Errorf(trove.KindUnavailable, "%d heartbeats wait to be written already", waitMost)
	}
	g.waiting = append(g.waiting, w)
	if !g.running {
		g.running = true
		// It is nobody's request: the store bounds it in time.
		go g.run(context.Background())
	}
	g.mu.Unlock()
	select {
	case r := <-w.result:
		return r.Applied, r.Err
	case <-ctx.Done():
		return false, trove.Errorf(trove.KindUnavailable, "a heartbeat was not written in time: %w", ctx.Err())
	}
}

// run writes until nothing waits.
func (g *group) run(ctx context.Context) {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), groupMost)
		if n == 0 {
			g.running, g.waiting = false, nil
			g.mu.Unlock()
			return
		}
		some := g.waiting[:n:n]
		g.waiting = g.waiting[n:]
		g.mu.Unlock()
		beats := make([]store.InstanceBeat, n)
		for i, w := range some {
			beats[i] = w.beat
		}
		for i, r := range g.write(ctx, beats) {
			some[i].result <- r
		}
	}
}
