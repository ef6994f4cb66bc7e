package guest

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestVolumeOption(t *testing.T) {
	for value, c := range map[string]struct {
		volume bool
		fails  bool
	}{volumeDirectory: {}, volumeAttached: {volume: true}, "/dev/vdb": {fails: true}, "": {fails: true}} {
		conf := &config{StateDir: filepath.Join(t.TempDir(), "agent"), Machine: machineOptions{Volume: value}}
		v, err := conf.attached(slog.New(slog.DiscardHandler), nil)
		if (v != nil) != c.volume || trove.IsKind(err, trove.KindBadRequest) != c.fails {
			t.Errorf("volume = %q: %v, %v", value, v, err)
		}
	}
	if m := (&config{}).memory(); m < 64 {
		t.Errorf("the machine has %d MiB", m)
	}
	if m := (&config{MemoryMB: 512}).memory(); m != 512 {
		t.Errorf("512 MiB are %d", m)
	}
}

// A server whose files are wrong says so where people look who cannot get in.
func TestCommandsTellTheConsole(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		stage guestapi.BootStage
	}{
		"volume": {[]string{"volume", "--config-dir", "empty"}, guestapi.BootConfig},
		"agent":  {[]string{"--config-dir", "empty"}, guestapi.BootConfig},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			console := filepath.Join(dir, "console")
			if err := os.WriteFile(console, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
				t.Fatal(err)
			}
			args := []string{}
			for _, a := range c.args {
				args = append(args, strings.Replace(a, "empty", filepath.Join(dir, "empty"), 1))
			}
			var errs bytes.Buffer
			if code := Main(context.Background(), "test", append(args, "--console", console), &errs, &errs); code != 1 {
				t.Errorf("exit code %d: %s", code, errs.String())
			}
			text, err := os.ReadFile(console)
			if err != nil {
				t.Fatal(err)
			}
			lines := guestapi.ParseBoot(string(text))
			if len(lines) == 0 || lines[len(lines)-1].Stage != c.stage || !lines[len(lines)-1].Failed {
				t.Errorf("the console says %q", text)
			}
		})
	}
}

func TestCommandLinesOfTheMachine(t *testing.T) {
	for _, args := range [][]string{{"volume", "x"}, {"first-boot", "x"}, {"first-boot", "--what"}, {"volume", "--what"}} {
		var errs bytes.Buffer
		if code := Main(context.Background(), "test", args, &errs, &errs); code != 2 {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
	}
}

// The engine's container gets the user's port where the control plane says so,
// and names one.
func TestUserPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "eth1.json")
	text := `{"mac_address": "fa:16:3e:00:00:01", "ipv4_address": "10.0.0.7", "ipv4_cidr": "10.0.0.0/24", "ipv4_gateway": "10.0.0.1",
		"ipv4_host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		isolation             bool
		runtime, file         string
		address, listen, said string
	}{
		"on":           {true, "docker", file, "10.0.0.7", "*", "10.9.0.0/16 via 10.0.0.9"},
		"off":          {false, "docker", file, "0.0.0.0", "", ""},
		"no port":      {true, "docker", file + ".none", "0.0.0.0", "", ""},
		"no container": {true, "process", file, "0.0.0.0", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			c := &config{GuestID: "i1", Manager: "mariadb", Version: "10.11", Runtime: test.runtime, Isolation: test.isolation, UserPort: test.file, Address: "0.0.0.0",
				Docker: dockerOptions{Network: "host", MariaDB: "mariadb"}}
			_, s, err := c.openRuntime(slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil && os.Geteuid() == 0 && trove.IsKind(err, trove.KindBadRequest) {
				t.Skip("no engine runs as root")
			}
			if err != nil || s.Address != test.address || s.Listen != test.listen {
				t.Errorf("address %q, listen %q, %v", s.Address, s.Listen, err)
			}
			if !strings.Contains(log.String(), test.said) || test.said == "" && log.Len() > 0 {
				t.Errorf("it says %q", log.String())
			}
		})
	}
	c := &config{Runtime: "docker", Isolation: true, UserPort: file}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.openRuntime(slog.New(slog.DiscardHandler)); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), file) {
		t.Errorf("a malformed file gives %v", err)
	}
}
