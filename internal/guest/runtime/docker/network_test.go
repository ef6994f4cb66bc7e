package docker_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
)

const greeter = `use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 7000, Listen => 5, ReuseAddr => 1) or die $!; while (my $c = $s->accept) { print $c "hello\n"; close $c }`

// A container with a network of its own is reached at the instance's address:
// by a port that Docker publishes there, or because it is the container's.
func TestNetworks(t *testing.T) {
	o := options(t)
	// Of a range that nobody else is likely to use, and no two of us.
	third := os.Getpid() % 250
	bridge := fmt.Sprintf("gtt%d", os.Getpid())
	for _, args := range [][]string{{"link", "add", bridge, "type", "bridge"}, {"addr", "add", fmt.Sprintf("10.213.%d.1/24", third), "dev", bridge}, {"link", "set", bridge, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("no bridge can be made: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", bridge).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	d, err := dockertest.Start(dockertest.Options{Sets: []string{dockertest.Stable}, Bridge: bridge})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	o.Socket = d.Socket
	if _, err := d.Docker(t.Context(), "network", "create", "--subnet", fmt.Sprintf("10.214.%d.0/24", third), "users"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := d.Docker(context.WithoutCancel(t.Context()), "network", "rm", "users"); err != nil {
			t.Error(err)
		}
	})
	for network, address := range map[string]string{"bridge": fmt.Sprintf("127.31.%d.7", third), "users": fmt.Sprintf("10.214.%d.7", third)} {
		o.Network, o.Address = network, address
		r, s := open(t, o), shell(t, "")
		s.Argv, s.Port = []string{"perl", "-e", greeter}, 7000
		h, err := r.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		runtimetest.Eventually(t, network+" network: it answers at "+address, func() error {
			c, err := net.Dial("tcp", net.JoinHostPort(address, "7000"))
			if err != nil {
				return err
			}
			defer c.Close()
			if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "hello\n" {
				return fmt.Errorf("it says %q, %v", line, err)
			}
			return nil
		})
		if err := r.Stop(t.Context(), h, s.StopSignal, 0); err != nil {
			t.Error(err)
		}
	}
}
