package server

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/trove"
)

// A data directory is a standalone's, or that of any number of task managers.
func TestDataDirectoryIsOfOneKind(t *testing.T) {
	c := &Config{DataDir: t.TempDir()}
	refused := func(err error, word string) {
		t.Helper()
		if !trove.IsKind(err, trove.KindConflict) || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), c.DataDir) || trove.ActionOf(err) == "" {
			t.Errorf("%v (%s)", err, trove.ActionOf(err))
		}
	}
	manager := func() (p *process, stop func()) {
		p = &process{c: c, group: lifecycle.New(t.Context(), slog.New(slog.DiscardHandler))}
		return p, func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := p.group.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	alone, err := lock(c)
	if err != nil {
		t.Fatal(err)
	}
	p, stop := manager()
	refused(p.shareData(), "a standalone uses")
	stop()
	if err := alone.Unlock(); err != nil {
		t.Fatal(err)
	}
	var stops []func()
	for range 2 {
		p, stop := manager()
		if err := p.shareData(); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	stops[0]()
	_, err = lock(c)
	refused(err, "trove-taskmanager")
	if pid := runningPID(c); pid != 0 {
		t.Errorf("pid %d would be stopped", pid)
	}
	stops[1]()
	if alone, err = lock(c); err != nil {
		t.Fatal(err)
	}
	if err := alone.Unlock(); err != nil {
		t.Error(err)
	}
}
