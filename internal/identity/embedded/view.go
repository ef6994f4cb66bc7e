package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

const timeFormat = "2006-01-02T15:04:05.000000Z"

func stamp(us int64) string { return time.UnixMicro(us).UTC().Format(timeFormat) }

// fixedID makes the id of a thing that has none of its own: always the same.
func fixedID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

var domainRef = map[string]any{"id": domainID, "name": domainName}

// tokenView is a token's body; ?nocatalog leaves the catalog out.
func (s *Server) tokenView(r *http.Request, c claims) any {
	u, _ := s.dir.userByID(c.User)
	v := map[string]any{
		"methods": c.Methods, "audit_ids": c.Audit,
		"issued_at": stamp(c.Issued), "expires_at": stamp(c.Expires),
		"user": map[string]any{"id": u.ID, "name": u.Name, "domain": domainRef, "password_expires_at": nil},
	}
	if c.Project == "" {
		return v
	}
	p, _ := s.dir.project(func(p project) bool { return p.ID == c.Project })
	v["project"] = map[string]any{"id": p.ID, "name": p.Name, "domain": domainRef}
	v["is_domain"] = false
	v["roles"] = s.dir.roles(u, p.ID)
	if !r.URL.Query().Has("nocatalog") {
		v["catalog"] = s.catalog(p.ID)
	}
	return v
}

type catalogService struct {
	ID        string            `json:"id"`
	Type      string            `json:"type"`
	Name      string            `json:"name"`
	Endpoints []catalogEndpoint `json:"endpoints"`
}

type catalogEndpoint struct {
	ID        string `json:"id"`
	Interface string `json:"interface"`
	Region    string `json:"region"`
	RegionID  string `json:"region_id"`
	URL       string `json:"url"`
}

func (s *Server) catalog(projectID string) []catalogService {
	var out []catalogService
	for _, svc := range s.o.Services {
		c := catalogService{ID: fixedID("service", svc.Type), Type: svc.Type, Name: svc.Name}
		for _, face := range []string{"public", "internal", "admin"} {
			c.Endpoints = append(c.Endpoints, catalogEndpoint{
				ID: fixedID("endpoint", svc.Type, face), Interface: face, Region: s.o.Region, RegionID: s.o.Region,
				URL: strings.ReplaceAll(svc.URL, "{project_id}", projectID),
			})
		}
		out = append(out, c)
	}
	return out
}

func self(r *http.Request, path ...string) map[string]any {
	return map[string]any{"self": base(r) + "/v3/" + strings.Join(path, "/")}
}

func projectView(r *http.Request, p project) any {
	return map[string]any{
		"id": p.ID, "name": p.Name, "description": p.Description, "enabled": p.Enabled, "domain_id": domainID,
		"parent_id": domainID, "is_domain": false, "tags": []any{}, "options": map[string]any{}, "links": self(r, "projects", p.ID),
	}
}

func projectViews(r *http.Request, ps []project) []any {
	var out []any
	for _, p := range ps {
		out = append(out, projectView(r, p))
	}
	return out
}

func userView(r *http.Request, u user) any {
	v := map[string]any{
		"id": u.ID, "name": u.Name, "enabled": u.Enabled, "domain_id": domainID, "password_expires_at": nil,
		"options": map[string]any{}, "links": self(r, "users", u.ID),
	}
	if u.DefaultProjectID != "" {
		v["default_project_id"] = u.DefaultProjectID
	}
	return v
}

