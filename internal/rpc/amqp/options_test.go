package amqp

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/trove"
)

// load fills the options from a file of configuration.
func load(t *testing.T, text string) Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trove.conf")
	if err := os.WriteFile(file, []byte("[oslo_messaging_rabbit]\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	var o Options
	warnings, err := osloconf.Load(osloconf.Sources{Files: []string{file}}, &o)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return o
}

func TestOptions(t *testing.T) {
	const url = "rabbit://u:p@h/"
	osloDefault := Config{URL: url, LoginMethod: "AMQPLAIN", Heartbeat: time.Minute,
		Retry:   Retry{First: time.Second, Step: 2 * time.Second, Max: 30 * time.Second, Lost: time.Second},
		Declare: Declarations{TransientTTL: 1800 * time.Second}}
	for name, c := range map[string]struct {
		file, query string
		want        func(*Config)
	}{
		"default": {want: func(*Config) {}},
		"forms": {file: "amqp_durable_queues = true\namqp_auto_delete = true\nrabbit_quorum_queue = yes\nrabbit_quorum_delivery_limit = 1\n" +
			"rabbit_quorum_max_memory_length = 2\nrabbit_quorum_max_memory_bytes = 3\nrabbit_transient_quorum_queue = 1\n" +
			"rabbit_transient_queues_ttl = 60\nrabbit_stream_fanout = true\nenable_cancel_on_failover = true\nuse_queue_manager = true\nhostname = h\nprocessname = p\n",
			want: func(c *Config) {
				c.Declare = Declarations{Durable: true, AutoDelete: true, Quorum: true, DeliveryLimit: 1, MaxMemoryLength: 2, MaxMemoryBytes: 3,
					TransientQuorum: true, TransientTTL: time.Minute, StreamFanout: true, CancelOnFailover: true, Names: &QueueNames{Host: "h", Process: "p"}}
			}},
		"ha, ttl 0": {file: "rabbit_ha_queues = true\nrabbit_transient_queues_ttl = 0\n", want: func(c *Config) {
			c.Declare = Declarations{HA: true, TransientNoExpiry: true}
		}},
		"ways": {file: "rabbit_login_method = PLAIN\nheartbeat_timeout_threshold = 7\nrabbit_retry_interval = 3\nrabbit_retry_backoff = 4\n" +
			"rabbit_interval_max = 5\nkombu_reconnect_delay = 0.5\nkombu_reconnect_splay = 1.5\nkombu_failover_strategy = shuffle\n",
			want: func(c *Config) {
				c.LoginMethod, c.Heartbeat, c.Shuffle = "PLAIN", 7*time.Second, true
				c.Retry = Retry{First: 3 * time.Second, Step: 4 * time.Second, Max: 5 * time.Second, Lost: 500 * time.Millisecond, Splay: 1500 * time.Millisecond}
			}},
		"URL before file": {file: "amqp_durable_queues = false\nrabbit_login_method = PLAIN\n",
			query: "?amqp_durable_queues=true&rabbit_login_method=AMQPLAIN&heartbeat_timeout_threshold=9&rabbit_transient_queues_ttl=3",
			want: func(c *Config) {
				c.Declare.Durable, c.Declare.TransientTTL, c.Heartbeat = true, 3*time.Second, 9*time.Second
			}},
	} {
		t.Run(name, func(t *testing.T) {
			o := load(t, c.file)
			want := osloDefault
			want.URL += c.query
			c.want(&want)
			got, err := o.Config(url + c.query)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
	o := load(t, "")
	if _, err := o.Config(url + "?rabbit_qos_prefetch_count=5&kombu_missing_consumer_retry_timeout=6"); err != nil || o.Prefetch != 5 || o.MissingConsumer != 6*time.Second {
		t.Error(err, o.Prefetch, o.MissingConsumer)
	}
}

func TestOptionsRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, query, names string }{
		"ha and quorum":      {file: "rabbit_ha_queues=true\nrabbit_quorum_queue=true", names: "rabbit_ha_queues"},
		"stream alone":       {file: "rabbit_stream_fanout=true", names: "rabbit_transient_quorum_queue"},
		"negative":           {file: "rabbit_transient_queues_ttl=-1", names: "rabbit_transient_queues_ttl"},
		"negative time":      {file: "rabbit_interval_max=-1", names: "rabbit_interval_max"},
		"login method":       {file: "rabbit_login_method=RABBIT-CR-DEMO", names: "rabbit_login_method"},
		"failover":           {file: "kombu_failover_strategy=random", names: "kombu_failover_strategy"},
		"no authority":       {file: "ssl=true\nssl_ca_file=/nonexistent/ca", names: "ssl_ca_file"},
		"empty authority":    {file: "ssl=true\nssl_ca_file=" + empty, names: "ssl_ca_file"},
		"no certificate":     {file: "ssl=true\nssl_cert_file=" + empty, names: "ssl_cert_file"},
		"key alone":          {file: "ssl=true\nssl_key_file=" + empty, names: "ssl_key_file"},
		"FIPS":               {file: "ssl_enforce_fips_mode=true", names: "ssl_enforce_fips_mode"},
		"unknown in URL":     {query: "?no_such_option=1", names: "no_such_option"},
		"not a bool in URL":  {query: "?ssl=perhaps", names: "ssl"},
		"not a number in it": {query: "?rabbit_qos_prefetch_count=many", names: "rabbit_qos_prefetch_count"},
		"not a time in it":   {query: "?rabbit_retry_interval=soon", names: "rabbit_retry_interval"},
	} {
		t.Run(name, func(t *testing.T) {
			o := load(t, c.file)
			_, err := o.Config("rabbit://u:hunter2@h/" + c.query)
			if !trove.IsKind(err, trove.KindBadRequest) || !strings.Contains(err.Error(), c.names) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
		})
	}
}

// Every option of Debian's oslo.messaging is known here, with its default, but
// for what later versions changed; and what has no effect is an option.
func TestOptionsOfPython(t *testing.T) {
	ours := map[string]string{}
	for f := range reflect.TypeFor[Options]().Fields() {
		_, name, _ := strings.Cut(f.Tag.Get("conf"), ".")
		ours[name] = f.Tag.Get("default")
	}
	for name := range NoEffect() {
		if _, ok := ours[name]; !ok {
			t.Errorf("%s has no effect and is no option", name)
		}
	}
	if testing.Short() {
		t.Skip("needs oslo.messaging")
	}
	const list = `
from oslo_messaging._drivers import amqp, base, impl_rabbit
for o in impl_rabbit.rabbit_opts + amqp.amqp_opts + base.base_opts:
    print(o.name, "" if o.default is None else str(o.default).lower() if isinstance(o.default, bool) else o.default, sep="\t")
`
	out, err := exec.Command("/usr/bin/python3", "-c", list).Output()
	if err != nil {
		t.Fatalf("%v: install Debian's package python3-oslo.messaging", err)
	}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		switch name { // as of version 14; see rpc.md
		case "heartbeat_rate", "ssl_enforce_hostname_verification":
			continue // 3 since 14.5, true since 18.1
		case "rabbit_quroum_max_memory_length", "rabbit_quroum_max_memory_bytes":
			continue // spelt right since 14.3
		}
		if got, ok := ours[name]; !ok || got != value && !strings.EqualFold(got, value) {
			t.Errorf("%s: default %q (known: %v), Python's is %q", name, got, ok, value)
		}
	}
}

func TestQueueNames(t *testing.T) {
	q := &QueueNames{Host: "ctl1", Process: "trove-conductor", Dir: t.TempDir()}
	file := filepath.Join(q.Dir, "ctl1_trove-conductor_qmanager")
	next := func(want string) {
		t.Helper()
		if got, err := q.next(); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	next("ctl1:trove-conductor:1")
	next("ctl1:trove-conductor:2")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := strings.Split(string(b), ":")
	if len(p) != 3 || p[1] != "2" {
		t.Errorf("%q", b)
	}
	// Another start of the service, another group, and rubbish: from 1 again.
	for _, text := range []string{p[0] + ":7:1", "1:7:" + p[2], "rubbish", p[0] + ":many:" + p[2], ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		next("ctl1:trove-conductor:1")
	}
	next("ctl1:trove-conductor:2")
	if err := errors.Join(os.Remove(file), os.Symlink("/etc/hostname", file)); err != nil {
		t.Fatal(err)
	}
	if _, err := q.next(); err == nil {
		t.Error("wrote through a link")
	}
	var none *QueueNames
	if a, err := none.next(); err != nil || len(a) != 32 {
		t.Error(a, err)
	}
}
