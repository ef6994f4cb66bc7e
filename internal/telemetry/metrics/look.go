package metrics

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Database is what a store counts.
type Database struct {
	Statements, Retries uint64
	Pools               []Pool
}

// Pool is a pool of connections to the database.
type Pool struct {
	Name string
	sql.DBStats
}

// Bus is the state of the connection to the broker.
type Bus struct {
	Connected, Blocked bool
	Logins             uint64 // since the start
}

// Tokens is what a cache of checked tokens counts.
type Tokens struct {
	Hits, Stale, Refused, Requests, Failures int64
	Entries, Bytes                           int
}

// Backlog is what waits in the database, and how long agents have been silent.
type Backlog struct {
	Work          map[string]int // unfinished, by state
	WorkOverdue   time.Duration  // of the work that has been due longest and that nobody has
	Outbox        int
	OutboxOldest  time.Duration
	SilentLongest time.Duration // since the last heartbeat of a live instance
	Silent        int           // live instances whose last heartbeat is too old
	Live          int           // instances that should have heartbeats
}

// look is a collector of what is looked at when it is asked for.
type look struct {
	descriptions []*prometheus.Desc
	collect      func(chan<- prometheus.Metric)
}

func (l *look) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range l.descriptions {
		ch <- d
	}
}

func (l *look) Collect(ch chan<- prometheus.Metric) { l.collect(ch) }

func (l *look) desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	l.descriptions = append(l.descriptions, d)
	return d
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func count(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// AddDatabase shows what see tells of the database.
func (m *Metrics) AddDatabase(see func() Database) {
	if m == nil {
		return
	}
	l := &look{}
	statements := l.desc("database_statements_total", "SQL statements run, without BEGIN and COMMIT.")
	retries := l.desc("database_transaction_retries_total", "Transactions begun anew because others were in their way, or the connection was lost.")
	open := l.desc("database_connections", "Connections to the database by pool and state.", "pool", "state")
	most := l.desc("database_connections_max", "The most connections a pool may have; 0 is no limit.", "pool")
	waits := l.desc("database_connection_waits_total", "Times that a connection had to be waited for.", "pool")
	waited := l.desc("database_connection_wait_seconds_total", "Time spent waiting for a connection.", "pool")
	l.collect = func(ch chan<- prometheus.Metric) {
		d := see()
		count(ch, statements, float64(d.Statements))
		count(ch, retries, float64(d.Retries))
		for _, p := range d.Pools {
			gauge(ch, open, float64(p.InUse), p.Name, "in_use")
			gauge(ch, open, float64(p.Idle), p.Name, "idle")
			gauge(ch, most, float64(p.MaxOpenConnections), p.Name)
			count(ch, waits, float64(p.WaitCount), p.Name)
			count(ch, waited, p.WaitDuration.Seconds(), p.Name)
		}
	}
	m.registry.MustRegister(l)
}

// AddBus shows what see tells of the broker.
func (m *Metrics) AddBus(see func() Bus) {
	if m == nil {
		return
	}
	l := &look{}
	connected := l.desc("bus_connected", "1 while there is a connection to the broker.")
	blocked := l.desc("bus_blocked", "1 while the broker takes no messages, for want of memory or disk.")
	logins := l.desc("bus_logins_total", "Connections to the broker that were made; the first is no reconnect.")
	l.collect = func(ch chan<- prometheus.Metric) {
		b := see()
		gauge(ch, connected, bit(b.Connected))
		gauge(ch, blocked, bit(b.Blocked))
		count(ch, logins, float64(b.Logins))
	}
	m.registry.MustRegister(l)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// AddTokens shows what see tells of the cache of tokens.
func (m *Metrics) AddTokens(see func() Tokens) {
	if m == nil {
		return
	}
	l := &look{}
	answers := l.desc("token_cache_answers_total", "Tokens judged from the cache: fresh, stale (Keystone was away), refused.", "how")
	requests := l.desc("identity_requests_total", "Requests to Keystone by outcome.", "outcome")
	entries := l.desc("token_cache_entries", "Tokens in the cache.")
	size := l.desc("token_cache_bytes", "About what they take.")
	l.collect = func(ch chan<- prometheus.Metric) {
		t := see()
		count(ch, answers, float64(t.Hits-t.Stale), "fresh")
		count(ch, answers, float64(t.Stale), "stale")
		count(ch, answers, float64(t.Refused), "refused")
		count(ch, requests, float64(t.Requests-t.Failures), "ok")
		count(ch, requests, float64(t.Failures), "failed")
		gauge(ch, entries, float64(t.Entries))
		gauge(ch, size, float64(t.Bytes))
	}
	m.registry.MustRegister(l)
}

const (
	// backlogFresh is how long an answer about the backlog is given again:
	// however many ask, the database is asked no more often.
	backlogFresh   = 10 * time.Second
	backlogTimeout = 3 * time.Second
)

// AddBacklog shows what see tells of the backlog, asked at most every 10 s. While
// it cannot be told, only gotrove_backlog_known is there, and 0.
func (m *Metrics) AddBacklog(see func(context.Context) (Backlog, error)) {
	if m == nil {
		return
	}
	l := &look{}
	known := l.desc("backlog_known", "1 if the database could be asked for what waits.")
	work := l.desc("work_rows", "Unfinished work by state.", "state")
	overdue := l.desc("work_overdue_seconds", "For how long the oldest work is due that no process has; 0 if there is none.")
	outbox := l.desc("outbox_rows", "Messages that nobody has acknowledged.")
	oldest := l.desc("outbox_oldest_seconds", "Age of the oldest of them.")
	silent := l.desc("heartbeats_expired", "Live instances whose agent has been silent for longer than agent_heartbeat_expiry.")
	longest := l.desc("heartbeat_oldest_seconds", "Longest time since the last heartbeat of a live instance.")
	live := l.desc("live_instances", "Instances whose agent should send heartbeats.")
	var (
		mu    sync.Mutex
		last  Backlog
		err   error
		asked time.Time
	)
	l.collect = func(ch chan<- prometheus.Metric) {
		mu.Lock()
		defer mu.Unlock()
		if asked.IsZero() || time.Since(asked) > backlogFresh {
			ctx, cancel := context.WithTimeout(context.Background(), backlogTimeout)
			defer cancel()
			last, err = see(ctx)
			asked = time.Now()
		}
		gauge(ch, known, bit(err == nil))
		if err != nil {
			return
		}
		for state, n := range last.Work {
			gauge(ch, work, float64(n), state)
		}
		gauge(ch, overdue, last.WorkOverdue.Seconds())
		gauge(ch, outbox, float64(last.Outbox))
		gauge(ch, oldest, last.OutboxOldest.Seconds())
		gauge(ch, silent, float64(last.Silent))
		gauge(ch, longest, last.SilentLongest.Seconds())
		gauge(ch, live, float64(last.Live))
	}
	m.registry.MustRegister(l)
}
