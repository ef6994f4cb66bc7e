package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/telemetry/health"
	"github.com/gotrove/gotrove/internal/trove"
)

// TestHealthOfDatabase: a database that is shut down is missed, and found again
// when it is back, without anybody's help.
func TestHealthOfDatabase(t *testing.T) {
	t.Parallel()
	for _, engine := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(engine), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			server := dbtest.Start(t, engine)
			p := &process{health: health.New(nil, nil)}
			var err error
			if p.store, err = store.Open(ctx, store.Config{URL: secret.New(server.Database(t))}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.store.Close(); err != nil {
					t.Error(err)
				}
			})
			if err := p.store.Migrate(ctx); err != nil {
				t.Fatal(err)
			}
			p.watchStore()
			p.health.Started()
			h := p.health.Handler(true)
			says := func(code int, reason string) {
				t.Helper()
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for {
					w := httptest.NewRecorder()
					began := time.Now()
					h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/healthcheck", nil))
					var is watched
					if err := json.Unmarshal(w.Body.Bytes(), &is); err != nil {
						t.Fatalf("%v in %s", err, w.Body)
					}
					if took := time.Since(began); took > 30*time.Second {
						t.Fatalf("it took %s to answer", took)
					}
					if w.Code == code && slices.Equal(is.Reasons, []string{reason}) {
						if strings.Contains(w.Body.String(), dbtest.Password) {
							t.Errorf("a password in %s", w.Body)
						}
						return
					}
					select {
					case <-tick.C:
					case <-ctx.Done():
						t.Fatalf("not %d %q but %d %s", code, reason, w.Code, w.Body)
					}
				}
			}
			says(200, "OK")
			server.Shutdown(ctx)
			says(503, "The database does not answer.")
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
			says(200, "OK")
		})
	}
}

// TestBusyMetricsAddress: the usual address is given up for whoever has it, one
// that was chosen is an error.
func TestBusyMetricsAddress(t *testing.T) {
	t.Parallel()
	const role = "trove-conductor"
	l, err := net.Listen("tcp", usualListen[role])
	if err != nil {
		t.Skipf("somebody else has it, and may leave: %v", err)
	}
	defer l.Close()
	start := func(listen string) (p *process, log *lockedBuffer, err error) {
		log = &lockedBuffer{}
		p = &process{name: role, c: &Config{}, log: slog.New(slog.NewTextHandler(log, nil)), health: health.New(nil, nil)}
		p.c.Monitor.Listen = listen
		p.group = lifecycle.New(t.Context(), p.log)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := p.group.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
		return p, log, p.startMonitor(t.Context(), "test")
	}
	p, log, err := start("")
	if err != nil || p.metrics != nil || !strings.Contains(log.String(), usualListen[role]) {
		t.Errorf("the usual address: %v, metrics: %t, log: %s", err, p.metrics != nil, log)
	}
	p.metrics.PolicyDenied("r") // nobody counts, and nobody minds
	if _, _, err = start(usualListen[role]); !trove.IsKind(err, trove.KindUnavailable) || trove.ActionOf(err) == "" {
		t.Errorf("one that was chosen: %v", err)
	}
	if p, log, err = start("127.0.0.1:0"); err != nil || p.metrics == nil || !strings.Contains(log.String(), "/metrics") {
		t.Errorf("a free one: %v, metrics: %t, log: %s", err, p.metrics != nil, log)
	}
	if p, _, err = start(listenOff); err != nil || p.metrics != nil {
		t.Errorf("off: %v, metrics: %t", err, p.metrics != nil)
	}
}
