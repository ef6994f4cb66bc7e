package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gophercloud/gophercloud/v2"
	gopherstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/gotrove/gotrove/internal/trove"
)

// session is a login with the services it was told of. Its token is renewed by
// itself.
type session struct {
	compute, network, volume, image *gophercloud.ServiceClient
	project                         string // our own
	tags                            bool   // Nova takes tags with a new server
	volumeMinor                     int    // of Cinder's microversion 3.x
}

// connection is the session, once there is one.
type connection struct {
	mu      sync.Mutex
	session *session
	turn    chan struct{}
}

// session logs in the first time. Whoever else needs it meanwhile waits; a
// login that fails is tried again by the next call.
func (c *Cloud) session(ctx context.Context) (*session, error) {
	k := &c.connection
	k.mu.Lock()
	if k.turn == nil {
		k.turn = make(chan struct{}, 1)
	}
	s := k.session
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-k.turn }()
	k.mu.Lock()
	s = k.session
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.session = s
	return s, nil
}

func (o *Options) auth() gophercloud.AuthOptions {
	a := gophercloud.AuthOptions{AllowReauth: true, Username: o.Username, UserID: o.UserID, DomainID: o.UserDomainID, DomainName: o.UserDomainName}
	if a.UserID != "" || a.Username == "" {
		a.Username, a.DomainID, a.DomainName = "", "", "" // an id needs no domain
	}
	if a.DomainID != "" {
		a.DomainName = ""
	}
	if o.CredentialID != "" || o.CredentialName != "" {
		a.ApplicationCredentialID, a.ApplicationCredentialSecret = o.CredentialID, o.CredentialSecret.Reveal()
		if o.CredentialID == "" {
			a.ApplicationCredentialName = o.CredentialName
		} else {
			a.UserID, a.Username, a.DomainID, a.DomainName = "", "", "", ""
		}
		return a
	}
	a.Password = o.Password.Reveal()
	scope := gophercloud.AuthScope{ProjectID: o.ProjectID}
	if o.ProjectID == "" {
		scope.ProjectName, scope.DomainID, scope.DomainName = o.ProjectName, o.ProjectDomainID, o.ProjectDomainName
		if scope.DomainID != "" {
			scope.DomainName = ""
		}
	}
	a.Scope = &scope
	return a
}

// authenticate logs in at Keystone, with the token's roles and catalog.
func (c *Cloud) authenticate(ctx context.Context) (*gophercloud.ProviderClient, tokens.CreateResult, error) {
	provider, err := gopherstack.NewClient(c.o.AuthURL)
	if err != nil {
		return nil, tokens.CreateResult{}, trove.Errorf(trove.KindBadRequest, "[service_credentials] auth_url: %w", err)
	}
	provider.HTTPClient = *c.http
	provider.UserAgent.Prepend("gotrove")
	auth := c.o.auth()
	if err := gopherstack.AuthenticateV3(ctx, provider, &auth, gophercloud.EndpointOpts{}); err != nil {
		return nil, tokens.CreateResult{}, loginFailed(ctx, err)
	}
	result, ok := provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return nil, result, trove.Errorf(trove.KindInternal, "Keystone's answer to the login is not a token's")
	}
	return provider, result, nil
}

// service is one that a session needs.
type service struct {
	name, kind string
	e          Endpoint
	types      []string // in the catalog
	version    string   // that belongs to the URL
	project    bool     // so does the project, where the operator gives the URL
	to         **gophercloud.ServiceClient
}

// services are those of a session.
func (c *Cloud) services(s *session) []service {
	return []service{
		{"nova", "compute", c.o.Compute, []string{c.o.Compute.Type}, "", true, &s.compute},
		{"neutron", "network", c.o.Network, []string{c.o.Network.Type, "networking"}, "v2.0/", false, &s.network},
		{"cinder", "block-storage", c.o.Volume, []string{c.o.Volume.Type, "block-storage", "block-store"}, "", true, &s.volume},
		{"glance", "image", c.o.Image, []string{c.o.Image.Type}, "v2/", false, &s.image},
	}
}

func (c *Cloud) login(ctx context.Context) (*session, error) {
	provider, result, err := c.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil {
		return nil, failed(ctx, err, "read the catalog of services")
	}
	project, err := result.ExtractProject()
	if err != nil || project == nil || project.ID == "" { // lists would be of all projects
		return nil, trove.Errorf(trove.KindBadRequest, "The login in [service_credentials] is for no project.").
			WithAction("set [service_credentials] project_id or project_name, or use an application credential")
	}
	s := &session{project: project.ID}
	for _, service := range c.services(s) {
		if *service.to, err = c.client(provider, catalog, service); err != nil {
			return nil, err
		}
	}
	return s, c.negotiate(ctx, s)
}