// collections are what clients may look at. What is about others is for
// administrators.
func (s *Server) collections(get func(string, action)) {
	get("/projects", func(r *http.Request, c caller) (any, error) {
		if !c.admin {
			return nil, forbidden("list_projects")
		}
		return list(r, "projects", filter(r, projectViews(r, s.dir.Projects)))
	})
	get("/projects/{id}", func(r *http.Request, c caller) (any, error) {
		p, ok := s.dir.project(func(p project) bool { return p.ID == r.PathValue("id") })
		switch {
		case !c.admin && len(s.dir.roles(c.user, r.PathValue("id"))) == 0:
			return nil, forbidden("get_project")
		case !ok:
			return nil, notFound("project", r.PathValue("id"))
		}
		return map[string]any{"project": projectView(r, p)}, nil
	})
	get("/users", func(r *http.Request, c caller) (any, error) {
		if !c.admin {
			return nil, forbidden("list_users")
		}
		var out []any
		for _, u := range s.dir.Users {
			out = append(out, userView(r, u))
		}
		return list(r, "users", filter(r, out))
	})
	aboutUser := func(r *http.Request, c caller, what string) (user, error) {
		id := r.PathValue("id")
		if !c.admin && id != c.User {
			return user{}, forbidden(what)
		}
		u, ok := s.dir.user(func(u user) bool { return u.ID == id })
		if !ok {
			return user{}, notFound("user", id)
		}
		return u, nil
	}
	get("/users/{id}", func(r *http.Request, c caller) (any, error) {
		u, err := aboutUser(r, c, "get_user")
		return map[string]any{"user": userView(r, u)}, err
	})
	get("/users/{id}/projects", func(r *http.Request, c caller) (any, error) {
		u, err := aboutUser(r, c, "list_user_projects")
		if err != nil {
			return nil, err
		}
		return list(r, "projects", projectViews(r, s.dir.projectsOf(u)))
	})
	s.fixed(get, "domain", "domains", func(r *http.Request) []any {
		return []any{map[string]any{"id": domainID, "name": domainName, "description": "The default domain", "enabled": true, "options": map[string]any{}, "tags": []any{}, "links": self(r, "domains", domainID)}}
	})
	s.fixed(get, "role", "roles", func(r *http.Request) (out []any) {
		for _, x := range s.dir.Roles {
			out = append(out, map[string]any{"id": x.ID, "name": x.Name, "domain_id": nil, "description": nil, "options": map[string]any{}, "links": self(r, "roles", x.ID)})
		}
		return out
	})
	s.fixed(get, "region", "regions", func(r *http.Request) []any {
		return []any{map[string]any{"id": s.o.Region, "description": "", "parent_region_id": nil, "links": self(r, "regions", s.o.Region)}}
	})
	s.fixed(get, "service", "services", func(r *http.Request) (out []any) {
		for _, x := range s.catalog("") {
			out = append(out, map[string]any{"id": x.ID, "type": x.Type, "name": x.Name, "enabled": true, "links": self(r, "services", x.ID)})
		}
		return out
	})
	s.fixed(get, "endpoint", "endpoints", func(r *http.Request) (out []any) {
		for _, x := range s.catalog("%(project_id)s") {
			for _, e := range x.Endpoints {
				out = append(out, map[string]any{"id": e.ID, "service_id": x.ID, "interface": e.Interface, "region": e.Region, "region_id": e.RegionID, "url": e.URL, "enabled": true, "links": self(r, "endpoints", e.ID)})
			}
		}
		return out
	})
}

// fixed serves a collection that everybody who is logged in may read.
func (s *Server) fixed(get func(string, action), one, many string, items func(*http.Request) []any) {
	get("/"+many, func(r *http.Request, _ caller) (any, error) { return list(r, many, filter(r, items(r))) })
	get("/"+many+"/{id}", func(r *http.Request, _ caller) (any, error) {
		for _, i := range items(r) {
			if i.(map[string]any)["id"] == r.PathValue("id") {
				return map[string]any{one: i}, nil
			}
		}
		return nil, notFound(one, r.PathValue("id"))
	})
}

// filter keeps the items that equal the query's exact filters.
func filter(r *http.Request, items []any) []any {
	q := r.URL.Query()
	return slices.DeleteFunc(items, func(i any) bool {
		for _, name := range []string{"name", "type", "domain_id", "service_id", "interface", "region_id"} {
			if have, ok := i.(map[string]any)[name]; ok && q.Has(name) && have != q.Get(name) {
				return true
			}
		}
		return false
	})
}
