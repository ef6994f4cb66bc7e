package mariadb

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

// Programs are where MariaDB's programs are.
type Programs struct {
	Server    string // mariadbd
	InstallDB string // mariadb-install-db
}

// Find looks for the programs in dir, or, without one, in PATH and where
// Debian puts them. What is missing is an error of KindGuest that says how to
// get it.
func Find(dir string) (Programs, error) {
	var p Programs
	for name, to := range map[string]*string{"mariadbd": &p.Server, "mariadb-install-db": &p.InstallDB} {
		path, err := look(dir, name)
		if err != nil {
			where := "PATH, /usr/sbin or /usr/bin"
			if dir != "" {
				where = dir
			}
			return Programs{}, trove.Errorf(trove.KindGuest, "program %s is not in %s", name, where).
				WithAction("install it: apt-get install mariadb-server-core")
		}
		*to = path
	}
	return p, nil
}

// programs are those of the settings: of this machine, or by name those of an
// image.
func programs(s engine.Settings) (Programs, error) {
	if s.Tools != nil {
		return Programs{Server: "mariadbd", InstallDB: "mariadb-install-db"}, nil
	}
	return Find(s.BinDir)
}

// tools run the programs.
func tools(s engine.Settings) runtime.Tools {
	if s.Tools != nil {
		return s.Tools
	}
	return runtime.Host{}
}

// version is the server's, with what its template is to be called.
func (p Programs) version(ctx context.Context, s engine.Settings) (version, name string, err error) {
	ask := func(ctx context.Context) (string, error) { return p.ask(ctx, tools(s)) }
	content, err := tools(s).Content(ctx)
	switch {
	case err != nil:
	case content == "":
		version, err = template.Version(ctx, s.TemplateDir, p.Server, ask)
	default:
		version, err = template.VersionOf(ctx, s.TemplateDir, content, ask)
		_, hash, _ := strings.Cut(content, ":")
		content = "-" + hash[:min(12, len(hash))]
	}
	return version, fmt.Sprintf("%s-%s-r%d%s", Manager, version, recipe, content), err
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

var versionNumber = regexp.MustCompile(`Ver (\d+\.\d+\.\d+)-MariaDB`)

// Version asks the server program for its version, "10.11.19".
func (p Programs) Version(ctx context.Context) (string, error) { return p.ask(ctx, runtime.Host{}) }

func (p Programs) ask(ctx context.Context, by runtime.Tools) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := by.Run(ctx, runtime.Tool{Argv: []string{p.Server, "--no-defaults", "--version"}})
	if err != nil {
		return "", err
	}
	m := versionNumber.FindStringSubmatch(out)
	if m == nil {
		return "", trove.Errorf(trove.KindGuest, "%s is no MariaDB: it says %.100q", p.Server, out)
	}
	return m[1], nil
}

// serves reports whether a server of the version is one of what was asked for:
// 10.11.19 is a 10.11. An asked version that is no number means any.
func serves(version, asked string) bool {
	if asked == "" || asked[0] < '0' || asked[0] > '9' {
		return true
	}
	return version == asked || strings.HasPrefix(version, asked+".")
}
