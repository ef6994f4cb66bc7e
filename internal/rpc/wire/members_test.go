package wire

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var texts = []string{
	`{}`, ` { } `, `{"a":1}`, `{"a":1,"a":"x"}`, "{\"a\" :\t[1, -2.5e+3, 0, {\"b\": null}],\n\"c\":true,\"d\":false}",
	`{"a\"\\\/\b\f\n\r\t":"\"\\\/\b\f\n\r\t"}`, `{"\u00e4\ud83d\ude00\ud800":"\u00e4\ud83d\ude00\ud800"}`, `{"ä":"ä"}`, `{"":""}`,
	`null`, `[]`, `""`, `1`, ``, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1}x`, `{"a":1}{}`, `{a:1}`, `{"a":"\x"}`, `{"a":"\u12g4"}`,
	`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":.5}`, `{"a":+1}`, `{"a":nul}`, `{"a":nulll}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":"` + "\x01" + `"}`,
	`{"a":"`, `{"a":"\`, `{"a":"\u12`, `{"a":1e+`, `{"a":-0.0E-10}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":[}`, `{"a":"` + "\x7f" + `"}`,
	`{"a":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `}`,
	`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`,
}

func TestMembersAreTheLibrarys(t *testing.T) {
	for _, s := range texts {
		compare(t, []byte(s))
	}
}

func FuzzMembers(f *testing.F) {
	seed(f)
	for _, s := range texts {
		f.Add([]byte(s))
	}
	f.Fuzz(compare)
}

// compare compares with encoding/json.
func compare(t *testing.T, b []byte) {
	if !utf8.Valid(b) {
		return
	}
	if Valid(b) != json.Valid(b) {
		t.Fatalf("%.100q: valid is %v", b, Valid(b))
	}
	var want map[string]json.RawMessage
	wrong := json.Unmarshal(b, &want)
	got, err := Members(b)
	if (err != nil) != (wrong != nil || want == nil) {
		t.Fatalf("%.100q: %v, want %v", b, err, wrong)
	}
	if err != nil {
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%.100q: %s", b, d)
	}
	for _, v := range got {
		var s string
		is := json.Unmarshal(v, &s) == nil && !bytes.Equal(v, []byte("null"))
		if text, ok := Text(v); ok != is || text != s {
			t.Fatalf("%.100q: %q %v, want %q %v", v, text, ok, s, is)
		}
	}
}
