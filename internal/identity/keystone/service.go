package keystone

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/gotrove/gotrove/internal/trove"
)

// service is our own login at Keystone.
type service struct {
	o        Options
	base     string // https://keystone.example:5000/v3
	provider *gophercloud.ProviderClient
	auth     gophercloud.AuthOptions
	wanted   gophercloud.Availability

	turn chan struct{} // held by whoever looks at or renews what follows
	now  login
}

// login is a token of ours.
type login struct {
	token    string
	endpoint string // where tokens are checked, with its version
	renew    time.Time
	expires  time.Time
}

func newService(o Options, base string, client *http.Client) (*service, error) {
	wrong := func(what string) error {
		return trove.Errorf(trove.KindBadRequest, "[keystone_authtoken] %s", what)
	}
	s := &service{o: o, base: base, turn: make(chan struct{}, 1)}
	switch strings.TrimSuffix(o.Interface, "URL") {
	case "public":
		s.wanted = gophercloud.AvailabilityPublic
	case "internal":
		s.wanted = gophercloud.AvailabilityInternal
	case "admin":
		s.wanted = gophercloud.AvailabilityAdmin
	default:
		return nil, wrong("interface: want public, internal or admin")
	}
	s.auth = gophercloud.AuthOptions{IdentityEndpoint: base, UserID: o.UserID}
	if o.UserID == "" {
		s.auth.Username, s.auth.DomainID = o.Username, o.UserDomainID
		if o.UserDomainID == "" {
			s.auth.DomainName = o.UserDomainName
		}
	}
	switch {
	case o.CredentialID != "" || o.CredentialName != "":
		if o.CredentialSecret.IsZero() {
			return nil, wrong("application_credential_secret is needed")
		}
		s.auth.ApplicationCredentialID = o.CredentialID
		s.auth.ApplicationCredentialSecret = o.CredentialSecret.Reveal()
		if o.CredentialID != "" {
			s.auth.UserID, s.auth.Username, s.auth.DomainID, s.auth.DomainName = "", "", "", ""
			break
		}
		s.auth.ApplicationCredentialName = o.CredentialName
		if o.UserID == "" && o.Username == "" {
			return nil, wrong("application_credential_name needs username or user_id; application_credential_id does not")
		}
	case o.UserID == "" && o.Username == "":
		return nil, wrong("username is needed")
	case o.Password.IsZero():
		return nil, wrong("password is needed")
	default:
		s.auth.Password = o.Password.Reveal()
		s.auth.Scope = &gophercloud.AuthScope{System: o.SystemScope}
		if o.SystemScope {
			break
		}
		if s.auth.Scope.ProjectID = o.ProjectID; o.ProjectID == "" {
			if o.ProjectName == "" {
				return nil, wrong("project_name is needed")
			}
			s.auth.Scope.ProjectName, s.auth.Scope.DomainID = o.ProjectName, o.ProjectDomainID
			if o.ProjectDomainID == "" {
				s.auth.Scope.DomainName = o.ProjectDomainName
			}
			if s.auth.Scope.DomainID == "" && s.auth.Scope.DomainName == "" {
				return nil, wrong("project_domain_name is needed")
			}
		}
	}
	if s.auth.Username != "" && s.auth.DomainID == "" && s.auth.DomainName == "" {
		return nil, wrong("user_domain_name is needed")
	}
	var err error
	if s.provider, err = openstack.NewClient(base); err != nil {
		return nil, wrong("auth_url: " + err.Error())
	}
	s.provider.HTTPClient = *client
	s.provider.UserAgent.Prepend(userAgent)
	return s, nil
}

// token gives a token of ours, not the one that is known to be no good. It is
// renewed well before its end; if that fails, the old one does as long as it
// lives.
func (s *service) token(ctx context.Context, bad string) (login, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return login{}, ctx.Err()
	}
	now := s.o.Now()
	alive := s.now.token != "" && s.now.token != bad && now.Before(s.now.expires)
	if alive && now.Before(s.now.renew) {
		return s.now, nil
	}
	fresh, err := s.login(ctx)
	switch {
	case err == nil:
		s.now = fresh
	case !alive:
		return login{}, err
	default:
		// Not at each request: it takes time, and Keystone may be short of it.
		s.now.renew = now.Add(30 * time.Second)
		s.o.Log.WarnContext(ctx, "the service's token cannot be renewed yet", "error", err, "expires", s.now.expires)
	}
	return s.now, nil
}

// login gets a token at auth_url, and finds in its catalog where tokens are
// checked.
func (s *service) login(ctx context.Context) (login, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	endpoint := &gophercloud.ServiceClient{ProviderClient: s.provider, Endpoint: s.base + "/"}
	var result tokens.CreateResult
	for attempt := 0; ; attempt++ {
		result = tokens.Create(ctx, endpoint, &s.auth)
		if _, answered := errors.AsType[gophercloud.ErrUnexpectedResponseCode](result.Err); result.Err == nil || answered ||
			!again(ctx, attempt, s.o.Retries, result.Err) {
			break
		}
	}
	token, err := result.ExtractToken()
	if err != nil {
		return login{}, s.explain(err)
	}
	now := s.o.Now()
	life := token.ExpiresAt.Sub(now)
	if token.ID == "" || life <= 0 {
		return login{}, &refusal{"Keystone gave a token that is not valid now", "Check the clocks of this machine and of Keystone."}
	}
	l := login{token: token.ID, endpoint: s.base, expires: token.ExpiresAt, renew: now.Add(life - min(life/5, 10*time.Minute))}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil {
		return login{}, err
	}
	found := s.endpoint(catalog)
	if found == "" {
		s.o.Log.WarnContext(ctx, "the catalog has no such endpoint of Keystone; tokens are checked at auth_url",
			"interface", s.o.Interface, "region", s.o.Region)
		return l, nil
	}
	l.endpoint, err = versioned(found)
	return l, err
}

// endpoint is Keystone's own in a catalog, empty if it has none that is wanted.
// Which version an endpoint has is not asked: it is always v3.
func (s *service) endpoint(catalog *tokens.ServiceCatalog) string {
	for _, entry := range catalog.Entries {
		for _, e := range entry.Endpoints {
			if entry.Type == "identity" && e.Interface == string(s.wanted) && (s.o.Region == "" || e.Region == s.o.Region || e.RegionID == s.o.Region) {
				return gophercloud.NormalizeURL(e.URL)
			}
		}
	}
	return ""
}

// explain tells a login that Keystone refuses from one it could not take. What
// gophercloud says holds nothing of the request's body.
func (s *service) explain(err error) error {
	code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err)
	if !ok {
		return err
	}
	switch code.Actual {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest:
		return &refusal{"Keystone refuses the service's login (" + http.StatusText(code.Actual) + ")",
			"Check auth_url, username, password, project and domains in [keystone_authtoken]."}
	}
	return err
}
