package store

import (
	"context"
	"runtime"
	"time"
)

const (
	// perProcessor is how many reads of instances are at the database at once for
	// each of our processors: enough for its way there and back.
	perProcessor = 2
	// turnWait is how long a read waits for its turn at most.
	turnWait = 50 * time.Millisecond
)

// turns lets reads of instances to a database server one after the other, a few
// at a time, in the order they came. Where more want than processors can do, all
// at once would share the processors by chance, and the last of them wait several
// times as long as the rest; the pool of connections, too, hands its connections to
// anybody who waits. It orders and does not bound: one that has waited for long
// goes without a turn, so that what is slow, or hangs, stops nobody.
type turns chan struct{}

func newTurns() turns { return make(turns, max(4, perProcessor*runtime.GOMAXPROCS(0))) }

// take waits for a turn, or long enough. What it gives ends the turn.
func (t turns) take(ctx context.Context) (end func()) {
	select {
	case t <- struct{}{}: // never past those who wait: a channel that is full stays so
		return t.end
	default:
	}
	wait := time.NewTimer(turnWait)
	defer wait.Stop()
	select {
	case t <- struct{}{}:
		return t.end
	case <-wait.C:
	case <-ctx.Done():
	}
	return func() {}
}

func (t turns) end() { <-t }
