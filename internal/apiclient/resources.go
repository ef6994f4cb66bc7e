package apiclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Instance is an instance as the API shows it.
type Instance struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	Status          string    `json:"status"`
	OperatingStatus string    `json:"operating_status"`
	Created         timestamp `json:"created"`
	Updated         timestamp `json:"updated"`
	Region          string    `json:"region"`
	Flavor          struct {
		ID string `json:"id"`
	} `json:"flavor"`
	Datastore struct {
		Type    string `json:"type"`
		Version string `json:"version"`
	} `json:"datastore"`
	Volume *struct {
		Size int      `json:"size"`
		Used *float64 `json:"used"`
	} `json:"volume"`
	Addresses []struct {
		Address string `json:"address"`
		Type    string `json:"type"`
	} `json:"addresses"`
	Fault *struct {
		Message string    `json:"message"`
		Created timestamp `json:"created"`
	} `json:"fault"`
}

// Address is the first address of the instance, empty if it has none yet.
func (i *Instance) Address() string {
	if len(i.Addresses) == 0 {
		return ""
	}
	return i.Addresses[0].Address
}

// Ready reports whether the instance serves.
func (i *Instance) Ready() bool { return i.Status == "ACTIVE" && i.OperatingStatus == "HEALTHY" }

// NewInstance is an instance to be made.
type NewInstance struct {
	Name      string            `json:"name"`
	FlavorRef string            `json:"flavorRef"`
	Volume    *Volume           `json:"volume,omitempty"`
	Datastore map[string]string `json:"datastore,omitempty"`
	Databases []Database        `json:"databases,omitempty"`
	Users     []User            `json:"users,omitempty"`
	NICs      []NIC             `json:"nics,omitempty"`
}

// Volume is the size of a volume in GiB.
type Volume struct {
	Size int `json:"size"`
}

// NIC is a network interface.
type NIC struct {
	NetworkID string `json:"network_id"`
}

// Database is a database in an instance.
type Database struct {
	Name         string `json:"name"`
	CharacterSet string `json:"character_set,omitempty"`
	Collate      string `json:"collate,omitempty"`
}

// User is a user of an instance.
type User struct {
	Name      string     `json:"name"`
	Password  string     `json:"password,omitempty"`
	Host      string     `json:"host,omitempty"`
	Databases []Database `json:"databases,omitempty"`
}

// Datastore is an engine.
type Datastore struct {
	ID             string             `json:"id"`
	Name           string             `json:"name"`
	DefaultVersion string             `json:"default_version"`
	Versions       []DatastoreVersion `json:"versions"`
}

// DatastoreVersion is a version of an engine.
type DatastoreVersion struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Number string `json:"version"`
}

// Flavor is the size of a server; RAM is in MiB.
type Flavor struct {
	ID    string `json:"str_id"`
	Name  string `json:"name"`
	RAM   int    `json:"ram"`
	VCPUs int    `json:"vcpus"`
	Disk  int    `json:"disk"`
}

// Instances lists all instances of the project.
func (c *Client) Instances(ctx context.Context) ([]Instance, error) {
	return pages[Instance](ctx, c, "instances", "instances/detail")
}

// Instance finds an instance by id, else by name; KindNotFound if there is
// none, KindConflict if several have the name.
func (c *Client) Instance(ctx context.Context, idOrName string) (*Instance, error) {
	i, err := c.get(ctx, idOrName)
	if !trove.IsKind(err, trove.KindNotFound) {
		return i, err
	}
	all, err := c.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var found []Instance
	for _, i := range all {
		if i.Name == idOrName {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return nil, trove.Errorf(trove.KindNotFound, "There is no instance with the name or id %q.", idOrName)
	case 1:
		return c.get(ctx, found[0].ID)
	}
	ids := make([]string, len(found))
	for n, i := range found {
		ids[n] = i.ID
	}
	return nil, trove.Errorf(trove.KindConflict, "%d instances have the name %q: give an id instead (%s).",
		len(found), idOrName, strings.Join(ids, ", "))
}

func (c *Client) get(ctx context.Context, id string) (*Instance, error) {
	var r struct{ Instance Instance }
	err := c.do(ctx, http.MethodGet, "instances/"+segment(id), nil, &r)
	return &r.Instance, err
}

// CreateInstance asks for an instance.
func (c *Client) CreateInstance(ctx context.Context, n NewInstance) (*Instance, error) {
	var r struct{ Instance Instance }
	err := c.do(ctx, http.MethodPost, "instances", map[string]any{"instance": n}, &r)
	return &r.Instance, err
}

// DeleteInstance asks for an instance to be deleted.
func (c *Client) DeleteInstance(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+segment(id), nil, nil)
}

// RestartInstance asks for its engine to be restarted.
func (c *Client) RestartInstance(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/action", map[string]any{"restart": map[string]any{}}, nil)
}

// ResizeFlavor asks for an instance to have another flavor, by id.
func (c *Client) ResizeFlavor(ctx context.Context, id, flavor string) error {
	return c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/action", map[string]any{"resize": map[string]any{"flavorRef": flavor}}, nil)
}

// ResizeVolume asks for an instance's volume to grow to a size in GiB.
func (c *Client) ResizeVolume(ctx context.Context, id string, size int) error {
	return c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/action",
		map[string]any{"resize": map[string]any{"volume": map[string]any{"size": size}}}, nil)
}

