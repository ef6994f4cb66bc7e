package docker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
	"github.com/gotrove/gotrove/internal/guest/usernet"
)

// cables are a machine's two cards, the user's and the management network's,
// each with somebody at its other end, in a network namespace of its own. Both
// networks have one range, and who is at the other end one address.
type cables struct {
	t        *testing.T
	id       string
	card     string // the user's, on our end
	port     usernet.Port
	gateway  string
	instance string
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func plug(t *testing.T) *cables {
	t.Helper()
	id := fmt.Sprintf("gtc%d", os.Getpid()%100000)
	w := &cables{t: t, id: id, card: id + "u"}
	third := os.Getpid() % 250
	at := func(last int) string { return fmt.Sprintf("10.215.%d.%d", third, last) }
	w.gateway, w.instance = at(1), at(7)
	for _, kind := range []string{"u", "m"} {
		if out, err := exec.Command("ip", "netns", "add", id+kind).CombinedOutput(); err != nil {
			t.Skipf("no network namespace can be made: %v: %s", err, out)
		}
		t.Cleanup(func() { ip(t, "netns", "del", id+kind) }) // and the cables with it
		ip(t, "link", "add", id+kind, "type", "veth", "peer", "name", "far", "netns", id+kind)
		ip(t, "-n", id+kind, "addr", "add", w.gateway+"/24", "dev", "far")
		ip(t, "-n", id+kind, "link", "set", "far", "up")
		ip(t, "link", "set", id+kind, "up")
	}
	for _, kind := range []string{"u", "m"} { // as DHCP gives them
		ip(t, "addr", "add", at(2)+"/24", "dev", id+kind)
	}
	card, err := net.InterfaceByName(w.card)
	if err != nil {
		t.Fatal(err)
	}
	subnet := netip.MustParsePrefix(at(0) + "/24")
	w.port = usernet.Port{MAC: card.HardwareAddr, Addresses: []usernet.Address{
		{IP: netip.MustParseAddr(w.instance), Subnet: subnet, Gateway: netip.MustParseAddr(w.gateway)},
		{IP: netip.MustParseAddr("fd00:215::7"), Subnet: netip.MustParsePrefix("fd00:215::/64")}}}
	ip(t, "-n", id+"u", "addr", "add", "fd00:215::1/64", "dev", "far", "nodad")
	if err := usernet.Settle(t.Context(), t.TempDir(), &w.port); err != nil {
		t.Fatal(err)
	}
	if own, err := card.Addrs(); err != nil || len(own) > 0 {
		t.Errorf("the machine has addresses on the user's card: %v, %v", own, err)
	}
	return w
}

// in does something in one of the namespaces.
func (w *cables) in(kind string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + w.id + kind)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// greet has whoever is at the other end say its name on port 7001.
func (w *cables) greet(kind, says string) {
	w.t.Helper()
	var l net.Listener
	if err := w.in(kind, func() (err error) {
		l, err = net.Listen("tcp", w.gateway+":7001")
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, says+"\n") // who asks sees what comes
			c.Close()
		}
	}()
}

