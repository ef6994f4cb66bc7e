package guestlogin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// What a management API answers, for errors.Is.
var (
	// ErrManagementLogin: it does not know our user or password.
	ErrManagementLogin = errors.New("the management API refuses the login")
	// ErrManagementRight: our user may not do that.
	ErrManagementRight = errors.New("the management API's user has no right to do that")
	// errAbsent: what was asked about is not there.
	errAbsent = errors.New("not found")
)

const (
	managementRequest = 10 * time.Second // for one request
	managementRounds  = 3                // over all addresses, for one that is away
	managementPause   = 200 * time.Millisecond
	maxAnswer         = 1 << 20
	maxList           = 64 << 20 // of logins: some 250 bytes each
)

// ManagementConfig says where RabbitMQ's management API is.
type ManagementConfig struct {
	// URLs are its addresses, http or https, without the path "/api"; each node
	// of a cluster has one. They are tried in turn.
	URLs []string
	// User and Password, unless the URLs have them; the user needs the tag
	// administrator, to make users.
	User     string
	Password secret.String
	// VirtualHost in which guests are; empty is "/".
	VirtualHost string
	// TLS for https; nil is the system's trust.
	TLS *tls.Config
	Log *slog.Logger
}

// Management is a client of RabbitMQ's management API: no more of it than
// logins need. It is safe for concurrent use.
type Management struct {
	nodes []node
	vhost string
	log   *slog.Logger
	http  *http.Client
	// good is the node that answered last.
	good atomic.Int64
}

// node is one address, with its credentials.
type node struct {
	base, user string
	password   secret.String
}

// NewManagement checks cfg; it asks nothing yet. Errors are of KindBadRequest
// and never hold a password.
func NewManagement(cfg ManagementConfig) (*Management, error) {
	m := &Management{vhost: cmp.Or(cfg.VirtualHost, "/"), log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))}
	for _, s := range cfg.URLs {
		n, err := newNode(strings.TrimSpace(s), cfg)
		if err != nil {
			return nil, err
		}
		m.nodes = append(m.nodes, n)
	}
	if len(m.nodes) == 0 {
		return nil, trove.Errorf(trove.KindBadRequest, "[gotrove] rabbit_management_url: no address")
	}
	m.good.Store(rand.Int64N(int64(len(m.nodes))))
	m.http = &http.Client{
		// Without a proxy: what is sent makes logins.
		Transport: &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: false, MaxIdleConnsPerHost: 4, MaxConnsPerHost: 8,
			IdleConnTimeout: 60 * time.Second, TLSHandshakeTimeout: managementRequest, ResponseHeaderTimeout: managementRequest},
		// Elsewhere our password has no business.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return m, nil
}

func newNode(s string, cfg ManagementConfig) (node, error) {
	bad := func(why string) error {
		return trove.Errorf(trove.KindBadRequest, "[gotrove] rabbit_management_url: %s; want for example https://user:password@rabbit-1:15671", why)
	}
	u, err := url.Parse(s)
	if err != nil { // its text holds the URL, and so the password
		return node{}, bad("not a URL")
	}
	n := node{user: cfg.User, password: cfg.Password}
	if u.User != nil {
		p, _ := u.User.Password()
		n.user, n.password = u.User.Username(), secret.New(p)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return node{}, bad("neither http nor https")
	case u.Host == "":
		return node{}, bad("no host")
	case u.RawQuery != "" || u.Fragment != "":
		return node{}, bad("a query or a fragment has no meaning there")
	case n.user == "" || n.password.IsZero():
		return node{}, bad("no user and password, neither in the URL nor in rabbit_management_user and rabbit_management_password")
	}
	path := strings.TrimSuffix(strings.TrimRight(u.EscapedPath(), "/"), "/api")
	n.base = u.Scheme + "://" + u.Host + path + "/api"
	return n, nil
}

// Close gives up idle connections.
func (m *Management) Close() { m.http.CloseIdleConnections() }

// Check tells whether logins can be made: the API answers, knows us, lets us,
// and has the virtual host.
func (m *Management) Check(ctx context.Context) error {
	var me struct {
		Tags json.RawMessage `json:"tags"` // "a,b", or ["a","b"] since 3.9
	}
	if err := m.do(ctx, http.MethodGet, path("whoami"), nil, &me); err != nil {
		return err
	}
	if !bytes.Contains(me.Tags, []byte("administrator")) {
		return m.explain(ErrManagementRight)
	}
	err := m.do(ctx, http.MethodGet, path("vhosts", m.vhost), nil, nil)
	if errors.Is(err, errAbsent) {
		return m.noVirtualHost()
	}
	return err
}

func (m *Management) noVirtualHost() error {
	return trove.Errorf(trove.KindUnavailable, "RabbitMQ has no virtual host %q.", m.vhost).
		WithAction("Make it with rabbitmqctl add_vhost, or correct the path of transport_url.")
}

