package lease

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// table is a store, and the database's clock.
type table struct {
	mu     sync.Mutex
	owner  string
	until  time.Time
	away   map[string]bool // owners whose calls fail
	claims int
}

func (s *table) ClaimLease(_ context.Context, _, owner string, ttl time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims++
	if s.away[owner] {
		return false, errors.New("away")
	}
	if s.owner != owner && time.Now().Before(s.until) {
		return false, nil
	}
	s.owner, s.until = owner, time.Now().Add(ttl)
	return true, nil
}

func (s *table) ReleaseLease(_ context.Context, _, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == owner {
		s.until = time.Time{}
	}
	return nil
}

func (s *table) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claims
}

func (s *table) cut(owner string, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away[owner] = away
}

// process is a Lease that runs a task which counts itself.
type process struct {
	*Lease
	stop func()
}

// world is a table and who works at a time.
type world struct {
	t     *testing.T
	table *table
	mu    sync.Mutex
	now   map[string]bool
	tell  chan string
}

func (w *world) start(name string) process {
	l := New(w.table, "watch", slog.New(slog.NewTextHandler(w.t.Output(), nil)))
	l.owner = name
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(ctx context.Context) error {
			w.mu.Lock()
			if len(w.now) > 0 {
				w.t.Errorf("%s works while %v do", name, w.now)
			}
			w.now[name] = true
			w.mu.Unlock()
			w.tell <- name
			<-ctx.Done()
			w.mu.Lock()
			delete(w.now, name)
			w.mu.Unlock()
			return ctx.Err()
		})
	}()
	return process{l, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})}
}

func inWorld(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		f(&world{t: t, table: &table{away: map[string]bool{}}, now: map[string]bool{}, tell: make(chan string, 10)})
	})
}

func TestOneAtATime(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.start("a")
		synctest.Wait()
		b := w.start("b")
		if got := <-w.tell; got != "a" {
			t.Fatal(got)
		}
		time.Sleep(time.Hour)
		if len(w.tell) > 0 {
			t.Fatalf("%s took over from the living", <-w.tell)
		}
		// A clean stop is seen at the next look.
		a.stop()
		stopped := time.Now()
		if got := <-w.tell; got != "b" || time.Since(stopped) > look {
			t.Errorf("%s took over after %s", got, time.Since(stopped))
		}
		b.stop()
	})
}

// A process that no longer reaches the store stops before another begins, and
// goes on when it is its turn again.
func TestTakenOver(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.start("a")
		<-w.tell
		b := w.start("b")
		time.Sleep(time.Minute)
		w.table.cut("a", true)
		cut := time.Now()
		if got := <-w.tell; got != "b" || time.Since(cut) > Takeover {
			t.Errorf("%s took over after %s", got, time.Since(cut))
		}
		w.table.cut("a", false)
		time.Sleep(time.Minute)
		w.table.cut("b", true)
		if got := <-w.tell; got != "a" {
			t.Errorf("%s took over", got)
		}
		a.stop()
		b.stop()
	})
}

// A store that is away for a moment is no reason to stop.
func TestAwayForAMoment(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.start("a")
		<-w.tell
		for range 20 {
			w.table.cut("a", true)
			time.Sleep(renew + renew/2)
			w.table.cut("a", false)
			time.Sleep(renew + renew/2)
		}
		if len(w.tell) > 0 {
			t.Error("it began anew")
		}
		before := w.table.asked()
		time.Sleep(time.Minute)
		if n := w.table.asked() - before; n > 31 {
			t.Errorf("%d claims a minute", n)
		}
		a.stop()
	})
}

func TestFailureOfATask(t *testing.T) {
	for name, task := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errors.New("broken") },
		"panic": func(context.Context) error { panic("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				l := New(w.table, "watch", slog.New(slog.DiscardHandler))
				other := false
				err := l.Run(w.t.Context(), func(ctx context.Context) error { <-ctx.Done(); other = true; return nil }, task)
				if err == nil || !strings.Contains(err.Error(), "broken") || !other || !w.table.until.IsZero() {
					t.Errorf("%v, other ended %v, lease until %v", err, other, w.table.until)
				}
			})
		})
	}
}

// granting is a store that is told to stop while it commits a claim, like a driver
// that then gives up a COMMIT which the server has carried out.
type granting struct {
	*table
	stop context.CancelFunc
}

func (g granting) ClaimLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	if _, err := g.table.ClaimLease(ctx, name, owner, ttl); err != nil {
		return false, err
	}
	g.stop()
	return false, ctx.Err()
}

// What was claimed in the moment of the stop is given back.
func TestStopWhileItIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := granting{&table{}, stop}
		err := New(s, "l", slog.New(slog.DiscardHandler)).Run(ctx, func(context.Context) error {
			t.Error("the task ran")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if held, err := s.table.ClaimLease(t.Context(), "l", "another", time.Second); !held || err != nil {
			t.Errorf("another process gets it: %t, %v", held, err)
		}
	})
}
