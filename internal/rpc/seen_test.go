package rpc

import (
	"strconv"
	"testing"
)

func TestSeen(t *testing.T) {
	s := newSeen(3)
	key := func(i int) requestKey { return keyOf("a", strconv.Itoa(i)) }
	if s.begin(key(1)) != stateNew || s.begin(key(1)) != stateRunning {
		t.Error("a request that runs is new")
	}
	if s.begin(keyOf("b", "1")) != stateNew {
		t.Error("another sender used up the id")
	}
	s.end(key(1), false)
	if s.begin(key(1)) != stateNew {
		t.Error("a request that comes again is a duplicate")
	}
	s.end(key(1), true)
	if s.begin(key(1)) != stateDone {
		t.Error("a handled request is no duplicate")
	}
	for i := 2; i < 5; i++ {
		s.begin(key(i))
		s.end(key(i), true)
	}
	if s.begin(key(1)) != stateNew || s.begin(key(4)) != stateDone || len(s.done) != 3 {
		t.Error("not the last ones are remembered", len(s.done))
	}
	for range 2 {
		if s.begin(keyOf("a", "")) != stateNew {
			t.Error("a request without an id is not new")
		}
		s.end(keyOf("a", ""), true)
	}
}
