package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const maxBody = 64 << 10

// caller is who makes a request.
type caller struct {
	claims
	user  user
	admin bool
}

// action answers a request of a caller with a body (nil: none).
type action func(r *http.Request, c caller) (any, error)

func (s *Server) routes() {
	m := http.NewServeMux()
	s.mux = m
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusMultipleChoices, map[string]any{"versions": map[string]any{"values": []any{version(r)}}})
	})
	m.HandleFunc("GET /v3", showVersion)
	m.HandleFunc("GET /v3/{$}", showVersion)
	m.HandleFunc("POST /v3/auth/tokens", s.issue)
	m.HandleFunc("GET /v3/auth/tokens", s.validate) // HEAD too
	m.HandleFunc("DELETE /v3/auth/tokens", s.revoke)
	get := func(path string, a action) { m.HandleFunc("GET /v3"+path, s.authenticated(a)) }
	get("/auth/catalog", func(r *http.Request, c caller) (any, error) {
		if c.Project == "" {
			return nil, trove.Errorf(trove.KindForbidden, "A project-scoped token is required to produce a service catalog.")
		}
		return map[string]any{"catalog": s.catalog(c.Project), "links": map[string]any{"self": base(r) + "/v3/auth/catalog"}}, nil
	})
	get("/auth/projects", func(r *http.Request, c caller) (any, error) {
		return list(r, "projects", projectViews(r, s.dir.projectsOf(c.user)))
	})
	get("/auth/domains", func(r *http.Request, _ caller) (any, error) { return list(r, "domains", nil) })
	get("/auth/system", func(*http.Request, caller) (any, error) { return map[string]any{"system": []any{}}, nil })
	s.collections(get)
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead && strings.HasPrefix(r.URL.Path, "/v3/") {
			s.fail(w, r, trove.Errorf(trove.KindForbidden, "This identity service is read-only: its operator changes users and projects in its users file."))
			return
		}
		s.fail(w, r, trove.Errorf(trove.KindNotFound, "The resource could not be found."))
	})
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newID()
	w.Header().Set("X-Openstack-Request-Id", "req-"+id[:8]+"-"+id[8:12]+"-"+id[12:16]+"-"+id[16:20]+"-"+id[20:])
	w.Header().Set("Vary", "X-Auth-Token")
	s.mux.ServeHTTP(w, r)
}

func reply(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "encoding failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

var statuses = map[trove.Kind]int{
	trove.KindBadRequest:   http.StatusBadRequest,
	trove.KindUnauthorized: http.StatusUnauthorized,
	trove.KindForbidden:    http.StatusForbidden,
	trove.KindNotFound:     http.StatusNotFound,
	trove.KindUnavailable:  http.StatusServiceUnavailable,
}

// fail answers with Keystone's error body.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, message := statuses[trove.KindOf(err)], err.Error()
	switch {
	case errors.Is(err, secret.ErrBusy):
		status, message = http.StatusTooManyRequests, "Too many logins at once. Try again in a moment."
		w.Header().Set("Retry-After", "1")
	case status == 0:
		s.o.Log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		status, message = http.StatusInternalServerError, "An unexpected error prevented the server from fulfilling your request."
	case status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Keystone uri="`+base(r)+`"`)
	}
	reply(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "title": http.StatusText(status)}})
}

// authenticate finds out who is asking, from X-Auth-Token.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	c, err := s.open(r.Header.Get("X-Auth-Token"))
	if err != nil {
		return caller{}, errLogin
	}
	who := caller{claims: c}
	who.user, _ = s.dir.userByID(c.User)
	for _, role := range s.dir.roles(who.user, c.Project) {
		who.admin = who.admin || role.Name == "admin"
	}
	return who, nil
}

func (s *Server) authenticated(a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.authenticate(r)
		if err == nil {
			var body any
			if body, err = a(r, c); err == nil {
				reply(w, http.StatusOK, body)
				return
			}
		}
		s.fail(w, r, err)
	}
}

func (s *Server) issue(w http.ResponseWriter, r *http.Request) {
	var a authRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := d.Decode(&a); err != nil || a.Auth == nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); !tooLarge {
			_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxBody)) // keeps the connection usable
		}
		s.fail(w, r, trove.Errorf(trove.KindBadRequest, "Expecting to find auth in request body: the request is malformed."))
		return
	}
	c, u, err := s.login(r.Context(), a)
	if err == nil {
		c.Project, err = s.scope(a.Auth.Scope, u)
	}
	var token string
	if err == nil {
		token, err = s.seal(c)
	}
	if err != nil {
		if trove.IsKind(err, trove.KindUnauthorized) {
			s.o.Log.WarnContext(r.Context(), "login refused", "from", r.RemoteAddr, "user_id", u.ID)
		}
		s.fail(w, r, err)
		return
	}
	w.Header().Set("X-Subject-Token", token)
	reply(w, http.StatusCreated, map[string]any{"token": s.tokenView(r, c)})
}

// subject finds the token that a request is about, which may be the caller's
// own, or anyone's if the caller is an administrator.
func (s *Server) subject(r *http.Request) (claims, error) {
	who, err := s.authenticate(r)
	if err != nil {
		return claims{}, err
	}
	c, err := s.open(r.Header.Get("X-Subject-Token"))
	if err != nil {
		return claims{}, trove.Errorf(trove.KindNotFound, "Could not find token.")
	}
	if c.User != who.User && !who.admin {
		return claims{}, trove.Errorf(trove.KindForbidden, "You are not authorized to perform the requested action.")
	}
	return c, nil
}

func (s *Server) validate(w http.ResponseWriter, r *http.Request) {
	c, err := s.subject(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("X-Subject-Token", r.Header.Get("X-Subject-Token"))
	reply(w, http.StatusOK, map[string]any{"token": s.tokenView(r, c)})
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	c, err := s.subject(r)
	if err == nil {
		err = s.revoked.add(c, s.o.Now())
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// base is the address the client used: links must lead back to it.
func base(r *http.Request) string { return "http://" + r.Host }

func version(r *http.Request) any {
	return map[string]any{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []any{map[string]any{"rel": "self", "href": base(r) + "/v3/"}},
		"media-types": []any{map[string]any{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func showVersion(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, map[string]any{"version": version(r)})
}

// list is a collection's body.
func list(r *http.Request, name string, items []any) (any, error) {
	if items == nil {
		items = []any{}
	}
	return map[string]any{name: items, "links": map[string]any{"self": base(r) + r.URL.Path, "next": nil, "previous": nil}}, nil
}

func notFound(kind, id string) error {
	return trove.Errorf(trove.KindNotFound, "Could not find %s: %s.", kind, id)
}

func forbidden(what string) error {
	return trove.Errorf(trove.KindForbidden, "You are not authorized to perform the requested action: %s.", fmt.Sprintf("identity:%s", what))
}
