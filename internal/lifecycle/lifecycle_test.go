package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
)

func newGroup(t *testing.T) *lifecycle.Group {
	return lifecycle.New(t.Context(), slog.New(slog.DiscardHandler))
}

func TestStopGoesBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		var order []string
		for _, name := range []string{"store", "bus", "api"} {
			g.Go(lifecycle.Task{Name: name, Run: func(ctx context.Context) error {
				<-ctx.Done()
				order = append(order, name)
				return ctx.Err()
			}})
		}
		if err := g.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if want := []string{"api", "bus", "store"}; !slices.Equal(order, want) {
			t.Errorf("stopped %v, want %v", order, want)
		}
		if g.Go(lifecycle.Task{Name: "late", Run: func(context.Context) error { return nil }}) {
			t.Error("a stopped group started a task")
		}
	})
}

func TestFailureBringsTheGroupDown(t *testing.T) {
	for name, run := range map[string]func(context.Context) error{
		"error":          func(context.Context) error { return errors.New("broken") },
		"panic":          func(context.Context) error { panic("broken") },
		"ends unbidden ": func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t)
				g.Go(lifecycle.Task{Name: "x", Run: run})
				if err := g.Wait(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "x: ") {
					t.Errorf("Wait gave %v", err)
				}
				_ = g.Stop(t.Context())
			})
		})
	}
}

func TestRestartBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		var runs []time.Time
		g.Go(lifecycle.Task{Name: "x", Restart: true, Run: func(ctx context.Context) error {
			runs = append(runs, time.Now())
			if len(runs) < 12 {
				return errors.New("broken")
			}
			<-ctx.Done()
			return nil
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := g.Wait(ctx); err != nil {
			t.Error(err)
		}
		_ = g.Stop(t.Context())
		if len(runs) != 12 {
			t.Fatalf("%d runs", len(runs))
		}
		for i, at := range runs[1:] {
			if d := at.Sub(runs[i]); d < 50*time.Millisecond || d > 45*time.Second {
				t.Errorf("waited %s before run %d", d, i+1)
			}
		}
		if d := runs[11].Sub(runs[10]); d < 15*time.Second {
			t.Errorf("waited only %s before the last run", d)
		}
	})
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		release := make(chan struct{})
		g.Go(lifecycle.Task{Name: "stuck", StopWithin: 3 * time.Second, Run: func(context.Context) error { <-release; return nil }})
		g.Go(lifecycle.Task{Name: "once", Finite: true, Run: func(context.Context) error { return nil }})
		began := time.Now()
		err := g.Stop(t.Context())
		if err == nil || !strings.Contains(err.Error(), "stuck") || time.Since(began) != 3*time.Second {
			t.Errorf("Stop gave %v after %s", err, time.Since(began))
		}
		close(release)
	})
}
