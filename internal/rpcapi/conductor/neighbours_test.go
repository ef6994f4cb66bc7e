package conductor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
)

// heard keeps what it was told last.
type heard struct{ last any }

func (h *heard) note(v any) error { h.last = v; return nil }

func (h *heard) Heartbeat(_ context.Context, _ conductor.Sender, b conductor.Heartbeat) error {
	return h.note(b)
}
func (h *heard) ReportRoot(_ context.Context, _ conductor.Sender, r conductor.RootReport) error {
	return h.note(r)
}
func (h *heard) NotifyFailure(_ context.Context, _ conductor.Sender, f conductor.Failure) error {
	return h.note(f)
}

// TestAgentsOfOlderReleases: an agent outlives the control plane it was made by.
// What it says, as recorded when its release was the newest, is understood; its
// files are added to at a release, never changed.
func TestAgentsOfOlderReleases(t *testing.T) {
	files, err := filepath.Glob("testdata/release-*/messages.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var m struct {
				Method, Version string
				Args            map[string]json.RawMessage
				Want            any
			}
			if err := json.Unmarshal(line, &m); err != nil {
				t.Fatal(err)
			}
			h := &heard{}
			if _, err := conductor.Handler(h).Handle(t.Context(), &rpc.Incoming{Method: m.Method, Version: m.Version, Args: m.Args}); err != nil {
				t.Errorf("%s: %s: %v", file, line, err)
				continue
			}
			b, err := json.Marshal(h.last)
			if err != nil {
				t.Fatal(err)
			}
			var got any
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m.Want, got); d != "" {
				t.Errorf("%s: %s%s", file, line, d)
			}
		}
	}
}
