// Package region is a whole control plane for tests, as a cloud runs it: real
// RabbitMQ, MariaDB or PostgreSQL and Keystone, any number of trove-api,
// trove-taskmanager and trove-conductor as processes of their own, and
// instances on this machine. Each part can be stopped, killed and started again.
//
// It is for tests and measurements only. What it starts it stops by pid.
package region

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/identity/keystonetest"
	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/store/dbtest"
)

// Patience bounds every wait. A machine under load is slow, not wrong.
const Patience = 2 * time.Minute

// StartPatience bounds the start of a server: nothing can be lost there, only
// time. Keystone's takes 20 s of a core.
const StartPatience = 5 * time.Minute

const module = "github.com/gotrove/gotrove/"

// Build puts the programs into dir, under all the names they have.
func Build(dir string) error {
	if err := build(dir, module+"cmd/troved", module+"cmd/trove-guestagent", module+"cmd/trovectl"); err != nil {
		return err
	}
	return link(dir)
}

// BuildNewer puts the services of a release that does not exist yet into dir: each
// of its APIs is a minor version further.
func BuildNewer(dir string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return err
	}
	replace := map[string]string{}
	for _, api := range []string{"taskmanager", "conductor", "guest"} {
		file := filepath.Join(strings.TrimSpace(string(root)), "internal/rpcapi", api, api+".go")
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		before, after, found := strings.Cut(string(text), "\nconst Version = \"1.")
		minor, after, _ := strings.Cut(after, "\"")
		n, err := strconv.Atoi(minor)
		if !found || err != nil {
			return fmt.Errorf("%s: which version the API has is not seen (%v)", file, err)
		}
		replace[file] = filepath.Join(dir, api+".go")
		newer := fmt.Sprintf("%s\nconst Version = \"1.%d\"%s", before, n+1, after)
		if err := os.WriteFile(replace[file], []byte(newer), 0o600); err != nil {
			return err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	if err := build(dir, "-overlay", file, module+"cmd/troved"); err != nil {
		return err
	}
	return link(dir)
}

func build(dir string, args ...string) error {
	build := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, args...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// link gives troved the names of its roles.
func link(dir string) error {
	for _, name := range []string{API, TaskManager, Conductor, "trove-manage"} {
		if err := os.Symlink("troved", filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// Options are what a region is made of.
type Options struct {
	Bin      string        // where Build put the programs
	Database dbtest.Engine // MariaDB if empty
	// Config are more lines of trove.conf; a later assignment wins.
	Config string
}

// Region is a control plane. Its services are started by Start.
type Region struct {
	TB       testing.TB
	Dir      string
	Config   string // path of trove.conf
	Broker   *rabbittest.Server
	Database *dbtest.Server
	Keystone *keystonetest.Server
	// DatabaseURL is that of the database of record, SQL a way into it.
	DatabaseURL string
	SQL         *sql.DB
	// Addresses is what the addresses of instances begin with.
	Addresses string

	bin       string
	masterKey string // inst_rpc_key_encr_key
	services  []*Service
}

// ranges hands each region of this process addresses of its own.
var ranges atomic.Int32

// New starts the servers of a region, migrates its database, and starts no
// service yet. All is gone when the test ends.
func New(tb testing.TB, o Options) *Region {
	tb.Helper()
	if o.Database == "" {
		o.Database = dbtest.MariaDB
	}
	rabbittest.Require(tb)
	keystonetest.Require(tb)
	dbtest.Require(tb, o.Database)
	// Not tb.TempDir: the engines' user must be able to pass, and a socket's
	// path is short.
	dir, err := os.MkdirTemp("", "gr")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	r := &Region{TB: tb, Dir: dir, Config: filepath.Join(dir, "trove.conf"), bin: o.Bin,
		Addresses: fmt.Sprintf("127.%d.%d.", 130+os.Getpid()%60, ranges.Add(1))}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove: %v", err)
		}
	})
	tb.Cleanup(r.killInstances)
	// Side by side: each takes seconds of start.
	started := make(chan func(), 3)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), StartPatience)
		defer cancel()
		brokerDir := filepath.Join(dir, "rabbitmq")
		err := os.Mkdir(brokerDir, 0o700)
		if err == nil {
			r.Broker, err = rabbittest.Run(ctx, brokerDir, rabbittest.Options{Management: true})
		}
		started <- func() { r.own(err, func() { r.Broker.Stop() }) }
	}()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), StartPatience)
		defer cancel()
		var err error
		r.Database, err = dbtest.Run(ctx, o.Database)
		started <- func() { r.own(err, func() { r.Database.Remove() }) }
	}()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), StartPatience)
		defer cancel()
		keystoneDir := filepath.Join(dir, "keystone")
		err := os.Mkdir(keystoneDir, 0o700)
		if err == nil {
			r.Keystone, err = keystonetest.Run(ctx, keystoneDir, keystonetest.Options{})
		}
		started <- func() { r.own(err, func() { r.Keystone.Stop() }) }
	}()
	for range 3 {
		(<-started)()
	}
	if tb.Failed() {
		tb.FailNow()
	}
	r.DatabaseURL = r.Database.Database(tb)
	r.SQL = r.Database.AdminOf(tb, r.DatabaseURL[strings.LastIndexByte(r.DatabaseURL, '/')+1:])
	r.configure(o.Config)
	r.Manage("db_sync")
	tb.Cleanup(r.stopServices)
	return r
}

