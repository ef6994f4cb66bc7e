package rabbittest

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Proxy stands between a client and a broker and can cut them off.
type Proxy struct {
	listener        net.Listener
	network, target string
	running         sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	down  bool
}

// NewProxy listens on network and address and passes on to the target.
func NewProxy(network, address, targetNetwork, target string) (*Proxy, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, network: targetNetwork, target: target, conns: map[net.Conn]bool{}}
	p.running.Go(p.accept)
	return p, nil
}

// Cut ends all connections, and those that come, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Mend lets connections through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.Cut()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.running.Go(func() { p.pass(c) })
		}
	}
}

func (p *Proxy) pass(c net.Conn) {
	b, err := net.Dial(p.network, p.target)
	if err != nil {
		_ = c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[b] = true, true
	down := p.down
	p.mu.Unlock()
	var g sync.WaitGroup
	both := func() { _, _ = c.Close(), b.Close() }
	if down {
		both()
	}
	for _, pair := range [][2]net.Conn{{c, b}, {b, c}} {
		g.Go(func() {
			defer both()
			_, _ = io.Copy(pair[0], pair[1])
		})
	}
	g.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, b)
	p.mu.Unlock()
}
