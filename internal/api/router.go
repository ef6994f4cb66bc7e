package api

import (
	"net/http"
	"net/url"
	"strings"
)

// router finds the route of a request. http.ServeMux would not do: it refuses
// the contract's overlapping paths (datastores/versions/{id} beside
// datastores/{datastore}/versions), cleans paths and answers 405. Here the
// first route of the table that fits wins, a segment is decoded on its own, so
// that a name may hold a slash, and what does not fit is simply not there.
type router struct{ routes map[routeKey][]*route }

// routeKey narrows the search to a handful of routes.
type routeKey struct {
	method   string
	segments int
}

func newRouter(table []route) *router {
	rt := &router{routes: map[routeKey][]*route{}}
	for i := range table {
		r := &table[i]
		r.segments = strings.Split(r.path, "/")
		key := routeKey{r.method, len(r.segments)}
		rt.routes[key] = append(rt.routes[key], r)
	}
	return rt
}

// match finds the route of a path below the project, still escaped, and sets
// the path values of r. nil: there is none.
func (rt *router) match(r *http.Request, path string) *route {
	segments := strings.Split(path, "/")
next:
	for _, candidate := range rt.routes[routeKey{r.Method, len(segments)}] {
		for i, want := range candidate.segments {
			if want[0] == '{' {
				if segments[i] == "" {
					return nil
				}
			} else if segments[i] != want {
				continue next
			}
		}
		for i, want := range candidate.segments {
			if want[0] == '{' {
				r.SetPathValue(want[1:len(want)-1], unescape(segments[i]))
			}
		}
		return candidate
	}
	return nil
}

// unescape decodes a path segment or a query value; what is not well escaped
// stays as it is.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}
