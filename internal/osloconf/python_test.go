package osloconf_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gotrove/gotrove/internal/osloconf"
)

// python reads each configuration of a list with oslo.config.
const python = `
import json, os, sys
from oslo_config import cfg
out = []
for case in json.load(sys.stdin):
    c = cfg.ConfigOpts()
    c.register_opts([
        cfg.StrOpt('kept'), cfg.StrOpt('bind_host', default='0.0.0.0'), cfg.MultiStrOpt('many', deprecated_name='some', deprecated_group='Older'),
        cfg.ListOpt('list'), cfg.DictOpt('dict'), cfg.BoolOpt('flag', default=True), cfg.IntOpt('number', default=7), cfg.FloatOpt('ratio', default=0.5),
        cfg.StrOpt('renamed', deprecated_opts=[cfg.DeprecatedOpt('was', group='DEFAULT'), cfg.DeprecatedOpt('was', group='older')])])
    c.register_opts([cfg.StrOpt('connection', default='$bind_host/$number'), cfg.StrOpt('kept')], group='database')
    for k in [k for k in os.environ if k.startswith('OS_')]:
        del os.environ[k]
    os.environ.update(case['env'])
    try:
        c([], default_config_files=case['files'], default_config_dirs=case['dirs'])
        def got(value, default):
            return default if value is None else value
        out.append(dict(kept=c.kept or '', host=c.bind_host, many=c.many or [], list=c.list or [], dict=c.dict or {}, flag=c.flag,
            number=got(c.number, 7), ratio=got(c.ratio, 0.5), renamed=c.renamed or '', connection=c.database.connection, inner=c.database.kept or ''))
    except Exception as e:
        out.append(None)
json.dump(out, sys.stdout)
`

type read struct {
	Kept       string            `conf:"kept" json:"kept"`
	Host       string            `conf:"bind_host" default:"0.0.0.0" json:"host"`
	Many       []string          `conf:"many,multi" deprecated:"older.some" json:"many"`
	List       []string          `conf:"list" json:"list"`
	Dict       map[string]string `conf:"dict" json:"dict"`
	Flag       bool              `conf:"flag" default:"true" json:"flag"`
	Number     int               `conf:"number" default:"7" json:"number"`
	Ratio      float64           `conf:"ratio" default:"0.5" json:"ratio"`
	Renamed    string            `conf:"renamed" deprecated:"was,older.was" json:"renamed"`
	Connection string            `conf:"database.connection" default:"$bind_host/$number" json:"connection"`
	Inner      string            `conf:"database.kept" json:"inner"`
}

type configuration struct {
	Files []string          `json:"files"`
	Dirs  []string          `json:"dirs"`
	Env   map[string]string `json:"env"`
	texts []string
}

