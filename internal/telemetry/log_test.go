package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/telemetry"
)

func TestContextAttributes(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, telemetry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := telemetry.With(context.Background(), telemetry.RequestID, "req-1", telemetry.ProjectID, "p")
	inner := telemetry.With(ctx, telemetry.RequestID, "req-2", telemetry.InstanceID, "i")
	log.With("component", "api").InfoContext(inner, "hello", "n", 1)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	for k, want := range map[string]any{"request_id": "req-2", "project_id": "p", "instance_id": "i", "component": "api", "n": 1.0, "msg": "hello"} {
		if got[k] != want {
			t.Errorf("%s is %v, want %v", k, got[k], want)
		}
	}
	if v := telemetry.Value(ctx, telemetry.RequestID); v != "req-1" {
		t.Errorf("the outer context changed: %s", v)
	}
	if v := telemetry.Value(context.Background(), telemetry.RequestID); v != "" {
		t.Errorf("value of nothing: %s", v)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, err := telemetry.NewLogger(&out, telemetry.Options{Format: format})
		if err != nil {
			t.Fatal(err)
		}
		log.WithGroup("g").Info("m", "admin_password", "tell1", "X-Auth-Token", "tell2", "p", secret.New("tell3"), "transport_url", "rabbit://u:tell4@h")
		if strings.Contains(out.String(), "tell") {
			t.Errorf("told: %s", out.String())
		}
	}
}

func TestLevelAndFormat(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, telemetry.Options{Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	if out.Len() != 0 {
		t.Errorf("info was logged: %s", out.String())
	}
	for _, o := range []telemetry.Options{{Level: "loud"}, {Format: "xml"}} {
		if _, err := telemetry.NewLogger(&out, o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