// client finds a service.
func (c *Cloud) client(provider *gophercloud.ProviderClient, catalog *tokens.ServiceCatalog, service service) (*gophercloud.ServiceClient, error) {
	base := service.e.URL
	switch {
	case base == "":
		if base = c.find(catalog, service.types, service.e.Interface); base == "" {
			return nil, trove.Errorf(trove.KindUnavailable, "Keystone's catalog has no %s endpoint of type %s in region %q.",
				availability(service.e.Interface), strings.Join(service.types, " or "), c.o.Region).
				WithAction("openstack endpoint list; or set %s_url, %s_service_type or %s_endpoint_type", service.name, service.name, service.name)
		}
	case service.project && c.o.ProjectID != "":
		base = gophercloud.NormalizeURL(base) + c.o.ProjectID
	}
	base = gophercloud.NormalizeURL(base)
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return nil, trove.Errorf(trove.KindBadRequest, "%s's endpoint %q is not a URL", service.name, base)
	}
	if service.e.Insecure {
		c.gate.trust(u.Host)
	}
	client := &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: base, Type: service.kind}
	if service.version != "" && !strings.HasSuffix(base, "/"+service.version) {
		client.ResourceBase = base + service.version
	}
	return client, nil
}

func availability(word string) gophercloud.Availability {
	switch word {
	case "internal", "internalURL":
		return gophercloud.AvailabilityInternal
	case "admin", "adminURL":
		return gophercloud.AvailabilityAdmin
	}
	return gophercloud.AvailabilityPublic
}

// find finds the URL of a service.
func (c *Cloud) find(catalog *tokens.ServiceCatalog, types []string, iface string) string {
	for _, t := range types {
		for _, entry := range catalog.Entries {
			if entry.Type != t {
				continue
			}
			for _, e := range entry.Endpoints {
				inRegion := c.o.Region == "" || e.Region == c.o.Region || e.RegionID == c.o.Region
				if inRegion && gophercloud.Availability(e.Interface) == availability(iface) {
					return e.URL
				}
			}
		}
	}
	return ""
}

// Microversions that are asked for. Nova takes tags with a new server since 2.52
// and shows a server's flavor since 2.47; Cinder extends attached volumes since
// 3.42.
const (
	novaWanted   = 57
	novaTags     = 52
	cinderWanted = 42
)

// novaVersion is the minor version to ask for at least.
func novaVersion(option string) (int, error) {
	if option == "" {
		return novaWanted, nil
	}
	major, minor, ok := strings.Cut(option, ".")
	n, err := strconv.Atoi(minor)
	if !ok || major != "2" || err != nil {
		return 0, trove.Errorf(trove.KindBadRequest, "[DEFAULT] nova_client_version: %q is not a version of Nova's API such as 2.57", option)
	}
	return max(n, novaWanted), nil
}

// negotiate chooses microversions: what we want, or the newest there is.
func (c *Cloud) negotiate(ctx context.Context, s *session) error {
	wanted, err := novaVersion(c.o.NovaVersion)
	if err != nil {
		return err
	}
	nova, err := c.newest(ctx, s.compute, 2)
	if err != nil {
		return err
	}
	nova = min(nova, wanted)
	s.compute.Microversion = fmt.Sprintf("2.%d", max(nova, 1))
	s.tags = nova >= novaTags
	cinder, err := c.newest(ctx, s.volume, 3)
	if err != nil {
		return err
	}
	s.volumeMinor = min(cinder, cinderWanted)
	s.volume.Microversion = fmt.Sprintf("3.%d", s.volumeMinor)
	c.log.InfoContext(ctx, "logged in at the cloud", "project_id", s.project, "compute", s.compute.Endpoint, "compute_version", s.compute.Microversion,
		"network", s.network.Endpoint, "volume", s.volume.Endpoint, "volume_version", s.volume.Microversion, "image", s.image.Endpoint)
	if !s.tags {
		c.log.WarnContext(ctx, "Nova is too old for tags: servers are found by their names", "compute_version", s.compute.Microversion)
	}
	return nil
}

// newest asks a service for its newest microversion's minor number.
func (c *Cloud) newest(ctx context.Context, client *gophercloud.ServiceClient, major int) (int, error) {
	n, _, err := c.versions(ctx, client, major)
	return n, err
}

// versions is newest with the answer's headers.
func (c *Cloud) versions(ctx context.Context, client *gophercloud.ServiceClient, major int) (int, http.Header, error) {
	at, err := utils.BaseVersionedEndpoint(client.Endpoint)
	if err != nil {
		return 0, nil, trove.Errorf(trove.KindBadRequest, "%q is not an endpoint: %w", client.Endpoint, err)
	}
	type version struct {
		ID      string `json:"id"`
		Version string `json:"version"`
	}
	var doc struct {
		Version  version   `json:"version"`
		Versions []version `json:"versions"`
	}
	var raw json.RawMessage
	answer, err := client.ProviderClient.Request(ctx, "GET", gophercloud.NormalizeURL(at),
		&gophercloud.RequestOpts{JSONResponse: &raw, OkCodes: []int{http.StatusOK, http.StatusMultipleChoices}})
	if err == nil {
		err = json.Unmarshal(raw, &doc)
	}
	if err != nil {
		return 0, nil, failed(ctx, err, "ask %s for its versions", client.Type)
	}
	prefix := strconv.Itoa(major) + "."
	for _, v := range slices.Concat([]version{doc.Version}, doc.Versions) {
		if minor, ok := strings.CutPrefix(v.Version, prefix); ok {
			if n, err := strconv.Atoi(minor); err == nil {
				return n, answer.Header, nil
			}
		}
	}
	return 0, answer.Header, nil
}