func hear(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// reached waits until the container answers on the user's network.
func (w *cables) reached(when string) {
	w.t.Helper()
	for _, address := range []string{w.instance + ":7000", "[fd00:215::7]:7000"} {
		runtimetest.Eventually(w.t, when+", it answers the user's network at "+address, func() error {
			return w.in("u", func() error {
				said, err := hear(address)
				if err == nil && said != "hello" {
					err = fmt.Errorf("it says %q", said)
				}
				return err
			})
		})
	}
}

// A database that has its user's card is there and nowhere else, even where both
// networks have the same range, and stays there whatever is restarted.
func TestUsersCard(t *testing.T) {
	o := options(t)
	w := plug(t)
	w.greet("u", "user")
	w.greet("m", "management")
	for _, driver := range []string{docker.MACVLAN, docker.IPVLAN} {
		t.Run(driver, func(t *testing.T) {
			if out, err := exec.Command("ip", "link", "add", "link", w.card, "name", w.id+"x", "type", driver).CombinedOutput(); err != nil {
				t.Skipf("this kernel has no %s: %s", driver, out)
			}
			ip(t, "link", "del", w.id+"x")
			o, w := o, *w
			w.t, o.Port, o.CardDriver, o.Restart = t, &w.port, driver, true
			testCard(t, o, &w)
		})
	}
}

const (
	// both greets whoever comes, by IPv4 and IPv6, after asking who is at the gateway.
	both = `use IO::Socket::IP; $SIG{TERM} = sub { exit }; my $g = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => 7001, Timeout => 20); print "gateway: ", $g ? <$g> : "$!\n"; ` +
		`$| = 1; my $s = IO::Socket::IP->new(LocalHost => "::", LocalPort => 7000, Listen => 5, ReuseAddr => 1, V6Only => 0) or die $!; while (my $c = $s->accept) { print $c "hello\n"; close $c }`
)

func testCard(t *testing.T, o docker.Options, w *cables) {
	s := shell(t, "")
	s.Argv = []string{"perl", "-e", both, w.gateway}
	r := open(t, o)
	h := start(t, r, s)
	w.reached("at first")
	if b, err := os.ReadFile(s.LogFile); err != nil || string(b) != "gateway: user\n" {
		t.Errorf("the container finds at its gateway's address: %q, %v", b, err)
	}
	if said, err := hear(w.gateway + ":7001"); said != "management" {
		t.Errorf("the machine itself finds at that address %q, %v: it is on the user's network", said, err)
	}
	if err := w.in("m", func() error {
		if said, err := hear(w.instance + ":7000"); err == nil {
			return fmt.Errorf("the container answers %q", said)
		}
		return nil
	}); err != nil {
		t.Errorf("from the management network: %v", err)
	}
	if seen := ip(t, "-n", w.id+"u", "neigh", "show", w.instance); !strings.Contains(seen, w.port.MAC.String()) {
		t.Errorf("the container does not have the port's MAC %s: %s", w.port.MAC, seen)
	}
	network := func() string {
		t.Helper()
		id, err := daemon.Docker(t.Context(), "network", "ls", "--quiet", "--no-trunc", "--filter", "label=org.gotrove.instance="+s.InstanceID)
		if err != nil || strings.Contains(id, "\n") {
			t.Fatalf("networks of the instance: %q, %v", id, err)
		}
		return id
	}
	first := network()

	// The agent is started again.
	if again, err := open(t, o).Start(t.Context(), s); err != nil || again != h {
		t.Errorf("another agent gets %+v, %v, and not the container that runs", again, err)
	}
	// The engine is restarted.
	if err := r.Stop(t.Context(), h, s.StopSignal, time.Second); err != nil {
		t.Fatal(err)
	}
	start(t, r, s)
	w.reached("after a restart of the engine")
	// Docker is killed, and started again.
	if err := daemon.Kill(); err != nil {
		t.Fatal(err)
	}
	w.reached("without Docker")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	start(t, r, s)
	w.reached("after a restart of Docker")
	if now := network(); now != first {
		t.Errorf("the network was made anew: %s, %s", first, now)
	}

	// The machine is started again, and the card has its name only after Docker
	// looked for it.
	if err := daemon.Down(); err != nil {
		t.Fatal(err)
	}
	other := w.id + "o"
	rename := func(from, to string) {
		t.Helper()
		ip(t, "link", "set", from, "down")
		ip(t, "link", "set", from, "name", to)
		ip(t, "link", "set", to, "up")
	}
	rename(w.card, other)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	rename(other, w.card)
	runtimetest.Eventually(t, "the engine starts", func() (err error) {
		h, err = r.Start(t.Context(), s)
		return err
	})
	w.reached("when the card was late")
	if err := r.Stop(t.Context(), h, s.StopSignal, time.Second); err != nil {
		t.Fatal(err)
	}
	// It has another name.
	first = network()
	rename(w.card, other)
	t.Cleanup(func() { rename(other, w.card) })
	start(t, r, s)
	w.reached("when the card has another name")
	if now := network(); now == first {
		t.Error("the network is still on a card of the old name")
	}
	if err := docker.RemoveInstance(context.WithoutCancel(t.Context()), daemon.Socket, s.InstanceID); err != nil {
		t.Fatal(err)
	}
	if left := network(); left != "" {
		t.Errorf("a network is left: %s", left)
	}
	if card, err := w.port.Card(); err != nil || card != other {
		t.Errorf("the port's card is now %q, %v", card, err)
	}
}
