// Package health tells whether a process can do its work: it asks after each
// thing that the process depends on, and says which of them are there.
//
// It owns the form of the answer to GET /healthcheck. What is asked is given to
// it; it knows no database, broker or identity service. Who may see causes, which
// name hosts, is the caller's to say.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// limit is how long anything may take to answer.
	limit = 2 * time.Second
	// fresh is how long an answer is given again: however many ask, nothing is
	// asked more often.
	fresh = time.Second
)

// Check is a thing that the process depends on.
type Check struct {
	Name string // database, bus, identity, cloud
	// Say is told to everybody when it is not there: one sentence, without names
	// of hosts.
	Say string
	// Probe asks after it. It must end soon after ctx does.
	Probe func(ctx context.Context) error
	// Optional: the process can work without it.
	Optional bool
	// Spared, if set, tells whether the process can work without it for now.
	Spared func() bool
	// Fresh is how long an answer counts; 0 is a second.
	Fresh time.Duration
}

// Result is what was found out last about a Check.
type Result struct {
	Name   string
	OK     bool
	Needed bool      // without it the process cannot work now
	Since  time.Time // when it was first found as it is
	Err    error     // why it is not OK; it may name hosts, never a secret
	say    string
}

// Report says whether the process can do its work, and why not.
type Report struct {
	OK      bool
	Reasons []string // for everybody: "OK", or what is missing
	Results []Result
}

// Checker knows what a process depends on. New makes it.
type Checker struct {
	now func() time.Time
	log *slog.Logger

	mu       sync.Mutex
	checks   []*check
	started  bool
	draining bool
}

type check struct {
	Check
	asking chan struct{} // closed when the question under way is answered; nil: none is
	asked  time.Time
	known  bool
	err    error
	since  time.Time
}

// New makes a Checker that reports that the process is starting, until Started.
func New(now func() time.Time, log *slog.Logger) *Checker {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Checker{now: now, log: log}
}

// Add has one more thing asked after.
func (c *Checker) Add(k Check) {
	if k.Fresh == 0 {
		k.Fresh = fresh
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks = append(c.checks, &check{Check: k})
}

// Started says that the process serves.
func (c *Checker) Started() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = true
}

// Drain says that the process will stop: from now on it is not well, so that a
// load balancer sends it nothing more.
func (c *Checker) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
}

// Report asks after everything whose last answer is not fresh, all at once.
func (c *Checker) Report(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.mu.Lock()
	var waits []<-chan struct{}
	now := c.now()
	for _, k := range c.checks {
		age := now.Sub(k.asked)
		if k.asking == nil && (!k.known || age < 0 || age >= k.Fresh) {
			k.asking = make(chan struct{})
			go c.ask(context.WithoutCancel(ctx), k, k.asking)
		}
		if k.asking != nil {
			waits = append(waits, k.asking)
		}
	}
	c.mu.Unlock()
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
		}
	}
	return c.report()
}

// errSilent is of what did not answer in time.
var errSilent = errors.New("no answer within " + limit.String())

func (c *Checker) report() Report {
	c.mu.Lock()
	r := Report{OK: true}
	checks := make([]check, 0, len(c.checks))
	for _, k := range c.checks {
		checks = append(checks, *k)
	}
	if !c.started {
		r.OK, r.Reasons = false, append(r.Reasons, "The service is starting.")
	}
	if c.draining {
		r.OK, r.Reasons = false, append(r.Reasons, "The service is stopping.")
	}
	c.mu.Unlock()
	for _, k := range checks {
		one := Result{Name: k.Name, Since: k.since, Err: k.err, say: k.Say}
		if k.asking != nil { // still under way at the end of our patience
			one.Err = errSilent
			if k.known && k.err != nil {
				one.Err = k.err
			} else {
				one.Since = k.asked
			}
		}
		one.OK = one.Err == nil
		one.Needed = !k.Optional && (one.OK || k.Spared == nil || !k.Spared())
		if !one.OK && one.Needed {
			r.OK, r.Reasons = false, append(r.Reasons, one.say)
		}
		r.Results = append(r.Results, one)
	}
	if r.OK {
		r.Reasons = []string{"OK"}
	}
	return r
}

// ask asks after one thing. Whoever waits gives up earlier if that does not heed
// its context.
func (c *Checker) ask(ctx context.Context, k *check, answered chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := c.now()
	c.mu.Lock()
	if !k.known {
		k.asked = began
	}
	c.mu.Unlock()
	err := k.Probe(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if !k.known || (k.err == nil) != (err == nil) {
		if k.known || err != nil {
			c.tell(k, err, now)
		}
		k.since = now
	}
	k.known, k.err, k.asked, k.asking = true, err, now, nil
	close(answered)
}

func (c *Checker) tell(k *check, err error, now time.Time) {
	if err == nil {
		c.log.Info("health: it is there again", "check", k.Name, "away", now.Sub(k.since).Round(time.Second))
	} else {
		c.log.Warn("health: it is not there", "check", k.Name, "error", err)
	}
}

// Handler answers with the report: 200, or 503. The form is the original's; with
// the query parameter "detailed" it has a member for each thing asked after.
// internal says that who asks may see the causes, which name hosts: they are
// given without being asked for.
func (c *Checker) Handler(internal bool) http.Handler {
	type result struct {
		Name   string     `json:"name"`
		OK     bool       `json:"ok"`
		Needed bool       `json:"needed"`
		Since  *time.Time `json:"since,omitempty"`
		Error  string     `json:"error,omitempty"`
	}
	type body struct {
		Detailed bool     `json:"detailed"`
		Reasons  []string `json:"reasons"`
		Checks   []result `json:"checks,omitempty"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		report := c.Report(r.Context())
		b := body{Detailed: internal || r.URL.Query().Has("detailed"), Reasons: report.Reasons}
		if b.Detailed {
			for _, one := range report.Results {
				v := result{Name: one.Name, OK: one.OK, Needed: one.Needed}
				if !one.Since.IsZero() {
					since := one.Since.UTC().Truncate(time.Second)
					v.Since = &since
				}
				switch {
				case one.Err != nil && internal:
					v.Error = one.Err.Error()
				case one.Err != nil:
					v.Error = one.say
				}
				b.Checks = append(b.Checks, v)
			}
		}
		text, err := json.Marshal(b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		if !report.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(text) // an error means that the caller has gone
	})
}
