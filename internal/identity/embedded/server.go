// Package embedded is the identity service of a single machine: the subset of
// Keystone's v3 API that stock clients need to log in, find the services and
// look around. People are in a users file, which clients cannot change.
//
// It owns the users file, the key that signs tokens and the list of revoked
// ones, all in one directory. It knows nothing of databases: the catalog's
// services are given to it.
package embedded

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// Service is an entry of the catalog.
type Service struct {
	Type string // database
	Name string // trove
	URL  string // {project_id} is replaced
}

// Options of the service. Dir, PublicURL and OpenRC are needed.
type Options struct {
	Dir       string // made if it is not there, 0700
	PublicURL string // where clients find this service, without /v3: http://127.0.0.1:5000
	OpenRC    string // path of the file for shells, written on the first start
	Region    string // RegionOne
	Services  []Service
	TokenLife time.Duration // 1 h
	// Logins is how many may wait to have their password checked; more get 429.
	Logins int // 16
	Now    func() time.Time
	Log    *slog.Logger
}

// Server is the identity service.
type Server struct {
	o       Options
	hasher  *secret.Hasher
	dir     *directory
	key     []byte
	revoked *revocations
	mux     *http.ServeMux
}

var _ identity.Validator = (*Server)(nil)

// Open reads the service's files, making them on the first start.
func Open(ctx context.Context, o Options) (*Server, error) {
	if o.Region == "" {
		o.Region = "RegionOne"
	}
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	if o.Logins == 0 {
		o.Logins = 16
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.PublicURL = strings.TrimRight(o.PublicURL, "/")
	o.Services = append([]Service{{Type: "identity", Name: "keystone", URL: o.PublicURL + "/v3"}}, o.Services...)
	s := &Server{o: o, hasher: secret.NewHasher(o.Logins)}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, durable.Explain(err)
	}
	var err error
	if s.key, err = loadKey(o.Dir); err != nil {
		return nil, err
	}
	if s.revoked, err = loadRevocations(o.Dir); err != nil {
		return nil, err
	}
	if s.dir, err = s.loadDirectory(ctx); err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

func (s *Server) authURL() string { return s.o.PublicURL + "/v3" }

// Validate tells what a token stands for.
func (s *Server) Validate(_ context.Context, token string) (identity.Identity, error) {
	c, err := s.open(strings.TrimSpace(token))
	if err != nil {
		return identity.Identity{}, err
	}
	u, _ := s.dir.userByID(c.User)
	id := identity.Identity{UserID: u.ID, UserName: u.Name, UserDomainID: domainID, UserDomainName: domainName,
		ExpiresAt: time.UnixMicro(c.Expires).UTC()}
	if c.Project == "" {
		return id, nil
	}
	p, _ := s.dir.project(func(p project) bool { return p.ID == c.Project })
	id.ProjectID, id.ProjectName = p.ID, p.Name
	id.ProjectDomainID, id.ProjectDomainName = domainID, domainName
	for _, r := range s.dir.roles(u, p.ID) {
		id.Roles = append(id.Roles, r.Name)
	}
	id.Catalog, err = json.Marshal(s.catalog(p.ID))
	return id, err
}

// authRequest is the body of POST /v3/auth/tokens.
type authRequest struct {
	Auth *struct {
		Identity struct {
			Methods  []string `json:"methods"`
			Password struct {
				User struct {
					reference
					Password secret.String `json:"password"`
				} `json:"user"`
			} `json:"password"`
			Token struct {
				ID string `json:"id"`
			} `json:"token"`
		} `json:"identity"`
		Scope json.RawMessage `json:"scope"`
	} `json:"auth"`
}

// reference names a user or a project: by id, or by name and domain.
type reference struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain *struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"domain"`
}

func (r reference) is(id, name string) bool {
	if r.ID != "" {
		return r.ID == id
	}
	return r.Name == name && r.Domain != nil &&
		(r.Domain.ID == domainID || r.Domain.ID == "" && strings.EqualFold(r.Domain.Name, domainName))
}

var errLogin = &trove.Error{Kind: trove.KindUnauthorized, Message: "The request you have made requires authentication."}

// login checks who is asking and gives the claims of a new token, unscoped.
func (s *Server) login(ctx context.Context, a authRequest) (claims, user, error) {
	now := s.o.Now()
	c := claims{Issued: now.UnixMicro(), Expires: now.Add(s.o.TokenLife).UnixMicro(), Audit: []string{newID()}}
	in := a.Auth.Identity
	if len(in.Methods) == 0 || len(in.Methods) > 2 {
		return c, user{}, trove.Errorf(trove.KindBadRequest, "Expecting to find auth.identity.methods: one of password, token.")
	}
	var who user
	for _, m := range in.Methods {
		var found user
		switch m {
		case "password":
			u, there := s.dir.user(func(u user) bool { return u.Enabled && in.Password.User.is(u.ID, u.Name) })
			// Someone who is not there costs as much as someone who is.
			ok, err := s.hasher.Verify(ctx, u.PasswordHash, in.Password.User.Password)
			if err != nil {
				return c, user{}, err
			}
			if !ok || !there {
				return c, user{}, errLogin
			}
			found = u
		case "token":
			old, err := s.open(in.Token.ID)
			if err != nil {
				return c, user{}, errLogin
			}
			found, _ = s.dir.userByID(old.User)
			// A token got by a token lives no longer than that.
			c.Expires = min(c.Expires, old.Expires)
			c.Audit = append(c.Audit[:1], old.Audit[len(old.Audit)-1])
			c.Methods = append(c.Methods, old.Methods...)
		default:
			return c, user{}, errLogin
		}
		if who.ID != "" && who.ID != found.ID {
			return c, user{}, errLogin
		}
		who = found
		c.Methods = append(c.Methods, m)
	}
	slices.Sort(c.Methods)
	c.Methods = slices.Compact(c.Methods)
	c.User = who.ID
	return c, who, nil
}

// scope gives the id of the project asked for, "" for an unscoped token.
func (s *Server) scope(raw json.RawMessage, u user) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		if len(s.dir.roles(u, u.DefaultProjectID)) > 0 {
			return u.DefaultProjectID, nil
		}
		return "", nil
	}
	if string(raw) == `"unscoped"` {
		return "", nil
	}
	var sc struct {
		Unscoped *struct{}  `json:"unscoped"`
		Project  *reference `json:"project"`
	}
	if err := json.Unmarshal(raw, &sc); err != nil {
		return "", trove.Errorf(trove.KindBadRequest, "auth.scope is not understood: want a project.")
	}
	if sc.Unscoped != nil {
		return "", nil
	}
	if sc.Project == nil { // a domain or the system: nobody has roles there
		return "", errLogin
	}
	p, ok := s.dir.project(func(p project) bool { return sc.Project.is(p.ID, p.Name) })
	if !ok || len(s.dir.roles(u, p.ID)) == 0 {
		return "", errLogin
	}
	return p.ID, nil
}
