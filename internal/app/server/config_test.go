package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		wrong      string // in the error; empty: it is right
	}{
		{"empty", "", ""},
		{"flavors", "[gotrove]\nflavor = 7:huge:8192:4:20\nflavor = 8:other:512:1:0\n", ""},
		{"flavor of four parts", "[gotrove]\nflavor = 7:huge:8192:4\n", "id:name:ram:vcpus:disk"},
		{"flavor too small", "[gotrove]\nflavor = 7:huge:100:1:0\n", "at least 256"},
		{"two flavors of one name", "[gotrove]\nflavor = 7:huge:8192:4:20\nflavor = 8:huge:512:1:0\n", "another flavor has"},
		{"range", "[gotrove]\nloopback_range = everywhere\n", "loopback_range"},
		{"port", "[DEFAULT]\nbind_port = 70000\n", "bind_port"},
		{"port is no number", "[DEFAULT]\nbind_port = many\n", "bind_port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.conf")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, _, err := LoadConfig(osloconf.Sources{Files: []string{file}, Environ: []string{"OS_GOTROVE__DATA_DIR=/somewhere"}}, true)
			switch {
			case tc.wrong == "" && err != nil:
				t.Fatal(err)
			case tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)):
				t.Fatalf("error %v, want %q in it", err, tc.wrong)
			case err == nil && (c.DataDir != "/somewhere" || c.RunDir == "" || c.GuestAgent == ""):
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestFlagsWin(t *testing.T) {
	t.Setenv("OS_GOTROVE__DATA_DIR", "/from/environment")
	o := overrides{dataDir: "/from/flag", apiAddress: "127.0.0.9:1234", identityAddress: "[::1]:0"}
	c, _, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/from/flag" || c.apiAddress() != "127.0.0.9:1234" || c.identityAddress() != "[::1]:0" {
		t.Errorf("%q %q %q", c.DataDir, c.apiAddress(), c.identityAddress())
	}
	o.apiAddress = "8779"
	if _, _, err := o.load(); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("an address without a host: %v", err)
	}
}

func TestOwnDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := ownDirectory(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := ownDirectory(dir); !trove.IsKind(err, trove.KindForbidden) {
		t.Errorf("writable by others: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ownDirectory(file); err == nil {
		t.Error("a file was taken for a directory")
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := ownDirectory(dir); !trove.IsKind(err, trove.KindForbidden) {
		t.Errorf("of another user: %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		sign int
	}{{"15.20", "15.3", 1}, {"9.6", "10.1", -1}, {"10.11.19", "10.11.19", 0}, {"18", "18.1", -1}} {
		got := compareVersions(tc.a, tc.b)
		if got > 0 != (tc.sign > 0) || got < 0 != (tc.sign < 0) {
			t.Errorf("%s and %s: %d", tc.a, tc.b, got)
		}
	}
}