// own stops a server at the end of the test.
func (r *Region) own(err error, stop func()) {
	if err != nil {
		r.TB.Error(err)
		return
	}
	r.TB.Cleanup(stop)
}

// configure writes trove.conf.
func (r *Region) configure(extra string) {
	r.TB.Helper()
	r.masterKey = rand.Text()
	lines := []string{
		"[DEFAULT]", "transport_url = " + r.BrokerURL(r.Broker.Addr()), "control_exchange = trove", "bind_host = 127.0.0.1",
		"taskmanager_rpc_encr_key = " + rand.Text(), "inst_rpc_key_encr_key = " + r.masterKey,
		"max_instances_per_tenant = 1000", "max_volumes_per_tenant = 4000",
		"[database]", "connection = " + r.DatabaseURL,
		"[keystone_authtoken]", "auth_type = password", "auth_url = " + r.Keystone.URL(), "www_authenticate_uri = " + r.Keystone.URL(),
		"username = " + keystonetest.ServiceName, "password = " + keystonetest.Password, "project_name = service",
		"user_domain_id = default", "project_domain_id = default",
		"[gotrove]", "cloud = local", "data_dir = " + filepath.Join(r.Dir, "data"), "run_dir = " + filepath.Join(r.Dir, "run"),
		"loopback_range = " + r.Addresses + "0/24", "rate_per_minute = -1", "guest_agent = " + filepath.Join(r.bin, "trove-guestagent"),
		"engine_user = nobody", "ready_data_directories = 1", "rabbit_management_url = " + r.Broker.ManagementURL(),
		"rabbit_management_user = " + rabbittest.AdminName, "rabbit_management_password = " + rabbittest.AdminPassword,
		"guest_login_key = " + rand.Text() + rand.Text(), extra,
	}
	if err := os.WriteFile(r.Config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		r.TB.Fatal(err)
	}
}

// BrokerURL is the transport URL of the control plane at an address, such as
// that of a proxy before the broker.
func (r *Region) BrokerURL(address string) string {
	return "rabbit://" + rabbittest.AdminName + ":" + rabbittest.AdminPassword + "@" + address + "/"
}

// DatabaseAt is the URL of the database of record at another address.
func (r *Region) DatabaseAt(address string) string {
	return strings.Replace(r.DatabaseURL, r.Database.Addr(), address, 1)
}

// Run is a part of a test that has the region for itself: what fails there fails
// the part.
func (r *Region) Run(t *testing.T, name string, part func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		whole := r.TB
		r.TB = t
		defer func() { r.TB = whole }()
		part(t)
	})
}

// Manage runs trove-manage and returns what it printed; it must succeed.
func (r *Region) Manage(args ...string) string {
	r.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "trove-manage"), append([]string{"--config-file", r.Config}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.TB.Fatalf("trove-manage %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// FreePort gives a TCP port of 127.0.0.1 that nobody listens on; it is of this
// process from now on.
func FreePort(tb testing.TB) int {
	tb.Helper()
	port, err := porttest.Free()
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
