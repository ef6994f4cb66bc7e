package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/identity/keystonetest"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
)

// ward is what the doctor examines: real servers, and a configuration that is
// right until a test breaks something.
type ward struct {
	broker   *rabbittest.Server
	database *dbtest.Server
	keystone *keystonetest.Server
	api      *httptest.Server
	// url is a database that is migrated.
	url string
}

func newWard(t *testing.T) *ward {
	w := &ward{}
	w.api = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(w.api.Close)
	rabbittest.Require(t)
	dbtest.Require(t, dbtest.MariaDB)
	keystonetest.Require(t)
	// Of three that start at once, none may end the test by itself.
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var errs [3]error
	var wg sync.WaitGroup
	brokers, keystones := t.TempDir(), t.TempDir()
	wg.Go(func() {
		w.broker, errs[0] = rabbittest.Run(ctx, brokers, rabbittest.Options{Management: true, VirtualHosts: []string{"other", "odd"},
			Logins: []rabbittest.Login{{Name: "weak", Password: "p", Configure: ".*", Write: ".*", Read: ".*"}}})
	})
	wg.Go(func() { w.database, errs[1] = dbtest.Run(ctx, dbtest.MariaDB) })
	wg.Go(func() {
		w.keystone, errs[2] = keystonetest.Run(ctx, keystones, keystonetest.Options{DatabaseURL: w.api.URL + "/v1.0"})
	})
	wg.Wait()
	t.Cleanup(func() {
		if w.broker != nil {
			w.broker.Stop()
		}
		if w.database != nil {
			w.database.Remove()
		}
		if w.keystone != nil {
			w.keystone.Stop()
		}
	})
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	w.url = w.database.Database(t)
	s, err := store.Open(t.Context(), store.Config{URL: secret.New(w.url)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// rabbit is a transport URL.
func (w *ward) rabbit(login, password, vhost string) string {
	return "rabbit://" + login + ":" + password + "@" + w.broker.Addr() + "/" + vhost
}

// values are options by group and name, so that a test can change one.
type values map[string]string

func (w *ward) values(t *testing.T) values {
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	if err := os.WriteFile(agent, []byte("#!/bin/sh\necho '[{\"manager\":\"mariadb\",\"version\":\"10.11\",\"bin_dir\":\"/usr/sbin\"}]'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // for the engines' user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return values{
		"DEFAULT.transport_url":            w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, ""),
		"DEFAULT.control_exchange":         "trove",
		"DEFAULT.taskmanager_rpc_encr_key": newKey(), "DEFAULT.inst_rpc_key_encr_key": newKey(),
		"DEFAULT.guest_config": filepath.Join(dir, "none.conf"),
		"database.connection":  w.url,
		"gotrove.cloud":        "local", "gotrove.guest_agent": agent, "gotrove.engine_user": "nobody", "gotrove.loopback_range": "127.31.0.0/16",
		"gotrove.rabbit_management_url": w.broker.ManagementURL(), "gotrove.guest_login_key": newKey(),
		"gotrove.rabbit_management_user": rabbittest.AdminName, "gotrove.rabbit_management_password": rabbittest.AdminPassword,
		"gotrove.region_name":          keystonetest.Region,
		"keystone_authtoken.auth_url":  w.keystone.URL(),
		"keystone_authtoken.username":  keystonetest.ServiceName,
		"keystone_authtoken.password":  keystonetest.Password,
		"keystone_authtoken.interface": "public", "keystone_authtoken.project_name": "service",
	}
}

// write makes a file of the values.
func (v values) write(t *testing.T) string {
	groups := map[string][]osloconf.Option{}
	for full, value := range v {
		group, name, _ := strings.Cut(full, ".")
		groups[group] = append(groups[group], osloconf.Option{Name: name, Value: value})
	}
	var all []osloconf.Group
	for name, options := range groups {
		all = append(all, osloconf.Group{Name: name, Options: options})
	}
	text, err := osloconf.Render(all...)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "trove.conf", string(text))
}

// examine runs the checks of one name on a configuration.
func examine(t *testing.T, v values, only ...string) []finding {
	t.Helper()
	src := osloconf.Sources{Files: []string{v.write(t)}}
	c, warnings, err := LoadConfig(src, false)
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{c: c, src: src, warnings: warnings, log: slog.New(slog.DiscardHandler), clock: time.Now}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var found []finding
	for _, ch := range checks {
		if slices.Contains(only, ch.name) {
			r := &report{check: ch.name}
			ch.run(d, ctx, r)
			found = append(found, r.found...)
		}
	}
	return found
}

func show(found []finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s %s: %s [%s]\n", f.Status, f.Check, f.Message, f.Action)
	}
	return b.String()
}

// has wants a finding of a status with a text, and an action if it is a failure.
func has(t *testing.T, found []finding, s status, text string) {
	t.Helper()
	if !slices.ContainsFunc(found, func(f finding) bool {
		return f.Status == s && strings.Contains(f.Message+" "+f.Action, text) && (s != statusFail || f.Action != "")
	}) {
		t.Errorf("no %s with %q in\n%s", s, text, show(found))
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	t.Run("all is well", func(t *testing.T) {
		conf := w.values(t).write(t)
		code, out, errs := invoke("trove-manage", "--config-file", conf, "doctor", "--format", "json")
		var found []finding
		if err := json.Unmarshal([]byte(out), &found); err != nil || code != 0 {
			t.Fatalf("code %d, %v\n%s%s", code, err, out, errs)
		}
		for _, f := range found {
			// A server of a test does not sync its log.
			if f.Status != statusOK && f.Status != statusSkip && !strings.Contains(f.Message, "innodb_flush_log_at_trx_commit") {
				t.Errorf("%+v", f)
			}
		}
		for _, c := range checks {
			if !slices.ContainsFunc(found, func(f finding) bool { return f.Check == c.name }) {
				t.Errorf("check %q found nothing", c.name)
			}
		}
		if strings.Contains(out, keystonetest.Password) || strings.Contains(out, rabbittest.AdminPassword) {
			t.Error("a password is told")
		}
		code, out, _ = invoke("trove-manage", "--config-file", conf, "doctor", "--role", "conductor")
		if code != 0 || strings.Contains(out, "Keystone") || !strings.Contains(out, "the broker takes messages") {
			t.Errorf("code %d\n%s", code, out)
		}
	})
	t.Run("the exit code", func(t *testing.T) {
		v := w.values(t)
		delete(v, "DEFAULT.inst_rpc_key_encr_key")
		code, out, errs := invoke("trove-manage", "--config-file", v.write(t), "doctor", "--role", "conductor")
		if code != 1 || !strings.Contains(out, "FAIL") || !strings.Contains(errs, "checks failed") {
			t.Errorf("code %d\n%s%s", code, out, errs)
		}
	})
	t.Run("broken", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T, *ward){
			"database": testDoctorDatabase, "hosts": testDoctorHosts, "broker": testDoctorBroker, "guests": testDoctorGuests, "keystone": testDoctorKeystone,
			"a guest's own login": testDoctorGuestLogin,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, w)
			})
		}
	})
	t.Run("stopped", func(t *testing.T) { testDoctorStopped(t, w) })
}

