package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/proc/porttest"
	"github.com/gotrove/gotrove/internal/rpc/amqp/rabbittest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
)

// watched is what a process's /healthcheck says.
type watched struct {
	Reasons []string
	Checks  []struct {
		Name, Error string
		OK, Needed  bool
		Since       time.Time
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestHealthOfRoles stops and starts what a conductor and an API depend on, and
// reads what they say of it.
func TestHealthOfRoles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a RabbitMQ and a MariaDB")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // with their starts
	defer cancel()
	broker := rabbittest.Start(t)
	database := dbtest.Start(t, dbtest.MariaDB)
	url := database.Database(t)
	s, err := store.Open(ctx, store.Config{URL: secret.New(url)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "mon") // open to the engines' user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "trove.conf")
	disable := filepath.Join(dir, "disable")
	apiAddress := freeAddress(t)
	host, port, err := net.SplitHostPort(apiAddress)
	if err != nil {
		t.Fatal(err)
	}
	text := "[DEFAULT]\ntransport_url = " + strings.Replace(broker.URL(), "amqp://", "rabbit://", 1) + "\ncontrol_exchange = trove\n" +
		"bind_host = " + host + "\nbind_port = " + port + "\nguest_config = /nowhere\n" +
		"taskmanager_rpc_encr_key = " + rand.Text() + "\ninst_rpc_key_encr_key = " + rand.Text() +
		"\n[database]\nconnection = " + url +
		"\n[keystone_authtoken]\nauth_url = http://127.0.0.1:1/v3\nauth_type = password\nusername = u\npassword = tell-nobody\nproject_name = p\nuser_domain_id = default\nproject_domain_id = default" +
		"\n[gotrove]\ncloud = local\nguest_credentials = shared\nengine_user = nobody\ndata_dir = " + dir + "/d\nrun_dir = " + dir + "/r\n" +
		"drain_delay = 3\nhealthcheck_disable_file = " + disable + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(role string) (monitor string, log *lockedBuffer, stop context.CancelFunc, ended chan error) {
		t.Helper()
		monitor, log = "http://"+freeAddress(t), &lockedBuffer{}
		ctx, stop := context.WithCancel(ctx)
		ready, ended := make(chan struct{}), make(chan error, 1)
		src := osloconf.Sources{Files: []string{conf}, Environ: []string{"OS_GOTROVE__METRICS_LISTEN=" + strings.TrimPrefix(monitor, "http://")}}
		go func() { ended <- RunRole(ctx, role, src, time.Now, log, func() { close(ready) }) }()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s:\n%s", role, log)
			}
		})
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("%s: %v", role, err)
		}
		return monitor, log, stop, ended
	}
	conductor, _, stopConductor, conductorEnded := start("trove-conductor")
	api, apiLog, stopAPI, apiEnded := start("trove-api")

	// is waits until what a process says is so.
	is := func(url string, code int, reasons ...string) (last watched) {
		t.Helper()
		var said string
		slices.Sort(reasons)
		deadline := time.After(90 * time.Second)
		for {
			var got int
			got, said = get(t, url+"/healthcheck")
			last = watched{}
			if got != 0 {
				if err := json.Unmarshal([]byte(said), &last); err != nil {
					t.Fatalf("%v in %s", err, said)
				}
			}
			slices.Sort(last.Reasons)
			if got == code && slices.Equal(last.Reasons, reasons) {
				return last
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s does not say %d %q but %d %s", url, code, reasons, got, said)
			}
		}
	}
	const bus, db, keystone = "The message bus does not answer.", "The database does not answer.", "The identity service does not answer."
	is(conductor, 200, "OK")
	is(api, 503, keystone) // and no token is remembered
	is("http://"+apiAddress, 503, keystone)

	broker.Stop()
	last := is(conductor, 503, bus)
	at := slices.IndexFunc(last.Checks, func(c struct {
		Name, Error string
		OK, Needed  bool
		Since       time.Time
	}) bool {
		return c.Name == "bus"
	})
	if at < 0 || last.Checks[at].OK || last.Checks[at].Error == "" || last.Checks[at].Since.IsZero() {
		t.Errorf("the bus: %+v", last.Checks)
	}
	is("http://"+apiAddress, 503, keystone) // the bus it can do without for a time
	if err := broker.Start(ctx); err != nil {
		t.Fatal(err)
	}
	is(conductor, 200, "OK")

	if err := database.Pause(); err != nil {
		t.Fatal(err)
	}
	is(conductor, 503, db)
	database.Resume()
	is(conductor, 200, "OK")

	if err := os.WriteFile(disable, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	is(conductor, 503, "DISABLED BY FILE")
	if err := os.Remove(disable); err != nil {
		t.Fatal(err)
	}
	is(conductor, 200, "OK")

	if code, text := get(t, conductor+"/livez"); code != 200 || text != "ok\n" {
		t.Errorf("livez: %d %s", code, text)
	}
	code, metrics := get(t, conductor+"/metrics")
	for _, line := range []string{"gotrove_bus_connected 1", "gotrove_bus_logins_total ", `gotrove_database_connections{pool="all",state="idle"}`, `gotrove_build_info{`} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("the metrics (%d) have no %s", code, line)
		}
	}
	_, metrics = get(t, api+"/metrics")
	if want := `gotrove_http_requests_total{code="503",method="GET",route="/healthcheck"}`; !strings.Contains(metrics, want) {
		t.Errorf("the metrics of the API have no %s", want)
	}
	// Nothing that is told without a login names a host or a password.
	if _, text := get(t, "http://"+apiAddress+"/healthcheck?detailed"); strings.Contains(text, "127.0.0.1") || !strings.Contains(text, `"name":"identity"`) {
		t.Errorf("the public is told %s", text)
	}
	if _, text := get(t, api+"/healthcheck"); strings.Contains(text, "tell-nobody") {
		t.Errorf("a password in %s", text)
	}

	// An API goes on answering while it drains; a conductor has nothing to drain.
	stopAPI()
	is("http://"+apiAddress, 503, keystone, "The service is stopping.")
	for name, ended := range map[string]chan error{"api": apiEnded, "conductor": conductorEnded} {
		stopConductor()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-ctx.Done():
			t.Fatalf("%s does not end", name)
		}
	}
	if !strings.Contains(apiLog.String(), fmt.Sprintf("%q", "draining")) {
		t.Error("the API did not say that it drains")
	}
}
