package amqp

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/trove"
)

// defaults are what osloconf fills in.
func defaults() Options {
	return Options{LoginMethod: "AMQPLAIN", Failover: "round-robin", TransientTTL: 1800, SSLHostName: true}
}

func dial(t *testing.T, o Options, url string) *Conn {
	t.Helper()
	cfg, err := o.Config(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// outcome waits for the first attempt to end.
func outcome(t *testing.T, c *Conn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := c.Check()
		if !errors.Is(err, errNotYet) {
			return err
		}
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("no attempt ended")
		}
	}
}

// On a RabbitMQ that takes only clients with a certificate, and whose own is
// for the name localhost.
func TestTLS(t *testing.T) {
	ca, other := rabbittest.NewAuthority(t), rabbittest.NewAuthority(t)
	listener := ca.TLS("localhost")
	listener.RequireClient = true
	s := rabbittest.StartWith(t, rabbittest.Options{TLS: listener})
	cert, key := ca.Issue("client")
	strange, strangeKey := other.Issue("client")
	both := filepath.Join(t.TempDir(), "both.pem")
	certPEM, err1 := os.ReadFile(cert)
	keyPEM, err2 := os.ReadFile(key)
	if err := errors.Join(err1, err2, os.WriteFile(both, append(certPEM, keyPEM...), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(s.TLSAddr())
	if err != nil {
		t.Fatal(err)
	}
	at := func(host string) string {
		return "rabbit://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + host + ":" + port + "/"
	}
	good := defaults()
	good.SSL, good.SSLCAFile, good.SSLCertFile, good.SSLKeyFile = true, ca.File, cert, key
	with := func(f func(*Options)) Options {
		o := good
		f(&o)
		return o
	}
	authority := func(err error) bool { _, ok := errors.AsType[x509.UnknownAuthorityError](err); return ok }
	hostName := func(err error) bool { _, ok := errors.AsType[x509.HostnameError](err); return ok }
	refused := func(err error) bool { return err != nil && !authority(err) && !hostName(err) }
	fine := func(err error) bool { return err == nil }
	for name, c := range map[string]struct {
		o    Options
		url  string
		want func(error) bool
	}{
		"right":             {good, at("localhost"), fine},
		"in the URL":        {with(func(o *Options) { o.SSL = false }), at("localhost") + "?ssl=true", fine},
		"cert and key one":  {with(func(o *Options) { o.SSLCertFile, o.SSLKeyFile = both, "" }), at("localhost"), fine},
		"wrong name":        {good, at("127.0.0.1"), hostName},
		"name not checked":  {with(func(o *Options) { o.SSLHostName = false }), at("127.0.0.1"), fine},
		"wrong authority":   {with(func(o *Options) { o.SSLCAFile = other.File }), at("localhost"), authority},
		"wrong, unchecked":  {with(func(o *Options) { o.SSLCAFile, o.SSLHostName = other.File, false }), at("localhost"), authority},
		"system's trust":    {with(func(o *Options) { o.SSLCAFile = "" }), at("localhost"), authority},
		"system's, no name": {with(func(o *Options) { o.SSLCAFile, o.SSLHostName = "", false }), at("localhost"), authority},
		"no certificate":    {with(func(o *Options) { o.SSLCertFile, o.SSLKeyFile = "", "" }), at("localhost"), refused},
		"a stranger's":      {with(func(o *Options) { o.SSLCertFile, o.SSLKeyFile = strange, strangeKey }), at("localhost"), refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, c.o, c.url)
			err := outcome(t, conn)
			if !c.want(err) {
				t.Errorf("%v", err)
			}
			if err != nil && !trove.IsKind(err, trove.KindUnavailable) {
				t.Errorf("kind %v", trove.KindOf(err))
			}
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := conn.Publish(ctx, Publishing{Exchange: Exchange{Name: "trove"}, Key: "k"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Run("one of several hosts", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0") // one that answers nothing that TLS could read
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		conn := dial(t, good, "rabbit://trove:trove-test@"+l.Addr().String()+",trove:trove-test@localhost:"+port+"/")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := conn.Ready(ctx); err != nil {
			t.Error(err)
		}
	})
}