// SetAccess has others reach an instance: those of the networks, everyone if
// there are none.
func (c *Client) SetAccess(ctx context.Context, id string, public bool, cidrs []string) error {
	return c.do(ctx, http.MethodPut, "instances/"+segment(id),
		map[string]any{"instance": map[string]any{"access": map[string]any{"is_public": public, "allowed_cidrs": append([]string{}, cidrs...)}}}, nil)
}

// Databases lists the databases of an instance.
func (c *Client) Databases(ctx context.Context, id string) ([]Database, error) {
	return pages[Database](ctx, c, "databases", "instances/"+segment(id)+"/databases")
}

// CreateDatabases asks for databases to be made.
func (c *Client) CreateDatabases(ctx context.Context, id string, dbs []Database) error {
	return c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/databases", map[string]any{"databases": dbs}, nil)
}

// DeleteDatabase asks for a database to be dropped.
func (c *Client) DeleteDatabase(ctx context.Context, id, name string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+segment(id)+"/databases/"+segment(name), nil, nil)
}

// Users lists the users of an instance.
func (c *Client) Users(ctx context.Context, id string) ([]User, error) {
	return pages[User](ctx, c, "users", "instances/"+segment(id)+"/users")
}

// CreateUsers asks for users to be made.
func (c *Client) CreateUsers(ctx context.Context, id string, users []User) error {
	return c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/users", map[string]any{"users": users}, nil)
}

// DeleteUser asks for a user (name or name@host) to be dropped.
func (c *Client) DeleteUser(ctx context.Context, id, user string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+segment(id)+"/users/"+segment(user), nil, nil)
}

// GrantAccess lets a user use databases.
func (c *Client) GrantAccess(ctx context.Context, id, user string, dbs []Database) error {
	return c.do(ctx, http.MethodPut, "instances/"+segment(id)+"/users/"+segment(user)+"/databases", map[string]any{"databases": dbs}, nil)
}

// RevokeAccess takes a database from a user.
func (c *Client) RevokeAccess(ctx context.Context, id, user, database string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+segment(id)+"/users/"+segment(user)+"/databases/"+segment(database), nil, nil)
}

// RootEnabled reports whether root is enabled.
func (c *Client) RootEnabled(ctx context.Context, id string) (bool, error) {
	var r struct{ RootEnabled bool }
	err := c.do(ctx, http.MethodGet, "instances/"+segment(id)+"/root", nil, &r)
	return r.RootEnabled, err
}

// EnableRoot enables root; an empty password has one made.
func (c *Client) EnableRoot(ctx context.Context, id, password string) (User, error) {
	body := map[string]any{}
	if password != "" {
		body["password"] = password
	}
	var r struct{ User User }
	err := c.do(ctx, http.MethodPost, "instances/"+segment(id)+"/root", body, &r)
	return r.User, err
}

// DisableRoot disables root.
func (c *Client) DisableRoot(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+segment(id)+"/root", nil, nil)
}

// Datastores lists the engines.
func (c *Client) Datastores(ctx context.Context) ([]Datastore, error) {
	var r struct{ Datastores []Datastore }
	err := c.do(ctx, http.MethodGet, "datastores", nil, &r)
	return r.Datastores, err
}

// Flavors lists the flavors.
func (c *Client) Flavors(ctx context.Context) ([]Flavor, error) {
	var r struct{ Flavors []Flavor }
	err := c.do(ctx, http.MethodGet, "flavors", nil, &r)
	return r.Flavors, err
}

// Limits lists the project's absolute limits by name, -1 for none.
func (c *Client) Limits(ctx context.Context) (map[string]int, error) {
	var r struct{ Limits []map[string]json.RawMessage }
	if err := c.do(ctx, http.MethodGet, "limits", nil, &r); err != nil {
		return nil, err
	}
	limits := map[string]int{}
	for _, l := range r.Limits {
		if string(l["verb"]) != `"ABSOLUTE"` {
			continue
		}
		for name, v := range l {
			var n int
			if json.Unmarshal(v, &n) == nil { // the verb is no number
				limits[name] = n
			}
		}
	}
	return limits, nil
}

// pages reads a whole collection, page by page.
func pages[T any](ctx context.Context, c *Client, collection, path string) ([]T, error) {
	all := []T{}
	for query := ""; ; {
		var page map[string]json.RawMessage
		if err := c.do(ctx, http.MethodGet, path+query, nil, &page); err != nil {
			return nil, err
		}
		var items []T
		if err := json.Unmarshal(page[collection], &items); err != nil {
			return nil, trove.Errorf(trove.KindInternal, "The API's answer has no list of %s: %w", collection, err)
		}
		all = append(all, items...)
		next := nextMarker(page["links"])
		if next == "" {
			return all, nil
		}
		query = "?marker=" + url.QueryEscape(next)
	}
}

// nextMarker is the marker of the next page, empty at the end.
func nextMarker(raw json.RawMessage) string {
	var links []struct{ Rel, Href string }
	if json.Unmarshal(raw, &links) != nil {
		return ""
	}
	for _, l := range links {
		if l.Rel != "next" {
			continue
		}
		if u, err := url.Parse(l.Href); err == nil {
			return u.Query().Get("marker")
		}
	}
	return ""
}
