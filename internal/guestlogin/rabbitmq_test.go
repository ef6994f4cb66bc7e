package guestlogin_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gotrove/gotrove/internal/guestlogin"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestReconcile(t *testing.T) {
	w := rabbitWorld(t)
	anns, bobs := w.guest(ann, 1), w.guest(bob, 0)
	k := w.keeper.(*guestlogin.RabbitMQ)
	live := map[string]int{ann: 1, bob: 0}
	r := guestlogin.NewReconciler(k, guestlogin.NewTopology(w.conn, "trove", true),
		func(context.Context) (map[string]int, error) { return live, nil }, quiet)
	pass := func(want ...string) {
		t.Helper()
		got, err := r.Reconcile(t.Context())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("removed %v, want %v; error %v", got, want, err)
		}
	}
	pass()
	pass()
	delete(live, bob)
	pass() // found once
	pass(bobs.Login)
	w.refused(bobs)
	w.dial(anns)
	pass()

	// Queues without a login, of a Restorer that was killed.
	if err := guestlogin.NewTopology(w.conn, "trove", true).DeclareGuestQueues(t.Context(), guest.Queues(carol)...); err != nil {
		t.Fatal(err)
	}
	control := w.dial(w.controlPlane())
	queues := func() (n int) {
		t.Helper()
		for _, q := range guest.Queues(carol) {
			ch, err := control.Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclarePassive(q, false, false, false, false, nil); err == nil {
				n++
			}
		}
		return n
	}
	pass()
	if n := queues(); n != 2 {
		t.Errorf("%d queues after they were found once", n)
	}
	pass()
	if n := queues(); n != 0 {
		t.Errorf("%d queues are left over", n)
	}

	// One of another region's stays.
	other, err := guestlogin.NewRabbitMQ(management(t, server(t), "other/+ host"), passwords(t), guestlogin.Place{Exchange: "trove"}, server(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Ensure(t.Context(), carol, 0); err != nil {
		t.Fatal(err)
	}
	pass()
	pass()
	if err := other.Remove(t.Context(), carol, 0); err != nil {
		t.Error(err)
	}
}

func passwords(t *testing.T) guestlogin.Passwords {
	t.Helper()
	p, err := guestlogin.NewPasswords(testKey)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What an operator may have wrong is told apart, and nothing tells a password.
func TestManagementTroubles(t *testing.T) {
	s := server(t)
	w := rabbitWorld(t)
	thief := w.guest(ann, 0) // a user without tags
	good := guestlogin.ManagementConfig{URLs: []string{s.ManagementURL()}, User: rabbittest.AdminName, Password: secret.New(rabbittest.AdminPassword)}
	for name, tc := range map[string]struct {
		change func(c *guestlogin.ManagementConfig)
		is     error
		says   string
	}{
		"good":       {change: func(*guestlogin.ManagementConfig) {}},
		"with /api/": {change: func(c *guestlogin.ManagementConfig) { c.URLs[0] += "/api/" }},
		"login in the URL": {change: func(c *guestlogin.ManagementConfig) {
			c.URLs[0] = at(c.URLs[0], c.User, c.Password.Reveal())
			c.User = ""
		}},
		"virtual host":       {change: func(c *guestlogin.ManagementConfig) { c.VirtualHost = "other/+ host" }},
		"the first is away":  {change: func(c *guestlogin.ManagementConfig) { c.URLs = []string{"http://127.0.0.1:9", c.URLs[0]} }},
		"all are away":       {change: func(c *guestlogin.ManagementConfig) { c.URLs = []string{"http://127.0.0.1:9"} }, says: "does not answer"},
		"password":           {change: func(c *guestlogin.ManagementConfig) { c.Password = secret.New("hunter2") }, is: guestlogin.ErrManagementLogin},
		"no tags":            {change: func(c *guestlogin.ManagementConfig) { c.User, c.Password = thief.Login, thief.Password }, is: guestlogin.ErrManagementLogin},
		"no virtual host":    {change: func(c *guestlogin.ManagementConfig) { c.VirtualHost = "nowhere" }, says: `no virtual host "nowhere"`},
		"not the management": {change: func(c *guestlogin.ManagementConfig) { c.URLs = []string{"http://" + s.Addr()} }, says: "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			c.URLs = slices.Clone(good.URLs)
			tc.change(&c)
			api, err := guestlogin.NewManagement(c)
			if err != nil {
				t.Fatal(err)
			}
			defer api.Close()
			err = api.Check(t.Context())
			switch {
			case tc.is == nil && tc.says == "":
				if err != nil {
					t.Error(err)
				}
			case !trove.IsKind(err, trove.KindUnavailable), tc.is != nil && !errors.Is(err, tc.is), !strings.Contains(err.Error(), tc.says), trove.ActionOf(err) == "":
				t.Errorf("%v, action %q", err, trove.ActionOf(err))
			case strings.Contains(err.Error(), "hunter2"), strings.Contains(err.Error(), rabbittest.AdminPassword):
				t.Errorf("it tells a password: %v", err)
			}
		})
	}
	for _, bad := range []string{"", "ftp://u:secret@h", "http://u:secret@", "http://u:secret@h/?a=b", "http://h", "http://u:secret@h:port"} {
		if _, err := guestlogin.NewManagement(guestlogin.ManagementConfig{URLs: []string{bad}}); !trove.IsKind(err, trove.KindBadRequest) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A node that fails is tried again, answers are bounded, the password is not
// taken elsewhere, and what is sent holds no password in clear.
func TestManagementOnTheWire(t *testing.T) {
	var asked atomic.Int32
	var bodies atomic.Value
	bodies.Store("")
	reply := http.StatusServiceUnavailable
	h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 4096)
		n, _ := r.Body.Read(buf)
		bodies.Store(bodies.Load().(string) + r.RequestURI + string(buf[:n]) + "\n")
		switch n := asked.Add(1); {
		case reply == http.StatusFound:
			http.Redirect(w, r, "http://127.0.0.1:9/", reply)
		case reply == http.StatusOK:
			for range 2 << 10 {
				_, _ = w.Write(make([]byte, 1<<10))
			}
		case n == 1:
			w.WriteHeader(reply)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer h.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	u, _ := url.Parse(h.URL)
	open := func(t *testing.T, tlsConfig *tls.Config) *guestlogin.RabbitMQ {
		t.Helper()
		api, err := guestlogin.NewManagement(guestlogin.ManagementConfig{URLs: []string{h.URL}, User: "u", Password: secret.New("p"), TLS: tlsConfig})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(api.Close)
		k, err := guestlogin.NewRabbitMQ(api, passwords(t), guestlogin.Place{Exchange: "trove"}, "rabbit://a:b@h1,c:d@h2:5673/v%2Fh?ssl=true")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	trusted := &tls.Config{RootCAs: roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	c, err := open(t, trusted).Ensure(t.Context(), ann, 2)
	if err != nil || asked.Load() != 7 { // one of six twice
		t.Fatalf("%v after %d requests", err, asked.Load())
	}
	if want := "rabbit://guest-" + ann + "+2:" + c.Password.Reveal() + "@h1,guest-" + ann + "+2:" + c.Password.Reveal() + "@h2:5673/v%2Fh?ssl=true"; c.TransportURL.Reveal() != want {
		t.Errorf("the guest's URL is %s", c.TransportURL.Reveal())
	}
	sent := bodies.Load().(string)
	if strings.Contains(sent, c.Password.Reveal()) || !strings.Contains(sent, `"password_hash"`) || !strings.Contains(sent, "/api/users/guest-"+ann+"%2B2") {
		t.Errorf("sent was %s", sent)
	}
	if _, err := open(t, nil).Ensure(t.Context(), ann, 0); !trove.IsKind(err, trove.KindUnavailable) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	for _, status := range []int{http.StatusFound, http.StatusOK} {
		reply = status
		err := open(t, trusted).Remove(t.Context(), ann, 0)
		if err == nil {
			t.Errorf("status %d with too long or no answer was taken", status)
		}
	}
}
