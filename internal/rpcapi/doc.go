// Package rpcapi holds what the services say to one another: for each server a
// package with its topic, its messages, a typed client and the interface its
// server implements. Services never import one another; they meet here.
//
// The messages are the original's, so that Python services on the same bus
// understand them (docs/developer/bus.md).
package rpcapi

import "github.com/gotrove/gotrove/internal/trove"

// Database is a database on the wire.
type Database struct {
	Name         string  `json:"_name"`
	Collation    *string `json:"_collate"`
	CharacterSet *string `json:"_character_set"`
}

// User is a user of an engine on the wire.
type User struct {
	Name      string     `json:"_name"`
	Password  *string    `json:"_password"`
	Host      string     `json:"_host"`
	Databases []Database `json:"_databases"`
	IsRoot    bool       `json:"_is_root"`
}

// Flavor is a flavor on the wire: the members its readers use.
type Flavor struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	RAM   int    `json:"ram"` // MiB
	VCPUs int    `json:"vcpus"`
	Disk  int    `json:"disk"` // GiB
}

// Databases puts databases on the wire.
func Databases(dbs []trove.Database) []Database {
	out := make([]Database, 0, len(dbs))
	for _, d := range dbs {
		out = append(out, Database{Name: d.Name, Collation: optional(d.Collation), CharacterSet: optional(d.CharacterSet)})
	}
	return out
}

// Users puts users on the wire.
func Users(users []trove.User) []User {
	out := make([]User, 0, len(users))
	for _, u := range users {
		w := User{Name: u.Name, Password: optional(u.Password), Host: u.Host, Databases: []Database{}}
		if w.Host == "" {
			w.Host = trove.AnyHost
		}
		for _, d := range u.Databases {
			w.Databases = append(w.Databases, Database{Name: d})
		}
		out = append(out, w)
	}
	return out
}

// ToDatabases takes databases off the wire.
func ToDatabases(dbs []Database) []trove.Database {
	out := make([]trove.Database, 0, len(dbs))
	for _, d := range dbs {
		out = append(out, trove.Database{Name: d.Name, Collation: deref(d.Collation), CharacterSet: deref(d.CharacterSet)})
	}
	return out
}

// ToUsers takes users off the wire.
func ToUsers(users []User) []trove.User {
	out := make([]trove.User, 0, len(users))
	for _, u := range users {
		out = append(out, u.ToUser())
	}
	return out
}

// ToUser takes one user off the wire.
func (u User) ToUser() trove.User {
	t := trove.User{Name: u.Name, Password: deref(u.Password), Host: u.Host}
	if t.Host == "" {
		t.Host = trove.AnyHost
	}
	for _, d := range u.Databases {
		t.Databases = append(t.Databases, d.Name)
	}
	return t
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
