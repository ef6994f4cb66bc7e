package guest

import (
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// TestFlushWaitsForWhatIsUnderWay: the report that the engine was stopped must
// not be cut off because it has been taken from the queue already.
func TestFlushWaitsForWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.slow = time.Second
		p := newPulse(fakeConductor{w}, "i1", "test", time.Minute, slog.New(slog.NewTextHandler(io.Discard, nil)))
		go p.run(t.Context())
		p.set(t.Context(), trove.ServiceShutdown, nil)
		synctest.Wait() // it is being sent
		p.flush(t.Context())
		synctest.Wait()
		if s := w.statuses(); len(s) != 1 || s[0] != "shutdown" {
			t.Errorf("after flush the conductor knows %v", s)
		}
	})
}

func TestBackOff(t *testing.T) {
	t.Parallel()
	for n, least := range map[int]time.Duration{1: time.Second / 2, 2: time.Second, 3: 2 * time.Second, 30: 30 * time.Second, 1 << 30: 30 * time.Second} {
		for range 100 {
			if d := backOff(time.Second, time.Minute, n); d < least || d > 2*least {
				t.Fatalf("failure %d: %s", n, d)
			}
		}
	}
}