// path is a path with its elements quoted. The plus sign is too: older servers
// take it for a space.
func path(elements ...string) string {
	var b strings.Builder
	for _, e := range elements {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(url.PathEscape(e), "+", "%2B"))
	}
	return b.String()
}

// do makes one request, all of which may be made twice, and decodes the answer
// into result unless that is nil. It goes round the nodes while those it asks
// are away.
func (m *Management) do(ctx context.Context, method, path string, body, result any) error {
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return trove.Errorf(trove.KindInternal, "management API: %w", err)
		}
	}
	var last error
	for n := range managementRounds * len(m.nodes) {
		if n > 0 && n%len(m.nodes) == 0 {
			wait := managementPause << (n/len(m.nodes) - 1)
			if !pause(ctx, wait/2+rand.N(wait)) {
				break
			}
		}
		at := m.good.Load()
		again, err := m.once(ctx, m.nodes[at], method, path, sent, result)
		if !again {
			return m.explain(err)
		}
		last = err
		m.log.InfoContext(ctx, "management API: no answer", "address", m.nodes[at].base, "error", err)
		m.good.CompareAndSwap(at, (at+1)%int64(len(m.nodes)))
		if ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		last = ctx.Err()
	}
	return trove.Errorf(trove.KindUnavailable, "RabbitMQ's management API does not answer: %w", last).
		WithAction("Look whether [gotrove] rabbit_management_url is right and the plugin rabbitmq_management is enabled there.")
}

// once asks one node. again is whether another might know better.
func (m *Management) once(ctx context.Context, n node, method, path string, body []byte, result any) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, managementRequest)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.base+path, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("%s %s: the request cannot be made", method, path)
	}
	req.SetBasicAuth(n.user, n.password.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := m.http.Do(req)
	if err != nil {
		return true, err // holds the address, which has no password in it
	}
	defer answer.Body.Close()
	if read, ok := result.(stream); ok && answer.StatusCode == http.StatusOK {
		if err := read(io.LimitReader(answer.Body, maxList)); err != nil {
			return true, fmt.Errorf("%s %s: the answer cannot be read: %w", method, path, err)
		}
		return false, nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return true, err
	case len(text) > maxAnswer:
		return false, fmt.Errorf("%s %s: an answer of more than %d bytes", method, path, maxAnswer)
	case answer.StatusCode == http.StatusUnauthorized:
		return false, ErrManagementLogin
	case answer.StatusCode == http.StatusForbidden:
		return false, ErrManagementRight
	case answer.StatusCode == http.StatusNotFound:
		return false, errAbsent
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return true, fmt.Errorf("%s %s: %s", method, path, answer.Status)
	case answer.StatusCode >= 300:
		return false, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, reason(text))
	}
	if result == nil {
		return false, nil
	}
	if err := json.Unmarshal(text, result); err != nil {
		return false, fmt.Errorf("%s %s: the answer cannot be read: %w", method, path, err)
	}
	return false, nil
}

// reason is what RabbitMQ says of a refusal, short.
func reason(body []byte) string {
	var said struct{ Reason any }
	if json.Unmarshal(body, &said) != nil || said.Reason == nil {
		return "no reason given"
	}
	text := fmt.Sprint(said.Reason)
	return strings.ToValidUTF8(text[:min(len(text), 200)], "")
}

// explain makes an error for people. What an operator can mend is of
// KindUnavailable: it is tried again until it is mended.
func (m *Management) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, errAbsent):
		return err
	case errors.Is(err, ErrManagementLogin):
		return trove.Errorf(trove.KindUnavailable, "RabbitMQ's management API refuses our user or password: %w", err).
			WithAction("Correct [gotrove] rabbit_management_user and rabbit_management_password, or those in rabbit_management_url.")
	case errors.Is(err, ErrManagementRight):
		return trove.Errorf(trove.KindUnavailable, "RabbitMQ's management API does not let our user make logins: %w", err).
			WithAction("rabbitmqctl set_user_tags USER administrator")
	}
	return trove.Errorf(trove.KindInternal, "RabbitMQ's management API: %w", err)
}

// names gives the names in a list, one by one: lists of users come whole,
// whatever page is asked for.
func (m *Management) names(ctx context.Context, list string, one func(name string)) error {
	return m.do(ctx, http.MethodGet, list+"?columns=name", nil, stream(func(r io.Reader) error {
		d := json.NewDecoder(r)
		if _, err := d.Token(); err != nil {
			return err
		}
		for d.More() {
			var item struct{ Name string }
			if err := d.Decode(&item); err != nil {
				return err
			}
			one(item.Name)
		}
		return nil
	}))
}

// stream reads an answer that is too long to be held.
type stream func(io.Reader) error

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
