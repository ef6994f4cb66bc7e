package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/cli"
)

// cloud is a Keystone and a trove-api that answer just what a test tells them.
type cloud struct {
	*httptest.Server
	answers map[string]answer // by "METHOD path"
	bodies  map[string]string // the last body sent, by "METHOD path"
	asked   func(key string, r *http.Request)
}

type answer struct {
	status int
	body   string
}

func newCloud(t *testing.T, answers map[string]answer) *cloud {
	t.Helper()
	c := &cloud{answers: answers, bodies: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	for k, v := range map[string]string{
		"OS_AUTH_URL": c.URL + "/v3", "OS_USERNAME": "ann", "OS_PASSWORD": "secret", "OS_PROJECT_NAME": "shop",
		"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default", "OS_DOMAIN_NAME": "",
		"OS_CLOUD": "", "OS_REGION_NAME": "", "OS_PROJECT_ID": "", "OS_TENANT_ID": "", "OS_TENANT_NAME": "",
		"OS_INTERFACE": "", "OS_TOKEN": "", "OS_USERID": "", "OS_USER_ID": "", "OS_DOMAIN_ID": "",
	} {
		t.Setenv(k, v)
	}
	return c
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/v3/auth/tokens" {
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		if !strings.Contains(fmt.Sprint(in), "password:secret") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Subject-Token", "token")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token":{"expires_at":"2099-01-01T00:00:00.000000Z","catalog":[{"type":"database","name":"trove",
			"endpoints":[{"interface":"public","region":"R","region_id":"R","url":"%s/v1.0/p"}]}]}}`, c.URL)
		return
	}
	key := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/v1.0/p/")
	if r.Header.Get("Accept") == "text/event-stream" {
		key = "EVENTS " + strings.TrimPrefix(r.URL.Path, "/v1.0/p/")
		w.Header().Set("Content-Type", "text/event-stream")
	}
	body := new(bytes.Buffer)
	_, _ = body.ReadFrom(r.Body)
	c.bodies[key] = body.String()
	if c.asked != nil {
		c.asked(key, r)
	}
	a, ok := c.answers[key]
	if !ok {
		a = answer{404, `{"itemNotFound":{"code":404,"message":"The resource could not be found."}}`}
	}
	w.WriteHeader(a.status)
	fmt.Fprint(w, a.body)
}

func run(t *testing.T, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Run(context.Background(), cli.Terminal{In: strings.NewReader(stdin), Out: &o, Err: &e}, "test", args)
	return code, o.String(), e.String()
}

const ready = `{"id":"i1","name":"shop","status":"ACTIVE","operating_status":"HEALTHY","created":"2026-11-22T10:00:00",
	"updated":"2026-11-22T10:00:01","region":"R","flavor":{"id":"2"},"datastore":{"type":"mariadb","version":"10.11"},
	"volume":{"size":1},"addresses":[{"address":"127.20.0.1","type":"private","network":"local"}]}`

const flavors = `{"flavors":[{"id":1,"str_id":"1","name":"db.tiny","ram":512,"vcpus":1,"disk":0}]}`

func event(seq int, step, state, rest string) string {
	return fmt.Sprintf("id: %d\ndata: {\"sequence\":%d,\"operation_id\":\"o\",\"kind\":\"create_instance\",\"step\":%q,\"state\":%q%s}\n\n",
		seq, seq, step, state, rest)
}

func TestFormats(t *testing.T) {
	newCloud(t, map[string]answer{"GET instances/detail": {200, `{"instances":[` + ready + `]}`}})
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"value", []string{"-f", "value", "-c", "Name", "-c", "Address"}, "shop 127.20.0.1\n"},
		{"json", []string{"-f", "json", "-c", "Name", "-c", "Size (GiB)"}, "[\n  {\n    \"Name\": \"shop\",\n    \"Size (GiB)\": 1\n  }\n]\n"},
		{"table", []string{"-c", "Name", "-c", "Status"}, "+------+--------+\n| Name | Status |\n+------+--------+\n| shop | ACTIVE |\n+------+--------+\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := run(t, "", append([]string{"instance", "list"}, tc.args...)...)
			if code != cli.ExitOK || out != tc.want {
				t.Errorf("exit %d, output:\n%s%s\nwant:\n%s", code, out, errs, tc.want)
			}
		})
	}
}

func TestPagesAreFollowed(t *testing.T) {
	c := newCloud(t, map[string]answer{})
	c.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "instances/i1/databases") {
			c.serve(w, r)
			return
		}
		if r.URL.Query().Get("marker") == "b@%" {
			fmt.Fprint(w, `{"databases":[{"name":"c"}]}`)
			return
		}
		fmt.Fprint(w, `{"databases":[{"name":"a"},{"name":"b"}],"links":[{"rel":"next","href":"https://x/y?marker=b%40%25"}]}`)
	})
	c.answers["GET instances/i1"] = answer{200, `{"instance":` + ready + `}`}
	code, out, errs := run(t, "", "database", "list", "i1", "-f", "value")
	if code != cli.ExitOK || out != "a\nb\nc\n" {
		t.Errorf("exit %d, output %q, errors %q", code, out, errs)
	}
}

func TestLimits(t *testing.T) {
	newCloud(t, map[string]answer{"GET limits": {200, `{"limits":[{"verb":"ABSOLUTE","max_ram":-1,"max_instances":10},
		{"verb":"POST","value":200,"remaining":200,"unit":"MINUTE","uri":"*","regex":".*"}]}`}})
	code, out, errs := run(t, "", "limits", "-f", "value")
	if code != cli.ExitOK || out != "instances 10\nram -1\n" {
		t.Errorf("exit %d, output %q, errors %q", code, out, errs)
	}
}

func TestExitCodes(t *testing.T) {
	c := newCloud(t, map[string]answer{
		"GET instances/detail": {200, `{"instances":[]}`},
		"GET flavors":          {200, flavors},
		"POST instances":       {413, `{"overLimit":{"code":413,"message":"Quota exceeded for resources: ['instances']."}}`},
		"GET limits":           {403, `{"forbidden":{"code":403,"message":"no"}}`},
	})
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"unknown command", []string{"frobnicate"}, cli.ExitUsage, "frobnicate"},
		{"group alone", []string{"instance"}, cli.ExitUsage, "create"},
		{"missing flag", []string{"instance", "create", "x"}, cli.ExitUsage, "flavor"},
		{"bad format", []string{"flavor", "list", "-f", "xml"}, cli.ExitUsage, "table, json or value"},
		{"bad column", []string{"flavor", "list", "-c", "Nme"}, cli.ExitUsage, "Name"},
		{"not found", []string{"instance", "show", "nobody"}, cli.ExitNotFound, `"nobody"`},
		{"unknown flavor", []string{"instance", "create", "x", "--flavor", "huge"}, cli.ExitNotFound, "db.tiny"},
		{"over quota", []string{"instance", "create", "x", "--flavor", "db.tiny"}, cli.ExitFailed, "Quota exceeded"},
		{"forbidden", []string{"limits"}, cli.ExitDenied, "no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, _, errs := run(t, "", tc.args...)
			if code != tc.code || !strings.Contains(errs, tc.says) {
				t.Errorf("exit %d, want %d; errors %q want %q in them", code, tc.code, errs, tc.says)
			}
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		t.Setenv("OS_PASSWORD", "wrong")
		if code, _, errs := run(t, "", "flavor", "list"); code != cli.ExitDenied || strings.Contains(errs, "wrong") {
			t.Errorf("exit %d, errors %q", code, errs)
		}
	})
	t.Run("no cloud", func(t *testing.T) {
		t.Setenv("OS_AUTH_URL", "")
		if code, _, errs := run(t, "", "flavor", "list"); code != cli.ExitFailed || !strings.Contains(errs, "openrc") {
			t.Errorf("exit %d, errors %q", code, errs)
		}
	})
	c.Close()
	t.Run("unreachable", func(t *testing.T) {
		if code, _, _ := run(t, "", "flavor", "list"); code != cli.ExitUnavailable {
			t.Errorf("exit %d", code)
		}
	})
}

func TestCreateWaits(t *testing.T) {
	c := newCloud(t, map[string]answer{
		"GET flavors":                    {200, flavors},
		"POST instances":                 {200, `{"instance":{"id":"i1","name":"shop","status":"BUILD"}}`},
		"GET instances/i1":               {200, `{"instance":` + ready + `}`},
		"EVENTS instances/i1/operations": {200, event(1, "server", "running", "") + event(2, "server", "done", "") + event(3, "", "done", "")},
	})
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("pä'ss\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, "", "instance", "create", "shop", "--flavor", "db.tiny", "--database", "d", "--user", "u",
		"--password-file", file, "--wait", "-f", "value", "-c", "Status")
	if code != cli.ExitOK || out != "ACTIVE\n" || !strings.Contains(errs, "server") {
		t.Fatalf("exit %d, output %q, errors %q", code, out, errs)
	}
	if strings.Contains(errs, "\x1b") {
		t.Errorf("escape sequences on what is no terminal: %q", errs)
	}
	var sent struct {
		Instance struct {
			FlavorRef string
			Volume    struct{ Size int }
			Users     []struct{ Name, Password string }
		}
	}
	if err := json.Unmarshal([]byte(c.bodies["POST instances"]), &sent); err != nil {
		t.Fatal(err)
	}
	if got := sent.Instance; got.FlavorRef != "1" || got.Volume.Size != 1 || len(got.Users) != 1 || got.Users[0].Password != "pä'ss\"" {
		t.Errorf("sent %+v", got)
	}
}

// TestStatusFollowsTheEnd: the operation is over a moment before the instance
// says so, and the stream of its events stays open with nothing more to come.
func TestStatusFollowsTheEnd(t *testing.T) {
	c := newCloud(t, map[string]answer{
		"GET instances/i1":               {200, `{"instance":` + strings.Replace(ready, "HEALTHY", "RESTARTING", 1) + `}`},
		"POST instances/i1/action":       {202, ""},
		"GET instances/i1/operations":    {200, `{"operations":[]}`},
		"EVENTS instances/i1/operations": {200, strings.ReplaceAll(event(1, "", "done", ""), "create_instance", "restart")},
	})
	followed, shown := false, 0
	c.asked = func(key string, r *http.Request) {
		switch {
		case key == "EVENTS instances/i1/operations" && followed:
			<-r.Context().Done()
		case key == "EVENTS instances/i1/operations":
			followed = true
		case key == "GET instances/i1" && followed:
			if shown++; shown == 2 {
				c.answers[key] = answer{200, `{"instance":` + ready + `}`}
			}
		}
	}
	if code, _, errs := run(t, "", "instance", "restart", "i1", "--wait", "--timeout", "10s"); code != cli.ExitOK {
		t.Errorf("exit %d, errors %q", code, errs)
	}
}

func TestCreateFails(t *testing.T) {
	newCloud(t, map[string]answer{
		"GET flavors":      {200, flavors},
		"POST instances":   {200, `{"instance":{"id":"i1","name":"shop","status":"BUILD"}}`},
		"GET instances/i1": {200, `{"instance":{"id":"i1","name":"shop","status":"ERROR"}}`},
		"EVENTS instances/i1/operations": {200, event(1, "server", "failed", `,"cause":"no space"`) +
			event(2, "", "failed", `,"cause":"The disk is full.","action":"Make room."`)},
	})
	code, out, errs := run(t, "", "instance", "create", "shop", "--flavor", "1", "--wait")
	if code != cli.ExitFailed || out != "" || !strings.Contains(errs, "The disk is full.") || !strings.Contains(errs, "Make room.") {
		t.Errorf("exit %d, output %q, errors %q", code, out, errs)
	}
}

func TestTimeout(t *testing.T) {
	newCloud(t, map[string]answer{
		"GET instances/i1": {200, `{"instance":{"id":"i1","name":"shop","status":"BUILD"}}`},
	})
	if code, _, errs := run(t, "", "instance", "wait", "i1", "--timeout", "50ms"); code != cli.ExitTimeout {
		t.Errorf("exit %d, errors %q", code, errs)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := run(t, "", "completion", shell); code != cli.ExitOK || !strings.Contains(out, "trovectl") {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, len(out))
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestAnswerThatCannotBeWrittenIsAFailure(t *testing.T) {
	newCloud(t, map[string]answer{"GET instances/detail": {200, `{"instances":[` + ready + `]}`}})
	for _, format := range []string{"table", "json", "value"} {
		var e bytes.Buffer
		code := cli.Run(context.Background(), cli.Terminal{In: strings.NewReader(""), Out: full{}, Err: &e}, "test", []string{"instance", "list", "-f", format})
		if code != cli.ExitFailed || !strings.Contains(e.String(), "no space left") {
			t.Errorf("%s: code %d, %q", format, code, e.String())
		}
	}
}

// Names come from others; what they hold must not reach the terminal as
// commands, in an answer or in an error.
func TestControlCharactersAreNotObeyed(t *testing.T) {
	evil := "a\x1b]0;b\u009b31m\u202ec"
	quoted, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	newCloud(t, map[string]answer{"GET instances/detail": {200, `{"instances":[` + strings.Replace(ready, `"shop"`, string(quoted), 1) + `]}`}})
	_, out, _ := run(t, "", "instance", "list")
	_, _, errs := run(t, "", "instance", "show", evil)
	for _, text := range []string{out, errs} {
		if strings.ContainsAny(text, "\x1b\u009b\u202e") {
			t.Errorf("%q", text)
		}
	}
}
