package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/trove"
)

// Installation is one version of PostgreSQL on this machine.
type Installation struct {
	Version string // 15.20
	BinDir  string
	major   int
	lz4     bool   // it was built with this compression
	content string // of the image that it is in; empty: of this machine
}

// packages is where Debian keeps each major version; the others are there for
// machines that were set up otherwise.
var packages = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"}

// programs are those the engine needs.
var programs = []string{"postgres", "initdb"}

// Installed finds the versions on this machine, oldest first.
func Installed(ctx context.Context) ([]Installation, error) {
	var all []Installation
	for _, dir := range candidates() {
		i, err := inspect(ctx, runtime.Host{}, dir)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b Installation) int { return a.major - b.major })
	return all, nil
}

func candidates() []string {
	var dirs []string
	for _, pattern := range packages {
		found, _ := filepath.Glob(pattern) // the patterns are good
		for _, dir := range found {
			if missing(dir) == "" {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// missing names the first program that is not in dir.
func missing(dir string) string {
	for _, p := range programs {
		if err := unix.Access(filepath.Join(dir, p), unix.X_OK); err != nil {
			return p
		}
	}
	return ""
}

// binDir finds the directory of the programs of the settings' version: the
// newest if they name none.
func binDir(s engine.Settings) (string, error) {
	if s.BinDir != "" {
		if p := missing(s.BinDir); p != "" {
			return "", trove.Errorf(trove.KindGuest, "PostgreSQL's program %s is not in %s.", p, s.BinDir).
				WithAction("Install PostgreSQL there, or configure another bin_dir.")
		}
		return s.BinDir, nil
	}
	want, _, _ := strings.Cut(s.Version, ".")
	best, newest := "", -1
	for _, dir := range candidates() {
		major, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "pgsql-"))
		if err != nil {
			major = 0
		}
		if (want == "" || want == strconv.Itoa(major)) && major > newest {
			best, newest = dir, major
		}
	}
	if best == "" {
		name := strings.TrimRight("PostgreSQL "+want, " ")
		return "", trove.Errorf(trove.KindGuest, "%s is not installed on this machine.", name).
			WithAction("Install Debian's package %s.", strings.TrimRight("postgresql-"+want, "-"))
	}
	return best, nil
}

// tools run the programs.
func tools(s engine.Settings) runtime.Tools {
	if s.Tools != nil {
		return s.Tools
	}
	return runtime.Host{}
}

func find(ctx context.Context, s engine.Settings) (Installation, error) {
	if s.Tools != nil {
		return inImage(ctx, s)
	}
	dir, err := binDir(s)
	if err != nil {
		return Installation{}, err
	}
	return remembered(ctx, s.TemplateDir, dir)
}

// inImage is the version of an image, whose programs are run by their names.
func inImage(ctx context.Context, s engine.Settings) (Installation, error) {
	content, err := s.Tools.Content(ctx)
	if err != nil {
		return Installation{}, err
	}
	said, err := template.VersionOf(ctx, s.TemplateDir, content, func(ctx context.Context) (string, error) {
		return ask(ctx, s.Tools, "")
	})
	if err != nil {
		return Installation{}, err
	}
	found, err := understood(said)
	found.content = content
	return found, err
}

// remembered asks only programs that were not asked before.
func remembered(ctx context.Context, root, dir string) (Installation, error) {
	said, err := template.Version(ctx, root, filepath.Join(dir, "postgres"), func(ctx context.Context) (string, error) {
		return ask(ctx, runtime.Host{}, dir)
	})
	if err != nil {
		return Installation{}, err
	}
	found, err := understood(said)
	found.BinDir = dir
	return found, err
}

// What ask adds to a version.
const (
	withLZ4    = "lz4"
	withoutLZ4 = "no-lz4"
)

// ask asks the server's program for all that is needed: "15.20 lz4".
func ask(ctx context.Context, by runtime.Tools, dir string) (string, error) {
	i, err := inspect(ctx, by, dir)
	if err != nil {
		return "", err
	}
	built := withoutLZ4
	// It refuses values that it was not built for, as all of this setting
	// before 15. It reads no file and makes none.
	out, err := by.Run(ctx, runtime.Tool{Argv: []string{filepath.Join(dir, "postgres"), "-C", "wal_compression", "-c", "wal_compression=lz4",
		"-c", "data_directory=/", "-c", "config_file=/dev/null", "-c", "hba_file=/dev/null", "-c", "ident_file=/dev/null"}})
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil && slices.Contains(strings.Fields(out), "lz4"):
		built = withLZ4
	}
	return i.Version + " " + built, nil
}

// understood takes ask's answer apart.
func understood(said string) (Installation, error) {
	version, built, _ := strings.Cut(said, " ")
	n, err := major(version)
	return Installation{Version: version, major: n, lz4: built == withLZ4}, err
}

// major is 15 of 15.20 and 19 of 19devel.
func major(version string) (int, error) {
	first, _, _ := strings.Cut(version, ".")
	return strconv.Atoi(strings.TrimRight(first, "abcdefghijklmnopqrstuvwxyz"))
}

// inspect asks the server's program for its version.
func inspect(ctx context.Context, by runtime.Tools, dir string) (Installation, error) {
	server := filepath.Join(dir, "postgres")
	out, err := by.Run(ctx, runtime.Tool{Argv: []string{server, "--version"}})
	if err != nil {
		return Installation{}, trove.Errorf(trove.KindGuest, "%s does not tell its version: %w.", server, err)
	}
	fields := strings.Fields(out) // postgres (PostgreSQL) 15.20 (Debian …)
	if len(fields) >= 3 {
		if n, err := major(fields[2]); err == nil {
			return Installation{Version: fields[2], BinDir: dir, major: n}, nil
		}
	}
	return Installation{}, trove.Errorf(trove.KindGuest, "%s tells the version %q, which is not understood.", server, strings.TrimSpace(out))
}

// initdbNeeds is what a new data directory takes, in bytes, and a little more.
const initdbNeeds = 48 << 20

// initdb makes a data directory at dir, which is empty: UTF-8, checksums, no
// password for anyone. It is not yet durable.
func initdb(ctx context.Context, by runtime.Tools, found Installation, dir string) error {
	if os.Geteuid() == 0 {
		return trove.Errorf(trove.KindGuest, "PostgreSQL does not run as root.").
			WithAction("Run trove-guestagent as an ordinary user.")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) < initdbNeeds {
		return fmt.Errorf("a new data directory needs %d MiB: %w", initdbNeeds>>20, syscall.ENOSPC)
	}
	t := runtime.Tool{Dir: dir, Named: true, Env: []string{"LANG=C", "TZ=UTC"},
		Argv: []string{filepath.Join(found.BinDir, "initdb"), "-D", dir, "-U", superuser,
			"--encoding=UTF8", "--locale=" + locale(found), "--data-checksums", "--auth=reject", "--no-sync", "--no-instructions"}}
	if found.major < 14 {
		t.Argv = t.Argv[:len(t.Argv)-1]
	}
	if _, err := by.Run(ctx, t); err != nil {
		return err
	}
	return dropForks(dir)
}

// dropForks removes the free space and visibility maps, a quarter of all files,
// each of which costs every copy. A server takes a missing one for empty and
// makes it again when there is something to note.
func dropForks(dir string) error {
	for _, pattern := range []string{"base/*/*_fsm", "base/*/*_vm", "global/*_fsm", "global/*_vm"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// locale is the one every machine has; that of UTF-8 sorts by code point too,
// and knows letters.
func locale(found Installation) string {
	if found.content != "" {
		return "C.UTF-8"
	}
	for _, dir := range []string{"/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"} {
		if _, err := os.Stat(dir); err == nil {
			return "C.UTF-8"
		}
	}
	return "C"
}
