package guest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/guest/bootlog"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
)

const (
	// hopWait bounds each hop of a try; RabbitMQ takes three seconds to refuse a
	// login.
	hopWait = 10 * time.Second
	// probeAgain is the time between two tries of a server that is there for
	// nothing else.
	probeAgain = 10 * time.Second
)

// probeConfig is what of an agent's configuration the way to its broker is.
type probeConfig struct {
	Only         bool          `conf:"gotrove.probe" default:"false"`
	TransportURL secret.String `conf:"DEFAULT.transport_url"`
	Rabbit       amqp.Options
}

// probing tells of each hop of the way to the broker.
type probing struct {
	c    *probeConfig
	boot *bootlog.Log
	out  io.Writer
	// addresses are this machine's; for tests.
	addresses func() ([]net.Addr, error)
}

// hop is one that does not work.
type hop struct {
	stage guestapi.BootStage
	cause error
}

func (h *hop) Error() string { return "not reached: " + string(h.stage) + ": " + h.cause.Error() }

func (h *hop) Unwrap() error { return h.cause }

// probe tries the way to the broker once, hop by hop, and says how far it goes.
func probe(ctx context.Context, args []string, out, errs io.Writer) error {
	var src osloconf.Sources
	flags := flag.NewFlagSet("trove-guestagent probe", flag.ContinueOnError)
	flags.SetOutput(errs)
	configFlags(flags, &src)
	console := flags.String("console", "", consoleHelp)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return errors.Join(errUsage, err)
	}
	src.Environ = os.Environ()
	c, err := loadProbe(src)
	if err != nil {
		return err
	}
	p := &probing{c: c, boot: bootlog.New(*console), out: out, addresses: net.InterfaceAddrs}
	return p.try(ctx)
}

func loadProbe(src osloconf.Sources) (*probeConfig, error) {
	c := &probeConfig{}
	_, err := osloconf.Load(src, c)
	return c, err
}

// onlyProbe does what a machine is for that somebody made to try the way to the
// broker: it tries until it comes through, and then waits for its end.
func onlyProbe(ctx context.Context, c *probeConfig, boot *bootlog.Log, out io.Writer) error {
	p := &probing{c: c, boot: boot, out: out, addresses: net.InterfaceAddrs}
	for p.try(ctx) != nil {
		t := time.NewTimer(probeAgain)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

func (p *probing) reached(s guestapi.BootStage, detail string) {
	p.boot.Reached(s, detail)
	fmt.Fprintln(p.out, cmp.Or(strings.TrimSuffix(string(s)+": "+detail, ": "), string(s)))
}

// try goes as far as it can by one host of the transport URL at least.
func (p *probing) try(ctx context.Context) error {
	err := p.through(ctx)
	if broken, ok := errors.AsType[*hop](err); ok {
		p.boot.Failed(broken.stage, broken.cause)
	}
	return err
}

func (p *probing) through(ctx context.Context) error {
	if p.c.TransportURL.IsZero() {
		return &hop{guestapi.BootConfig, errors.New("option [DEFAULT] transport_url is not set")}
	}
	hosts, err := amqp.Each(p.c.TransportURL.Reveal())
	if err != nil {
		return &hop{guestapi.BootConfig, err}
	}
	own, err := p.own()
	if err != nil {
		return &hop{guestapi.BootAddress, err}
	}
	p.reached(guestapi.BootAddress, strings.Join(own, ", "))
	var furthest *hop
	for _, h := range hosts {
		err := p.host(ctx, h)
		if err == nil {
			return nil
		}
		if furthest == nil || rank(err.stage) > rank(furthest.stage) {
			furthest = err
		}
	}
	return furthest
}

// rank orders hops.
func rank(s guestapi.BootStage) int {
	for i, known := range []guestapi.BootStage{guestapi.BootName, guestapi.BootRoute, guestapi.BootBroker, guestapi.BootTLS, guestapi.BootLogin} {
		if s == known {
			return i
		}
	}
	return -1
}

// own are this machine's addresses that others could know.
func (p *probing) own() ([]string, error) {
	all, err := p.addresses()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.String())
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no interface has an address")
	}
	return out, nil
}

// host goes the way to one host.
func (p *probing) host(ctx context.Context, h amqp.Single) *hop {
	ctx, cancel := context.WithTimeout(ctx, 5*hopWait)
	defer cancel()
	options := p.c.Rabbit
	config, err := options.Config(h.URL.Reveal())
	if err != nil {
		return &hop{guestapi.BootConfig, err}
	}
	network, address, _ := strings.Cut(h.Name, ":")
	if network == "tcp" {
		if broken := p.reach(ctx, address, &config); broken != nil {
			return broken
		}
	}
	config.Name, config.Log = "trove-guestagent probe", slog.New(slog.DiscardHandler)
	conn, err := amqp.New(config)
	if err != nil {
		return &hop{guestapi.BootConfig, err}
	}
	limited, stop := context.WithTimeout(ctx, hopWait)
	defer stop()
	err = conn.Admitted(limited)
	login := conn.Login()
	ending, end := context.WithTimeout(context.WithoutCancel(ctx), hopWait)
	defer end()
	_ = conn.Close(ending) // it has done its service
	if err != nil {
		return &hop{guestapi.BootLogin, fmt.Errorf("%s: %w", address, err)}
	}
	p.reached(guestapi.BootLogin, login+" at "+address)
	return nil
}

// reach goes as far as the broker's port, and through its TLS.
func (p *probing) reach(ctx context.Context, address string, config *amqp.Config) *hop {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return &hop{guestapi.BootConfig, err}
	}
	limited, cancel := context.WithTimeout(ctx, hopWait)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(limited, name)
	if err != nil {
		return &hop{guestapi.BootName, err}
	}
	if found[0] != name {
		p.reached(guestapi.BootName, name+" is "+strings.Join(found, ", "))
	}
	// Nothing is sent: the kernel only looks for a route.
	way, err := (&net.Dialer{}).DialContext(limited, "udp", net.JoinHostPort(found[0], port))
	if err != nil {
		return &hop{guestapi.BootRoute, fmt.Errorf("to %s: %w", found[0], cause(err))}
	}
	from, _, _ := net.SplitHostPort(way.LocalAddr().String())
	_ = way.Close() // nothing was sent
	p.reached(guestapi.BootRoute, "to "+found[0]+" from "+from)

	limited, cancel = context.WithTimeout(ctx, hopWait)
	defer cancel()
	socket, err := (&net.Dialer{}).DialContext(limited, "tcp", address)
	if err != nil {
		return &hop{guestapi.BootBroker, fmt.Errorf("%s: %w", address, cause(err))}
	}
	defer socket.Close()
	p.reached(guestapi.BootBroker, address)
	if config.TLS == nil {
		return nil
	}
	t := config.TLS.Clone()
	t.ServerName = cmp.Or(t.ServerName, name)
	if err := tls.Client(socket, t).HandshakeContext(limited); err != nil {
		return &hop{guestapi.BootTLS, fmt.Errorf("%s: %w", address, err)}
	}
	p.reached(guestapi.BootTLS, address)
	return nil
}

// cause is err without the dialer's repetition of the address.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}
