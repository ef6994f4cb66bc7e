package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/trove"
)

// different are the answers of the original that ours differ from, and why. A
// status of 0 means the same one.
var different = map[string]struct {
	status int
	why    string
}{
	"other-project-in-path":        {0, "the body is a fault, not WebOb's"},
	"instances-limit-negative":     {400, "malformed input is no internal error"},
	"instances-20":                 {0, "instances_links beside links"},
	"instances-detail":             {0, "instances_links beside links"},
	"create-empty-body":            {400, "malformed input is no internal error"},
	"create-no-instance-key":       {400, "malformed input is no internal error"},
	"create-missing-flavor":        {0, "the message names the field"},
	"create-bad-flavor":            {0, "the message tells which flavors there are"},
	"create-unknown-ds-version":    {0, "the message tells which versions there are"},
	"create-nic-bad-uuid":          {0, "the network 'local' is allowed too"},
	"create-bad-locality":          {0, "told by the schema"},
	"create-over-quota":            {0, "the message tells what is used and allowed"},
	"delete-building":              {202, "a BUILD can be deleted"},
	"action-unknown":               {400, "malformed input is no internal error"},
	"action-resize-unknown-flavor": {0, "the message tells which flavors there are"},
}

// TestAnswersOfTheOriginal sends what was once sent to the original and
// compares the answers.
func TestAnswersOfTheOriginal(t *testing.T) {
	h := newHarness(t)
	projects := strings.NewReplacer("{project}", demo, "{demo}", demo, "{other}", other)
	const theirs, busy, restarted, engine, building = "4f35c41e-7f1f-5888-86f7-af936e3b4ffe", "10adce6f-422c-5d61-ae88-5e78b3725c4b",
		"6084274c-d0c4-5c3d-b009-d490d46760e3", "7cea1116-756e-57ec-86b0-5ddef4658aa6", "352ba519-37c5-4915-8845-091535b56971"
	h.instance(other, theirs, mysqlVersion)
	for _, id := range []string{busy, restarted, engine} {
		h.instance(demo, id, mysqlVersion)
	}
	h.instance(demo, building, mysqlVersion)
	if err := h.store.SetTask(t.Context(), building, trove.TaskBuilding); err != nil {
		t.Fatal(err)
	}
	if err := h.store.SetQuotas(t.Context(), "admin", map[trove.Resource]int{trove.ResourceInstances: 0}); err != nil {
		t.Fatal(err)
	}

	file, err := os.Open("testdata/original.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c struct {
			Name, Method, Path, User string
			Body                     json.RawMessage
			Status                   int
			Answer                   json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			token := demo
			switch c.User {
			case "":
				token = ""
			case "admin":
				token = admin
			case "quota":
				token = admin
			}
			body := string(c.Body)
			if body == "null" || body == `""` {
				body = ""
			}
			own := strings.NewReplacer("{project}", token)
			if token == "" {
				own = projects
			}
			path := projects.Replace(own.Replace(c.Path))
			a := h.do(token, c.Method, path, body)
			diff, differs := different[c.Name]
			want := c.Status
			if diff.status != 0 {
				want = diff.status
			}
			if a.status != want {
				t.Fatalf("%s %s = %d %s, want %d", c.Method, path, a.status, a.text, want)
			}
			if diff.status != 0 {
				return
			}
			answer := projects.Replace(own.Replace(string(c.Answer)))
			if answer == `""` {
				answer = ""
			}
			if !differs && !bytes.HasPrefix(c.Answer, []byte(`{"instance`)) && c.Name != "mgmt-quota-admin" && !strings.HasPrefix(c.Name, "datastore") {
				if !sameJSON(t, a.text, answer) {
					t.Errorf("answer\n got %s\nwant %s", a.text, answer)
				}
				return
			}
			got, wanted := shape(t, a.text), shape(t, answer)
			if c.Name == "other-project-in-path" {
				wanted = map[string]any{"forbidden": map[string]any{"code": "number", "message": "string"}}
			}
			if m, ok := got.(map[string]any); ok {
				delete(m, "instances_links")
				if _, paged := wanted.(map[string]any)["links"]; !paged {
					delete(m, "links")
				}
			}
			if d := cmp.Diff(wanted, got); d != "" {
				t.Errorf("the answer has another shape (-want +got)\n%s\n%s", d, a.text)
			}
		})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	if a == "" || b == "" {
		return a == b
	}
	var x, y any
	for text, v := range map[string]*any{a: &x, b: &y} {
		if err := json.Unmarshal([]byte(text), v); err != nil {
			t.Fatal(err)
		}
	}
	return cmp.Equal(x, y)
}

// shape is a document with its values replaced by their kinds, and only the
// first item of each list.
func shape(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return shapeOf(v)
}

func shapeOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, m := range v {
			out[k] = shapeOf(m)
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shapeOf(v[0])}
	case string:
		return "string"
	case float64:
		return "number"
	case bool:
		return "bool"
	}
	return nil
}
