package mysql

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"maps"

	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/trove"
)

// Files of overrides, in the order they take effect.
const (
	userFile   = "20-user-001-common.cnf"
	systemFile = "50-system-001-server.cnf"
)

// Configure writes the configuration with the given overrides and no others.
// It takes effect when the server starts.
func (e *Engine) Configure(_ context.Context, overrides map[string]any) error {
	user, err := e.d.renderOverrides(overrides)
	if err != nil {
		return err
	}
	if err := e.configureBase(); err != nil {
		return err
	}
	path := filepath.Join(e.overridesDir(), userFile)
	if len(overrides) > 0 {
		return writeFile(path, user)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return template.Explain(err, path)
	}
	return nil
}

// configureBase writes what does not come from users: before their overrides
// what they may change, after them what they may not.
func (e *Engine) configureBase() error {
	if err := os.MkdirAll(e.overridesDir(), 0o700); err != nil {
		return template.Explain(err, e.overridesDir())
	}
	base := "[" + e.d.Group + "]\n" + e.d.Memory(e.set.MemoryMB) + "!includedir " + e.overridesDir() + "\n"
	if err := writeFile(e.configFile(), base); err != nil {
		return err
	}
	system := fmt.Sprintf(`[%s]
datadir = %s
tmpdir = %s
secure_file_priv = %s
socket = %s
pid_file = %s
bind_address = %s
port = %d
skip_name_resolve = ON
%s`, e.d.Group, quoteOption(e.set.DataDir), quoteOption(e.tmpDir()), quoteOption(e.tmpDir()), quoteOption(e.socket()),
		quoteOption(filepath.Join(e.set.RunDir, "mariadb.pid")), quoteOption(e.set.ListenAddress()), e.set.Port, e.d.Fixed)
	return writeFile(filepath.Join(e.overridesDir(), systemFile), system)
}

// Pool is the size of the buffer pool of a flavor's memory, both in MiB. The
// smaller the flavor the smaller the pool's share: the server itself and its
// connections take their part first.
func Pool(mb int) int {
	pool := mb / 4
	switch {
	case mb >= 4096:
		pool = mb * 6 / 10
	case mb >= 2048:
		pool = mb / 2
	case mb >= 1024:
		pool = mb * 4 / 10
	}
	return max(pool/8*8, 16)
}

// Clamp is n, but no less than low and no more than high.
func Clamp(n, low, high int) int { return min(max(n, low), high) }

var optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// renderOverrides writes a configuration group as an option file, by name.
func (d *Dialect) renderOverrides(overrides map[string]any) (string, error) {
	var b strings.Builder
	b.WriteString("[" + d.Group + "]\n")
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		if !optionName.MatchString(name) {
			return "", trove.Errorf(trove.KindBadRequest, "%q is no name of a %s setting", name, d.Product)
		}
		value, err := optionValue(overrides[name])
		if err != nil {
			return "", trove.Errorf(trove.KindBadRequest, "setting %s: %w", name, err)
		}
		fmt.Fprintf(&b, "%s = %s\n", name, value)
	}
	return b.String(), nil
}

func optionValue(v any) (string, error) {
	switch v := v.(type) {
	case bool:
		if v {
			return "1", nil
		}
		return "0", nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case fmt.Stringer: // json.Number
		return optionValue(v.String())
	case string:
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", errors.New("a value may not hold control characters")
		}
		if strings.Contains(v, `"`) && strings.Contains(v, `'`) {
			return "", errors.New("a value may not hold both sorts of quotes")
		}
		return quoteOption(v), nil
	}
	return "", fmt.Errorf("a value is text, a number or a boolean, not %T", v)
}

// quoteOption writes a value as it is read back from an option file.
func quoteOption(v string) string {
	v = strings.ReplaceAll(v, `\`, `\\`)
	if strings.Contains(v, `"`) {
		return "'" + v + "'"
	}
	return `"` + v + `"`
}