func testDoctorDatabase(t *testing.T, w *ward) {
	v := w.values(t)
	v["database.connection"] = w.database.Database(t)
	has(t, examine(t, v, "database"), statusFail, "trove-manage db_sync")

	admin := w.database.Admin(t)
	name := databaseOf(w.url)
	for _, q := range []string{"CREATE USER poor@'%' IDENTIFIED BY 'p'", "GRANT SELECT, INSERT, UPDATE ON `" + name + "`.* TO poor@'%'"} {
		if _, err := admin.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	v["database.connection"] = "mysql+pymysql://poor:p@" + w.database.Addr() + "/" + name
	found := examine(t, v, "database")
	has(t, found, statusFail, "refused to the services' login: DELETE on")
	has(t, found, statusWarn, "db_sync")
	v["database.connection"] = "mysql+pymysql://poor:wrong@" + w.database.Addr() + "/" + name
	has(t, examine(t, v, "database"), statusFail, "")

	r := &report{}
	checkSettings(r, store.Diagnosis{Settings: map[string]string{"read_only": "ON", "fsync": "off", "tx_isolation": "READ-UNCOMMITTED"}, Storage: "MyISAM", Collation: "latin1_swedish_ci"})
	has(t, r.found, statusFail, "no writes")
	has(t, r.found, statusWarn, "latin1")
	has(t, r.found, statusWarn, "fsync")
	has(t, r.found, statusFail, "MyISAM")
	has(t, r.found, statusWarn, "READ-UNCOMMITTED")

	r = &report{}
	r.checkClock("its", -5*time.Second, time.Second)
	r.checkClock("its", time.Minute, time.Second)
	r.checkClock("its", 2*time.Second, time.Second)
	if r.found[0].Status != statusWarn || r.found[1].Status != statusFail || r.found[2].Status != statusOK {
		t.Error(show(r.found))
	}
}

// onChannel runs f on the broker's virtual host.
func (w *ward) onChannel(t *testing.T, vhost string, f func(*amqp091.Channel) error) {
	t.Helper()
	c, err := amqp091.Dial("amqp://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + w.broker.Addr() + "/" + vhost)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err == nil {
		err = f(ch)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testDoctorHosts(t *testing.T, w *ward) {
	gone := freeAddress(t)
	for name, tc := range map[string]struct {
		url   string
		tls   bool
		wants []string // of failures
	}{
		"password":     {w.rabbit("weak", "wrong", ""), false, []string{"refused"}},
		"virtual host": {w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, "nosuch"), false, []string{"login at tcp:"}},
		"one is gone":  {w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, "")[:len(w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, ""))-1] + "," + gone + "/", false, []string{"login at tcp:" + gone}},
		"no TLS there": {w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, ""), true, []string{"TLS"}},
		"malformed":    {"rabbit://%%", false, []string{"transport URL"}},
		"none":         {"", false, []string{"not set"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := w.values(t)
			v["DEFAULT.transport_url"] = tc.url
			if tc.tls {
				v["oslo_messaging_rabbit.ssl"] = "true"
			}
			found := examine(t, v, "broker")
			for _, want := range tc.wants {
				has(t, found, statusFail, want)
			}
			if name == "one is gone" {
				has(t, found, statusOK, "login at tcp:"+w.broker.Addr())
			}
		})
	}
}

