package api

import (
	"net/http"

	"github.com/gotrove/gotrove/internal/trove"
)

func (s *Server) showRoot(q *request) (response, error) {
	h, err := s.store.RootHistory(q.Context(), q.instance.ID)
	if err != nil {
		return response{}, err
	}
	return ok(map[string]bool{"rootEnabled": h.IsEnabled()})
}

// enableRoot may be called again; it sets the password again.
func (s *Server) enableRoot(q *request) (response, error) {
	u, err := s.guest.EnableRoot(q.Context(), q.instance.ID, q.body.text("password"))
	if err != nil {
		return response{}, guestError(err)
	}
	if err := s.store.SetRoot(q.Context(), q.instance.ID, q.creds.UserID, true); err != nil {
		return response{}, err
	}
	type root struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	}
	return ok(map[string]root{"user": {u.Name, u.Password}})
}

func (s *Server) disableRoot(q *request) (response, error) {
	h, err := s.store.RootHistory(q.Context(), q.instance.ID)
	if err != nil {
		return response{}, err
	}
	if !h.IsEnabled() {
		return response{}, trove.Errorf(trove.KindNotFound, "Root is not enabled on instance %s.", q.instance.ID)
	}
	if err := s.guest.DisableRoot(q.Context(), q.instance.ID); err != nil {
		return response{}, guestError(err)
	}
	if err := s.store.SetRoot(q.Context(), q.instance.ID, q.creds.UserID, false); err != nil {
		return response{}, err
	}
	return response{status: http.StatusNoContent}, nil
}
