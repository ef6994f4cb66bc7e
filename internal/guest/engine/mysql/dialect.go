package mysql

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// Dialect is what tells a server of the family from the others.
type Dialect struct {
	Manager string // the datastore manager's name
	Product string // for people

	// Programs: the server, what makes system tables, mysqladmin; and the
	// package they are in.
	Server, Installer, Admin, Package string
	VersionNumber                     *regexp.Regexp // in what the server says of its version

	// Recipe is counted up whenever what the installer makes changes, so that no
	// older template is used. Room is what a data directory needs, in bytes.
	Recipe int
	Room   uint64
	// NoAccounts are statements after which nobody can log in, one a line, which
	// the installer carries out. InstallArgs are its arguments.
	NoAccounts  string
	InstallArgs func(dir, statements string) []string

	Group  string              // of option files
	Memory func(mb int) string // settings that follow from the flavor's memory
	Fixed  string              // settings nobody may change

	// Session are settings of our own connections whatever a configuration group
	// says: how text is quoted, no statements (and so no passwords) in the
	// server's logs, and no waiting all day for a table a client has locked.
	Session map[string]string
	// SetUser are statements, one a line, after which the account is there with
	// the password, both quoted.
	SetUser       func(account, password string) string
	MaxUser       int // characters
	ReservedUsers []string
	NoRole        string // condition on mysql.user: it is no role
	RootLocked    string // SELECT … FROM …: whether an account is locked
	KillUser      string // statement but for the quoted name; empty: there is none
}

// tools run the programs.
func tools(s engine.Settings) runtime.Tools {
	if s.Tools != nil {
		return s.Tools
	}
	return runtime.Host{}
}

func (d *Dialect) server(s engine.Settings) (string, error)    { return d.program(s, d.Server) }
func (d *Dialect) installer(s engine.Settings) (string, error) { return d.program(s, d.Installer) }

// program is the path of a program of this machine, or the name of one of an
// image.
func (d *Dialect) program(s engine.Settings, name string) (string, error) {
	if s.Tools != nil {
		return name, nil
	}
	return d.Find(s.BinDir, name)
}

// Find looks for a program in dir, or, without one, in PATH and where Debian
// puts it. What is missing is an error of KindGuest that says how to get it.
func (d *Dialect) Find(dir, name string) (string, error) {
	path, err := look(dir, name)
	if err != nil {
		where := "PATH, /usr/sbin or /usr/bin"
		if dir != "" {
			where = dir
		}
		return "", trove.Errorf(trove.KindGuest, "program %s is not in %s", name, where).
			WithAction("install it: apt-get install %s", d.Package)
	}
	return path, nil
}

func look(dir, name string) (string, error) {
	if dir != "" {
		return exec.LookPath(filepath.Join(dir, name))
	}
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return filepath.Abs(path)
		}
	}
	return exec.LookPath("/usr/bin/" + name)
}

// askTime bounds a question to a program. It may be the first that is run from
// an image on a machine that has just started, which can take minutes where its
// processors are emulated.
const askTime = 5 * time.Minute

// Version asks a server program for its version, "10.11.19".
func (d *Dialect) Version(ctx context.Context, by runtime.Tools, server string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out, err := by.Run(ctx, runtime.Tool{Argv: []string{server, "--no-defaults", "--version"}})
	if err != nil {
		return "", err
	}
	m := d.VersionNumber.FindStringSubmatch(out)
	if m == nil {
		return "", trove.Errorf(trove.KindGuest, "%s is no %s: it says %.100q", server, d.Product, out)
	}
	return m[1], nil
}

// version is the server's, with what its template is to be called.
func (d *Dialect) version(ctx context.Context, s engine.Settings) (version, name string, err error) {
	server, err := d.server(s)
	if err != nil {
		return "", "", err
	}
	ask := func(ctx context.Context) (string, error) { return d.Version(ctx, tools(s), server) }
	content, err := tools(s).Content(ctx)
	switch {
	case err != nil:
	case content == "":
		version, err = template.Version(ctx, s.TemplateDir, server, ask)
	default:
		version, err = template.VersionOf(ctx, s.TemplateDir, content, ask)
		_, hash, _ := strings.Cut(content, ":")
		content = "-" + hash[:min(12, len(hash))]
	}
	return version, fmt.Sprintf("%s-%s-r%d%s", d.Manager, version, d.Recipe, content), err
}

// serves reports whether a server of the version is one of what was asked for:
// 10.11.19 is a 10.11. An asked version that is no number means any.
func serves(version, asked string) bool {
	if asked == "" || asked[0] < '0' || asked[0] > '9' {
		return true
	}
	return version == asked || strings.HasPrefix(version, asked+".")
}
