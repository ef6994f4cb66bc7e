package flow

import "testing"

func TestLastLineIsForPeople(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"one\ntwo\n", "two"},
		{`{"time":"2026-11-22T17:07:51Z","level":"ERROR","msg":"prepare failed","error":"the disk is full"}` + "\n", "prepare failed: the disk is full"},
		{`{"msg":"agent started","version":"dev"}`, "agent started"},
		{`{"not":"a record"}`, `{"not":"a record"}`},
		{"", ""},
	} {
		if got := lastLine(tc.text); got != tc.want {
			t.Errorf("lastLine(%q) = %q, want %q", tc.text, got, tc.want)
		}
	}
}
