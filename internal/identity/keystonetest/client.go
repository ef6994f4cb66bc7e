package keystonetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

type object = map[string]any

// Client calls Keystone's API with a token.
type Client struct {
	URL     string // with its version
	Token   string
	Subject string // the token that a call to /auth/tokens is about
}

// Call sends body as JSON and reads the answer into out; either may be nil. It
// returns the headers.
func (c Client) Call(ctx context.Context, method, path string, body, out any) (http.Header, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.URL+path, in)
	if err != nil {
		return nil, err
	}
	r.Close = true
	r.Header.Set("Content-Type", "application/json")
	if c.Token != "" {
		r.Header.Set("X-Auth-Token", c.Token)
	}
	if c.Subject != "" {
		r.Header.Set("X-Subject-Token", c.Subject)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %.500s", method, path, answer.Status, text)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return answer.Header, nil
}

// create makes a thing of a kind and gives its id.
func (c Client) create(ctx context.Context, path, kind string, what object) (string, error) {
	var out map[string]struct {
		ID string `json:"id"`
	}
	_, err := c.Call(ctx, http.MethodPost, path, object{kind: what}, &out)
	return out[kind].ID, err
}

// find gives the id of the thing of a name.
func (c Client) find(ctx context.Context, path, kinds, name string) (string, error) {
	var out map[string]json.RawMessage
	if _, err := c.Call(ctx, http.MethodGet, path+"?name="+name, nil, &out); err != nil {
		return "", err
	}
	var all []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(out[kinds], &all); err != nil {
		return "", err
	}
	if len(all) != 1 {
		return "", fmt.Errorf("there are %d %s named %q", len(all), kinds, name)
	}
	return all[0].ID, nil
}

var defaultDomain = object{"id": "default"}

// Scopes that Login takes beside Project.
func Unscoped() any { return "unscoped" }
func System() any   { return object{"system": object{"all": true}} }
func Domain() any   { return object{"domain": defaultDomain} }
func Project(name string) any {
	return object{"project": object{"name": name, "domain": defaultDomain}}
}

// Login gets a token for a user, with the scope that Project, System, Domain or
// Unscoped gives.
func (s *Server) Login(ctx context.Context, user, password string, scope any) (string, error) {
	return s.authenticate(ctx, object{"methods": []string{"password"}, "password": object{
		"user": object{"name": user, "password": password, "domain": defaultDomain}}}, scope)
}

// LoginWith gets a token for an application credential.
func (s *Server) LoginWith(ctx context.Context, id, secret string) (string, error) {
	return s.authenticate(ctx, object{"methods": []string{"application_credential"},
		"application_credential": object{"id": id, "secret": secret}}, nil)
}

func (s *Server) authenticate(ctx context.Context, identity object, scope any) (string, error) {
	auth := object{"identity": identity}
	if scope != nil {
		auth["scope"] = scope
	}
	header, err := Client{URL: s.URL()}.Call(ctx, http.MethodPost, "/auth/tokens", object{"auth": auth}, nil)
	return header.Get("X-Subject-Token"), err
}

// Admin gives a client that may do everything.
func (s *Server) Admin(ctx context.Context) (Client, error) {
	token, err := s.Login(ctx, AdminName, Password, Project("admin"))
	return Client{URL: s.URL(), Token: token}, err
}

// Revoke makes a token invalid, as its owner does.
func (s *Server) Revoke(ctx context.Context, token string) error {
	c := Client{URL: s.URL(), Token: token, Subject: token}
	_, err := c.Call(ctx, http.MethodDelete, "/auth/tokens", nil, nil)
	return err
}

// ProjectID gives the id of a project.
func (s *Server) ProjectID(ctx context.Context, name string) (string, error) {
	c, err := s.Admin(ctx)
	if err != nil {
		return "", err
	}
	return c.find(ctx, "/projects", "projects", name)
}

// AddUser makes a user with a role in a project and gives its id.
func (s *Server) AddUser(ctx context.Context, name, role, project string) (string, error) {
	c, err := s.Admin(ctx)
	if err != nil {
		return "", err
	}
	return c.addUser(ctx, name, role, project)
}

