package api

import (
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/identity"
)

// Observer is told of each request, and of what the policy refused. It must not
// wait.
type Observer interface {
	// HTTPAnswered: route is the template of the path below the project, "/…" of
	// what is outside, or "unmatched"; took is 0 for an event stream.
	HTTPAnswered(route, method string, code int, took time.Duration)
	PolicyDenied(rule string)
}

type noObserver struct{}

func (noObserver) HTTPAnswered(string, string, int, time.Duration) {}
func (noObserver) PolicyDenied(string)                             {}

// trail is what is noted of a request on its way, for the log, the observer and
// the audit.
type trail struct {
	began  time.Time
	call   bool              // it is for version 1.0
	who    identity.Identity // zero: unknown
	route  *route            // nil: none fits
	name   string            // of what is no route of version 1.0
	action string            // of a route that has several
	made   string            // the id of what was created
	stream bool
}

// trailOf gives the trail of the request that w answers.
func trailOf(w http.ResponseWriter) *trail {
	if rec, ok := w.(*recorder); ok {
		return &rec.trail
	}
	return &trail{}
}

const unmatched = "unmatched"

func (t *trail) label() string {
	switch {
	case t.route != nil:
		return t.route.path
	case t.name != "":
		return t.name
	}
	return unmatched
}

func mutating(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// maxAudited bounds a text of the caller's in the audit, in bytes.
const maxAudited = 255

// audit writes the one line about a call that changes something, or was meant
// to: who, what, and what came of it. Never the body.
func (s *Server) audit(r *http.Request, rec *recorder, took time.Duration) {
	t := &rec.trail
	if !t.call || !mutating(r.Method) {
		return
	}
	var target []string
	if t.route != nil {
		for _, segment := range t.route.segments {
			if segment[0] == '{' {
				target = append(target, r.PathValue(segment[1:len(segment)-1]))
			}
		}
	}
	if t.made != "" {
		target = append(target, t.made)
	}
	attrs := []slog.Attr{
		slog.Bool("audit", true),
		slog.String("user_id", t.who.UserID), slog.String("project_id", t.who.ProjectID), slog.Int("roles", len(t.who.Roles)),
		slog.String("client", s.client(r)), slog.String("method", r.Method), slog.String("route", t.label()),
	}
	if t.action != "" {
		attrs = append(attrs, slog.String("action", t.action))
	}
	attrs = append(attrs, slog.String("target", clipped(strings.Join(target, "/"))),
		slog.Int("status", rec.status), slog.Float64("seconds", took.Round(time.Microsecond).Seconds()))
	s.auditLog.LogAttrs(r.Context(), slog.LevelInfo, "audit", attrs...)
}

// client is the address that a request came from: behind a proxy that is
// believed, what that says.
func (s *Server) client(r *http.Request) string {
	if s.config.TrustForwarded {
		if all := r.Header.Values("X-Forwarded-For"); len(all) > 0 {
			last := all[len(all)-1]
			return clipped(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:]))
		}
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return clipped(r.RemoteAddr)
}

func clipped(s string) string {
	if len(s) > maxAudited {
		s = s[:maxAudited]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
