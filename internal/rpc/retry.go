package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

const (
	firstPause  = 100 * time.Millisecond
	longPause   = 10 * time.Second
	steadyAfter = 30 * time.Second
)

// retry runs f, which serves for as long as its session lasts, again and again
// with a growing, jittered pause, until ctx ends. Failures are told to report.
func retry(ctx context.Context, f func() error, report func(error)) {
	for d := firstPause; ctx.Err() == nil; d = min(2*d, longPause) {
		began := time.Now()
		err := f()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			report(err)
		}
		if time.Since(began) > steadyAfter {
			d = firstPause
		}
		if !pause(ctx, jitter(d)) {
			return
		}
	}
}

// jitter gives between half of d and d and a half.
func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d+1) }

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// wait waits for g until ctx ends.
func wait(ctx context.Context, g *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		g.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newID gives 128 random bits in hex, the form of Python's uuid4().hex.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
