package keystone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/trove"
)

// maxAnswer bounds what Keystone says of a token; a catalog is most of it.
const maxAnswer = 4 << 20

// maxSkew is how far apart Keystone's clock and ours may be before that counts:
// what it says of its own is cut to seconds.
const maxSkew = 2 * time.Second

// refusal is that Keystone answers and does not let us work.
type refusal struct {
	what   string
	action string
}

func (r *refusal) Error() string { return r.what }

// ask asks Keystone about a token. errBad: it is no good.
func (v *Validator) ask(ctx context.Context, token string) (identity.Identity, error) {
	own, err := v.service.token(ctx, "")
	if err != nil {
		return identity.Identity{}, err
	}
	id, status, err := v.get(ctx, own, token)
	if err == nil && status == http.StatusUnauthorized {
		// Our own token was revoked, or Keystone has new keys.
		if own, err = v.service.token(ctx, own.token); err != nil {
			return identity.Identity{}, err
		}
		id, status, err = v.get(ctx, own, token)
	}
	if err != nil {
		return identity.Identity{}, err
	}
	switch status {
	case http.StatusOK:
		return id, nil
	case http.StatusNotFound, http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge:
		return identity.Identity{}, errBad
	case http.StatusUnauthorized:
		return identity.Identity{}, &refusal{"Keystone takes the service's login and not the token it gave for it",
			"Check that all servers of Keystone have the same keys and clocks."}
	case http.StatusForbidden:
		return identity.Identity{}, &refusal{"the service's user may not check tokens",
			"Give the user of [keystone_authtoken] the role service, or admin, in its project."}
	}
	return identity.Identity{}, fmt.Errorf("GET %s/auth/tokens: status %d", own.endpoint, status)
}

// get sends the question; a connection that fails is tried again.
func (v *Validator) get(ctx context.Context, own login, token string) (identity.Identity, int, error) {
	address := own.endpoint + "/auth/tokens"
	if v.o.WithoutCatalog {
		address += "?nocatalog"
	}
	for attempt := 0; ; attempt++ {
		id, status, err := v.once(ctx, address, own.token, token)
		if err == nil || !again(ctx, attempt, v.o.Retries, err) {
			return id, status, err
		}
	}
}

// again waits before the next attempt; false if there is none: a Keystone that
// does not answer in time is not asked more often for it.
func again(ctx context.Context, attempt, most int, err error) bool {
	if attempt >= most || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	backoff := time.NewTimer(50*time.Millisecond<<min(attempt, 4) + rand.N(50*time.Millisecond))
	defer backoff.Stop()
	select {
	case <-backoff.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (v *Validator) once(ctx context.Context, address, own, token string) (identity.Identity, int, error) {
	ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
	defer cancel()
	var id identity.Identity
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return id, 0, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("X-Auth-Token", own)
	r.Header.Set("X-Subject-Token", token)
	// Without it, Keystone says that restricted tokens are no good: it is a
	// promise to keep to their rules (identity.Identity.Permits).
	r.Header.Set("OpenStack-Identity-Access-Rules", "1.0")
	v.requests.Add(1)
	began := v.o.Now()
	answer, err := v.http.Do(r)
	if err != nil {
		v.failures.Add(1)
		return id, 0, err // names the URL, no header
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
		return id, answer.StatusCode, nil
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("GET %s: the answer is longer than %d bytes", address, maxAnswer)
	}
	if err == nil {
		id, err = parse(b)
	}
	// Its end is a time of Keystone's clock. Whole seconds are no difference.
	if date, bad := http.ParseTime(answer.Header.Get("Date")); err == nil && bad == nil {
		if ahead := began.Sub(date); ahead.Abs() > maxSkew {
			id.ExpiresAt = id.ExpiresAt.Add(ahead)
		}
	}
	if err != nil {
		v.failures.Add(1)
	}
	return id, answer.StatusCode, err
}

const userAgent = "gotrove keystone"

type named struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"domain"`
}

// parse reads Keystone's answer.
func parse(b []byte) (identity.Identity, error) {
	var in struct {
		Token struct {
			User           named           `json:"user"`
			Project        named           `json:"project"`
			Roles          []named         `json:"roles"`
			Catalog        json.RawMessage `json:"catalog"`
			ExpiresAt      time.Time       `json:"expires_at"`
			IsAdminProject *bool           `json:"is_admin_project"`
			System         map[string]bool `json:"system"`
			Credential     *struct {
				AccessRules *[]identity.AccessRule `json:"access_rules"`
			} `json:"application_credential"`
		} `json:"token"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return identity.Identity{}, fmt.Errorf("what Keystone says of a token is not understood: %w", err)
	}
	t := in.Token
	if t.User.ID == "" || t.ExpiresAt.IsZero() {
		return identity.Identity{}, errors.New("what Keystone says of a token lacks its user or its end")
	}
	id := identity.Identity{UserID: t.User.ID, UserName: t.User.Name, UserDomainID: t.User.Domain.ID, UserDomainName: t.User.Domain.Name,
		ProjectID: t.Project.ID, ProjectName: t.Project.Name, ProjectDomainID: t.Project.Domain.ID, ProjectDomainName: t.Project.Domain.Name,
		// A copy: the slice would keep the whole answer.
		Catalog: slices.Clone(t.Catalog), ExpiresAt: t.ExpiresAt, System: t.System["all"],
		NotAdminProject: t.IsAdminProject != nil && !*t.IsAdminProject}
	for _, r := range t.Roles {
		id.Roles = append(id.Roles, r.Name)
	}
	if t.Credential == nil || t.Credential.AccessRules == nil {
		return id, nil
	}
	id.Restricted, id.AccessRules = true, *t.Credential.AccessRules
	if len(t.Catalog) == 0 {
		return id, nil
	}
	var services []struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(t.Catalog, &services); err != nil {
		return identity.Identity{}, fmt.Errorf("the catalog of a token is not understood: %w", err)
	}
	for _, s := range services {
		id.Services = append(id.Services, s.Type)
	}
	return id, nil
}

func newTransport(o Options) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure} //nolint:gosec // the operator's word
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] cafile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] cafile: %s has no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile != "" {
		keyFile := o.KeyFile
		if keyFile == "" {
			keyFile = o.CertFile
		}
		if _, err := tls.LoadX509KeyPair(o.CertFile, keyFile); err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] certfile, keyfile: %w", err)
		}
		// Read at each connection, so that a new certificate counts at once.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(o.CertFile, keyFile)
			return &c, err
		}
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config,
		DialContext:         (&net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: o.Timeout, MaxIdleConnsPerHost: maxRequests / 4, IdleConnTimeout: 60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true}, nil
}
