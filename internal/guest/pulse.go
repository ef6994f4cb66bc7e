package guest

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// maxBeats bounds the reports that wait while the broker is away; then the
	// oldest go, since the newest tells the state.
	maxBeats = 64
	// beatLimit is how long one report may take to be confirmed.
	beatLimit = 10 * time.Second
)

// pulse sends heartbeats: one for each change at once and in order, and one
// every interval when nothing changes.
type pulse struct {
	to         Conductor
	instanceID string
	version    string
	every      time.Duration
	log        *slog.Logger

	changed chan struct{}

	mu       sync.Mutex
	status   trove.ServiceStatus
	waiting  []beat
	sending  bool     // the first of what waits is under way
	done     []string // handled casts not yet reported
	lastSent time.Time
	idle     chan struct{} // closed when nothing waits, nil if nobody asks
}

type beat struct {
	status trove.ServiceStatus
	stage  *conductor.Stage
	cause  rpc.Context // the ids of the request that it comes of, for logs
}

// idsOf are the ids of the request that ctx is of: what may be told of it.
func idsOf(ctx context.Context) rpc.Context {
	c := rpc.ContextFrom(ctx)
	return rpc.Context{RequestID: c.RequestID, GlobalRequestID: c.GlobalRequestID, ProjectID: c.ProjectID}
}

func newPulse(to Conductor, instanceID, version string, every time.Duration, log *slog.Logger) *pulse {
	return &pulse{to: to, instanceID: instanceID, version: version, every: every, log: log, changed: make(chan struct{}, 1)}
}

// set reports a status and a stage of prepare, with the ids of the request that
// ctx is of. What was reported last is not reported again.
func (p *pulse) set(ctx context.Context, s trove.ServiceStatus, stage *conductor.Stage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s == p.status && stage == nil {
		return
	}
	p.status = s
	if len(p.waiting) == maxBeats {
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
	p.waiting = append(p.waiting, beat{s, stage, idsOf(ctx)})
	signal(p.changed)
}

// current is the status last set.
func (p *pulse) current() trove.ServiceStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// handled reports that the cast with this id was handled.
func (p *pulse) handled(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.done) < maxHandled && !slices.Contains(p.done, id) {
		p.done = append(p.done, id)
		signal(p.changed)
	}
}

// flush waits until everything set so far was sent, at most beatLimit.
func (p *pulse) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	p.mu.Lock()
	if len(p.waiting) == 0 && !p.sending {
		p.mu.Unlock()
		return
	}
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// run sends until ctx ends.
func (p *pulse) run(ctx context.Context) {
	failures := 0
	for {
		wait := jitter(p.every)
		switch err := p.sendAll(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			// A broker that is away is tried soon, but not by all its guests at once.
			wait = min(wait, backOff(time.Second, p.every, failures))
			if failures == 1 {
				p.log.Warn("heartbeat not delivered, trying again", "error", err)
			}
		case failures > 0:
			p.log.Info("heartbeats are delivered again", "failures", failures)
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			p.repeat(ctx)
		case <-p.changed:
			if failures > 0 { // the wait stands: a change does not make the broker come back
				select {
				case <-ctx.Done():
				case <-timer.C:
				}
			}
		}
		timer.Stop()
	}
}

// repeat has the status sent again, unless something waits anyway or nothing is
// known yet.
func (p *pulse) repeat(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 && p.status != (trove.ServiceStatus{}) {
		p.waiting = append(p.waiting, beat{status: p.status, cause: idsOf(ctx)})
	}
}

// announce is repeat at once.
func (p *pulse) announce(ctx context.Context) {
	p.repeat(ctx)
	signal(p.changed)
}

// sendAll sends what waits, and what was handled even if nothing else waits.
func (p *pulse) sendAll(ctx context.Context) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		if len(p.waiting) == 0 && len(p.done) == 0 {
			if p.idle != nil {
				close(p.idle)
				p.idle = nil
			}
			p.mu.Unlock()
			return nil
		}
		b := beat{status: p.status}
		if len(p.waiting) > 0 {
			b = p.waiting[0]
			p.waiting = slices.Delete(p.waiting, 0, 1)
		}
		done := slices.Clone(p.done)
		p.sending = true
		p.mu.Unlock()

		err := p.send(ctx, b, done)
		p.mu.Lock()
		p.sending = false
		switch {
		case err == nil:
			p.done = slices.Delete(p.done, 0, len(done))
		case len(p.waiting) < maxBeats:
			p.waiting = slices.Insert(p.waiting, 0, b)
		}
		p.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *pulse) send(ctx context.Context, b beat, done []string) error {
	ctx, cancel := context.WithTimeout(rpc.WithContext(ctx, b.cause), beatLimit)
	defer cancel()
	// The conductor drops what is not newer than what it has, so the time rises
	// with every heartbeat even if the clock stands or was set back.
	now := time.Now().Round(time.Microsecond)
	if !now.After(p.lastSent) {
		now = p.lastSent.Add(time.Microsecond)
	}
	p.lastSent = now
	sent := float64(now.UnixMicro()) / 1e6
	return p.to.Heartbeat(ctx, conductor.Heartbeat{
		InstanceID: p.instanceID,
		Sent:       &sent,
		Payload: conductor.Payload{
			ServiceStatus: b.status.Description,
			Stage:         b.stage,
			Done:          done,
			AgentVersion:  p.version,
		},
	})
}

// jitter spreads d by a tenth each way.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// backOff is the wait after the n-th failure in a row (1, 2, …): it doubles
// from first to most, and is spread over its upper half.
func backOff(first, most time.Duration, n int) time.Duration {
	d := first
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	d = min(d, most)
	return d/2 + rand.N(d/2+1)
}
