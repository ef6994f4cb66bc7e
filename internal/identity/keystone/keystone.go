// Package keystone checks tokens at a Keystone v3, and remembers what it was
// told: a token that was checked is not asked about again for CacheTime, and
// while Keystone is away for Grace longer. So a token that was revoked is seen
// as such at most CacheTime later, or CacheTime and Grace while Keystone cannot
// be asked; no token outlives its own end.
//
// It owns the service's own login, the cache, and what is done while Keystone
// is slow or away. Tokens themselves are kept nowhere, only their SHA-256. It
// knows nothing of HTTP requests to the API.
package keystone

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Options say where Keystone is, who we are there, and how long answers count.
// AuthURL and a login are needed: a user with a password and a project, or an
// application credential.
type Options struct {
	AuthURL string // with or without /v3

	Username, UserID             string
	Password                     secret.String
	UserDomainID, UserDomainName string
	ProjectID, ProjectName       string
	ProjectDomainID              string
	ProjectDomainName            string
	SystemScope                  bool // in place of a project
	CredentialID, CredentialName string
	CredentialSecret             secret.String
	Region, Interface            string        // of Keystone's own endpoint: any, internal
	CAFile, CertFile, KeyFile    string        // PEM; the system's authorities, no certificate
	Insecure                     bool          // takes any certificate
	WithoutCatalog               bool          // do not ask for catalogs
	Timeout                      time.Duration // of one request; 10 s
	Retries                      int           // of a connection that fails
	// CacheTime is how long a checked token is not checked again; 0 is 300 s,
	// negative is never.
	CacheTime time.Duration
	// Grace is how much longer while Keystone is away; negative is not at all.
	Grace time.Duration // 1 h
	// CacheBytes bounds what is remembered; the least recently used goes first.
	CacheBytes int // 32 MiB

	Now func() time.Time
	Log *slog.Logger
}

const (
	// maxToken is longer than any token and shorter than what servers refuse.
	maxToken = 8 << 10
	// refusedTime is how long a token that is no good is not asked about again.
	refusedTime = 15 * time.Second
	maxRefused  = 10_000
	// maxFlights bounds the questions that wait, maxRequests those under way.
	maxFlights  = 4096
	maxRequests = 64
	// patience is how long a token that was good when asked last waits for a
	// Keystone that was away, before it is let through on that. It is not for one
	// that is only slow: that would let tokens through that were revoked.
	patience = 500 * time.Millisecond
	// entrySize is what an entry takes beside its catalog, about.
	entrySize = 2 << 10
)

func (o Options) withDefaults() Options {
	if o.Interface == "" {
		o.Interface = "internal"
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.CacheTime == 0 {
		o.CacheTime = 300 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = time.Hour
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 32 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Validator is an identity.Validator that asks Keystone. It may be used from
// any goroutine.
type Validator struct {
	o       Options
	http    *http.Client
	service *service
	gate    gate
	slots   chan struct{}
	flying  sync.WaitGroup

	hits, stale, refusals, requests, failures atomic.Int64

	mu      sync.Mutex
	closed  bool
	good    *recent[entry]
	bad     *recent[time.Time] // until when
	flights map[key]*flight
}

var _ identity.Validator = (*Validator)(nil)

// key is a token's SHA-256.
type key [sha256.Size]byte

// entry is a token that was good when Keystone was asked.
type entry struct {
	id    identity.Identity
	asked time.Time
}

// flight is a question under way; all who ask the same wait for it.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	id     identity.Identity
	err    error
}

// New makes a validator. It asks nobody yet: Keystone may be away. An error is
// of KindBadRequest and names the option that is wrong.
func New(o Options) (*Validator, error) {
	o = o.withDefaults()
	base, err := versioned(o.AuthURL)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: transport,
		// A redirect would take tokens and the password to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s, err := newService(o, base, client)
	if err != nil {
		return nil, err
	}
	if o.Insecure {
		o.Log.Warn("[keystone_authtoken] insecure: anyone on the way to Keystone can read and forge what it says")
	}
	return &Validator{o: o, http: client, service: s, slots: make(chan struct{}, maxRequests),
		good: newRecent[entry](o.CacheBytes), bad: newRecent[time.Time](maxRefused), flights: map[key]*flight{}}, nil
}

// versioned gives the URL of the v3 API.
func versioned(authURL string) (string, error) {
	u, err := url.Parse(authURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return "", trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] auth_url: want a URL such as https://keystone.example:5000/v3")
	}
	path := strings.TrimRight(u.Path, "/")
	for _, version := range []string{"/v3", "/v2.0"} {
		path = strings.TrimSuffix(path, version)
	}
	return u.Scheme + "://" + u.Host + path + "/v3", nil
}

// Close ends the questions under way and the connections. Whoever asks from
// then on is told that Keystone is away.
func (v *Validator) Close() {
	v.mu.Lock()
	v.closed = true
	for _, f := range v.flights {
		f.cancel()
	}
	v.mu.Unlock()
	v.flying.Wait()
	v.http.CloseIdleConnections()
}

// Stats are counts since the start, and the size of the cache.
type Stats struct {
	Hits     int64 // answered from the cache
	Stale    int64 // of these, while Keystone was away or slow
	Refused  int64 // refused from the cache
	Requests int64 // to Keystone, of all sorts
	Failures int64 // of these, without an answer that counts
	Entries  int   // good tokens remembered
	Bytes    int   // what they take, about
}

// Stats tells what was done so far.
func (v *Validator) Stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Stats{v.hits.Load(), v.stale.Load(), v.refusals.Load(), v.requests.Load(), v.failures.Load(), v.good.len(), v.good.cost}
}

