package openstack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

const (
	// mostWait is how long a call waits for a service that asks for it; what is
	// asked to wait longer fails, and is tried again by its flow.
	mostWait = 15 * time.Second
	// waits is how often a request is sent again after 429.
	waits = 3
	// mostLater is how long a service is left alone at its word.
	mostLater = time.Hour
	// mostAnswer is the largest answer that is read, in bytes: a page of a list
	// has a thousand entries of some KiB.
	mostAnswer = 64 << 20
	// mostConnections to one service.
	mostConnections = 16
)

func newTransport(o Options, insecure bool) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure || insecure} //nolint:gosec // the operator's word
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[service_credentials] cafile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, trove.Errorf(trove.KindBadRequest, "[service_credentials] cafile: %s has no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" {
		keyFile := o.KeyFile
		if keyFile == "" {
			keyFile = o.CertFile
		}
		if _, err := tls.LoadX509KeyPair(o.CertFile, keyFile); err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[service_credentials] certfile, keyfile: %w", err)
		}
		// Read at each connection, so that a new certificate counts at once.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(o.CertFile, keyFile)
			return &c, err
		}
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: o.Timeout,
		MaxConnsPerHost: mostConnections, MaxIdleConnsPerHost: mostConnections / 4, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10}, nil
}

// gate keeps requests from a service that asked to be left alone: a Retry-After
// counts for all of this process. A request refused with 429 was not carried
// out, so it may be sent again whatever it was.
type gate struct {
	checked, unchecked http.RoundTripper

	mu      sync.Mutex
	trusted map[string]bool // hosts whose certificates are not checked
	until   map[string]time.Time
}

func newGate(checked, unchecked http.RoundTripper) *gate {
	return &gate{checked: checked, unchecked: unchecked, trusted: map[string]bool{}, until: map[string]time.Time{}}
}

func (g *gate) trust(host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trusted[host] = true
}

func (g *gate) to(host string) http.RoundTripper {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trusted[host] {
		return g.unchecked
	}
	return g.checked
}

// wait waits until a service may be asked.
func (g *gate) wait(ctx context.Context, host string) error {
	g.mu.Lock()
	d := time.Until(g.until[host])
	g.mu.Unlock()
	if d <= 0 {
		return nil
	}
	if d > mostWait {
		return trove.Errorf(trove.KindUnavailable, "%s asks for no request within the next %s.", host, d.Round(time.Second))
	}
	t := time.NewTimer(d + rand.N(d/10+time.Millisecond)) // not all at once then
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RoundTrip sends a request when it may be sent.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	for tried := 0; ; tried++ {
		if err := g.wait(r.Context(), host); err != nil {
			if r.Body != nil {
				r.Body.Close()
			}
			return nil, err
		}
		answer, err := g.to(host).RoundTrip(r)
		if err != nil {
			return nil, err
		}
		after := answer.Header.Get("Retry-After")
		again := answer.StatusCode == http.StatusTooManyRequests
		answer.Body = &bounded{answer.Body, mostAnswer}
		if !again && (answer.StatusCode != http.StatusServiceUnavailable || after == "") {
			return answer, nil
		}
		g.later(host, after)
		if !again || tried == waits || r.Body != nil && r.GetBody == nil {
			return answer, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
		answer.Body.Close()
		next := r.Clone(r.Context())
		if r.GetBody != nil {
			if next.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		r = next
	}
}

// bounded is the body of an answer; what is larger than left bytes is an error.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, trove.Errorf(trove.KindUnavailable, "an answer is larger than %d MiB", mostAnswer>>20)
	}
	return n, err
}

// later notes until when a service is left alone: seconds or a date, a second if
// it says neither.
func (g *gate) later(host, after string) {
	until := time.Now().Add(time.Second)
	if s, err := strconv.Atoi(after); err == nil && s >= 0 {
		until = time.Now().Add(time.Duration(min(s, int(mostLater/time.Second))) * time.Second)
	} else if at, err := http.ParseTime(after); err == nil {
		until = at
		if most := time.Now().Add(mostLater); at.After(most) { // its clock may be wrong
			until = most
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until[host]) {
		g.until[host] = until
	}
}
