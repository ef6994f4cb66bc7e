package osloconf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

type options struct {
	Host     string            `conf:"bind_host" default:"0.0.0.0"`
	Port     int               `conf:"bind_port" default:"8779"`
	Debug    bool              `conf:"debug"`
	Ratio    float64           `conf:"ratio" default:"0.5"`
	Timeout  time.Duration     `conf:"usage_timeout" default:"1800"`
	URL      secret.String     `conf:"transport_url"`
	Roles    []string          `conf:"admin_roles"`
	Map      map[string]string `conf:"tags"`
	Database struct {
		Connection secret.String `conf:"database.connection" default:"sqlite://"`
		Pool       uint16        `conf:"database.max_pool_size"`
	}
	Many []string `conf:"oslo_messaging_notifications.driver,multi"`
	Kept string   `conf:"kept"`
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "trove.conf", `# a comment
[DEFAULT]
bind_host = 10.0.0.1
debug = Yes
ratio: 2.5
usage_timeout = 0.5
transport_url = rabbit://u:p#a$$s ;s@h:5672/   
admin_roles = admin, other,,
tags = a:b, c:d:e
long = one
  two
   # three

[DataBase]
connection = "mysql://$bind_host/${database.name} "
name = trove
max_pool_size = 7
[oslo_messaging_notifications]
driver = a
driver = b
`)
	conf := filepath.Join(dir, "conf.d")
	if err := os.Mkdir(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, conf, "20-b.conf", "[DEFAULT]\nbind_port=2\n[oslo_messaging_notifications]\ndriver=c\n")
	write(t, conf, "10-a.conf", "[DEFAULT]\nbind_port=1\n")
	write(t, conf, "ignored.txt", "junk")
	got := options{Kept: "as it was"}
	warnings, err := osloconf.Load(osloconf.Sources{Files: []string{main}, Dirs: []string{conf}, Environ: []string{"OS_DEFAULT__RATIO=9", "OS_X__Y=1"}}, &got)
	if err != nil {
		t.Fatal(err)
	}
	want := options{
		Host: "10.0.0.1", Port: 2, Debug: true, Ratio: 9, Timeout: 500 * time.Millisecond,
		URL: secret.New("rabbit://u:p#a$s ;s@h:5672/"), Roles: []string{"admin", "other"},
		Map: map[string]string{"a": "b", "c": "d:e"}, Many: []string{"a", "b", "c"}, Kept: "as it was",
	}
	want.Database.Connection, want.Database.Pool = secret.New("mysql://10.0.0.1/trove "), 7
	reveal := cmp.Comparer(func(a, b secret.String) bool { return a.Reveal() == b.Reveal() })
	if d := cmp.Diff(want, got, reveal); d != "" {
		t.Error(d)
	}
	wantWarnings := []osloconf.Warning{{Text: main + ":10: option [DEFAULT] long is not known and has no effect"}, {Text: main + ":16: option [database] name is not known and has no effect"}}
	if d := cmp.Diff(wantWarnings, warnings); d != "" {
		t.Error(d)
	}
}

func TestLoadDefaults(t *testing.T) {
	var got options
	if _, err := osloconf.Load(osloconf.Sources{}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Host != "0.0.0.0" || got.Port != 8779 || got.Timeout != 30*time.Minute || got.Database.Connection.Reveal() != "sqlite://" {
		t.Errorf("%+v", got)
	}
}

func TestLoadErrorsNamePlace(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"int":          {"[DEFAULT]\n\nbind_port = x", `:3: option [DEFAULT] bind_port: "x" is not a whole number that fits`},
		"bool":         {"[DEFAULT]\ndebug = maybe", `:2: option [DEFAULT] debug: "maybe" is not true or false`},
		"overflow":     {"[database]\nmax_pool_size = 70000", `:2: option [database] max_pool_size: "70000" is not`},
		"duration":     {"[DEFAULT]\nusage_timeout = 5m", `a number of seconds`},
		"dict":         {"[DEFAULT]\ntags = a", `want key:value pairs`},
		"no group":     {"a = b", `:1: an option before the first [group]`},
		"no value":     {"[DEFAULT]\nhunter2", `:2: neither a group`},
		"group":        {"[DEFAULT", `:1: a group is written [name]`},
		"continuation": {"[DEFAULT]\n  hunter2", `:2: a line that starts with a space`},
		"unknown ref":  {"[DEFAULT]\ntransport_url = p$hunter2", `:2: option [DEFAULT] transport_url: a $ refers to an option that is not there; write $$`},
		"circle":       {"[DEFAULT]\nbind_host = $bind_host", `in a circle`},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, t.TempDir(), "f.conf", c.text)
			var got options
			_, err := osloconf.Load(osloconf.Sources{Files: []string{path}}, &got)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error is %v, want %s%s", err, path, c.want)
			}
			if !trove.IsKind(err, trove.KindBadRequest) {
				t.Errorf("kind is %v", trove.KindOf(err))
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("tells the value: %v", err)
			}
		})
	}
	var got options
	if _, err := osloconf.Load(osloconf.Sources{Files: []string{"/nowhere.conf"}}, &got); err == nil {
		t.Error("a missing file was taken")
	}
}

// valueGen makes values that are hard to write down.
func valueGen() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.StringMatching(`[ "'\\$#;:=\[\]{}a_.\n\t-]{0,12}`))
}

func TestRenderReadsBack(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		v := valueGen().Draw(r, "value")
		text, err := osloconf.Render(osloconf.Group{Name: "DEFAULT", Options: []osloconf.Option{{Name: "kept", Value: v}}}, osloconf.Group{Name: "database", Options: []osloconf.Option{{Name: "max_pool_size", Value: "3"}}})
		if err != nil {
			if !strings.ContainsAny(v, "\n\r") {
				r.Fatalf("not written: %v", err)
			}
			return
		}
		path := filepath.Join(dir, "f.conf")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			r.Fatal(err)
		}
		var got options
		warnings, err := osloconf.Load(osloconf.Sources{Files: []string{path}}, &got)
		if err != nil || got.Kept != v || got.Database.Pool != 3 || len(warnings) > 0 {
			r.Fatalf("%q was read as %q, %v, %v from\n%s", v, got.Kept, err, warnings, text)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add("[DEFAULT]\nkept = $bind_host\n  more\n[a]\nb:c")
	f.Add("[database]\nconnection = ${a.b}$$\\$")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		path := filepath.Join(dir, "f.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got options
		if _, err := osloconf.Load(osloconf.Sources{Files: []string{path}}, &got); err != nil && !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%v is of kind %v", err, trove.KindOf(err))
		}
	})
}
