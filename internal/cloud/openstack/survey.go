package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/gotrove/gotrove/internal/trove"
)

// Survey is what a region shows to those who look for what is wrong with it. It
// has a login of its own and goes on where a Cloud gives up: at a service that
// is missing. It changes nothing.
type Survey struct {
	Account  Account
	Services []ServiceView
	// Regions are those of the catalog.
	Regions []string

	c *Cloud
	s *session
}

// Account is who we are at Keystone.
type Account struct {
	User, UserID, Project, ProjectID string
	Roles                            []string
	Clock                            Clock
}

// Clock is what a service's clock showed, in whole seconds, and when it was
// asked and had answered. A zero Shown is not known.
type Clock struct{ Shown, Asked, Answered time.Time }

// ServiceView is a service as it is found. Its Problem, if it has one, is why
// it cannot be used.
type ServiceView struct {
	Name, Type string // nova, compute
	Interface  string // public
	URL        string
	Minor      int // of the newest microversion of nova (2.x) and cinder (3.x); 0 if there is none
	Problem    error
	Clock      Clock
}

// Survey logs in and looks at each service. An error is the login's.
func (c *Cloud) Survey(ctx context.Context) (*Survey, error) {
	v := &Survey{c: c, s: &session{}}
	asked := time.Now()
	provider, token, err := c.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	v.Account.Clock = clockOf(token.Header, asked)
	if err := v.identify(ctx, token); err != nil {
		return nil, err
	}
	catalog, err := token.ExtractServiceCatalog()
	if err != nil {
		return nil, failed(ctx, err, "read the catalog of services")
	}
	for _, entry := range catalog.Entries {
		for _, e := range entry.Endpoints {
			if !slices.Contains(v.Regions, e.Region) {
				v.Regions = append(v.Regions, e.Region)
			}
		}
	}
	slices.Sort(v.Regions)
	for _, service := range c.services(v.s) {
		v.Services = append(v.Services, c.look(ctx, provider, catalog, service))
	}
	return v, nil
}

func (v *Survey) identify(ctx context.Context, token tokens.CreateResult) error {
	user, err := token.ExtractUser()
	if err == nil && user != nil {
		v.Account.User, v.Account.UserID = user.Name, user.ID
	}
	project, perr := token.ExtractProject()
	roles, rerr := token.ExtractRoles()
	for _, err := range []error{err, perr, rerr} {
		if err != nil {
			return failed(ctx, err, "read the token")
		}
	}
	if project == nil {
		return trove.Errorf(trove.KindBadRequest, "The login in [service_credentials] is for no project.").
			WithAction("set [service_credentials] project_id or project_name, or use an application credential")
	}
	v.Account.Project, v.Account.ProjectID, v.s.project = project.Name, project.ID, project.ID
	for _, r := range roles {
		v.Account.Roles = append(v.Account.Roles, r.Name)
	}
	slices.Sort(v.Account.Roles)
	return nil
}

// look finds a service and asks it something that every service answers to those
// it lets in.
func (c *Cloud) look(ctx context.Context, provider *gophercloud.ProviderClient, catalog *tokens.ServiceCatalog, service service) ServiceView {
	out := ServiceView{Name: service.name, Type: service.types[0], Interface: string(availability(service.e.Interface))}
	client, err := c.client(provider, catalog, service)
	if err != nil {
		out.Problem = err
		return out
	}
	out.URL = client.Endpoint
	asked := time.Now()
	var header http.Header
	switch service.name {
	case "nova":
		out.Minor, header, out.Problem = c.versions(ctx, client, 2)
		client.Microversion = fmt.Sprintf("2.%d", max(1, min(out.Minor, novaWanted)))
	case "cinder":
		out.Minor, header, out.Problem = c.versions(ctx, client, 3)
		client.Microversion = fmt.Sprintf("3.%d", min(out.Minor, cinderWanted))
	case "neutron":
		header, out.Problem = read(ctx, client, "networks?limit=1&fields=id")
	case "glance":
		header, out.Problem = read(ctx, client, "images?limit=1")
	}
	if out.Problem == nil {
		out.Clock = clockOf(header, asked)
		*service.to = client
	}
	return out
}

// read asks a service for a list and gives the answer's headers.
func read(ctx context.Context, client *gophercloud.ServiceClient, what string) (http.Header, error) {
	var raw json.RawMessage
	answer, err := client.Get(ctx, client.ServiceURL(what), &raw, nil)
	if err != nil {
		return nil, failed(ctx, err, "read from it")
	}
	return answer.Header, nil
}

func clockOf(h http.Header, asked time.Time) Clock {
	shown, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return Clock{}
	}
	return Clock{shown, asked, time.Now()}
}

// MayBoot reports whether Nova lets us make servers in our project. It asks for
// one of a flavor that cannot be: nothing comes of it.
func (v *Survey) MayBoot(ctx context.Context) error {
	const none = "gotrove-doctor-no-such-flavor"
	body := map[string]any{"server": map[string]any{"name": none, "flavorRef": none, "imageRef": trove.NewID(), "networks": []any{}}}
	_, err := v.s.compute.Post(ctx, v.s.compute.ServiceURL("servers"), body, nil, nil)
	if isStatus(err, http.StatusBadRequest, http.StatusNotFound) {
		return nil
	}
	return failed(ctx, err, "create a server")
}

// KeyPair reports whether our user has a key pair; KindNotFound.
func (v *Survey) KeyPair(ctx context.Context, name string) error {
	_, err := keypairs.Get(ctx, v.s.compute, name, nil).Extract()
	return failed(ctx, err, "look at key pair %s", name)
}

// Has reports whether a service, such as nova, can be asked.
func (v *Survey) Has(name string) bool {
	return slices.ContainsFunc(v.Services, func(s ServiceView) bool { return s.Name == name && s.Problem == nil })
}