// Ping asks Keystone about our own token: that it is there, that it takes our
// login, and that we may check tokens. An error tells what to change.
func (v *Validator) Ping(ctx context.Context) error {
	_, err := v.Self(ctx)
	return err
}

// Validate tells what a token stands for; see identity.Validator.
func (v *Validator) Validate(ctx context.Context, token string) (identity.Identity, error) {
	token = strings.TrimSpace(token)
	if !wellFormed(token) {
		return identity.Identity{}, errBad
	}
	k := key(sha256.Sum256([]byte(token)))
	v.mu.Lock()
	now := v.o.Now()
	last, known := v.good.get(k)
	if age := now.Sub(last.asked); known && now.Before(last.id.ExpiresAt) && 0 <= age && age < v.o.CacheTime {
		v.mu.Unlock()
		v.hits.Add(1)
		return last.id, nil
	}
	if until, ok := v.bad.get(k); ok && now.Before(until) && until.Sub(now) <= refusedTime {
		v.mu.Unlock()
		v.refusals.Add(1)
		return identity.Identity{}, errBad
	}
	f, err := v.fly(ctx, k, token)
	v.mu.Unlock()
	usable := known && v.usable(last, now)
	if err != nil {
		return v.fallBack(last, usable, err)
	}
	var enough <-chan time.Time
	if usable && v.gate.failing() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		if f.err != nil {
			return v.fallBack(last, usable, f.err)
		}
		return f.id, nil
	case <-enough:
		return v.fallBack(last, usable, nil)
	case <-ctx.Done():
		return identity.Identity{}, &trove.Error{Kind: trove.KindUnavailable, Err: ctx.Err(), Message: "The identity service did not answer in time."}
	}
}

// usable reports whether an older answer may stand in for one that cannot be
// had now.
func (v *Validator) usable(e entry, now time.Time) bool {
	age := now.Sub(e.asked)
	return v.o.CacheTime > 0 && v.o.Grace > 0 && now.Before(e.id.ExpiresAt) && -v.o.CacheTime < age && age < v.o.CacheTime+v.o.Grace
}

func (v *Validator) fallBack(e entry, usable bool, err error) (identity.Identity, error) {
	if usable && (err == nil || trove.IsKind(err, trove.KindUnavailable)) {
		v.hits.Add(1)
		v.stale.Add(1)
		return e.id, nil
	}
	return identity.Identity{}, err
}

