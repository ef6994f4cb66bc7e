package mariadb

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

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
func (p Programs) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.Server, "--no-defaults", "--version").Output()
	if err != nil {
		return "", trove.Errorf(trove.KindGuest, "%s does not tell its version: %w", p.Server, err)
	}
	m := versionNumber.FindSubmatch(out)
	if m == nil {
		return "", trove.Errorf(trove.KindGuest, "%s is no MariaDB: it says %.100q", p.Server, out)
	}
	return string(m[1]), nil
}

// versionFile, among the templates, remembers the version of a server program.
const versionFile = ".mariadb-version.json"

// program is a server program as it was when asked for its version.
type program struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // unix nanoseconds
	Version  string `json:"version"`
}

// rememberedVersion is Version, but does not load the server only to ask it
// what it said when the last instance of this machine was made.
func (p Programs) rememberedVersion(ctx context.Context, dir string) (string, error) {
	info, err := os.Stat(p.Server)
	if err != nil {
		return "", trove.Errorf(trove.KindGuest, "program %s: %w", p.Server, err)
	}
	now := program{Path: p.Server, Size: info.Size(), Modified: info.ModTime().UnixNano()}
	var then program
	path := filepath.Join(dir, versionFile)
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &then) == nil {
		if now.Version = then.Version; now == then && then.Version != "" {
			return then.Version, nil
		}
	}
	if now.Version, err = p.Version(ctx); err != nil {
		return "", err
	}
	// Kept if it can be: without a directory of templates there is no place.
	if b, err := json.Marshal(now); err == nil && dir != "" && os.MkdirAll(dir, 0o755) == nil {
		_ = writeFile(path, string(b))
	}
	return now.Version, nil
}

// serves reports whether a server of the version is one of what was asked for:
// 10.11.19 is a 10.11. An asked version that is no number means any.
func serves(version, asked string) bool {
	if asked == "" || asked[0] < '0' || asked[0] > '9' {
		return true
	}
	return version == asked || strings.HasPrefix(version, asked+".")
}
