package region

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// namespaces counts those of this process: their names and addresses are its
// own.
var namespaces atomic.Int32

// Namespace is a network of its own, with one link for each thing outside that
// is reached from it. A link that is cut swallows what is sent, as a broken
// cable does.
type Namespace struct {
	Name string
}

// NewNamespace makes one; it goes when the test ends. Without the right to make
// namespaces the test is skipped, with CI as root it never is.
func NewNamespace(tb testing.TB) *Namespace {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("only root may make network namespaces")
	}
	n := &Namespace{Name: fmt.Sprintf("gt%d-%d", os.Getpid(), namespaces.Add(1))}
	if err := ip("netns", "add", n.Name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := ip("netns", "del", n.Name); err != nil {
			tb.Error(err)
		}
	})
	if err := ip("-n", n.Name, "link", "set", "lo", "up"); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Wrap is the command that runs another in the namespace.
func (n *Namespace) Wrap() []string { return []string{"ip", "netns", "exec", n.Name} }

// Link makes an address outside, at target, reachable over a link of its own.
// It gives the address by which it is reached inside.
func (n *Namespace) Link(tb testing.TB, target string) (address string, link *Link) {
	tb.Helper()
	id := int(namespaces.Add(1))
	outside, inside := fmt.Sprintf("gt%x.%do", os.Getpid(), id), fmt.Sprintf("gt%x.%di", os.Getpid(), id)
	// Of the block for documentation and benchmarks of networks: nobody's.
	prefix := fmt.Sprintf("198.18.%d.", (os.Getpid()*7+id)%256)
	for _, args := range [][]string{
		{"link", "add", outside, "type", "veth", "peer", "name", inside},
		{"link", "set", inside, "netns", n.Name},
		{"addr", "add", prefix + "1/30", "dev", outside},
		{"link", "set", outside, "up"},
		{"-n", n.Name, "addr", "add", prefix + "2/30", "dev", inside},
		{"-n", n.Name, "link", "set", inside, "up"},
	} {
		if err := ip(args...); err != nil {
			tb.Fatal(err)
		}
	}
	// The interfaces go with the namespace.
	f, err := forward(prefix+"1:0", target, func(to, from net.Conn) { _, _ = io.Copy(to, from) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(f.close)
	return f.listener.Addr().String(), &Link{outside}
}

// Link is a way out of a namespace.
type Link struct{ name string }

// Cut breaks it, without a word to either end.
func (l *Link) Cut() error { return ip("link", "set", l.name, "down") }

// Mend makes it whole again.
func (l *Link) Mend() error { return ip("link", "set", l.name, "up") }

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// forwarder passes connections on.
type forwarder struct {
	listener net.Listener
	target   string
	copy     func(to, from net.Conn)
	running  sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool // nil: closed
}

func forward(address, target string, copied func(to, from net.Conn)) (*forwarder, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	f := &forwarder{listener: l, target: target, copy: copied, conns: map[net.Conn]bool{}}
	f.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.running.Go(func() { f.pass(c) })
		}
	})
	return f, nil
}

func (f *forwarder) pass(a net.Conn) {
	b, err := net.Dial("tcp", f.target)
	if err != nil || !f.keep(a, b) {
		a.Close()
		if b != nil {
			b.Close()
		}
		return
	}
	var both sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			f.copy(p[0], p[1])
			a.Close()
			b.Close()
		})
	}
	both.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, a)
	delete(f.conns, b)
}

func (f *forwarder) keep(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		return false
	}
	for _, c := range conns {
		f.conns[c] = true
	}
	return true
}

func (f *forwarder) close() {
	f.listener.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.running.Wait()
}
