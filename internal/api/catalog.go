package api

import (
	"slices"

	"github.com/gotrove/gotrove/internal/api/view"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func active(all []trove.DatastoreVersion) []trove.DatastoreVersion {
	return slices.DeleteFunc(slices.Clone(all), func(v trove.DatastoreVersion) bool { return !v.Active })
}

func (s *Server) listDatastores(q *request) (response, error) {
	list, err := s.store.Datastores(q.Context())
	if err != nil {
		return response{}, err
	}
	viewer := q.viewer()
	shown := []view.Datastore{}
	for _, d := range list {
		versions := d.Versions
		if !q.creds.IsAdmin {
			if versions = active(versions); len(versions) == 0 {
				continue
			}
		}
		shown = append(shown, viewer.Datastore(d, versions))
	}
	return ok(map[string]any{"datastores": shown})
}

// datastore finds the one that the path names.
func (s *Server) datastore(q *request) (trove.Datastore, error) {
	name := q.PathValue("datastore")
	d, err := s.store.Datastore(q.Context(), name)
	if err != nil {
		return d, datastoreError(err, name)
	}
	return d, nil
}

// showDatastore shows active versions only, also to administrators.
func (s *Server) showDatastore(q *request) (response, error) {
	d, err := s.datastore(q)
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"datastore": q.viewer().Datastore(d, active(d.Versions))})
}

func (s *Server) deleteDatastore(q *request) (response, error) {
	d, err := s.datastore(q)
	if err != nil {
		return response{}, err
	}
	if err := s.store.DeleteDatastore(q.Context(), d.ID); err != nil {
		return response{}, err
	}
	return accepted()
}

func (s *Server) listVersions(q *request) (response, error) {
	d, err := s.datastore(q)
	if err != nil {
		return response{}, err
	}
	versions := d.Versions
	if !q.creds.IsAdmin {
		versions = active(versions)
	}
	viewer := q.viewer()
	shown := []view.Version{}
	for _, v := range versions {
		shown = append(shown, viewer.Version(v))
	}
	return ok(map[string]any{"versions": shown})
}

// showVersion shows inactive ones too.
func (s *Server) showVersion(q *request) (response, error) {
	d, err := s.datastore(q)
	if err != nil {
		return response{}, err
	}
	v, err := findVersion(d, q.PathValue("version"), "")
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"version": q.viewer().Version(v)})
}

func (s *Server) showVersionByID(q *request) (response, error) {
	id := q.PathValue("version")
	v, err := s.store.Version(q.Context(), id)
	if trove.IsKind(err, trove.KindNotFound) {
		// Clients are used to 400 here.
		return response{}, trove.Errorf(trove.KindBadRequest, "Datastore version '%s' cannot be found.", shorten(id))
	}
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"version": q.viewer().Version(v)})
}

func (s *Server) listFlavors(q *request) (response, error) {
	list, err := s.cloud.Flavors(q.Context())
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"flavors": q.viewer().Flavors(list)})
}

// listVersionFlavors lists the flavors that a version is bound to, all if it is
// bound to none. Neither id has to exist.
func (s *Server) listVersionFlavors(q *request) (response, error) {
	list, err := s.cloud.Flavors(q.Context())
	if err != nil {
		return response{}, err
	}
	metadata, err := s.store.VersionMetadata(q.Context(), q.PathValue("version"))
	if err != nil {
		return response{}, err
	}
	if bound := metadata[store.BindFlavor]; len(bound) > 0 {
		list = slices.DeleteFunc(slices.Clone(list), func(f trove.Flavor) bool { return !slices.Contains(bound, f.ID) })
	}
	return ok(map[string]any{"flavors": q.viewer().Flavors(list)})
}

func (s *Server) showFlavor(q *request) (response, error) {
	id := q.PathValue("flavor")
	f, err := s.cloud.Flavor(q.Context(), id)
	if trove.IsKind(err, trove.KindNotFound) {
		return response{}, noSuch(shorten(id))
	}
	if err != nil {
		return response{}, err
	}
	return ok(map[string]any{"flavor": q.viewer().Flavor(f)})
}
