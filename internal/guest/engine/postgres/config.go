package postgres

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/guest/engine/template"
	"github.com/gotrove/gotrove/internal/trove"
)

// overridesFile holds the user's configuration group.
const overridesFile = "20-user-001-common.conf"

func (e *Engine) configFile() string { return filepath.Join(e.set.ConfigDir, "postgresql.conf") }
func (e *Engine) hbaFile() string    { return filepath.Join(e.set.ConfigDir, "pg_hba.conf") }
func (e *Engine) identFile() string  { return filepath.Join(e.set.ConfigDir, "pg_ident.conf") }
func (e *Engine) overridesDir() string {
	return filepath.Join(e.set.ConfigDir, "conf.d")
}

// Configure writes the base configuration, and overrides as those of the user.
func (e *Engine) Configure(ctx context.Context, overrides map[string]any) error {
	text, err := renderOverrides(overrides)
	if err != nil {
		return err
	}
	found, err := e.installation(ctx)
	if err != nil {
		return err
	}
	if err := e.writeBase(found); err != nil {
		return err
	}
	return write(filepath.Join(e.overridesDir(), overridesFile), text)
}

func (e *Engine) writeBase(found Installation) error {
	if err := os.MkdirAll(e.overridesDir(), 0o700); err != nil {
		return template.Explain(err, e.overridesDir())
	}
	for path, text := range map[string][]byte{
		e.configFile(): e.base(found),
		e.hbaFile():    []byte(hba),
		e.identFile():  nil,
	} {
		if err := write(path, text); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, text []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return template.Explain(durable.WriteFile(path, text, 0o600), path)
}

// hba: the agent by its socket, users by the network with SCRAM. Rules are
// taken in order; who matches none is refused.
const hba = `# Written by trove-guestagent; changes are lost.
local all         postgres     trust
host  all         postgres all reject
host  replication all      all reject
host  all         all      all scram-sha-256
`

// base is the configuration of the flavor. What the service itself needs
// stands behind the user's own, and so wins.
func (e *Engine) base(found Installation) []byte {
	mem := max(e.set.MemoryMB, 128)
	type setting struct{ name, value string }
	mb := func(n int) string { return strconv.Itoa(n) + "MB" }
	flavor := []setting{
		{"max_connections", "100"},
		{"shared_buffers", mb(max(32, mem/4))},
		{"effective_cache_size", mb(max(64, mem*5/8))},
		{"maintenance_work_mem", mb(min(max(16, mem/16), 1024))},
		{"work_mem", "4MB"},
		{"min_wal_size", "80MB"},
		{"max_wal_size", mb(min(max(256, mem/2), 4096))},
		{"huge_pages", "off"},
		{"wal_level", "replica"},
		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},
		{"lc_messages", "C"},
	}
	fixed := []setting{
		{"data_directory", e.set.DataDir},
		{"hba_file", e.hbaFile()},
		{"ident_file", e.identFile()},
		{"listen_addresses", e.set.ListenAddress()},
		{"port", strconv.Itoa(e.set.Port)},
		{"unix_socket_directories", e.set.RunDir},
		{"unix_socket_permissions", "0700"},
		{"password_encryption", "scram-sha-256"},
		{"logging_collector", "off"}, // the runtime keeps the log
		{"log_destination", "stderr"},
		{"fsync", "on"},
		{"full_page_writes", "on"},
	}
	if found.lz4 {
		// Whole pages are most of the log; this halves it, for less time than
		// writing takes.
		flavor = append(flavor, setting{"wal_compression", "lz4"})
	}
	if found.major >= 14 {
		// Nothing of a client that went away goes on for long.
		flavor = append(flavor, setting{"client_connection_check_interval", "10s"})
	}
	var b bytes.Buffer
	b.WriteString("# Written by trove-guestagent; changes are lost.\n\n# From the flavor\n")
	for _, s := range flavor {
		fmt.Fprintf(&b, "%s = %s\n", s.name, quoteSetting(s.value))
	}
	fmt.Fprintf(&b, "\n# From configuration groups\ninclude_dir = %s\n\n# What the service needs\n", quoteSetting(e.overridesDir()))
	for _, s := range fixed {
		fmt.Fprintf(&b, "%s = %s\n", s.name, quoteSetting(s.value))
	}
	return b.Bytes()
}

// settingName is what PostgreSQL takes for one, with an extension's prefix.
var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)

// ours are the settings of the service, which a configuration group may not
// change.
var ours = []string{
	"config_file", "data_directory", "external_pid_file", "fsync", "full_page_writes", "hba_file", "ident_file", "include",
	"include_dir", "include_if_exists", "listen_addresses", "log_destination", "logging_collector", "password_encryption",
	"port", "unix_socket_directories", "unix_socket_group", "unix_socket_permissions",
}

// renderOverrides writes a configuration group; what cannot be written as one
// setting is KindBadRequest.
func renderOverrides(overrides map[string]any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by trove-guestagent from the configuration group.\n")
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		if !settingName.MatchString(name) {
			return nil, trove.Errorf(trove.KindBadRequest, "%q is not the name of a PostgreSQL setting.", name)
		}
		if slices.Contains(ours, strings.ToLower(name)) {
			return nil, trove.Errorf(trove.KindBadRequest, "The setting %s belongs to the service and cannot be changed.", name)
		}
		value, err := settingValue(overrides[name])
		if err != nil {
			return nil, trove.Errorf(trove.KindBadRequest, "The setting %s cannot be written: %w.", name, err)
		}
		fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(value))
	}
	return b.Bytes(), nil
}

func settingValue(v any) (string, error) {
	switch v := v.(type) {
	case string:
		if strings.ContainsAny(v, "\r\n\x00") {
			return "", fmt.Errorf("its value has more than one line")
		}
		return v, nil
	case bool:
		if v {
			return "on", nil
		}
		return "off", nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64: // what JSON makes of every number
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	}
	return "", fmt.Errorf("a %T is no value", v)
}

// quoteSetting writes a value of a configuration file.
func quoteSetting(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(s) + "'"
}
