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