// fly joins the question about a token that is under way, or begins one. It
// goes on when its first asker leaves: others may wait. v.mu is held.
func (v *Validator) fly(ctx context.Context, k key, token string) (*flight, error) {
	if f, ok := v.flights[k]; ok {
		return f, nil
	}
	if v.closed || len(v.flights) >= maxFlights {
		return nil, v.explain(&identity.Away{Retry: time.Second, Err: errBusy}, 0)
	}
	if err := v.gate.enter(v.o.Now()); err != nil {
		return nil, v.explain(err, 0)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*v.o.Timeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	v.flights[k] = f
	v.flying.Go(func() {
		defer cancel()
		id, err := v.fetch(ctx, token)
		now := v.o.Now()
		wait := v.gate.leave(now, outage(err), v.o.Log)
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.flights, k)
		switch {
		case err == nil:
			v.bad.remove(k)
			if v.o.CacheTime > 0 {
				v.good.put(k, entry{id, now}, entrySize+len(id.Catalog))
			}
		case errors.Is(err, errBad):
			v.good.remove(k)
			if v.o.CacheTime > 0 {
				v.bad.put(k, now.Add(refusedTime), 1)
			}
		}
		f.id, f.err = id, v.explain(err, wait)
		close(f.done)
	})
	return f, nil
}

// fetch asks about a token, with a new token of our own if that is at fault.
func (v *Validator) fetch(ctx context.Context, token string) (identity.Identity, error) {
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	case <-ctx.Done():
		return identity.Identity{}, ctx.Err()
	}
	id, err := v.ask(ctx, token)
	if err == nil && !v.o.Now().Before(id.ExpiresAt) {
		return identity.Identity{}, errBad
	}
	return id, err
}

// explain makes what went wrong an error for the API. wait is when it is worth
// trying again.
func (v *Validator) explain(err error, wait time.Duration) error {
	switch {
	case err == nil || errors.Is(err, errBad):
		return err
	case trove.IsKind(err, trove.KindUnavailable):
		return err
	}
	away, ok := errors.AsType[*identity.Away](err)
	if !ok {
		away = &identity.Away{Retry: max(wait, time.Second), Err: err}
	}
	e := &trove.Error{Kind: trove.KindUnavailable, Message: "The identity service is not available.", Err: away}
	if r, ok := errors.AsType[*refusal](err); ok {
		e.Action = r.action
	}
	return e
}

var (
	errBad  = &trove.Error{Kind: trove.KindUnauthorized, Message: "The token is not valid."}
	errBusy = errors.New("too many questions wait")
)

// wellFormed keeps out what no header may hold and what is longer than any
// token.
func wellFormed(token string) bool {
	return token != "" && len(token) <= maxToken && strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// outage is err if it tells that Keystone, or our login there, does not work.
func outage(err error) error {
	if errors.Is(err, errBad) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// gate keeps requests from a Keystone that is away: one at a time may try.
type gate struct {
	mu      sync.Mutex
	failed  error
	until   time.Time
	probing bool
}

// failing reports whether the last request came to nothing.
func (g *gate) failing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed != nil
}

// enter lets a request through, or tells that Keystone is away. Who is let
// through calls leave.
func (g *gate) enter(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil {
		return nil
	}
	left := g.until.Sub(now)
	if g.probing || 0 < left && left <= maxWait {
		return &identity.Away{Retry: min(max(left, time.Second), maxWait), Err: g.failed}
	}
	g.probing = true
	return nil
}

// maxWait is how long nobody tries after a login that was refused: passwords
// that fail often lock the user.
const maxWait = 15 * time.Second

// leave tells how a request ended, and gives how long nobody tries again.
func (g *gate) leave(now time.Time, err error, log *slog.Logger) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probing = false
	if err == nil {
		if g.failed != nil {
			log.Info("Keystone is back")
		}
		g.failed = nil
		return 0
	}
	wait := time.Second + rand.N(time.Second)
	if r, ok := errors.AsType[*refusal](err); ok {
		wait = maxWait
		if g.failed == nil {
			log.Error("Keystone does not let the service check tokens", "error", err, "action", r.action)
		}
	} else if g.failed == nil {
		log.Warn("Keystone is away; tokens that were checked count until it is back", "error", err)
	}
	g.failed, g.until = err, now.Add(wait)
	return wait
}
