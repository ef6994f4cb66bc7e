package rpc

import "sync"

// seenIDs is how many unique ids of handled requests a server remembers.
const seenIDs = 4096

type requestState uint8

const (
	stateNew requestState = iota
	stateRunning
	stateDone
)

// seen remembers the requests that run and the last ones that were handled.
type seen struct {
	mu      sync.Mutex
	running map[string]bool
	done    map[string]bool
	ring    []string // of done, oldest at next
	next    int
}

func newSeen(n int) *seen {
	return &seen{running: map[string]bool{}, done: make(map[string]bool, n), ring: make([]string, n)}
}

// begin tells what is known of id and, if that is nothing, notes that it runs.
// A request without an id is always new.
func (s *seen) begin(id string) requestState {
	if id == "" {
		return stateNew
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done[id]:
		return stateDone
	case s.running[id]:
		return stateRunning
	}
	s.running[id] = true
	return stateNew
}

// end notes that id runs no more: it is handled, or is to be forgotten because
// it comes again.
func (s *seen) end(id string, handled bool) {
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, id)
	if !handled {
		return
	}
	delete(s.done, s.ring[s.next])
	s.ring[s.next] = id
	s.done[id] = true
	s.next = (s.next + 1) % len(s.ring)
}
