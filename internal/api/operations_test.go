package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/api"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func TestOperations(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	if _, err := h.store.AcceptWork(t.Context(), store.NewWork{ID: "w1", Kind: "restart", Subject: id(1), RequestID: "m1",
		RPCContext: []byte(`{"request_id":"req-1","auth_token":"secret"}`), Step: "begin", State: []byte(`{"password":"secret"}`)}); err != nil {
		t.Fatal(err)
	}
	a := h.want(200, demo, "GET", "instances/"+id(1)+"/operations", "")
	var body struct {
		Operations []struct {
			ID, Kind, State, Started string
			RequestID                string `json:"request_id"`
			Steps                    []any
		}
	}
	a.decode(t, &body)
	if len(body.Operations) != 1 || body.Operations[0].Kind != "restart" || body.Operations[0].State != "pending" ||
		body.Operations[0].RequestID != "req-1" || body.Operations[0].Steps == nil {
		t.Errorf("= %s", a.text)
	}
	if _, err := time.Parse(time.RFC3339Nano, body.Operations[0].Started); err != nil {
		t.Error(err)
	}
	if strings.Contains(a.text, "secret") {
		t.Errorf("the state of the work is shown: %s", a.text)
	}
	h.want(400, demo, "GET", "instances/"+id(1)+"/operations?limit=x", "")
	h.want(400, demo, "GET", "instances/"+id(1)+"/operations", "", "Accept", "text/event-stream", "Last-Event-ID", "x")
	h.want(404, other, "GET", "instances/"+id(1)+"/operations", "", "Accept", "text/event-stream")
}

// serve runs the API until the test and its streams have ended.
func (h *harness) serve() *httptest.Server {
	server := httptest.NewServer(h.server)
	h.t.Cleanup(server.Close)
	return server
}

// events reads a stream.
type events struct {
	res   *http.Response
	lines *bufio.Scanner
	leave context.CancelFunc
}

func watch(t *testing.T, server *httptest.Server, after string) *events {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/v1.0/demo/instances/"+id(1)+"/operations", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", demo)
	r.Header.Set("Accept", "text/event-stream, application/json;q=0.5")
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	res, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	e := &events{res, bufio.NewScanner(res.Body), cancel}
	t.Cleanup(e.close)
	return e
}

func (e *events) close() {
	e.leave()
	_ = e.res.Body.Close()
}

// event is one event; id is empty for a comment.
type event struct {
	id, data, comment string
}

// next reads one event or comment; ok is false at the end of the stream.
func (e *events) next() (ev event, ok bool) {
	for e.lines.Scan() {
		key, value, _ := strings.Cut(e.lines.Text(), ": ")
		switch key {
		case "id":
			ev.id = value
		case "data":
			ev.data = value
		case "":
			if value != "" {
				ev.comment = value
				continue
			}
			return ev, true
		}
	}
	return ev, false
}

// nextEvent passes over comments.
func (e *events) nextEvent(t *testing.T) (id string, step string) {
	t.Helper()
	for {
		ev, ok := e.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if ev.id == "" {
			continue
		}
		var body struct {
			Sequence json.Number
			Step     string
		}
		if err := json.Unmarshal([]byte(ev.data), &body); err != nil || body.Sequence.String() != ev.id {
			t.Fatalf("event %+v: %v", ev, err)
		}
		return ev.id, body.Step
	}
}

func (h *harness) event(step string, kind string, state trove.OperationState) {
	h.t.Helper()
	if err := h.store.AddWorkEvent(context.WithoutCancel(h.t.Context()), trove.OperationEvent{OperationID: "w1", InstanceID: id(1), Kind: kind,
		Step: step, State: state, Message: "line one\nline two"}); err != nil {
		h.t.Fatal(err)
	}
}

func TestStream(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.StreamPoll, c.StreamHeartbeat = time.Hour, time.Hour })
	h.instance(demo, id(1), mysqlVersion)
	server := h.serve()
	h.event("one", "restart", trove.OperationRunning)
	e := watch(t, server, "")
	if e.res.StatusCode != 200 || e.res.Header.Get("Content-Type") != "text/event-stream" || e.res.Header.Get("X-Openstack-Request-Id") == "" {
		t.Fatalf("%d %v", e.res.StatusCode, e.res.Header)
	}
	first, step := e.nextEvent(t)
	if step != "one" {
		t.Errorf("step = %s", step)
	}
	h.event("two", "restart", trove.OperationRunning) // told by the hint: no poll comes
	if _, step := e.nextEvent(t); step != "two" {
		t.Errorf("step = %s", step)
	}
	resumed := watch(t, server, first)
	if _, step := resumed.nextEvent(t); step != "two" {
		t.Errorf("resumed at %s", step)
	}
	h.event("", "delete_instance", trove.OperationDone)
	for _, stream := range []*events{e, resumed} {
		stream.nextEvent(t)
		if ev, ok := stream.next(); ok {
			t.Errorf("after the end: %+v", ev)
		}
	}
}

func TestStreamManyEventsAndPoll(t *testing.T) {
	h := newHarness(t)
	h.instance(demo, id(1), mysqlVersion)
	server := h.serve()
	const many = 250
	for range many {
		h.exec("INSERT INTO work_events (work_id, subject, kind, step, state, at, message, progress_unit, cause, action) VALUES ('w', ?, 'k', 's', 'running', 1, '', '', '', '')", id(1))
	}
	e := watch(t, server, "")
	for range many {
		e.nextEvent(t)
	}
	// Written past this process: only found by looking.
	h.exec("INSERT INTO work_events (work_id, subject, kind, step, state, at, message, progress_unit, cause, action) VALUES ('w', ?, 'k', 'later', 'running', 1, '', '', '', '')", id(1))
	if _, step := e.nextEvent(t); step != "later" {
		t.Errorf("step = %s", step)
	}
}

func TestStreamHeartbeatAndBound(t *testing.T) {
	h := newHarness(t, func(c *api.Config) { c.StreamHeartbeat = 20 * time.Millisecond; c.MaxStreams = 1 })
	h.instance(demo, id(1), mysqlVersion)
	server := h.serve()
	e := watch(t, server, "")
	for comments := 0; comments < 3; {
		ev, ok := e.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if ev.comment != "" {
			comments++
		}
	}
	if second := watch(t, server, ""); second.res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a second stream = %d", second.res.StatusCode)
	}
	e.close()
	// The place is free once the server has noticed.
	deadline := time.Now().Add(time.Minute)
	var third *events
	for {
		if third = watch(t, server, ""); third.res.StatusCode == 200 || time.Now().After(deadline) {
			break
		}
		third.close()
	}
	if third.res.StatusCode != 200 {
		t.Fatal("the place was not given back")
	}
	h.server.EndStreams()
	h.server.EndStreams()
	for {
		if _, ok := third.next(); !ok {
			break
		}
	}
	if after := watch(t, server, ""); after.res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stream after the end = %d", after.res.StatusCode)
	}
}
