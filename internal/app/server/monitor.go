package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/cloud"
	"github.com/gotrove/gotrove/internal/identity/keystone"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry/health"
	"github.com/gotrove/gotrove/internal/telemetry/metrics"
	"github.com/gotrove/gotrove/internal/trove"
)

// startMonitor lets a process be watched, from before its first dependency is
// there until after its last task has ended. Where metrics are off, p.metrics
// stays nil, which observes nothing.
func (p *process) startMonitor(ctx context.Context, version string) error {
	p.health.Add(health.Check{Name: "enabled", Say: "DISABLED BY FILE", Probe: p.notDisabled})
	address, chosen := p.c.Monitor.address(p.name)
	if address == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	switch {
	case err != nil && !chosen:
		// Another of the same role runs on this host.
		p.log.WarnContext(ctx, "no metrics: the usual address is taken", "address", address, "error", err, "option", "[gotrove] metrics_listen")
		return nil
	case err != nil:
		return trove.Errorf(trove.KindUnavailable, "cannot listen on %s: %w", address, err).
			WithAction("free the address, or choose another with [gotrove] metrics_listen")
	}
	p.metrics = metrics.New(p.name, version)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", p.metrics.Handler())
	mux.Handle("GET /healthcheck", p.health.Handler(true))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // an error means that the caller has gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	p.task("monitor", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		err := server.Serve(l)
		if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
			return nil
		}
		return err
	}, 0)
	p.log.InfoContext(ctx, "metrics", "url", "http://"+l.Addr().String()+"/metrics")
	return nil
}

func (p *process) notDisabled(context.Context) error {
	path := p.c.Monitor.DisableFile
	if path == "" {
		return nil
	}
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil
	case err != nil:
		return err
	}
	return errors.New("there is " + path)
}

// drain lets load balancers find out that the process stops, before it does.
func (p *process) drain(ctx context.Context) {
	p.health.Drain()
	delay := p.c.Monitor.Drain
	if !p.drains || delay <= 0 {
		return
	}
	p.log.InfoContext(ctx, "draining", "for", delay)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), delay)
	defer cancel()
	_ = p.group.Wait(ctx) // a failure ends it at once; stop tells of it
}

// watchStore shows how the database is.
func (p *process) watchStore() {
	p.health.Add(health.Check{Name: "database", Say: "The database does not answer.", Probe: p.store.Writable})
	p.metrics.AddDatabase(func() metrics.Database {
		s := p.store.Stats()
		d := metrics.Database{Statements: s.Statements, Retries: s.Retries, Pools: []metrics.Pool{{Name: "all", DBStats: s.Writer}}}
		if s.TwoPools {
			d.Pools[0].Name = "write"
			d.Pools = append(d.Pools, metrics.Pool{Name: "read", DBStats: s.Reader})
		}
		return d
	})
}

// watchBus shows how the connection to the broker is.
func (p *process) watchBus() {
	p.health.Add(health.Check{Name: "bus", Say: "The message bus does not answer.",
		// What an API is asked for is kept in the database until the bus is back:
		// taken out by its load balancer, all of a region would be.
		Optional: p.name == apiName, Probe: func(context.Context) error { return p.conn.Check() }})
	p.metrics.AddBus(func() metrics.Bus {
		s := p.conn.State()
		return metrics.Bus{Connected: s.Connected, Blocked: s.Blocked, Logins: s.Logins}
	})
}

// identityFresh is how long an answer about Keystone counts: logins that fail
// often lock the user.
const identityFresh = 15 * time.Second

// watchKeystone shows how Keystone is. While tokens are remembered the API can do
// without it.
func (p *process) watchKeystone(v *keystone.Validator) {
	p.health.Add(health.Check{Name: "identity", Say: "The identity service does not answer.", Probe: v.Ping, Fresh: identityFresh,
		Spared: func() bool { return v.Stats().Entries > 0 }})
	p.metrics.AddTokens(func() metrics.Tokens {
		s := v.Stats()
		return metrics.Tokens{Hits: s.Hits, Stale: s.Stale, Refused: s.Refused, Requests: s.Requests, Failures: s.Failures, Entries: s.Entries, Bytes: s.Bytes}
	})
}

// watchBacklog shows what waits. Every task manager does; each asks the database
// only when it is asked, and seldom.
func (p *process) watchBacklog() {
	p.metrics.AddBacklog(func(ctx context.Context) (metrics.Backlog, error) {
		b, err := p.store.Backlog(ctx, p.c.HeartbeatExpiry)
		return backlogOf(b), err
	})
}

func backlogOf(b store.Backlog) metrics.Backlog {
	out := metrics.Backlog{Work: map[string]int{}, WorkOverdue: b.WorkOverdue, Outbox: b.Outbox, OutboxOldest: b.OutboxOldest,
		SilentLongest: b.SilentLongest, Silent: b.Silent, Live: b.Live}
	for state, n := range b.Work {
		out.Work[string(state)] = n
	}
	return out
}

// watchedCloud shows how calls to c go. The process can work on without the
// cloud: what needs it is tried again.
func (p *process) watchedCloud(c cloud.Cloud) cloud.Cloud {
	if p.cloudWatch == nil {
		p.cloudWatch = &cloudWatch{metrics: p.metrics}
		p.health.Add(health.Check{Name: "cloud", Say: "The cloud does not answer.", Optional: true, Probe: p.cloudWatch.probe})
	}
	return cloud.Observed(c, p.cloudWatch)
}

// cloudWatch notes the last call that the cloud did not answer, until it answers
// one.
type cloudWatch struct {
	metrics *metrics.Metrics
	silent  atomic.Pointer[string]
}

// CloudCalled implements cloud.Observer.
func (w *cloudWatch) CloudCalled(operation, outcome string, took time.Duration) {
	w.metrics.CloudCalled(operation, outcome, took)
	switch outcome {
	case "unavailable":
		w.silent.Store(&operation)
	case "ok", "not_found", "refused":
		if w.silent.Load() != nil {
			w.silent.Store(nil)
		}
	}
}

func (w *cloudWatch) probe(context.Context) error {
	if operation := w.silent.Load(); operation != nil {
		return errors.New("the last call did not succeed: " + *operation)
	}
	return nil
}
