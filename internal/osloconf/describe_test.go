package osloconf_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/secret"
)

type declared struct {
	Limit    int           `conf:"max_instances_per_tenant" default:"10" deprecated:"max_instances_per_user" help:"Quota of a project without one of its own."`
	Password secret.String `conf:"service_credentials.password" help:"Its password."`
	Drivers  []string      `conf:"notifications.driver,multi" help:"Where they go."`
	Host     string        `conf:"host" help:"Its name."`
	Idle     bool          `conf:"use_tpool" help:"It does nothing."`
}

func TestWarnings(t *testing.T) {
	file := write(t, t.TempDir(), "trove.conf", `[DEFAULT]
max_instances_per_user = 3
use_tpool = yes
use_syslog = yes
guest_only = 1
odd = 1
[redis]
port = 1
`)
	var c declared
	got, err := osloconf.Load(osloconf.Sources{Files: []string{file}, Environ: []string{"OS_DEFAULT__SYSLOG_FACILITY=x"}, NoEffect: map[string]string{
		"DEFAULT.use_tpool": "there are no threads", "DEFAULT.use_syslog": "the service manager does", "DEFAULT.guest_only": "", "redis.*": "no Redis",
		"DEFAULT.syslog_facility": "see use_syslog", "DEFAULT.not_set": "is not told",
	}}, &c)
	if err != nil {
		t.Fatal(err)
	}
	want := []osloconf.Warning{
		{Text: file + ":2: option [DEFAULT] max_instances_per_user is now called [DEFAULT] max_instances_per_tenant"},
		{file + ":3: option [DEFAULT] use_tpool has no effect: there are no threads", "[DEFAULT] use_tpool"},
		{file + ":4: option [DEFAULT] use_syslog has no effect: the service manager does", "[DEFAULT] use_syslog"},
		{Text: file + ":6: option [DEFAULT] odd is not known and has no effect"},
		{file + ":8: option [redis] port has no effect: no Redis", "[redis] port"},
		{"environment variable OS_DEFAULT__SYSLOG_FACILITY: option [DEFAULT] syslog_facility has no effect: see use_syslog", "[DEFAULT] syslog_facility"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	told := []string{want[0].Text, want[3].Text,
		"options that are set and have no effect (4): [DEFAULT] use_tpool, [DEFAULT] use_syslog, [redis] port, [DEFAULT] syslog_facility; ask why tells why"}
	if d := cmp.Diff(told, osloconf.Told(got, "ask why")); d != "" {
		t.Error(d)
	}
	if len(osloconf.Told(want[:1], "x")) != 1 {
		t.Error("nothing idle, and it is told")
	}
	if c.Limit != 3 || !c.Idle {
		t.Errorf("%+v", c)
	}
}

func TestSample(t *testing.T) {
	options, err := osloconf.Describe(&declared{Password: secret.New("hunter2"), Host: "0.0.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := osloconf.Sample(&b, options); err != nil {
		t.Fatal(err)
	}
	want := `[DEFAULT]

# Quota of a project without one of its own. (integer)
# It was called [DEFAULT] max_instances_per_user.
#max_instances_per_tenant = 10

# Its name. (string)
#host = 0.0.0.0

# It does nothing. (boolean)
#use_tpool = false

[notifications]

# Where they go. (may be given several times)
#driver =

[service_credentials]

# Its password. (string)
#password =
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}
