package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// said is a line of a log.
type said struct {
	Msg, Method, Kind, Stage, Step, Outcome, Target string

	Request  string `json:"request_id"`
	Global   string `json:"global_request_id"`
	Instance string `json:"instance_id"`
}

// lines gives what a file of JSON says; what is no JSON is left out.
func lines(path string) (all []said) {
	for text := range strings.Lines(readFile(path)) {
		var l said
		if json.Unmarshal([]byte(text), &l) == nil {
			all = append(all, l)
		}
	}
	return all
}

// asks makes a request with an id of the caller's, and gives the API's id of it.
func (s *standalone) asks(method, path, global string, body, v any) (id string, err error) {
	if err := s.login(); err != nil {
		return "", err
	}
	b, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d/v1.0/%s/%s", s.api, s.project, path), bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Auth-Token", s.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Openstack-Request-Id", global)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return "", fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if v != nil {
		err = json.NewDecoder(resp.Body).Decode(v)
	}
	return resp.Header.Get("X-Openstack-Request-Id"), err
}

// TestOneRequestInAllLogs follows a create and a restart through everything that
// has a part in them: each says the API's id of the request and the caller's.
func TestOneRequestInAllLogs(t *testing.T) {
	t.Parallel()
	audit := filepath.Join(t.TempDir(), "audit")
	s := newStandalone(t, "audit_log = "+audit, "[DEFAULT]", "debug = true")
	const creates, restarts = "req-11111111-2222-3333-4444-555555555555", "req-66666666-7777-8888-9999-aaaaaaaaaaaa"
	var answer struct{ Instance instance }
	created, err := s.asks("POST", "instances", creates, request("traced", "mariadb", "secret-of-u"), &answer)
	if err != nil {
		t.Fatal(err)
	}
	id := s.serving(answer.Instance.ID).ID
	agent := filepath.Join(s.home, "instances", id, "console.log")

	stage := func(name string) said { return said{Msg: "prepare", Stage: name} }
	reported := func(name string) said { return said{Msg: "an agent reports a stage", Stage: name} }
	s.follows(created, creates, id, s.log.Name(),
		said{Msg: "request", Method: "POST", Target: "none"},
		said{Msg: "a message was published", Method: "create_instance"},
		said{Msg: "accepted", Kind: "create_instance"},
		said{Msg: "a step ended", Step: "server"},
		said{Msg: "a step ended", Step: "prepare"},
		said{Msg: "started the guest agent"},
		said{Msg: "an agent uses its new credentials"},
		reported("accepted"), reported("initialise"), reported("users"),
		said{Msg: "an operation ended", Outcome: "done"})
	s.follows(created, creates, id, audit, said{Msg: "audit", Method: "POST"})
	s.follows(created, creates, id, agent,
		said{Msg: "request", Method: "prepare"},
		stage("check"), stage("initialise"), stage("configure"), stage("start"), stage("ready"), stage("accounts"), stage("databases"), stage("users"),
		said{Msg: "engine runs"}, said{Msg: "instance prepared"},
		said{Msg: "new credentials"}, said{Msg: "new credentials are in use"})

	restarted, err := s.asks("POST", "instances/"+id+"/action", restarts, map[string]any{"restart": map[string]any{}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.follows(restarted, restarts, id, s.log.Name(),
		said{Msg: "request", Method: "POST", Target: "none"},
		said{Msg: "a message was published", Method: "restart"},
		said{Msg: "accepted", Kind: "restart"},
		said{Msg: "an operation ended", Outcome: "done"})
	s.follows(restarted, restarts, id, audit, said{Msg: "audit", Method: "POST"})
	s.follows(restarted, restarts, id, agent,
		said{Msg: "request", Method: "restart"}, said{Msg: "engine runs"}, said{Msg: "engine restarted"})
	s.serving(id)
	s.remove(id)
}

// follows waits until a log has each of these lines with the ids of a request and
// of the instance, in whichever order.
func (s *standalone) follows(request, global, instance, log string, want ...said) {
	s.t.Helper()
	for _, w := range want {
		s.eventually(fmt.Sprintf("%s says %+v of %s", filepath.Base(log), w, request), func() error {
			var near []said
			for _, l := range lines(log) {
				if l.Msg != w.Msg || w.Method != "" && l.Method != w.Method || w.Kind != "" && l.Kind != w.Kind ||
					w.Stage != "" && l.Stage != w.Stage || w.Step != "" && l.Step != w.Step || w.Outcome != "" && l.Outcome != w.Outcome {
					continue
				}
				if l.Request == request && l.Global == global && (l.Instance == instance || w.Target == "none" || strings.HasSuffix(l.Target, instance)) {
					return nil
				}
				near = append(near, l)
			}
			return fmt.Errorf("only %+v", near)
		})
	}
}
