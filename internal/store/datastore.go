package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

const versionColumns = `v.id, v.datastore_id, d.name, v.name, v.version, v.manager, v.image_id, v.image_tags, v.packages,
	v.registry_ext, v.repl_strategy, v.active`

// scanVersion scans what comes before versionColumns, and these. Without a
// version its ID is empty.
func scanVersion(r *sql.Rows, before ...any) (trove.DatastoreVersion, error) {
	var v trove.DatastoreVersion
	var id, store, dName, name, number, manager, image, tags, packages, registry, strategy sql.NullString
	var active sql.NullBool
	err := r.Scan(append(before, &id, &store, &dName, &name, &number, &manager, &image, &tags, &packages, &registry, &strategy, &active)...)
	v.ID, v.RegistryExt, v.ReplStrategy, v.Active = id.String, registry.String, strategy.String, active.Bool
	v.DatastoreID, v.DatastoreName, v.Name, v.Number = store.String, dName.String, name.String, number.String
	v.Manager, v.ImageID, v.ImageTags, v.Packages = manager.String, image.String, list(tags.String), list(packages.String)
	return v, err
}

// Datastores returns every datastore by name, with its versions, inactive ones
// too, by name and number.
func (s *Store) Datastores(ctx context.Context) ([]trove.Datastore, error) {
	var out []trove.Datastore
	err := s.read(ctx, func(ctx context.Context, c session) error {
		var err error
		out, err = c.datastores(ctx, "1 = 1")
		return err
	})
	return out, err
}

// Datastore returns the datastore with this id or, if there is none, this name;
// KindNotFound if there is neither.
func (s *Store) Datastore(ctx context.Context, idOrName string) (trove.Datastore, error) {
	var found trove.Datastore
	err := s.read(ctx, func(ctx context.Context, c session) error {
		all, err := c.datastores(ctx, "d.id = ? OR d.name = ?", idOrName, idOrName)
		if err != nil {
			return err
		}
		// Exactly: a collation may take another name for the same.
		all = slices.DeleteFunc(all, func(d trove.Datastore) bool { return d.ID != idOrName && d.Name != idOrName })
		if len(all) == 0 {
			return trove.Errorf(trove.KindNotFound, "Datastore %q cannot be found.", clip(idOrName, 255))
		}
		found = all[0]
		for _, d := range all {
			if d.ID == idOrName {
				found = d
			}
		}
		return nil
	})
	return found, err
}

func (c session) datastores(ctx context.Context, where string, args ...any) ([]trove.Datastore, error) {
	var out []trove.Datastore
	at := map[string]int{}
	err := c.each(ctx, "SELECT d.id, d.default_version_id, "+versionColumns+` FROM datastores d
		LEFT JOIN datastore_versions v ON v.datastore_id = d.id
		WHERE `+where+" ORDER BY d.name, v.name, v.version", args, func(r *sql.Rows) error {
		var id string
		var preset sql.NullString
		v, err := scanVersion(r, &id, &preset)
		if err != nil {
			return err
		}
		i, known := at[id]
		if !known {
			i = len(out)
			at[id] = i
			out = append(out, trove.Datastore{ID: id, Name: v.DatastoreName, DefaultVersionID: preset.String})
		}
		if v.ID != "" {
			out[i].Versions = append(out[i].Versions, v)
		}
		return nil
	})
	return out, err
}

// Version returns a version by its id, KindNotFound if there is none.
func (s *Store) Version(ctx context.Context, id string) (trove.DatastoreVersion, error) {
	var v trove.DatastoreVersion
	found := false
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, "SELECT "+versionColumns+` FROM datastore_versions v LEFT JOIN datastores d ON d.id = v.datastore_id
			WHERE v.id = ?`, []any{id}, func(r *sql.Rows) error {
			var err error
			v, err = scanVersion(r)
			found = true
			return err
		})
	})
	if err == nil && !found {
		err = trove.Errorf(trove.KindNotFound, "Datastore version %s cannot be found.", clip(id, 255))
	}
	return v, err
}

