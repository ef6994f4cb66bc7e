package region

import (
	"net"
	"sync"
	"testing"
)

// Valve is a way to a server that can be shut: connections stay as they are,
// new ones are taken, and nothing comes through, in either direction. It is for
// those who cannot live in a Namespace, because what they start must not.
type Valve struct {
	*forwarder

	mu   sync.Mutex
	open chan struct{} // closed: it is open
}

// Valve makes an open one to the server at target.
func (r *Region) Valve(tb testing.TB, target string) *Valve {
	tb.Helper()
	v := &Valve{open: make(chan struct{})}
	close(v.open)
	var err error
	if v.forwarder, err = forward("127.0.0.1:0", target, v.copy); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		v.Open()
		v.close()
	})
	return v
}

// Addr is where it is reached.
func (v *Valve) Addr() string { return v.listener.Addr().String() }

// Shut lets nothing through any more.
func (v *Valve) Shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
		v.open = make(chan struct{})
	default:
	}
}

// Open lets everything through again, also what came meanwhile.
func (v *Valve) Open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

func (v *Valve) copy(to, from net.Conn) {
	for b := make([]byte, 16<<10); ; {
		n, err := from.Read(b)
		v.mu.Lock()
		open := v.open
		v.mu.Unlock()
		<-open
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
