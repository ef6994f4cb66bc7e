package api

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/identity"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// pipeline is what every request goes through, outermost first (contract: REST
// API 1.1).
func (s *Server) pipeline() http.Handler {
	return s.cors(s.identify(s.observe(http.HandlerFunc(s.mount))))
}

const (
	headerToken     = "X-Auth-Token"
	headerRequestID = "X-Openstack-Request-Id"
)

var (
	corsAllow = strings.Join([]string{headerToken, "X-Identity-Status", "X-Roles", "X-Service-Catalog", "X-User-Id",
		"X-Tenant-Id", "X-OpenStack-Request-ID", "Content-Type", "Accept", "Last-Event-ID"}, ",")
	corsExpose  = strings.Join([]string{headerToken, "X-Subject-Token", "X-Service-Token", "X-OpenStack-Request-ID"}, ",")
	corsMethods = "GET,PUT,POST,DELETE,PATCH"
)

// cors answers browsers of the allowed origins, and every OPTIONS.
func (s *Server) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if len(s.config.CORSOrigins) > 0 {
			w.Header().Add("Vary", "Origin")
		}
		allowed := origin != "" &&
			(slices.Contains(s.config.CORSOrigins, origin) || slices.Contains(s.config.CORSOrigins, "*"))
		if allowed {
			h := w.Header()
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Expose-Headers", corsExpose)
			if r.Method == http.MethodOptions {
				h.Set("Access-Control-Allow-Methods", corsMethods)
				h.Set("Access-Control-Allow-Headers", corsAllow)
				h.Set("Access-Control-Max-Age", "3600")
			}
		}
		if r.Method == http.MethodOptions {
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// identify gives the request an id. The caller's own goes to the log beside it,
// if it is one.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := "req-" + trove.NewID()
		w.Header().Set(headerRequestID, id)
		c := rpc.Context{RequestID: id}
		if global := r.Header.Get(headerRequestID); requestIDPattern.MatchString(global) {
			c.GlobalRequestID = global
		}
		next.ServeHTTP(w, r.WithContext(c.Logged(r.Context())))
	})
}

// recorder notes the status, and what else is to be told of the request.
type recorder struct {
	http.ResponseWriter
	status int
	trail  trail
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach deadlines and flushing.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe logs the request, and turns a panic into a fault.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		rec := &recorder{ResponseWriter: w, trail: trail{began: started}}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					s.tell(r, rec, time.Since(started))
					panic(p)
				}
				s.log.ErrorContext(r.Context(), "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if rec.status != 0 {
					// The answer has begun: only cutting the connection tells
					// that it is not whole.
					s.tell(r, rec, time.Since(started))
					panic(http.ErrAbortHandler)
				}
				s.writeInternal(rec, r, fmt.Errorf("panic: %v", p))
			}
			s.tell(r, rec, time.Since(started))
		}()
		next.ServeHTTP(rec, r)
	})
}

// tell tells the log, the audit and the observer of a request that is answered.
func (s *Server) tell(r *http.Request, rec *recorder, took time.Duration) {
	ctx := r.Context()
	if p := rec.trail.who.ProjectID; p != "" {
		ctx = telemetry.With(ctx, telemetry.ProjectID, p)
	}
	s.log.InfoContext(ctx, "request", "method", r.Method, "path", r.URL.Path, "status", rec.status,
		"seconds", took.Round(time.Microsecond).Seconds())
	s.audit(r, rec, took)
	if rec.trail.stream {
		took = 0
	}
	s.observer.HTTPAnswered(rec.trail.label(), r.Method, rec.status, took)
}

var (
	acceptVersion  = regexp.MustCompile(`application/vnd\.openstack\.trove\+json;version=([0-9.]+)`)
	versionSegment = regexp.MustCompile(`^/v[0-9]`)
)