// EnsureVersion makes the datastore and the version if they are missing, and
// gives the version these properties if it has others. A version is known by
// its datastore, name and number. It returns the version's id: v.ID for a new
// one, if given.
func (s *Store) EnsureVersion(ctx context.Context, v trove.DatastoreVersion, makeDefault bool) (id string, err error) {
	tags, packages := strings.Join(v.ImageTags, ","), strings.Join(v.Packages, ",")
	if err := fits(field{"datastore name", v.DatastoreName, 255}, field{"version name", v.Name, 255},
		field{"version number", v.Number, 255}, field{"manager", v.Manager, 255}, field{"image id", v.ImageID, 36},
		field{"list of image tags", tags, 255}, field{"list of packages", packages, 511}, field{"version id", v.ID, 36}); err != nil {
		return "", err
	}
	if v.DatastoreName == "" || v.Name == "" {
		return "", trove.Errorf(trove.KindBadRequest, "A datastore version needs the name of its datastore and a name.")
	}
	err = s.tx(ctx, func(ctx context.Context, t *tx) error {
		// Its row is locked, so that the version is looked for once only.
		storeID, err := t.putDatastore(ctx, v.DatastoreName)
		if err != nil {
			return err
		}
		found, err := t.one(ctx, "SELECT id FROM datastore_versions WHERE datastore_id = ? AND name = ? AND version = ?",
			[]any{storeID, v.Name, v.Number}, &id)
		if err != nil {
			return err
		}
		if found {
			_, err = t.exec(ctx, `UPDATE datastore_versions SET manager = ?, image_id = ?, image_tags = ?, packages = ?,
				registry_ext = ?, repl_strategy = ?, active = ? WHERE id = ?`,
				v.Manager, null(v.ImageID), tags, packages, v.RegistryExt, v.ReplStrategy, v.Active, id)
		} else {
			if id = v.ID; id == "" {
				id = trove.NewID()
			}
			_, err = t.exec(ctx, `INSERT INTO datastore_versions (id, datastore_id, name, version, manager, image_id, image_tags,
				packages, registry_ext, repl_strategy, active) VALUES (`+marks(11)+`)`,
				id, storeID, v.Name, v.Number, v.Manager, null(v.ImageID), tags, packages, v.RegistryExt, v.ReplStrategy, v.Active)
		}
		if err != nil || !makeDefault {
			return err
		}
		_, err = t.exec(ctx, "UPDATE datastores SET default_version_id = ? WHERE id = ?", id, storeID)
		return err
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// SetVersionActive says whether new instances can be made of a version.
func (s *Store) SetVersionActive(ctx context.Context, id string, active bool) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, "UPDATE datastore_versions SET active = ? WHERE id = ?", active, id)
		if err == nil && n == 0 {
			return versionNotFound(id)
		}
		return err
	})
}

// DeleteDatastore deletes a datastore without versions; KindBadRequest if it
// has any, KindNotFound if there is no such datastore.
func (s *Store) DeleteDatastore(ctx context.Context, id string) error {
	return s.tx(ctx, func(ctx context.Context, t *tx) error {
		var versions int
		if _, err := t.one(ctx, "SELECT COUNT(*) FROM datastore_versions WHERE datastore_id = ?", []any{id}, &versions); err != nil {
			return err
		}
		if versions > 0 {
			return trove.Errorf(trove.KindBadRequest, "Datastore %s cannot be deleted: it has %d versions.", id, versions).
				WithAction("Delete its versions first.")
		}
		n, err := t.exec(ctx, "DELETE FROM datastores WHERE id = ?", id)
		if err == nil && n == 0 && !t.repeated {
			return trove.Errorf(trove.KindNotFound, "Datastore %s cannot be found.", clip(id, 255))
		}
		return err
	})
}

// VersionMetadata returns what is said of a version, by key, in order: under
// BindFlavor and BindVolumeType what instances of it may have; none means any.
func (s *Store) VersionMetadata(ctx context.Context, versionID string) (map[string][]string, error) {
	values := map[string][]string{}
	err := s.read(ctx, func(ctx context.Context, c session) error {
		return c.each(ctx, `SELECT m.key, m.value FROM datastore_version_metadata m
			WHERE m.datastore_version_id = ? AND m.deleted = ? ORDER BY m.value`,
			[]any{versionID, false}, func(r *sql.Rows) error {
				var key, v sql.NullString
				err := r.Scan(&key, &v)
				values[key.String] = append(values[key.String], v.String)
				return err
			})
	})
	return values, err
}