func testDoctorBroker(t *testing.T, w *ward) {
	v := w.values(t)
	// What others declared in another form.
	w.onChannel(t, "odd", func(ch *amqp091.Channel) error {
		if err := ch.ExchangeDeclare("trove", "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare("taskmanager", true, false, false, false, nil); err != nil {
			return err
		}
		if err := ch.PublishWithContext(t.Context(), "", "taskmanager", false, false, amqp091.Publishing{}); err != nil {
			return err
		}
		_, err := ch.QueueDeclare("trove-conductor", false, false, false, false, nil)
		return err
	})
	v["DEFAULT.transport_url"] = w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, "odd")
	found := examine(t, v, "broker")
	has(t, found, statusFail, `exchange "trove" has durable true and not false`)
	has(t, found, statusFail, "amqp_durable_queues")
	has(t, found, statusFail, `queue "taskmanager" has durable`)
	v["oslo_messaging_rabbit.amqp_durable_queues"] = "true"
	has(t, examine(t, v, "broker"), statusFail, `queue "trove-conductor" has durable false and not true`)

	// Nothing was made in passing.
	v = w.values(t)
	v["DEFAULT.transport_url"] = w.rabbit(rabbittest.AdminName, rabbittest.AdminPassword, "other")
	has(t, examine(t, v, "broker"), statusOK, "queue taskmanager is not there yet")
	has(t, examine(t, v, "broker"), statusOK, "queue taskmanager is not there yet")

	v["gotrove.rabbit_management_password"] = "wrong"
	has(t, examine(t, v, "management"), statusFail, "")
	v["gotrove.rabbit_management_user"], v["gotrove.rabbit_management_password"] = "weak", "p"
	has(t, examine(t, v, "management"), statusFail, "")
	delete(v, "gotrove.rabbit_management_url")
	has(t, examine(t, v, "management"), statusWarn, "share one login")
}

func testDoctorGuests(t *testing.T, w *ward) {
	v := w.values(t)
	v["gotrove.guest_credentials"] = "shared"
	guest := func(text string) []finding {
		v["DEFAULT.guest_config"] = writeFile(t, "guest.conf", text)
		return examine(t, v, "guest file")
	}
	good := "[DEFAULT]\ntransport_url = " + w.rabbit("weak", "p", "") + "\ncontrol_exchange = trove\n"
	has(t, guest(good), statusOK, "agrees")
	has(t, guest(strings.Replace(good, "= trove", "= openstack", 1)), statusFail, "neither hears the other")
	has(t, guest(good+"[oslo_messaging_rabbit]\nrabbit_quorum_queue = true\n"), statusFail, "rabbit_quorum_queue is false for services and true for guests")
	has(t, guest(good+"inst_rpc_key_encr_key = x\n"), statusFail, "every guest could read it")
	has(t, guest("[DEFAULT]\ncontrol_exchange = trove\n"), statusFail, "no transport_url")
	has(t, guest(strings.Replace(good, ":p@", ":wrong@", 1)), statusFail, "guests' login at")
	has(t, guest("[DEFAULT\n"), statusFail, ":1:")
	v["DEFAULT.guest_config"] = "/nowhere.conf"
	has(t, examine(t, v, "guest file"), statusWarn, "there is no /nowhere.conf")
}

