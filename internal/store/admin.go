package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Keys of what a datastore version may be bound to.
const (
	BindFlavor     = "flavor"
	BindVolumeType = "volume_type"
)

// ConfigurationParameter is one that a configuration of a datastore version may
// set.
type ConfigurationParameter struct {
	Name            string
	RestartRequired bool
	Max, Min        string // empty: no bound
	Type            string // string, boolean, integer, float
}

func versionNotFound(name string) *trove.Error {
	return trove.Errorf(trove.KindNotFound, "Datastore version %q cannot be found.", clip(name, 255))
}

// FindVersion gives the version of a datastore, known by id or name, that has
// this id or name and, if it is given, this number. Errors: KindNotFound, and
// KindBadRequest if the name is that of several.
func (s *Store) FindVersion(ctx context.Context, datastore, version, number string) (trove.DatastoreVersion, error) {
	d, err := s.Datastore(ctx, datastore)
	if err != nil {
		return trove.DatastoreVersion{}, err
	}
	return pickVersion(d, version, number)
}

func pickVersion(d trove.Datastore, version, number string) (trove.DatastoreVersion, error) {
	var found []trove.DatastoreVersion
	var numbers []string
	for _, v := range d.Versions {
		if v.ID == version {
			return v, nil
		}
		if v.Name == version && (number == "" || v.Number == number) {
			found = append(found, v)
			numbers = append(numbers, v.Number)
		}
	}
	switch len(found) {
	case 0:
		return trove.DatastoreVersion{}, versionNotFound(version)
	case 1:
		return found[0], nil
	}
	return trove.DatastoreVersion{}, trove.Errorf(trove.KindBadRequest, "Datastore %s has several versions named %q, with the numbers %s.",
		d.Name, version, strings.Join(numbers, ", ")).WithAction("Give the number too, or the version's id.")
}

// UpdateDatastore makes a datastore if there is none of this name, and sets its
// default version, known by id or name; an empty one means it has none. Errors:
// KindNotFound for the version, KindBadRequest if it is not active.
func (s *Store) UpdateDatastore(ctx context.Context, name, defaultVersion string) error {
	if err := fits(field{"datastore name", name, 255}); err != nil {
		return err
	}
	if name == "" {
		return trove.Errorf(trove.KindBadRequest, "A datastore needs a name.")
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		id, err := t.putDatastore(ctx, name)
		if err != nil {
			return err
		}
		var version sql.NullString
		if defaultVersion != "" {
			found, err := t.datastores(ctx, "d.id = ?", id)
			if err != nil || len(found) == 0 {
				return err
			}
			v, err := pickVersion(found[0], defaultVersion, "")
			if err != nil {
				return err
			}
			if !v.Active {
				return trove.Errorf(trove.KindBadRequest, "Datastore version %q is not active.", v.Name).
					WithAction("Make it active first, with datastore_version_update.")
			}
			version = null(v.ID)
		}
		_, err = t.exec(ctx, "UPDATE datastores SET default_version_id = ? WHERE id = ?", version, id)
		return err
	})
}

// UpdateVersion makes a version of a datastore that is there, or gives it these
// properties. It is known by its datastore's name, its name and its number,
// which is the name if it is empty. Errors: KindNotFound for the datastore,
// KindBadRequest for what is missing or too long.
func (s *Store) UpdateVersion(ctx context.Context, v trove.DatastoreVersion) (id string, err error) {
	if v.Number == "" {
		v.Number = v.Name
	}
	if v.Manager == "" {
		return "", trove.Errorf(trove.KindBadRequest, "A datastore version needs a manager, such as mysql, mariadb or postgresql.")
	}
	if v.ImageID == "" && len(v.ImageTags) == 0 {
		return "", trove.Errorf(trove.KindBadRequest, "A datastore version needs the id of an image, or tags that its images have.")
	}
	d, err := s.Datastore(ctx, v.DatastoreName)
	if trove.IsKind(err, trove.KindNotFound) {
		return "", trove.Errorf(trove.KindNotFound, "%w", err).WithAction("Make it first, with datastore_update.")
	}
	if err != nil {
		return "", err
	}
	v.DatastoreName = d.Name
	return s.EnsureVersion(ctx, v, false)
}

