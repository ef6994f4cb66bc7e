// Package view turns the domain into the JSON of the REST API: which member is
// there when, in which form (contract: REST API 1.9, 2 and 5).
//
// It owns the wire form of every answer but faults. It asks no one for
// anything: what a view needs is given to it. Members that a state does not
// have are absent, never null, unless the contract says null.
package view

import (
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Link is one link of an object.
type Link struct {
	Href string `json:"href"`
	Rel  string `json:"rel"`
}

// Viewer is for whom an answer is made.
type Viewer struct {
	Host      string // as the request named it
	ProjectID string // the caller's, whoever owns the object
	Admin     bool
	// HeartbeatExpiry is the age at which a heartbeat counts as missing.
	HeartbeatExpiry time.Duration
	Region          string // of instances that name none
}

// links are always https and always two.
func (v Viewer) links(collection, id string) []Link {
	return []Link{
		{Href: "https://" + v.Host + "/v1.0/" + v.ProjectID + "/" + collection + "/" + id, Rel: "self"},
		{Href: "https://" + v.Host + "/" + collection + "/" + id, Rel: "bookmark"},
	}
}

// timeLayout has no zone and no fraction: clients parse exactly this.
const timeLayout = "2006-01-02T15:04:05"

func formatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// formatExact keeps microseconds and the zone, for the answers that are ours.
func formatExact(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00")
}

// Versions is the answer of GET /; base is the URL of the service without a
// slash at the end.
func Versions(base string) any {
	type version struct {
		ID      string `json:"id"`
		Status  string `json:"status"`
		Updated string `json:"updated"`
		Links   []struct {
			Rel  string `json:"rel"`
			Href string `json:"href"`
		} `json:"links"`
	}
	v := version{ID: "v1.0", Status: "CURRENT", Updated: "2012-08-01T00:00:00Z"}
	v.Links = append(v.Links, struct {
		Rel  string `json:"rel"`
		Href string `json:"href"`
	}{"self", base + "/v1.0/"})
	return map[string]any{"versions": []version{v}}
}

// Flavor is a flavor. ID is null unless it is a plain number.
type Flavor struct {
	ID        *int64 `json:"id"`
	Links     []Link `json:"links"`
	Name      string `json:"name"`
	RAM       int    `json:"ram"`
	VCPUs     int    `json:"vcpus"`
	Disk      int    `json:"disk"`
	Ephemeral int    `json:"ephemeral"`
	StrID     string `json:"str_id"`
}

// Flavor shows f.
func (v Viewer) Flavor(f trove.Flavor) Flavor {
	return Flavor{
		ID: number(f.ID), StrID: f.ID, Links: v.links("flavors", f.ID), Name: f.Name,
		RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk, Ephemeral: f.Ephemeral,
	}
}

// Flavors shows a list.
func (v Viewer) Flavors(list []trove.Flavor) []Flavor {
	out := make([]Flavor, 0, len(list))
	for _, f := range list {
		out = append(out, v.Flavor(f))
	}
	return out
}

// number gives id as a number if it is written as one: digits without a zero
// in front.
func number(id string) *int64 {
	if id == "" || len(id) > 18 || (id[0] == '0' && id != "0") {
		return nil
	}
	var n int64
	for _, c := range []byte(id) {
		if c < '0' || c > '9' {
			return nil
		}
		n = n*10 + int64(c-'0')
	}
	return &n
}

// Quota is a project's limit and use of a resource.
type Quota struct {
	Resource string `json:"resource"`
	InUse    int    `json:"in_use"`
	Reserved int    `json:"reserved"`
	Limit    int    `json:"limit"`
}

// Quotas shows a project's quotas.
func Quotas(list []trove.Quota) []Quota {
	out := make([]Quota, 0, len(list))
	for _, q := range list {
		out = append(out, Quota{Resource: string(q.Resource), InUse: q.InUse, Reserved: q.Reserved, Limit: q.Limit})
	}
	return out
}

// RateLimit is what is left of a rate limit.
type RateLimit struct {
	NextAvailable string `json:"nextAvailable"`
	Remaining     int    `json:"remaining"`
	Unit          string `json:"unit"`
	Value         int    `json:"value"`
	Verb          string `json:"verb"`
	URI           string `json:"uri"`
	Regex         string `json:"regex"`
}

// NewRateLimit shows a limit of value requests a minute; unlike other times,
// this one has a zone.
func NewRateLimit(verb, uri, regex string, value, remaining int, next time.Time) RateLimit {
	return RateLimit{
		NextAvailable: next.UTC().Format("2006-01-02T15:04:05Z"), Remaining: remaining,
		Unit: "MINUTE", Value: value, Verb: verb, URI: uri, Regex: regex,
	}
}

// Limits is the answer of GET /limits.
func Limits(quotas []trove.Quota, rates []RateLimit) any {
	absolute := map[string]any{"verb": "ABSOLUTE"}
	for _, q := range quotas {
		absolute["max_"+string(q.Resource)] = q.Limit
	}
	list := []any{absolute}
	for _, r := range rates {
		list = append(list, r)
	}
	return map[string]any{"limits": list}
}

// DatabaseName is a database as users and lists show it: never more than its
// name.
type DatabaseName struct {
	Name string `json:"name"`
}

// User is a user of an engine.
type User struct {
	Name      string         `json:"name"`
	Host      string         `json:"host"`
	Databases []DatabaseName `json:"databases"`
}

// DatabaseNames shows databases.
func DatabaseNames(names []string) []DatabaseName {
	out := make([]DatabaseName, 0, len(names))
	for _, n := range names {
		out = append(out, DatabaseName{n})
	}
	return out
}

// NewUser shows u, never its password.
func NewUser(u trove.User) User {
	return User{Name: u.Name, Host: u.Host, Databases: DatabaseNames(u.Databases)}
}