// mount chooses between the version list, the health check and version 1.0.
func (s *Server) mount(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	if path == "/healthcheck" && r.Method == http.MethodGet {
		trailOf(w).name = path
		s.health.ServeHTTP(w, r)
		return
	}
	if !versionSegment.MatchString(path) {
		if m := acceptVersion.FindStringSubmatch(r.Header.Get("Accept")); m != nil {
			if m[1] != "1.0" {
				s.writeError(w, r, trove.Errorf(trove.KindNotAcceptable,
					"The version %s of the API is not known; 1.0 is.", m[1]))
				return
			}
			s.serve(w, r, path)
			return
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v1.0"); ok && (rest == "" || rest[0] == '/') {
		s.serve(w, r, rest)
		return
	}
	if path == "/" && r.Method == http.MethodGet {
		trailOf(w).name = path
		writeJSON(w, http.StatusOK, view.Versions(s.base(r)))
		return
	}
	s.writeError(w, r, errNoResource)
}

// base is the URL of the service as this request reached it.
func (s *Server) base(r *http.Request) string {
	if s.config.PublicEndpoint != "" {
		return strings.TrimSuffix(s.config.PublicEndpoint, "/")
	}
	scheme := "http"
	if r.TLS != nil || (s.config.TrustForwarded && r.Header.Get("X-Forwarded-Proto") == "https") {
		scheme = "https"
	}
	return scheme + "://" + s.host(r)
}

func (s *Server) host(r *http.Request) string {
	if s.config.TrustForwarded {
		if h := r.Header.Get("X-Forwarded-Host"); h != "" {
			return h
		}
	}
	return r.Host
}

// serve answers a request for version 1.0; path is what follows "/v1.0".
func (s *Server) serve(w http.ResponseWriter, r *http.Request, path string) {
	trail := trailOf(w)
	project, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	route := s.router.match(r, rest)
	trail.call, trail.route = true, route
	who, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	trail.who = who
	if !strings.HasPrefix(path, "/") || rest == "" || who.ProjectID == "" || unescape(project) != who.ProjectID {
		s.writeError(w, r, trove.Errorf(trove.KindForbidden,
			"Access was denied to this resource. User with tenant id %s cannot access this resource.", who.ProjectID))
		return
	}
	if err := s.rates.take(r.Method, who.ProjectID, s.clock()); err != nil {
		s.writeError(w, r, err)
		return
	}
	if route == nil {
		s.writeError(w, r, errNoResource)
		return
	}
	creds := policy.Creds{UserID: who.UserID, ProjectID: who.ProjectID, Roles: who.Roles,
		UserDomainID: who.UserDomainID, ProjectDomainID: who.ProjectDomainID, NotAdminProject: who.NotAdminProject}
	creds.IsAdmin = s.policy.Admin(creds)
	// The token stays here: the services behind have credentials of their own,
	// and a message is kept on disk until it is handled.
	c := rpc.ContextFrom(r.Context())
	c.User, c.ProjectID, c.IsAdmin, c.Roles = who.UserID, who.ProjectID, creds.IsAdmin, who.Roles
	ctx := telemetry.With(c.Logged(r.Context()), "user_id", who.UserID)
	q := &request{Request: r.WithContext(ctx), creds: creds, server: s, route: route, trail: trail}
	res, err := s.run(w, q)
	switch {
	case err != nil:
		s.writeError(w, q.Request, err)
	case res.stream != nil:
		trail.stream = true
		res.stream(w)
	default:
		writeJSON(w, res.status, res.body)
	}
}

// authenticate answers itself when there is no valid token, in the words of
// Keystone's middleware.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) (identity.Identity, bool) {
	token := r.Header.Get(headerToken)
	if token != "" {
		who, err := s.tokens.Validate(r.Context(), token)
		// The rules of an application credential are about the path as it was sent.
		if err == nil && who.Permits(s.config.ServiceType, r.Method, r.URL.EscapedPath()) {
			return who, true
		}
		if err != nil && !trove.IsKind(err, trove.KindUnauthorized) && !trove.IsKind(err, trove.KindNotFound) {
			if away, ok := errors.AsType[*identity.Away](err); ok {
				w.Header().Set("Retry-After", strconv.Itoa(int((away.Retry+time.Second-1)/time.Second)))
			}
			s.writeError(w, r, &trove.Error{Kind: trove.KindUnavailable, Err: err, // where it is, is for the log only
				Message: "The identity service is not available.", Action: "Try again."})
			return identity.Identity{}, false
		}
	}
	type refusal struct {
		Code    int    `json:"code"`
		Title   string `json:"title"`
		Message string `json:"message"`
	}
	w.Header().Set("WWW-Authenticate", s.challenge)
	writeJSON(w, http.StatusUnauthorized, map[string]refusal{"error": {
		Code: http.StatusUnauthorized, Title: "Unauthorized",
		Message: "The request you have made requires authentication."}})
	return identity.Identity{}, false
}
