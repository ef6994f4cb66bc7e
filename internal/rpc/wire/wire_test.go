package wire

import (
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func raw(s string) json.RawMessage { return json.RawMessage(s) }

var goldenCall = Request{
	Method: "list_users", Version: "1.0",
	Args:  map[string]json.RawMessage{"limit": raw("20"), "marker": raw(`"å😀%<&>"`), "include_marker": raw("false")},
	MsgID: "0123456789abcdef0123456789abcdef", ReplyQueue: "reply_00000000000000000000000000000001",
	UniqueID: "fedcba9876543210fedcba9876543210",
	Context:  map[string]json.RawMessage{"user": raw(`"u"`), "roles": raw(`["member"]`), "limit": raw("null")},
}

func TestGolden(t *testing.T) {
	cast := goldenCall
	cast.MsgID, cast.ReplyQueue, cast.Args = "", "", nil
	monitored := goldenCall
	monitored.Timeout, monitored.Namespace = 2.5, "ns"
	for name, encode := range map[string]func() ([]byte, error){
		"call.json":      func() ([]byte, error) { return EncodeRequest(goldenCall) },
		"cast.json":      func() ([]byte, error) { return EncodeRequest(cast) },
		"monitored.json": func() ([]byte, error) { return EncodeRequest(monitored) },
		"result.json": func() ([]byte, error) {
			return EncodeReply(Reply{MsgID: "m", UniqueID: "u", Result: raw(`{"k":"ü"}`), Ending: true})
		},
		"heartbeat.json": func() ([]byte, error) { return EncodeReply(Reply{MsgID: "m", UniqueID: "u"}) },
		"failure.json": func() ([]byte, error) {
			return EncodeReply(Reply{MsgID: "m", UniqueID: "u", Ending: true, Failure: &Failure{
				Class: "GuestError", Module: "trove.common.exception", Message: "disk \"full\"",
				Kwargs: map[string]json.RawMessage{"original_message": raw(`"disk \"full\""`)},
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := encode()
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.TrimSpace(string(want)), string(got)); d != "" {
				t.Error(d)
			}
			for _, c := range got {
				if c >= 0x80 {
					t.Fatalf("not ASCII: %s", got)
				}
			}
		})
	}
}

// What Python's library wrote, captured from its frames.
func TestDecodeFromPython(t *testing.T) {
	const body = `{"oslo.version": "2.0", "oslo.message": "{\"method\": \"echo\", \"args\": {\"s\": \"\\u00e5 \\ud83d\\ude00\"}, ` +
		`\"version\": \"1.0\", \"_context_user\": \"u\", \"_context_trove_notification\": {\"server_type\": \"api\"}, ` +
		`\"_msg_id\": \"5d4ac0d6\", \"_reply_q\": \"reply_9f\", \"_timeout\": null, \"_unique_id\": \"ab\"}"}`
	want := Request{
		Method: "echo", Version: "1.0", MsgID: "5d4ac0d6", ReplyQueue: "reply_9f", UniqueID: "ab",
		Args:    map[string]json.RawMessage{"s": raw(`"\u00e5 \ud83d\ude00"`)},
		Context: map[string]json.RawMessage{"user": raw(`"u"`), "trove_notification": raw(`{"server_type": "api"}`)},
	}
	got, err := DecodeRequest([]byte(body), 0)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDecodeRequestForms(t *testing.T) {
	envelope := func(version, message string) string {
		b, _ := json.Marshal(map[string]string{"oslo.version": version, "oslo.message": message})
		return string(b)
	}
	const inner = `{"method": "m"}`
	for name, c := range map[string]struct {
		body  string
		limit int
		err   error
	}{
		"2.0":                      {body: envelope("2.0", inner)},
		"2":                        {body: envelope("2", inner)},
		"no envelope":              {body: inner},
		"half an envelope":         {body: `{"oslo.version": "9.9", "method": "m"}`},
		"2.1":                      {body: envelope("2.1", inner), err: ErrVersion},
		"1.0":                      {body: envelope("1.0", inner), err: ErrVersion},
		"3.0":                      {body: envelope("3.0", inner), err: ErrVersion},
		"version not a number":     {body: envelope("x", inner), err: ErrVersion},
		"version not a string":     {body: `{"oslo.version": 2, "oslo.message": "{}"}`, err: ErrForm},
		"message not a string":     {body: `{"oslo.version": "2.0", "oslo.message": {}}`, err: ErrForm},
		"message not JSON":         {body: envelope("2.0", "{"), err: ErrForm},
		"message not an object":    {body: envelope("2.0", "[]"), err: ErrForm},
		"message null":             {body: envelope("2.0", "null"), err: ErrForm},
		"empty":                    {body: "", err: ErrForm},
		"no method":                {body: `{"args": {}}`, err: ErrForm},
		"method not a string":      {body: `{"method": 1}`, err: ErrForm},
		"args not an object":       {body: `{"method": "m", "args": []}`, err: ErrForm},
		"args null":                {body: `{"method": "m", "args": null}`},
		"timeout not a number":     {body: `{"method": "m", "_timeout": "1"}`, err: ErrForm},
		"negative timeout":         {body: `{"method": "m", "_timeout": -1}`},
		"namespace null":           {body: `{"method": "m", "namespace": null}`},
		"not UTF-8":                {body: "{\"method\": \"\xff\"}", err: ErrForm},
		"as large as may be":       {body: inner, limit: len(inner)},
		"larger":                   {body: inner, limit: len(inner) - 1, err: ErrTooLarge},
		"deeper than anyone needs": {body: `{"method": "m", "args": ` + strings.Repeat("[", 20000), err: ErrForm},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := DecodeRequest([]byte(c.body), c.limit)
			if !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if err == nil && (r.Method != "m" || r.Timeout != 0) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestDecodeReplyForms(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want Reply
		err  error
	}{
		"bare":              {body: `{"_msg_id": "m", "result": [1], "failure": null, "ending": true}`, want: Reply{MsgID: "m", Result: raw("[1]"), Ending: true}},
		"no ending":         {body: `{"_msg_id": "m", "result": 1, "failure": null}`, want: Reply{MsgID: "m", Result: raw("1")}},
		"null":              {body: `{"_msg_id": "m", "result": null, "failure": null, "ending": true}`, want: Reply{MsgID: "m", Ending: true}},
		"no id":             {body: `{"result": 1, "failure": null, "ending": true}`, err: ErrForm},
		"failure an object": {body: `{"_msg_id": "m", "failure": {}}`, err: ErrForm},
		"failure not JSON":  {body: `{"_msg_id": "m", "failure": "x"}`, err: ErrForm},
		"failure that travelled": {
			body: `{"_msg_id": "m", "ending": true, "failure": "{\"class\": \"NotFound_Remote\", \"module\": \"trove.common.exception_Remote\", \"message\": \"gone\", \"tb\": [\"l\\n\"], \"args\": [\"a\"], \"kwargs\": {\"uuid\": 1}}"}`,
			want: Reply{MsgID: "m", Ending: true, Failure: &Failure{Class: "NotFound", Module: "trove.common.exception", Message: "gone",
				Traceback: []string{"l\n"}, Args: []json.RawMessage{raw(`"a"`)}, Kwargs: map[string]json.RawMessage{"uuid": raw("1")}}},
		},
		"failure of Python 2, odd members": {
			body: `{"_msg_id": "m", "ending": true, "failure": "{\"class\": \"ValueError\", \"module\": \"exceptions\", \"message\": \"no\", \"tb\": \"text\", \"kwargs\": []}"}`,
			want: Reply{MsgID: "m", Ending: true, Failure: &Failure{Class: "ValueError", Module: "builtins", Message: "no"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeReply([]byte(c.body), 0)
			if !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if d := cmp.Diff(c.want, got); c.err == nil && d != "" {
				t.Error(d)
			}
		})
	}
}

// An error of decoding goes to logs: it must not tell what the body held.
func TestErrorsTellNoValues(t *testing.T) {
	for _, body := range []string{
		`{"method": {"password": "hunter2"}}`, `{"method": "m", "args": "hunter2"}`, `{"method": "m", hunter2`,
		`{"oslo.version": "2.0", "oslo.message": "hunter2"}`,
	} {
		_, err := DecodeRequest([]byte(body), 0)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// value draws a JSON value in the form Go writes it.
func value() *rapid.Generator[json.RawMessage] {
	return rapid.Custom(func(t *rapid.T) json.RawMessage {
		v := rapid.OneOf(
			rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.String().AsAny(),
			rapid.SliceOfN(rapid.String(), 0, 3).AsAny(), rapid.MapOfN(rapid.String(), rapid.Int(), 0, 3).AsAny(),
		).Draw(t, "value")
		b, err := encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOfN(rapid.String(), value(), 0, 5)
		want := Request{
			Method: rapid.StringN(1, 20, -1).Draw(t, "method"), Version: rapid.String().Draw(t, "version"),
			Namespace: rapid.String().Draw(t, "namespace"), UniqueID: rapid.String().Draw(t, "unique"),
			Args: values.Draw(t, "args"), Context: values.Draw(t, "context"),
		}
		if rapid.Bool().Draw(t, "call") {
			want.MsgID, want.ReplyQueue = rapid.StringN(1, 20, -1).Draw(t, "id"), rapid.String().Draw(t, "queue")
			want.Timeout = rapid.Float64Range(0, math.MaxInt32).Draw(t, "timeout")
		}
		b, err := EncodeRequest(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeRequest(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestReplyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Reply{MsgID: rapid.StringN(1, 20, -1).Draw(t, "id"), UniqueID: rapid.String().Draw(t, "unique"),
			Ending: rapid.Bool().Draw(t, "ending")}
		if v := value().Draw(t, "result"); string(v) != "null" {
			want.Result = v
		}
		if rapid.Bool().Draw(t, "failed") {
			want.Failure = &Failure{
				Class: "E" + rapid.StringN(0, 5, -1).Draw(t, "class") + ".", Module: "builtins", Message: rapid.String().Draw(t, "message"),
				Traceback: rapid.SliceOf(rapid.String()).Draw(t, "tb"), Args: rapid.SliceOfN(value(), 0, 3).Draw(t, "args"),
				Kwargs: rapid.MapOfN(rapid.String(), value(), 0, 3).Draw(t, "kwargs"),
			}
		}
		b, err := EncodeReply(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeReply(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// What is decoded encodes, and decodes to the same.
func FuzzDecodeRequest(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b, 1<<20)
		if err != nil {
			return
		}
		again, err := EncodeRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		r2, err := DecodeRequest(again, 0)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if r.MsgID == "" { // only a call carries these
			r.ReplyQueue, r.Timeout = "", 0
		}
		if r2.Method != r.Method || r2.MsgID != r.MsgID || r2.ReplyQueue != r.ReplyQueue || r2.Timeout != r.Timeout ||
			r2.UniqueID != r.UniqueID || len(r2.Args) != len(r.Args) || len(r2.Context) != len(r.Context) {
			t.Fatalf("%+v\n%+v", r, r2)
		}
	})
}

// What is decoded encodes, and decodes to the same.
func FuzzDecodeReply(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeReply(b, 1<<20)
		if err != nil {
			return
		}
		again, err := EncodeReply(r)
		if err != nil {
			t.Fatal(err)
		}
		r2, err := DecodeReply(again, 0)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if r2.MsgID != r.MsgID || r2.Ending != r.Ending || (r2.Failure == nil) != (r.Failure == nil) || (r2.Result == nil) != (r.Result == nil) {
			t.Fatalf("%+v\n%+v", r, r2)
		}
	})
}

func seed(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"method":"m","_timeout":1e9,"_context_":1,"_msg_id":"x"}`))
	f.Add([]byte(`{"_msg_id":"m","failure":"{\"class\":\"A_Remote\"}","ending":true}`))
}
