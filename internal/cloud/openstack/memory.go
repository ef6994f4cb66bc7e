package openstack

import (
	"context"
	"strings"
	"sync"
	"time"
)

// memory is what this process did of late. A service may list its things from a
// copy that is behind: what was just made is then asked for by its id, and what
// was just deleted is passed over. A process that starts knows nothing of it and
// relies on lists alone.
type memory struct {
	mu      sync.Mutex
	made    map[string]remembered // by kind and instance
	deleted map[string]time.Time  // by id
	doubts  map[string]time.Time  // by kind and instance: may have been made then
}

type remembered struct {
	id string
	at time.Time
}

// Kinds of things.
const (
	aGroup     = "group "
	aServer    = "server "
	aVolume    = "volume "
	aUserPort  = "user port "
	aAdminPort = "management port "
	aFloating  = "floating IP "
	aLeaving   = "leaving " // a server that was asked to go
	aBusy      = "busy "    // with a volume's status: it was last seen in it
	remembers  = time.Minute
	mostMade   = 4096
)

func (m *memory) note(kind, instance, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made == nil {
		m.made = map[string]remembered{}
	}
	if len(m.made) >= mostMade {
		m.prune()
	}
	m.made[kind+instance] = remembered{id, time.Now()}
}

// recall gives the id of what was made within the last minute.
func (m *memory) recall(kind, instance string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.made[kind+instance]; ok && time.Since(r.at) < remembers {
		return r.id
	}
	return ""
}

func (m *memory) forget(kind, instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.made, kind+instance)
}

func (m *memory) gone(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deleted == nil {
		m.deleted = map[string]time.Time{}
	}
	if len(m.deleted) >= mostMade {
		m.prune()
	}
	m.deleted[id] = time.Now()
}

func (m *memory) isGone(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.deleted[id]
	return ok && time.Since(at) < remembers
}

// doubt notes that something was asked for and that the answer did not come: it
// may be made, or still be made, and be in no list yet.
func (m *memory) doubt(kind, instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doubts == nil {
		m.doubts = map[string]time.Time{}
	}
	if len(m.doubts) >= mostMade {
		m.prune()
	}
	m.doubts[kind+instance] = time.Now()
}

// doubtful tells whether something may still appear that no list shows: within
// settle of a doubt.
func (m *memory) doubtful(settle time.Duration, kind, instance string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.doubts[kind+instance]
	if ok && time.Since(at) >= settle {
		delete(m.doubts, kind+instance)
		ok = false
	}
	return ok
}

func (m *memory) prune() {
	for k, r := range m.made {
		if time.Since(r.at) >= remembers {
			delete(m.made, k)
		}
	}
	for k, at := range m.doubts {
		if time.Since(at) >= remembers {
			delete(m.doubts, k)
		}
	}
	for k, at := range m.deleted {
		if time.Since(at) >= remembers {
			delete(m.deleted, k)
		}
	}
}

// ofKind are the ids of what was made of a kind, by instance.
func (m *memory) ofKind(kind string) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]string{}
	for k, r := range m.made {
		if instance, ok := strings.CutPrefix(k, kind); ok && time.Since(r.at) < remembers {
			out[instance] = r.id
		}
	}
	return out
}

// shared is a list that any number of callers get from one request. Requests
// begin at least every apart, however many ask and whatever has changed.
type shared[T any] struct {
	every time.Duration

	mu    sync.Mutex
	turn  chan struct{}
	began time.Time // of the request that gave last
	stale time.Time // what was listed before is not good enough
	last  T
}

// touch says that something was changed: a list from before it will not do.
func (s *shared[T]) touch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = time.Now()
}

// get gives a list that is younger than every, and than the last change.
func (s *shared[T]) get(ctx context.Context, fetch func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	if s.turn == nil {
		s.turn = make(chan struct{}, 1)
	}
	stale := s.stale
	s.mu.Unlock()
	var none T
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	defer func() { <-s.turn }()
	s.mu.Lock()
	last, began := s.last, s.began
	s.mu.Unlock()
	age := time.Since(began)
	if age < s.every && began.After(stale) {
		return last, nil
	}
	if age < s.every {
		t := time.NewTimer(s.every - age)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	began = time.Now()
	got, err := fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began = began; err != nil {
		s.stale = began // the next one asks again, after a pause
		return none, err
	}
	s.last = got
	return got, nil
}

// recent is get for who does not mind a list that is a while old: it never
// waits for the next one to be due.
func (s *shared[T]) recent(ctx context.Context, fetch func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	began, last := s.began, s.last
	s.mu.Unlock()
	if !began.IsZero() && time.Since(began) < s.every {
		return last, nil
	}
	return s.get(ctx, fetch)
}

// cached is something that changes seldom. While it cannot be had anew, what was
// had before serves, for staleMost.
type cached[T any] struct {
	maxAge time.Duration

	mu   sync.Mutex
	turn chan struct{}
	at   time.Time
	last T
}

const staleMost = 10 * time.Minute

func (k *cached[T]) get(ctx context.Context, fetch func(context.Context) (T, error)) (T, error) {
	k.mu.Lock()
	if k.turn == nil {
		k.turn = make(chan struct{}, 1)
	}
	at, last := k.at, k.last
	k.mu.Unlock()
	if !at.IsZero() && time.Since(at) < k.maxAge {
		return last, nil
	}
	var none T
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	defer func() { <-k.turn }()
	k.mu.Lock()
	at, last = k.at, k.last
	k.mu.Unlock()
	if !at.IsZero() && time.Since(at) < k.maxAge {
		return last, nil
	}
	got, err := fetch(ctx)
	if err != nil {
		if !at.IsZero() && time.Since(at) < staleMost && ctx.Err() == nil {
			return last, nil
		}
		return none, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.last = time.Now(), got
	return got, nil
}
