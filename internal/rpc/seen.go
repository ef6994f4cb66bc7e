package rpc

import (
	"crypto/sha256"
	"sync"
)

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
	running map[requestKey]bool
	done    map[requestKey]bool
	ring    []requestKey // of done, oldest at next
	next    int
}

// requestKey stands for a unique id and who sent it: nobody can use up the ids
// of another, nor fill memory with long ones. The zero key is of a request
// without an id, which is always new.
type requestKey [sha256.Size]byte

func keyOf(sender, id string) requestKey {
	if id == "" {
		return requestKey{}
	}
	return sha256.Sum256([]byte(sender + "\x00" + id))
}

func newSeen(n int) *seen {
	return &seen{running: map[requestKey]bool{}, done: map[requestKey]bool{}, ring: make([]requestKey, n)}
}

// begin tells what is known of id and, if that is nothing, notes that it runs.
func (s *seen) begin(id requestKey) requestState {
	if id == (requestKey{}) {
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
func (s *seen) end(id requestKey, handled bool) {
	if id == (requestKey{}) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, id)
	if !handled || s.done[id] {
		return
	}
	delete(s.done, s.ring[s.next])
	s.ring[s.next] = id
	s.done[id] = true
	s.next = (s.next + 1) % len(s.ring)
}