// configurations makes files, directories and environments that are hard to read.
func configurations(dir string) *rapid.Generator[configuration] {
	value := rapid.OneOf(
		rapid.StringMatching(`[ "'\\$#;:=a{},-]{0,9}`),
		rapid.SampledFrom([]string{"$bind_host/${bind_host}", "$$x", "a ; b", "a #b", `"quoted "`, `'it"s'`, "${database.kept}", "$kept", "$flag-$number", "p$$w\\$rd", "$nothing", "$renamed"}),
	)
	line := rapid.OneOf(
		rapid.SampledFrom([]string{"[DEFAULT]", "[default]", "[DEFAULT]", "[Database]", "[database]", "[older]", "[OLDER]", "[other]", "", "# note", "; note", "kept", "bind-host = h", "x = y", "was = 1", "some = s", "renamed = new"}),
		rapid.Map(value, func(v string) string { return "kept = " + v }),
		rapid.Map(value, func(v string) string { return "bind_host=" + v }),
		rapid.Map(value, func(v string) string { return "many : " + v }),
		rapid.Map(value, func(v string) string { return "connection = " + v }),
		rapid.StringMatching(`list = ?[a ,"']{0,8}`),
		rapid.StringMatching(`dict = ?([ab]:[cd:]{0,2},? ?){0,3}[ab,: ]{0,2}`),
		rapid.StringMatching(`flag = ?(yes|No|TRUE|off|1|0| on |maybe|)`),
		rapid.StringMatching(`number = ?(1|-5|\+3| 007 |1_000|_1|x|1\.5||0x10|99999999)`),
		rapid.StringMatching(`ratio = ?(1|-5\.5|1e3|x||0x1p-2|1_0\.5|\.5)`),
		rapid.StringMatching(`[ \t]{1,2}[a"'#;= ]{0,4}`),
		rapid.StringMatching(`[\[\]a-c:= ]{0,6}`),
		rapid.StringMatching(`(kept|many|list)=[\x{1c}\x{85}a \x0b\x0c,]{0,5}`),
	)
	file := rapid.Custom(func(r *rapid.T) string {
		return "[DEFAULT]\n" + strings.Join(rapid.SliceOfN(line, 0, 6).Draw(r, "lines"), rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(r, "end"))
	})
	n := 0
	return rapid.Custom(func(r *rapid.T) configuration {
		n++
		c := configuration{Env: map[string]string{}, Dirs: []string{}, Files: []string{}}
		put := func(path string) {
			text := file.Draw(r, "file")
			c.texts = append(c.texts, text)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				r.Fatal(err)
			}
		}
		for i := range rapid.SampledFrom([]int{1, 1, 2}).Draw(r, "files") {
			path := filepath.Join(dir, fmt.Sprintf("%d-%d", n, i))
			put(path)
			c.Files = append(c.Files, path)
		}
		if rapid.IntRange(0, 3).Draw(r, "directory") == 0 {
			d := filepath.Join(dir, fmt.Sprintf("%d.d", n))
			if err := os.MkdirAll(d, 0o700); err != nil {
				r.Fatal(err)
			}
			for _, name := range []string{"20-b.conf", "10-a.conf", ".hidden.conf", "c.text"}[:rapid.IntRange(0, 4).Draw(r, "in it")] {
				put(filepath.Join(d, name))
			}
			c.Dirs = append(c.Dirs, d)
		}
		// Not of many: oslo.config takes the letters of the variable for a multi
		// option's values, which nobody can mean.
		if rapid.IntRange(0, 3).Draw(r, "environment") == 0 {
			name := rapid.SampledFrom([]string{"OS_DEFAULT__KEPT", "OS_DATABASE__CONNECTION", "OS_DEFAULT__RENAMED", "OS_DEFAULT__WAS", "OS_DEFAULT__BIND_HOST"}).Draw(r, "variable")
			c.Env[name] = value.Draw(r, "value")
		}
		return c
	})
}

// What Python's oslo.config reads we read the same; what it refuses we refuse.
func TestSameAsOsloConfig(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: it runs Python")
	}
	if err := exec.Command("/usr/bin/python3", "-c", "import oslo_config").Run(); err != nil {
		t.Fatal("no oslo.config for /usr/bin/python3: scripts/install test")
	}
	var all []configuration
	dir := t.TempDir()
	gen := configurations(dir)
	for i := range 1000 {
		all = append(all, gen.Example(i))
	}
	in, _ := json.Marshal(all)
	cmd := exec.Command("/usr/bin/python3", "-c", python)
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(in)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs []*read
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatal(err)
	}
	good := 0
	for i, c := range all {
		src := osloconf.Sources{Files: c.Files, Dirs: c.Dirs}
		for k, v := range c.Env {
			src.Environ = append(src.Environ, k+"="+v)
		}
		ours := read{Many: []string{}, List: []string{}, Dict: map[string]string{}}
		_, err := osloconf.Load(src, &ours)
		if (err == nil) != (theirs[i] != nil) {
			t.Errorf("oslo.config reads %+v, we %v:\n%q %q", theirs[i], err, c.texts, c.Env)
			continue
		}
		if err != nil {
			continue
		}
		good++
		if d := cmp.Diff(*theirs[i], ours); d != "" {
			t.Errorf("oslo.config -, we +:\n%s\n%q %q", d, c.texts, c.Env)
		}
	}
	if good < 200 {
		t.Errorf("only %d of %d configurations were readable: the test proves little", good, len(all))
	}
	t.Logf("%d of %d could be read", good, len(all))
}
