package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Turns are taken in the order they were asked for, and who waits for long, or is
// no longer wanted, does not wait for one.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := make(turns, 2)
		first, second := turns.take(t.Context()), turns.take(t.Context())
		order := make(chan int, 8)
		ask := func(ctx context.Context, n int) {
			go func() {
				defer turns.take(ctx)()
				order <- n
			}()
			synctest.Wait()
		}
		for n := range 4 {
			ask(t.Context(), n)
		}
		if len(order) > 0 {
			t.Fatalf("%d went before its turn", <-order)
		}
		began := time.Now()
		first()
		synctest.Wait()
		for n := range 4 {
			if got := <-order; got != n || time.Since(began) > 0 {
				t.Errorf("turn %d was number %d's, after %s", n, got, time.Since(began))
			}
		}
		third := turns.take(t.Context())
		ask(t.Context(), 10)
		if got := <-order; got != 10 || time.Since(began) != turnWait {
			t.Errorf("number %d went after %s", got, time.Since(began))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		ask(gone, 11)
		if got := <-order; got != 11 || time.Since(began) != turnWait {
			t.Errorf("number %d went after %s", got, time.Since(began))
		}
		second()
		third()
		if len(turns) > 0 {
			t.Error("a turn was not ended")
		}
	})
}
