package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gotrove/gotrove/internal/api/schema"
	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/policy"
	"github.com/gotrove/gotrove/internal/telemetry"
	"github.com/gotrove/gotrove/internal/trove"
)

// request is one request of a known caller on its way through a handler.
type request struct {
	*http.Request
	server   *Server
	creds    policy.Creds
	route    *route
	body     object          // nil if the route takes none
	instance *trove.Instance // of routes below instances/{id}
	trail    *trail
}

// response is what a handler answers with.
type response struct {
	status int
	body   any                       // nil: no body
	stream func(http.ResponseWriter) // instead of both
}

func ok(body any) (response, error) { return response{status: http.StatusOK, body: body}, nil }

func accepted() (response, error) { return response{status: http.StatusAccepted}, nil }

// run does what all handlers share, in the contract's order: is it built, who
// may at all, the body, the instance and its owner, the policy, the state.
func (s *Server) run(w http.ResponseWriter, q *request) (response, error) {
	rt := q.route
	if rt.admin && !q.creds.IsAdmin {
		return response{}, trove.Errorf(trove.KindUnauthorized, "User does not have admin privileges.")
	}
	if rt.missing != "" {
		return response{}, notBuilt(rt.missing)
	}
	if rt.schema != "" {
		body, err := s.readBody(w, q.Request)
		if err != nil {
			return response{}, err
		}
		if err := s.schemas.Check(rt.schema, body); err != nil {
			return response{}, err
		}
		q.body, _ = body.(map[string]any)
	}
	if rt.scope == ofProject {
		if err := q.enforce(rt.rule, q.creds.ProjectID); err != nil {
			return response{}, err
		}
		return rt.handle(q)
	}
	if err := q.loadInstance(); err != nil {
		return response{}, err
	}
	if rt.rule != "" {
		if err := q.enforce(rt.rule, q.instance.TenantID); err != nil {
			return response{}, err
		}
	}
	if rt.scope == ofEngine || rt.scope == ofOwnEngine {
		if err := serving(q.instance); err != nil {
			return response{}, err
		}
		if err := s.settle(q.Context(), q.instance.ID); err != nil {
			return response{}, err
		}
	}
	return rt.handle(q)
}

// enforce asks the policy about a thing that owner owns; no rule, no question.
func (q *request) enforce(rule, owner string) error {
	if rule == "" {
		return nil
	}
	err := q.server.policy.Enforce(rule, q.creds, policy.Owned(owner))
	if err != nil {
		q.server.observer.PolicyDenied(rule)
	}
	return err
}

// loadInstance finds the instance that the path names. To those who may not see
// it, it is not there.
func (q *request) loadInstance() error {
	id := q.PathValue("id")
	inst, err := q.server.store.Instance(q.Context(), id)
	anyProject := q.creds.IsAdmin && q.route.scope != ofOwnEngine
	if trove.IsKind(err, trove.KindNotFound) || (err == nil && !anyProject && inst.TenantID != q.creds.ProjectID) {
		return noSuch(id)
	}
	if err != nil {
		return err
	}
	q.instance = inst
	q.Request = q.WithContext(telemetry.With(q.Context(), telemetry.InstanceID, inst.ID))
	return nil
}

func noSuch(id string) error {
	return trove.Errorf(trove.KindNotFound, "Resource %s cannot be found.", id)
}

func notBuilt(feature string) error {
	return trove.Errorf(trove.KindNotImplemented, "This service does not support %s yet.", feature)
}

// readBody reads a JSON document. No body is an empty object, which the schema
// accepts or not.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (any, error) {
	rc := http.NewResponseController(w)
	// Not every writer has deadlines; a server's has.
	_ = rc.SetReadDeadline(time.Now().Add(s.config.ReadTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.config.MaxBody))
	if err == nil {
		// While the handler works nothing is read, and that must not end it. A
		// body that failed has had its time: the server would wait for its rest.
		_ = rc.SetReadDeadline(time.Time{})
	} else {
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, trove.Errorf(trove.KindOverLimit, "The body is larger than %d bytes.", large.Limit)
		}
		return nil, trove.Errorf(trove.KindBadRequest, "The body could not be read to its end.")
	}
	if len(b) == 0 {
		return map[string]any{}, nil
	}
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if media, _, err := mime.ParseMediaType(ct); err != nil || media != "application/json" {
			return nil, errMediaType
		}
	}
	if !utf8.Valid(b) {
		return nil, trove.Errorf(trove.KindBadRequest, "The body is not valid JSON: it is not UTF-8.")
	}
	body, err := schema.Decode(b)
	if err != nil {
		return nil, badJSON(err)
	}
	return body, nil
}

// badJSON tells where the body is wrong, but not what stands there.
func badJSON(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return trove.Errorf(trove.KindBadRequest, "The body is not valid JSON: the error is at byte %d.", syntax.Offset)
	}
	return trove.Errorf(trove.KindBadRequest, "The body is not valid JSON.")
}

// viewer is for whom the answer is made.
func (q *request) viewer() view.Viewer {
	s := q.server
	return view.Viewer{
		Host: s.host(q.Request), ProjectID: q.creds.ProjectID, Admin: q.creds.IsAdmin,
		HeartbeatExpiry: s.config.HeartbeatExpiry, Region: s.config.Region,
	}
}

// page is what part of a list is asked for.
type page struct {
	limit  int
	marker string
}

// page reads limit and marker: none is a page of the configured size, and more
// than that is that size too.
func (q *request) page() (page, error) {
	p := page{limit: q.server.config.PageSize}
	if text, given := q.param("limit"); given {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return p, trove.Errorf(trove.KindBadRequest, "The query parameter 'limit' must be a whole number of 1 or more.")
		}
		p.limit = min(n, p.limit)
	}
	p.marker, _ = q.param("marker")
	if len(p.marker) > 1024 || !utf8.ValidString(p.marker) {
		return p, trove.Errorf(trove.KindBadRequest, "The query parameter 'marker' is not one that a list gave.")
	}
	return p, nil
}

// param is a query parameter, decoded as far as it can be: python-troveclient
// sends a marker back without encoding it, so that "%" and "+" stand for
// themselves.
func (q *request) param(name string) (value string, given bool) {
	for pair := range strings.SplitSeq(q.URL.RawQuery, "&") {
		if key, v, _ := strings.Cut(pair, "="); key == name {
			return unescape(v), true
		}
	}
	return "", false
}

// listed is the body of a page of a list. The contract has the link to the next
// page as "links"; gophercloud looks for "<collection>_links", and follows what
// it finds, so that one has the scheme that the service really speaks.
func (q *request) listed(collection string, items any, next string) map[string]any {
	body := map[string]any{collection: items}
	if next == "" {
		return body
	}
	query := q.nextQuery(next)
	path := q.URL.EscapedPath() + "?" + query
	link := func(base string) []view.Link { return []view.Link{{Rel: "next", Href: base + path}} }
	body["links"] = link("https://" + q.server.host(q.Request))
	body[collection+"_links"] = link(q.server.base(q.Request))
	return body
}

// nextQuery is the query as it came with the marker replaced, quoted once.
func (q *request) nextQuery(marker string) string {
	var parts []string
	for pair := range strings.SplitSeq(q.URL.RawQuery, "&") {
		if key, _, _ := strings.Cut(pair, "="); pair != "" && key != "marker" {
			parts = append(parts, pair)
		}
	}
	return strings.Join(append(parts, "marker="+strings.ReplaceAll(url.QueryEscape(marker), "+", "%20")), "&")
}
