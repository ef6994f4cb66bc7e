package rabbittest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
)

// dial fails the test when it cannot reach the server with an exchange of one
// channel, which a frozen one does not answer.
func dial(url string, timeout time.Duration) error {
	c, err := amqp.DialConfig(url, amqp.Config{Dial: amqp.DefaultDial(timeout)})
	if err != nil {
		return err
	}
	return c.Close()
}

func TestStart(t *testing.T) {
	t.Parallel()
	s := rabbittest.Start(t, rabbittest.Login{Name: "small", Password: "s3cret", Read: "^mine$"})
	c, err := amqp.Dial(s.URLFor("small", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("other", false, false, false, false, nil); err == nil {
		t.Error("a login without the right declared a queue")
	}
}

// One server through all that may happen to it: it keeps what is durable.
func TestLife(t *testing.T) {
	t.Parallel()
	ca := rabbittest.NewAuthority(t)
	s := rabbittest.StartWith(t, rabbittest.Options{Management: true, TLS: ca.TLS("127.0.0.1"), VirtualHosts: []string{"second"}})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	declare := func(passive bool) error {
		c, err := amqp.Dial(s.URL())
		if err != nil {
			return err
		}
		defer c.Close()
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		if passive {
			_, err = ch.QueueDeclarePassive("kept", true, false, false, false, nil)
		} else {
			_, err = ch.QueueDeclare("kept", true, false, false, false, nil)
		}
		return err
	}
	if err := declare(false); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ManagementURL()+"/api/queues/%2f/kept", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(rabbittest.AdminName, rabbittest.AdminPassword)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("management API: %s", answer.Status)
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := tls.Dial("tcp", s.TLSAddr(), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Errorf("TLS: %v", err)
	} else {
		c.Close()
	}

	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := dial(s.URL(), time.Second); err == nil {
		t.Error("a frozen server answers")
	}
	s.Resume()
	if err := dial(s.URL(), time.Minute); err != nil {
		t.Errorf("after its pause: %v", err)
	}
	// In this order: see Stop.
	for _, how := range []struct {
		what string
		end  func()
	}{{"shut down", func() { s.Shutdown(ctx) }}, {"killed", s.Stop}} {
		how.end()
		if err := dial(s.URL(), time.Second); err == nil {
			t.Errorf("%s, it answers", how.what)
		}
		if err := s.Start(ctx); err != nil {
			t.Fatalf("%s: %v", how.what, err)
		}
		if err := declare(true); err != nil {
			t.Errorf("%s: %v", how.what, err)
		}
	}
	if err := s.Ctl(ctx, "status"); err != nil {
		t.Error(err)
	}
	if err := s.Ctl(ctx, "nonsense"); err == nil {
		t.Error("rabbitmqctl did nonsense")
	}
	short, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	s.Stop()
	if err := s.Start(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