func testDoctorKeystone(t *testing.T, w *ward) {
	v := w.values(t)
	v["keystone_authtoken.password"] = "wrong"
	has(t, examine(t, v, "keystone"), statusFail, "")
	v = w.values(t)
	v["keystone_authtoken.username"], v["keystone_authtoken.project_name"] = keystonetest.DemoName, keystonetest.DemoProject
	has(t, examine(t, v, "keystone"), statusWarn, "has neither the role service nor admin")
	v = w.values(t)
	v["keystone_authtoken.www_authenticate_uri"] = "http://127.0.0.1:1/"
	v["gotrove.region_name"] = "elsewhere"
	found := examine(t, v, "keystone")
	has(t, found, statusFail, "www_authenticate_uri")
	has(t, found, statusWarn, "elsewhere")
	v = w.values(t)
	v["keystone_authtoken.service_type"] = "nothing"
	has(t, examine(t, v, "keystone"), statusFail, "no public endpoint")

	v = w.values(t)
	v["oslo_policy.policy_file"] = writeFile(t, "policy.yaml", "\"instance:create\": \"((role:x\"\n")
	has(t, examine(t, v, "policy"), statusFail, "instance:create")
	v["gotrove.guest_agent"] = "/nowhere/agent"
	has(t, examine(t, v, "cloud"), statusFail, "/nowhere/agent")
	v = w.values(t)
	v["gotrove.loopback_range"] = "192.0.2.0/24"
	has(t, examine(t, v, "cloud"), statusFail, "cannot be listened on")
	v["gotrove.cloud"] = "openstack"
	has(t, examine(t, v, "cloud"), statusFail, "complete [service_credentials]")
}

// testDoctorStopped is the last: nothing works after it.
func testDoctorStopped(t *testing.T, w *ward) {
	v := w.values(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.broker.Ctl(ctx, "set_vm_memory_high_watermark", "absolute", "1000"); err != nil {
		t.Fatal(err)
	}
	// The broker looks at its memory once a second or so.
	for {
		found := examine(t, v, "broker")
		if slices.ContainsFunc(found, func(f finding) bool { return f.Status == statusFail && strings.Contains(f.Message, "memory") }) {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the alarm is not told:\n%s", show(found))
		}
	}
	w.api.Close()
	has(t, examine(t, v, "keystone"), statusWarn, "does not answer")
	w.broker.Stop()
	w.database.Kill()
	w.keystone.Stop()
	var wg sync.WaitGroup
	for _, name := range []string{"broker", "database", "keystone", "management"} {
		wg.Go(func() { has(t, examine(t, v, name), statusFail, "") })
	}
	wg.Wait()
}

func TestDoctorFiles(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "trove.conf", "[DEFAULT]\nodd = 1\ntaskmanager_rpc_encr_key = same\ninst_rpc_key_encr_key = same\n[gotrove]\nallow_default_keys = true\n")
	look := func(mode os.FileMode, only string) []finding {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		src := osloconf.Sources{Files: []string{path}}
		c, warnings, err := LoadConfig(src, false)
		if err != nil {
			t.Fatal(err)
		}
		d := &doctor{c: c, src: src, warnings: warnings, log: slog.New(slog.DiscardHandler), clock: time.Now}
		var found []finding
		for _, f := range d.examine(t.Context(), "c") {
			if f.Check == only {
				found = append(found, f)
			}
		}
		return found
	}
	has(t, look(0o640, "files"), statusOK, path)
	has(t, look(0o644, "files"), statusWarn, "everybody may read")
	has(t, look(0o666, "files"), statusFail, "everybody may write")
	has(t, look(0o600, "options"), statusWarn, path+":2: option [DEFAULT] odd is not known")
	has(t, look(0o600, "keys"), statusFail, "are the same")
	has(t, look(0o600, "keys"), statusWarn, "has 4 characters")
}
