package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gotrove/gotrove/internal/telemetry/health"
)

type dependency struct {
	asked atomic.Int64
	err   atomic.Pointer[error]
}

func (d *dependency) set(err error) { d.err.Store(&err) }

func (d *dependency) probe(context.Context) error {
	d.asked.Add(1)
	if err := d.err.Load(); err != nil {
		return *err
	}
	return nil
}

func ask(h http.Handler, target string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w.Code, w.Body.String()
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var database, identity, cloud dependency
		warm := false
		c := health.New(nil, nil)
		c.Add(health.Check{Name: "database", Say: "The database does not answer.", Probe: database.probe})
		c.Add(health.Check{Name: "identity", Say: "The identity service does not answer.", Probe: identity.probe, Spared: func() bool { return warm }})
		c.Add(health.Check{Name: "cloud", Say: "The cloud does not answer.", Probe: cloud.probe, Optional: true})
		public, internal := c.Handler(false), c.Handler(true)

		if code, text := ask(public, "/healthcheck"); code != 503 || !strings.Contains(text, "starting") {
			t.Errorf("before the start: %d %s", code, text)
		}
		c.Started()
		if code, text := ask(public, "/healthcheck"); code != 200 || text != `{"detailed":false,"reasons":["OK"]}` {
			t.Errorf("all well: %d %s", code, text)
		}
		if n := database.asked.Load(); n != 1 {
			t.Errorf("asked %d times within a moment", n)
		}

		time.Sleep(2 * time.Second) // of the bubble's clock: the answers are no longer fresh
		since := time.Now().UTC().Truncate(time.Second)
		database.set(errors.New("10.1.2.3:3306 refused"))
		identity.set(errors.New("keystone.internal is away"))
		cloud.set(errors.New("nova.internal is away"))
		code, text := ask(public, "/healthcheck?detailed")
		if code != 503 || strings.Contains(text, "10.1.2.3") || strings.Contains(text, "internal") {
			t.Errorf("the public is told %d %s", code, text)
		}
		var b struct {
			Reasons []string
			Checks  []struct {
				Name, Error string
				OK, Needed  bool
				Since       time.Time
			}
		}
		_, text = ask(internal, "/healthcheck")
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		if len(b.Checks) != 3 || len(b.Reasons) != 2 || b.Checks[0].OK || b.Checks[0].Error != "10.1.2.3:3306 refused" || !b.Checks[0].Since.Equal(since) {
			t.Errorf("the operator is told %s", text)
		}

		// Keystone is away, but tokens are remembered; the cloud is not needed.
		database.set(nil)
		warm = true
		time.Sleep(2 * time.Second)
		if code, text := ask(public, "/healthcheck"); code != 200 {
			t.Errorf("with a warm cache: %d %s", code, text)
		}
		_, text = ask(internal, "/healthcheck")
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		if !b.Checks[0].OK || b.Checks[1].OK || b.Checks[1].Needed || !b.Checks[1].Since.Equal(since) {
			t.Errorf("the operator is told %s", text)
		}
		c.Drain()
		if code, text := ask(public, "/healthcheck"); code != 503 || text != `{"detailed":false,"reasons":["The service is stopping."]}` {
			t.Errorf("stopping: %d %s", code, text)
		}
	})
}

// What never answers costs each who asks two seconds, and one question.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		end := make(chan struct{})
		c := health.New(nil, nil)
		c.Started()
		c.Add(health.Check{Name: "bus", Say: "The message bus does not answer.", Probe: func(context.Context) error {
			asked.Add(1)
			<-end
			return nil
		}})
		for range 3 {
			began := time.Now()
			r := c.Report(t.Context())
			if r.OK || r.Results[0].OK || r.Reasons[0] != "The message bus does not answer." {
				t.Errorf("%+v", r)
			}
			if took := time.Since(began); took != 2*time.Second {
				t.Errorf("it took %s", took)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		close(end)
		synctest.Wait()
		if r := c.Report(t.Context()); !r.OK {
			t.Errorf("%+v", r)
		}
	})
}
