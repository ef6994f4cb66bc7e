package view

import (
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Datastore is a datastore with the versions the caller may see.
type Datastore struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	Links          []Link    `json:"links"`
	Versions       []Version `json:"versions"`
	DefaultVersion string    `json:"default_version,omitempty"`
}

// Version is a version of a datastore, as users see it. Datastore is absent
// inside a datastore.
type Version struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	Links     []Link `json:"links"`
	Datastore string `json:"datastore,omitempty"`
	*VersionAdmin
}

// VersionAdmin is what administrators see besides.
type VersionAdmin struct {
	Active       bool     `json:"active"`
	Packages     *string  `json:"packages"`
	Image        *string  `json:"image"`
	RegistryExt  *string  `json:"registry_ext"`
	ReplStrategy *string  `json:"repl_strategy"`
	ImageTags    []string `json:"image_tags"`
}

// Datastore shows d with those of its versions that the caller chose.
func (v Viewer) Datastore(d trove.Datastore, versions []trove.DatastoreVersion) Datastore {
	out := Datastore{
		ID: d.ID, Name: d.Name, Links: v.links("datastores", d.ID),
		Versions: make([]Version, 0, len(versions)), DefaultVersion: d.DefaultVersionID,
	}
	for _, dv := range versions {
		shown := v.Version(dv)
		shown.Datastore = ""
		out.Versions = append(out.Versions, shown)
	}
	return out
}

// Version shows one version.
func (v Viewer) Version(d trove.DatastoreVersion) Version {
	out := Version{
		ID: d.ID, Name: d.Name, Version: d.Number, Datastore: d.DatastoreID,
		Links: v.links("datastores/versions", d.ID),
	}
	if v.Admin {
		out.VersionAdmin = &VersionAdmin{
			Active: d.Active, Packages: optional(strings.Join(d.Packages, ",")), Image: optional(d.ImageID),
			RegistryExt: optional(d.RegistryExt), ReplStrategy: optional(d.ReplStrategy),
			ImageTags: append([]string{}, d.ImageTags...),
		}
	}
	return out
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