// putDatastore makes a datastore if there is none of this name.
func (t *tx) putDatastore(ctx context.Context, name string) (id string, err error) {
	if _, err := t.insertNew(ctx, "datastores", []string{"id", "name"}, trove.NewID(), name); err != nil {
		return "", err
	}
	var is string
	if _, err := t.one(ctx, "SELECT id, name FROM datastores WHERE name = ?"+t.s.d.forUpdate, []any{name}, &id, &is); err != nil {
		return "", err
	}
	if is != name {
		return "", trove.Errorf(trove.KindConflict, "There is a datastore %q, which this database takes for the same name.", is)
	}
	return id, nil
}

// BindVersion says that instances of a version may have this flavor or volume
// type; a version that is bound to none may have any. Errors: KindNotFound for
// the version, KindConflict if it is bound to it already.
func (s *Store) BindVersion(ctx context.Context, versionID, key, value string) error {
	if err := binding(key, value); err != nil {
		return err
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if err := t.lockVersion(ctx, versionID); err != nil {
			return err
		}
		now := s.now()
		var id string
		var deleted bool
		found, err := t.one(ctx, `SELECT m.id, m.deleted FROM datastore_version_metadata m
			WHERE m.datastore_version_id = ? AND m.key = ? AND m.value = ?`, []any{versionID, key, value}, &id, &deleted)
		switch {
		case err != nil:
			return err
		case !found:
			_, err = t.exec(ctx, s.d.insert("datastore_version_metadata", 1,
				[]string{"id", "datastore_version_id", "key", "value", "created", "deleted", "updated_at"}),
				trove.NewID(), versionID, key, value, now, false, now)
			return err
		case !deleted && !t.repeated:
			return trove.Errorf(trove.KindConflict, "Datastore version %s is bound to %s %s already.", versionID, key, value)
		}
		_, err = t.exec(ctx, "UPDATE datastore_version_metadata SET deleted = ?, deleted_at = NULL, updated_at = ? WHERE id = ?", false, now, id)
		return err
	})
}

// UnbindVersion takes a binding back. KindNotFound if there is none.
func (s *Store) UnbindVersion(ctx context.Context, versionID, key, value string) error {
	if err := binding(key, value); err != nil {
		return err
	}
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if err := t.lockVersion(ctx, versionID); err != nil {
			return err
		}
		now := s.now()
		n, err := t.exec(ctx, "UPDATE datastore_version_metadata SET deleted = ?, deleted_at = ?, updated_at = ? WHERE datastore_version_id = ? AND "+
			s.d.quote("key")+" = ? AND value = ? AND deleted = ?", true, now, now, versionID, key, value, false)
		if err == nil && n == 0 && !t.repeated {
			return trove.Errorf(trove.KindNotFound, "Datastore version %s is not bound to %s %s.", versionID, key, clip(value, 128))
		}
		return err
	})
}

func binding(key, value string) error {
	if key != BindFlavor && key != BindVolumeType {
		return trove.Errorf(trove.KindBadRequest, "A version is bound to a %s or a %s, not to a %q.", BindFlavor, BindVolumeType, key)
	}
	if value == "" {
		return trove.Errorf(trove.KindBadRequest, "The %s is missing.", key)
	}
	return fits(field{key, value, 128})
}

func (t *tx) lockVersion(ctx context.Context, id string) error {
	var is string
	_, err := t.one(ctx, "SELECT id FROM datastore_versions WHERE id = ?"+t.s.d.forUpdate, []any{id}, &is)
	if err == nil && is != id {
		return versionNotFound(id)
	}
	return err
}

