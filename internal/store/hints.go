package store

import "sync"

// everything is what hints are about that are not about one instance.
const everything = ""

// hints tells subscribers in this process that something changed. A hint says
// no more than "look again"; several become one.
type hints struct {
	mu   sync.Mutex
	subs map[chan struct{}]string // what each is about
}

func (h *hints) subscribe(about string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[chan struct{}]string{}
	}
	h.subs[c] = about
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, c)
	}
}

func (h *hints) send(about string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, a := range h.subs {
		if a != about {
			continue
		}
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
	return s.outboxHints.subscribe(everything)
}

// WorkChanged is OutboxChanged for work that may be due, or is to be ended.
func (s *Store) WorkChanged() (changed <-chan struct{}, cancel func()) {
	return s.workHints.subscribe(everything)
}

// EventsAdded is OutboxChanged for the events of work on one instance: the
// streams of many must not wake one another.
func (s *Store) EventsAdded(instanceID string) (added <-chan struct{}, cancel func()) {
	return s.workHints.subscribe(instanceID)
}
