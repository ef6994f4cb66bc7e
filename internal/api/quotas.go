package api

import (
	"cmp"
	"slices"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/trove"
)

// resources are in the order that answers have them.
var resources = []trove.Resource{trove.ResourceInstances, trove.ResourceRAM, trove.ResourceVolumes, trove.ResourceBackups}

func (s *Server) quotas(q *request, tenant string) ([]trove.Quota, error) {
	list, err := s.store.Quotas(q.Context(), tenant, s.config.Quotas)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b trove.Quota) int {
		return cmp.Compare(slices.Index(resources, a.Resource), slices.Index(resources, b.Resource))
	})
	return list, nil
}

func (s *Server) listLimits(q *request) (response, error) {
	list, err := s.quotas(q, q.creds.ProjectID)
	if err != nil {
		return response{}, err
	}
	now := s.clock()
	var shown []view.RateLimit
	if limit := s.rates.perMinute; limit > 0 {
		for _, verb := range rateVerbs {
			remaining, next := s.rates.left(verb, q.creds.ProjectID, now)
			shown = append(shown, view.NewRateLimit(verb, "*", ".*", limit, remaining, next))
		}
		// The original's fifth limit never counts anything; it is listed.
		shown = append(shown, view.NewRateLimit("POST", "*/mgmt", "^/mgmt", limit, limit, now))
	}
	return ok(view.Limits(list, shown))
}

func (s *Server) showQuotas(q *request) (response, error) {
	tenant := q.PathValue("tenant")
	if tenant != q.creds.ProjectID && !q.creds.IsAdmin {
		return response{}, trove.Errorf(trove.KindForbidden, "Only administrators may see the quotas of another project.")
	}
	list, err := s.quotas(q, tenant)
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"quotas": view.Quotas(list)})
}

// updateQuotas sets all of the limits or none; null leaves one as it is.
func (s *Server) updateQuotas(q *request) (response, error) {
	asked := q.body.object("quotas")
	limits := map[trove.Resource]int{}
	for name, value := range asked {
		r := trove.Resource(name)
		if !slices.Contains(resources, r) {
			return response{}, trove.Errorf(trove.KindNotFound,
				"Quota resource %s is unknown; instances, ram, volumes and backups are known.", shorten(name))
		}
		if value == nil {
			continue
		}
		n, fits := asked.number(name)
		if !fits || n > 1<<31-1 {
			return response{}, trove.Errorf(trove.KindBadRequest, "Validation error: quotas['%s'] is larger than %d", name, 1<<31-1)
		}
		limits[r] = n
	}
	if len(limits) > 0 {
		if err := s.store.SetQuotas(q.Context(), q.PathValue("tenant"), limits); err != nil {
			return response{}, err
		}
	}
	return ok(map[string]any{"quotas": limits})
}
