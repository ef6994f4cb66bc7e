package api

import (
	"math"
	"sync"
	"time"
)

// rateVerbs are the limited methods, in the order that /limits lists them;
// PATCH is not limited.
var rateVerbs = [...]string{"POST", "PUT", "DELETE", "GET"}

// rates is a leaky bucket for each project and method: perMinute requests may
// come at once, and one more each time one has leaked out. A bucket is the time
// at which it will be empty, so one that is empty need not be kept.
type rates struct {
	perMinute int // 0: no limits
	interval  time.Duration
	most      int // buckets kept

	mu      sync.Mutex
	buckets map[rateKey]time.Time
}

type rateKey struct{ verb, project string }

const rateWindow = time.Minute

func newRates(perMinute, most int) *rates {
	l := &rates{perMinute: perMinute, most: most, buckets: map[rateKey]time.Time{}}
	if perMinute > 0 {
		l.interval = rateWindow / time.Duration(perMinute)
	}
	return l
}

// take counts a request; a *rateError says when to come again.
func (l *rates) take(verb, project string, now time.Time) error {
	if l.perMinute <= 0 || !limited(verb) {
		return nil
	}
	key := rateKey{verb, project}
	l.mu.Lock()
	defer l.mu.Unlock()
	empty := l.level(key, now)
	empty = empty.Add(l.interval)
	if over := empty.Sub(now) - l.interval*time.Duration(l.perMinute); over > 0 {
		return &rateError{verb: verb, limit: l.perMinute, retry: over}
	}
	if _, known := l.buckets[key]; !known && len(l.buckets) >= l.most {
		l.drop(now)
	}
	l.buckets[key] = empty
	return nil
}

// level is when a bucket will be empty, now if it is. No bucket is ever fuller
// than full: one that seems to be is of a clock that was set back since, and
// must not lock its project out until it is that time again. l.mu is held.
func (l *rates) level(key rateKey, now time.Time) time.Time {
	empty := l.buckets[key]
	if empty.Before(now) || empty.Sub(now) > rateWindow {
		return now
	}
	return empty
}

// drop makes room: all empty buckets go, and if there were none, any one does
// (its project gets a fresh start, which harms nobody).
func (l *rates) drop(now time.Time) {
	for k, empty := range l.buckets {
		if empty.Before(now) {
			delete(l.buckets, k)
		}
	}
	for k := range l.buckets {
		if len(l.buckets) < l.most {
			return
		}
		delete(l.buckets, k)
	}
}

// left tells how many requests a project may make now, and when the next one
// may come.
func (l *rates) left(verb, project string, now time.Time) (remaining int, next time.Time) {
	if l.perMinute <= 0 {
		return 0, now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	empty := l.level(rateKey{verb, project}, now)
	if !empty.After(now) {
		return l.perMinute, now
	}
	used := int(math.Ceil(float64(empty.Sub(now)) / float64(l.interval)))
	if used >= l.perMinute {
		return 0, empty.Add(l.interval * time.Duration(1-l.perMinute))
	}
	return l.perMinute - used, now
}

func limited(verb string) bool {
	for _, v := range rateVerbs {
		if v == verb {
			return true
		}
	}
	return false
}