// rulesJSON is the original's file of validation rules.
type rulesJSON struct {
	Parameters []struct {
		Name            string          `json:"name"`
		RestartRequired bool            `json:"restart_required"`
		Max             json.RawMessage `json:"max"`
		Min             json.RawMessage `json:"min"`
		Type            string          `json:"type"`
	} `json:"configuration-parameters"`
}

// ParseConfigurationParameters reads the original's validation-rules.json.
// KindBadRequest names what is wrong in it.
func ParseConfigurationParameters(rules []byte) ([]ConfigurationParameter, error) {
	var j rulesJSON
	d := json.NewDecoder(bytes.NewReader(rules))
	if err := d.Decode(&j); err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "The rules are not JSON as they should be: %w", err)
	}
	if len(j.Parameters) == 0 {
		return nil, trove.Errorf(trove.KindBadRequest, `The rules hold no parameters under "configuration-parameters".`)
	}
	var out []ConfigurationParameter
	for i, p := range j.Parameters {
		if p.Name == "" || p.Type == "" {
			return nil, trove.Errorf(trove.KindBadRequest, "Parameter %d of the rules (%q) has no name or no type.", i+1, p.Name)
		}
		if slices.ContainsFunc(out, func(o ConfigurationParameter) bool { return o.Name == p.Name }) {
			return nil, trove.Errorf(trove.KindBadRequest, "The rules have the parameter %q twice.", p.Name)
		}
		c := ConfigurationParameter{Name: p.Name, RestartRequired: p.RestartRequired, Max: bound(p.Max), Min: bound(p.Min), Type: p.Type}
		if err := fits(field{"name of parameter " + p.Name, c.Name, 128}, field{"max of parameter " + p.Name, c.Max, 40},
			field{"min of parameter " + p.Name, c.Min, 40}, field{"type of parameter " + p.Name, c.Type, 128}); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// bound is a number, or a number in quotes, as it is written; empty for null.
func bound(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if s = string(raw); s == "null" {
		return ""
	}
	return s
}

// LoadConfigurationParameters makes these the parameters that configurations of
// a version may set, beside those that are there; one that is there gets the new
// bounds. KindNotFound if there is no such version.
func (s *Store) LoadConfigurationParameters(ctx context.Context, versionID string, parameters []ConfigurationParameter) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		if err := t.lockVersion(ctx, versionID); err != nil {
			return err
		}
		for _, p := range parameters {
			upsert := s.d.upsert("datastore_configuration_parameters", []string{"datastore_version_id", "name"},
				[]string{"restart_required", "max_size", "min_size", "data_type"}, "id")
			if _, err := t.exec(ctx, upsert, versionID, p.Name, p.RestartRequired, null(p.Max), null(p.Min), p.Type, trove.NewID()); err != nil {
				return fmt.Errorf("parameter %s: %w", p.Name, err)
			}
		}
		return nil
	})
}

// ConfigurationParameters gives the parameters of a version, by name.
func (s *Store) ConfigurationParameters(ctx context.Context, versionID string) (out []ConfigurationParameter, err error) {
	err = s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, `SELECT name, restart_required, max_size, min_size, data_type FROM datastore_configuration_parameters
			WHERE datastore_version_id = ? ORDER BY name`, []any{versionID}, func(r *sql.Rows) error {
			var p ConfigurationParameter
			var most, least sql.NullString
			err := r.Scan(&p.Name, &p.RestartRequired, &most, &least, &p.Type)
			p.Max, p.Min = most.String, least.String
			out = append(out, p)
			return err
		})
	})
	return out, err
}

// RemoveConfigurationParameters forgets the parameters of a version, and tells
// how many there were.
func (s *Store) RemoveConfigurationParameters(ctx context.Context, versionID string) (n int64, err error) {
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err = t.exec(ctx, "DELETE FROM datastore_configuration_parameters WHERE datastore_version_id = ?", versionID)
		return err
	})
	return n, err
}