func (c Client) addUser(ctx context.Context, name, role, project string) (string, error) {
	id, err := c.create(ctx, "/users", "user", object{"name": name, "password": Password, "domain_id": "default"})
	if err != nil {
		return "", err
	}
	return id, c.grant(ctx, id, role, project)
}

// grant gives a user a role in a project.
func (c Client) grant(ctx context.Context, userID, role, project string) error {
	roleID, err := c.find(ctx, "/roles", "roles", role)
	if err != nil {
		return err
	}
	projectID, err := c.find(ctx, "/projects", "projects", project)
	if err != nil {
		return err
	}
	_, err = c.Call(ctx, http.MethodPut, "/projects/"+projectID+"/users/"+userID+"/roles/"+roleID, nil, nil)
	return err
}

// Disable keeps a user out: its tokens become invalid.
func (s *Server) Disable(ctx context.Context, userID string) error {
	c, err := s.Admin(ctx)
	if err != nil {
		return err
	}
	_, err = c.Call(ctx, http.MethodPatch, "/users/"+userID, object{"user": object{"enabled": false}}, nil)
	return err
}

// AccessRule is a call that an application credential may make.
type AccessRule struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    string `json:"path"`
}

// AddCredential makes an application credential for the owner of a token of a
// project; with rules, it may do nothing else.
func (s *Server) AddCredential(ctx context.Context, token, name string, rules []AccessRule) (id, secret string, err error) {
	c := Client{URL: s.URL(), Token: token, Subject: token}
	var who struct {
		Token struct {
			User struct {
				ID string `json:"id"`
			} `json:"user"`
		} `json:"token"`
	}
	if _, err := c.Call(ctx, http.MethodGet, "/auth/tokens", nil, &who); err != nil {
		return "", "", err
	}
	what := object{"name": name}
	if rules != nil {
		what["access_rules"] = rules
	}
	var out struct {
		Credential struct {
			ID     string `json:"id"`
			Secret string `json:"secret"`
		} `json:"application_credential"`
	}
	_, err = c.Call(ctx, http.MethodPost, "/users/"+who.Token.User.ID+"/application_credentials",
		object{"application_credential": what}, &out)
	return out.Credential.ID, out.Credential.Secret, err
}

// addService puts a service of type database into the catalog, at a URL without
// the project.
func (c Client) addService(ctx context.Context, url string) error {
	id, err := c.create(ctx, "/services", "service", object{"type": "database", "name": "trove"})
	for _, face := range []string{"public", "internal", "admin"} {
		if err != nil {
			return err
		}
		_, err = c.create(ctx, "/endpoints", "endpoint", object{"service_id": id, "interface": face,
			"region_id": Region, "url": url + "/%(project_id)s"})
	}
	return err
}

// furnish makes what there is from the start.
func (s *Server) furnish(ctx context.Context) error {
	c, err := s.Admin(ctx)
	if err != nil {
		return err
	}
	if _, err := c.find(ctx, "/roles", "roles", "service"); err != nil { // later Keystones bring it
		if _, err := c.create(ctx, "/roles", "role", object{"name": "service"}); err != nil {
			return err
		}
	}
	for _, name := range []string{DemoProject, OtherProject, "service"} {
		if _, err := c.create(ctx, "/projects", "project", object{"name": name, "domain_id": "default"}); err != nil {
			return err
		}
	}
	admin, err := c.find(ctx, "/users", "users", AdminName)
	if err != nil {
		return err
	}
	for _, project := range []string{DemoProject, OtherProject} {
		if err := c.grant(ctx, admin, "admin", project); err != nil {
			return err
		}
	}
	if _, err := c.addUser(ctx, DemoName, "member", DemoProject); err != nil {
		return err
	}
	if _, err := c.addUser(ctx, ServiceName, "service", "service"); err != nil {
		return err
	}
	if s.options.DatabaseURL != "" {
		return c.addService(ctx, s.options.DatabaseURL)
	}
	return nil
}
