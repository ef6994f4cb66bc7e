package embedded

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	usersFile   = "users.json"
	keyFile     = "token.key"
	revokedFile = "revoked.json"

	domainID   = "default"
	domainName = "Default"
)

// directory is the users file: everybody there is. Names are unique, there is
// one domain.
type directory struct {
	Users    []user    `json:"users"`
	Projects []project `json:"projects"`
	Roles    []role    `json:"roles"`
}

type user struct {
	ID               string       `json:"id"`
	Name             string       `json:"name"`
	PasswordHash     string       `json:"password_hash"` // argon2id, PHC
	Enabled          bool         `json:"enabled"`
	DefaultProjectID string       `json:"default_project_id,omitempty"`
	Assignments      []assignment `json:"assignments"`
}

type assignment struct {
	ProjectID string   `json:"project_id"`
	Roles     []string `json:"roles"` // names
}

type project struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Enabled     bool   `json:"enabled"`
}

type role struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (d *directory) user(match func(user) bool) (user, bool) {
	i := slices.IndexFunc(d.Users, match)
	if i < 0 {
		return user{}, false
	}
	return d.Users[i], true
}

func (d *directory) userByID(id string) (user, bool) {
	return d.user(func(u user) bool { return u.ID == id && u.Enabled })
}

func (d *directory) project(match func(project) bool) (project, bool) {
	i := slices.IndexFunc(d.Projects, match)
	if i < 0 {
		return project{}, false
	}
	return d.Projects[i], true
}

// roles gives the roles u has in a project that is enabled.
func (d *directory) roles(u user, projectID string) []role {
	if p, ok := d.project(func(p project) bool { return p.ID == projectID }); !ok || !p.Enabled {
		return nil
	}
	var out []role
	for _, r := range d.Roles {
		for _, a := range u.Assignments {
			if a.ProjectID == projectID && slices.Contains(a.Roles, r.Name) {
				out = append(out, r)
				break
			}
		}
	}
	return out
}

// projectsOf gives the projects in which u has a role.
func (d *directory) projectsOf(u user) []project {
	var out []project
	for _, p := range d.Projects {
		if len(d.roles(u, p.ID)) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// check finds what would make the file mean something else than it says.
func (d *directory) check() error {
	seen := map[string]bool{}
	once := func(kind, v string) error {
		if v == "" || seen[kind+v] {
			return fmt.Errorf("%s %q is empty or there twice", kind, v)
		}
		seen[kind+v] = true
		return nil
	}
	var errs []error
	for _, p := range d.Projects {
		errs = append(errs, once("project id", p.ID), once("project name", p.Name))
	}
	for _, r := range d.Roles {
		errs = append(errs, once("role id", r.ID), once("role name", r.Name))
	}
	for _, u := range d.Users {
		errs = append(errs, once("user id", u.ID), once("user name", u.Name))
		if u.PasswordHash == "" {
			errs = append(errs, fmt.Errorf("user %q has no password_hash", u.Name))
		}
		for _, a := range u.Assignments {
			if !seen["project id"+a.ProjectID] {
				errs = append(errs, fmt.Errorf("user %q has roles in project %q, which is not there", u.Name, a.ProjectID))
			}
			for _, r := range a.Roles {
				if !seen["role name"+r] {
					errs = append(errs, fmt.Errorf("user %q has role %q, which is not there", u.Name, r))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// loadDirectory reads the users file, or makes the first one: user admin with
// all roles in project demo and a random password, which goes to the openrc.
// The openrc is written first: a crash between the two begins again.
func (s *Server) loadDirectory(ctx context.Context) (*directory, error) {
	path := filepath.Join(s.o.Dir, usersFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.firstUser(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	var d directory
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%s is not a users file: %w", path, err)
	}
	if err := d.check(); err != nil {
		return nil, trove.Errorf(trove.KindBadRequest, "%s: %w", path, err)
	}
	return &d, s.refreshOpenRC(ctx)
}

func (s *Server) firstUser(ctx context.Context, path string) (*directory, error) {
	password := secret.Password(24, secret.Alphanumeric)
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return nil, err
	}
	demo := project{ID: newID(), Name: "demo", Description: "The first project of this machine", Enabled: true}
	names := []string{"admin", "member", "reader"}
	d := directory{Projects: []project{demo}}
	for _, n := range names {
		d.Roles = append(d.Roles, role{ID: newID(), Name: n})
	}
	d.Users = []user{{ID: newID(), Name: "admin", PasswordHash: hash, Enabled: true, DefaultProjectID: demo.ID, Assignments: []assignment{{demo.ID, names}}}}
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(s.o.OpenRC, s.openRC("admin", demo.Name, password), 0o600); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return nil, err
	}
	s.o.Log.InfoContext(ctx, "made the first user", "user", "admin", "project", demo.Name, "openrc", s.o.OpenRC)
	return &d, nil
}

func (s *Server) openRC(user, project string, password secret.String) []byte {
	var b strings.Builder
	b.WriteString("# Read this into a shell to use the database service: . " + quote(s.o.OpenRC) + "\n")
	for _, kv := range [][2]string{
		{"OS_AUTH_TYPE", "password"},
		{"OS_AUTH_URL", s.authURL()},
		{"OS_USERNAME", user},
		{"OS_PASSWORD", password.Reveal()},
		{"OS_PROJECT_NAME", project},
		{"OS_USER_DOMAIN_NAME", domainName},
		{"OS_PROJECT_DOMAIN_NAME", domainName},
		{"OS_IDENTITY_API_VERSION", "3"},
		{"OS_REGION_NAME", s.o.Region},
	} {
		fmt.Fprintf(&b, "export %s=%s\n", kv[0], quote(kv[1]))
	}
	return []byte(b.String())
}

// refreshOpenRC corrects the address and the region in an openrc of ours: they
// may have been configured anew. Its password is its owner's business.
func (s *Server) refreshOpenRC(ctx context.Context) error {
	old, err := os.ReadFile(s.o.OpenRC)
	if errors.Is(err, fs.ErrNotExist) {
		s.o.Log.WarnContext(ctx, "the openrc is gone, and the password it held is known to nobody else", "openrc", s.o.OpenRC, slog.String("action", "remove the users file to have a new one made"))
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(old), "\n")
	for i, l := range lines {
		switch {
		case strings.HasPrefix(l, "export OS_AUTH_URL="):
			lines[i] = "export OS_AUTH_URL=" + quote(s.authURL())
		case strings.HasPrefix(l, "export OS_REGION_NAME="):
			lines[i] = "export OS_REGION_NAME=" + quote(s.o.Region)
		}
	}
	if now := strings.Join(lines, "\n"); now != string(old) {
		return durable.WriteFile(s.o.OpenRC, []byte(now), 0o600)
	}
	return nil
}

// quote makes one word of a shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, secret.Alphanumeric+"_-./:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
