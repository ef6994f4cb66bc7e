package store

import "sync"

// hints tells subscribers in this process that something changed. A hint says
// no more than "look again"; several become one.
type hints struct {
	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func (h *hints) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[chan struct{}]struct{}{}
	}
	h.subs[c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, c)
	}
}

func (h *hints) send() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// OutboxChanged subscribes to hints that this process wrote to the outbox, so
// that nobody in it polls tightly; what other processes write is only found by
// looking. cancel ends the subscription; the channel is never closed.
func (s *Store) OutboxChanged() (changed <-chan struct{}, cancel func()) {
	return s.outboxHints.subscribe()
}

// WorkChanged is OutboxChanged for the work table and its events.
func (s *Store) WorkChanged() (changed <-chan struct{}, cancel func()) {
	return s.workHints.subscribe()
}
