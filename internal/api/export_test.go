package api

// RouteInfo is a route as tests walk it.
type RouteInfo struct {
	Method, Path, Rule, Schema string
	Admin, Missing             bool
}

// Routes gives the whole table.
func (s *Server) Routes() []RouteInfo {
	var out []RouteInfo
	for _, r := range s.table() {
		out = append(out, RouteInfo{r.method, r.path, r.rule, r.schema, r.admin, r.missing != ""})
	}
	return out
}

// Names the fuzz tests need.
var (
	ParseAccount    = parseAccount
	ParseUserMarker = parseUserMarker
)
