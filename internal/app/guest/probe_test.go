package guest

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
)

// TestProbe goes the way to a real RabbitMQ, and breaks each hop of it.
func TestProbe(t *testing.T) {
	t.Parallel()
	authority := rabbittest.NewAuthority(t)
	r := rabbittest.StartWith(t, rabbittest.Options{TLS: authority.TLS("127.0.0.1"),
		Logins: []rabbittest.Login{{Name: "guest-x", Password: "p4ss", Configure: "^$", Write: "^$", Read: "^$"}}})
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	closed := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	tls := "[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = " + authority.File + "\n"
	stranger := "[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = " + rabbittest.NewAuthority(t).File + "\n"
	for name, tc := range map[string]struct {
		url, more string
		broken    guestapi.BootStage // none: it comes through
		because   string
		reached   []guestapi.BootStage
	}{
		"all is well": {"rabbit://guest-x:p4ss@" + r.Addr() + "/", "", "", "guest-x at", []guestapi.BootStage{guestapi.BootAddress, guestapi.BootRoute, guestapi.BootBroker, guestapi.BootLogin}},
		"TLS":         {"rabbit://guest-x:p4ss@" + r.TLSAddr() + "/", tls, "", "", []guestapi.BootStage{guestapi.BootTLS, guestapi.BootLogin}},
		"one of two":  {"rabbit://guest-x:p4ss@" + closed + ",guest-x:p4ss@" + r.Addr() + "/", "", "", "", []guestapi.BootStage{guestapi.BootLogin}},
		"password":    {"rabbit://guest-x:wrong@" + r.Addr() + "/", "", guestapi.BootLogin, "guest-x is refused", []guestapi.BootStage{guestapi.BootBroker}},
		"vhost":       {"rabbit://guest-x:p4ss@" + r.Addr() + "/none", "", guestapi.BootLogin, "", []guestapi.BootStage{guestapi.BootBroker}},
		"authority":   {"rabbit://guest-x:p4ss@" + r.TLSAddr() + "/", stranger, guestapi.BootTLS, "certificate", []guestapi.BootStage{guestapi.BootBroker}},
		"no TLS":      {"rabbit://guest-x:p4ss@" + r.Addr() + "/", tls, guestapi.BootTLS, "", []guestapi.BootStage{guestapi.BootBroker}},
		"closed":      {"rabbit://guest-x:p4ss@" + closed + "/", "", guestapi.BootBroker, "refused", []guestapi.BootStage{guestapi.BootRoute}},
		"name":        {"rabbit://guest-x:p4ss@no-such-host.invalid/", "", guestapi.BootName, "no-such-host", []guestapi.BootStage{guestapi.BootAddress}},
		"no CA file":  {"rabbit://guest-x:p4ss@" + r.TLSAddr() + "/", strings.Replace(tls, authority.File, "/nowhere.pem", 1), guestapi.BootConfig, "/nowhere.pem", []guestapi.BootStage{guestapi.BootAddress}},
		"no URL":      {"", "", guestapi.BootConfig, "transport_url", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			conf, console := filepath.Join(dir, "guest.conf"), filepath.Join(dir, "console")
			text := "[DEFAULT]\n"
			if tc.url != "" {
				text += "transport_url = " + tc.url + "\n"
			}
			for file, text := range map[string]string{conf: text + tc.more, console: ""} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			var out, errs bytes.Buffer
			code := Main(ctx, "test", []string{"probe", "--console", console, "--config-file", conf}, &out, &errs)
			said, err := os.ReadFile(console)
			if err != nil {
				t.Fatal(err)
			}
			lines := guestapi.ParseBoot(string(said))
			if tc.broken == "" && code != 0 || tc.broken != "" && code != 1 {
				t.Errorf("code %d\n%s%s", code, &out, &errs)
			}
			if all := string(said) + out.String() + errs.String(); strings.Contains(all, "p4ss") || strings.Contains(all, "wrong") {
				t.Errorf("a password is told:\n%s", all)
			}
			stages := map[guestapi.BootStage]guestapi.BootLine{}
			for _, l := range lines {
				stages[l.Stage] = l
			}
			for _, s := range tc.reached {
				if l, ok := stages[s]; !ok || l.Failed {
					t.Errorf("%q is not reached:\n%s", s, said)
				}
			}
			if tc.broken == "" {
				if !strings.Contains(stages[guestapi.BootLogin].Detail, tc.because) {
					t.Errorf("no %q:\n%s", tc.because, said)
				}
				return
			}
			if l := stages[tc.broken]; !l.Failed || !strings.Contains(l.Detail, tc.because) {
				t.Errorf("%q is not told to be broken because of %q:\n%s", tc.broken, tc.because, said)
			}
			if !strings.Contains(errs.String(), string(tc.broken)) {
				t.Errorf("%s", &errs)
			}
		})
	}
}

// A machine without an address, or without a route, says so.
func TestProbeWithoutAddress(t *testing.T) {
	p := &probing{c: &probeConfig{}, out: &bytes.Buffer{}, addresses: func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1)}, &net.IPNet{IP: net.ParseIP("fe80::1")}}, nil
	}}
	if _, err := p.own(); err == nil || !strings.Contains(err.Error(), "no interface has an address") {
		t.Error(err)
	}
}

// A machine that is there for the probe only tries again, tells the console each
// cause once, and waits for its end.
func TestOnlyProbe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf, console := filepath.Join(dir, "guest.conf"), filepath.Join(dir, "console")
	for file, text := range map[string]string{conf: "[DEFAULT]\ntransport_url = rabbit://a:b@127.0.0.1:1/\n[gotrove]\nprobe = true\n", console: ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- Main(ctx, "test", []string{"--console", console, "--config-file", conf}, &bytes.Buffer{}, &bytes.Buffer{})
	}()
	deadline := time.After(limit)
	for told := false; !told; {
		said, err := os.ReadFile(console)
		if err != nil {
			t.Fatal(err)
		}
		told = strings.Contains(string(said), "FAILED broker reached: 127.0.0.1:1: connect: connection refused")
		select {
		case <-deadline:
			t.Fatalf("%s", said)
		case code := <-ended:
			t.Fatalf("it ended with %d: %s", code, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	select {
	case code := <-ended:
		if code != 0 {
			t.Error(code)
		}
	case <-deadline:
		t.Fatal("it does not end")
	}
}
