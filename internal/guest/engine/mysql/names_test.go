package mysql

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gotrove/gotrove/internal/trove"
)

func TestQuoteName(t *testing.T) {
	for in, want := range map[string]string{
		"shop": "`shop`", "a`b": "`a``b`", "`": "````", `a\`: "`a\\`", "a'b\"": "`a'b\"`", "": "``",
	} {
		if got := quoteName(in); got != want {
			t.Errorf("quoteName(%q) is %s, want %s", in, got, want)
		}
	}
}

func TestGrantPatternMeansOneDatabase(t *testing.T) {
	for in, want := range map[string]string{"a_b": `a\_b`, "a%": `a\%`, `a\b`: `a\\b`, "plain": "plain"} {
		if got := grantPattern(in); got != want {
			t.Errorf("grantPattern(%q) is %s, want %s", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		if got := grantedDatabase(grantPattern(name)); got != name {
			t.Errorf("%q comes back as %q", name, got)
		}
	})
}

func TestCheckHost(t *testing.T) {
	for _, ok := range []string{"", "%", "10.0.0.1", "10.%", "10.20.30.%", "192.0.2.0/255.255.255.0", "2001:db8::1", "2001:db8:%"} {
		if _, err := checkHost(ok); err != nil {
			t.Errorf("%q is refused: %v", ok, err)
		}
	}
	for _, bad := range []string{"localhost", "db.example", "10.%.1", "300.%", "10.0.0.0/8", "%.10", "fe80::1%eth0", "a'b", "10.0.0.1 ", "/"} {
		if _, err := checkHost(bad); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%q gives %v", bad, err)
		}
	}
}

func TestCheckNames(t *testing.T) {
	for _, ok := range []string{"a", strings.Repeat("ü", 64), "a b", "o'brien", "日本"} {
		if err := checkDatabase(ok); err != nil {
			t.Errorf("%q is refused: %v", ok, err)
		}
	}
	for _, bad := range []string{"", " a", "a ", "a\x00", "a\x7f", "🔑", "\xff", strings.Repeat("ü", 65), "MySQL", "sys", "#mysql50#x"} {
		if err := checkDatabase(bad); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), "database name") {
			t.Errorf("%q gives %v, want a bad request that names the field", bad, err)
		}
	}
	for _, bad := range []string{"", "root", "ROOT", "os_admin", strings.Repeat("x", 33)} {
		if _, err := Own().checkUser(bad, "%"); !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), "user name") {
			t.Errorf("%q gives %v, want a bad request that names the field", bad, err)
		}
	}
}

func TestMissing(t *testing.T) {
	got := missing([]string{"a", "b", "c", "a"}, []string{"b", "x"})
	if d := cmp.Diff([]string{"a", "c"}, got); d != "" {
		t.Error(d)
	}
}

func TestServes(t *testing.T) {
	for _, c := range []struct {
		version, asked string
		want           bool
	}{
		{"10.11.19", "", true}, {"10.11.19", "10.11", true}, {"10.11.19", "10.11.19", true}, {"10.11.19", "10", true},
		{"10.11.19", "10.1", false}, {"10.11.19", "11.4", false}, {"10.11.19", "latest", true},
	} {
		if got := serves(c.version, c.asked); got != c.want {
			t.Errorf("%s serves %s: %v", c.version, c.asked, got)
		}
	}
}

func TestRenderOverrides(t *testing.T) {
	got, err := Own().renderOverrides(map[string]any{
		"max_connections": float64(100), "sql_mode": "ANSI", "innodb_file_per_table": true, "wait_timeout": 28800,
		"big": float64(1 << 40), "exact": json.Number("5"), "init_connect": `SET @a='x\y#z'`, "event_scheduler": false,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `[mysqld]
big = 1099511627776
event_scheduler = 0
exact = "5"
init_connect = "SET @a='x\\y#z'"
innodb_file_per_table = 1
max_connections = 100
sql_mode = "ANSI"
wait_timeout = 28800
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []map[string]any{
		{"a b": 1}, {"a\n[x]": 1}, {"": 1}, {"!include": "x"}, {"a": "x\ny"}, {"a": `'"`}, {"a": nil}, {"a": []any{1}},
	} {
		if got, err := Own().renderOverrides(bad); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%v gives %q, %v", bad, got, err)
		}
	}
}

// TestMemoryFits adds up what the server takes at once and with a few busy
// connections.
func TestMemoryFits(t *testing.T) {
	for _, mb := range []int{256, 512, 1024, 2048, 4096, 65536} {
		settings := map[string]int{}
		for line := range strings.Lines(memory(mb)) {
			var name string
			var n int
			if k, v, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
				name = k
				if json.Unmarshal([]byte(v), &n) == nil {
					settings[name] = n
				}
			}
		}
		pool := settings["innodb_buffer_pool_size"]
		total := pool + settings["innodb_log_buffer_size"] + settings["key_buffer_size"] + settings["aria_pagecache_buffer_size"]
		if pool < mb*mib/5 || total > mb*mib*3/4 || pool%(8*mib) != 0 {
			t.Errorf("of %d MiB the buffer pool takes %d, all buffers %d", mb, pool/mib, total/mib)
		}
		if settings["innodb_flush_log_at_trx_commit"] != 1 {
			t.Errorf("commits are not durable")
		}
	}
}
