package conductor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/rpc"
	rpcconductor "github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func guestOf(login string) (string, bool) { return strings.CutPrefix(login, "guest-") }

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"i1", "i2"} {
		if err := s.CreateInstance(t.Context(), store.NewInstance{
			Instance: &trove.Instance{ID: id, Name: id, TenantID: "p", FlavorID: "1", Task: trove.TaskBuilding}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, sender, args string
		service              trove.ServiceStatus
		fault                string
		root                 bool
		outbox               int
		logged               string
	}{
		"heartbeat": {method: "heartbeat", sender: "guest-i1", args: `{"instance_id": "i1", "payload": {"service_status": "healthy"}, "sent": 1.5}`,
			service: trove.ServiceHealthy, outbox: 1},
		"heartbeat without a login": {method: "heartbeat", args: `{"instance_id": "i1", "payload": {"service_status": "running"}}`,
			service: trove.ServiceRunning, outbox: 1},
		"heartbeat for another": {method: "heartbeat", sender: "guest-i2", args: `{"instance_id": "i1", "payload": {"service_status": "healthy", "done": ["m1"]}}`,
			service: trove.ServiceNew, outbox: 1, logged: "spoke for another"},
		"unknown status": {method: "heartbeat", sender: "guest-i1", args: `{"instance_id": "i1", "payload": {"service_status": "splendid", "done": ["m1"]}}`,
			service: trove.ServiceNew, logged: "splendid"},
		"unknown instance": {method: "heartbeat", sender: "guest-i9", args: `{"instance_id": "i9", "payload": {"service_status": "healthy"}}`,
			service: trove.ServiceNew, outbox: 1, logged: "not there"},
		"no instance": {method: "heartbeat", args: `{"payload": {"service_status": "healthy"}}`, service: trove.ServiceNew, outbox: 1, logged: "no instance"},
		"done":        {method: "heartbeat", sender: "guest-i1", args: `{"instance_id": "i1", "payload": {"done": ["m1", "m9"]}}`, service: trove.ServiceNew},
		"root": {method: "report_root", sender: "guest-i1", args: `{"instance_id": "i1", "user": "u"}`, service: trove.ServiceNew,
			root: true, outbox: 1},
		"root of another": {method: "report_root", sender: "guest-i2", args: `{"instance_id": "i1"}`, service: trove.ServiceNew,
			outbox: 1, logged: "spoke for another"},
		"failure": {method: "notify_exc_info", sender: "guest-i1",
			args:    `{"serialized_notification": {"instance_id": "i1", "notification_classname": "x"}, "message": "disk full", "exception": ["a\n", "b"]}`,
			service: trove.ServiceNew, fault: "disk full", outbox: 1, logged: "failed in the guest"},
		"failure of another": {method: "notify_exc_info", sender: "guest-i2",
			args:    `{"serialized_notification": {"instance_id": "i1"}, "message": "disk full", "exception": []}`,
			service: trove.ServiceNew, outbox: 1, logged: "spoke for another"},
		"unreadable failure": {method: "notify_exc_info", sender: "guest-i1", args: `{"serialized_notification": "what", "message": "disk full"}`,
			service: trove.ServiceNew, outbox: 1, logged: "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			if err := s.InsertOutbox(t.Context(), store.OutboxRow{ID: "m1", Topic: "guestagent.i1", InstanceID: "i1", Body: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			if err := send(t.Context(), s, &log, tc.method, tc.sender, tc.args); err != nil {
				t.Fatal(err)
			}
			i, err := s.Instance(t.Context(), "i1")
			if err != nil {
				t.Fatal(err)
			}
			if i.Service != tc.service {
				t.Errorf("service %v, want %v", i.Service, tc.service)
			}
			var fault string
			if i.Fault != nil {
				fault = i.Fault.Message
			}
			if fault != tc.fault {
				t.Errorf("fault %q, want %q", fault, tc.fault)
			}
			if root, err := s.RootHistory(t.Context(), "i1"); err != nil || root.IsEnabled() != tc.root {
				t.Errorf("root: %+v, %v", root, err)
			}
			if due, err := s.Outbox(t.Context(), 0, 10); err != nil || len(due) != tc.outbox {
				t.Errorf("outbox: %d rows, want %d (%v)", len(due), tc.outbox, err)
			}
			if tc.logged == "" && log.Len() > 0 || !strings.Contains(log.String(), tc.logged) {
				t.Errorf("logged: %s", log.String())
			}
		})
	}
}

func send(ctx context.Context, s conductor.Store, log *bytes.Buffer, method, sender, args string) error {
	h := rpcconductor.Handler(conductor.NewServer(s, conductor.Senders{GuestOf: guestOf}, slog.New(slog.NewTextHandler(log, nil))))
	in := &rpc.Incoming{Method: method, Version: "1.0", Sender: sender}
	if err := json.Unmarshal([]byte(args), &in.Args); err != nil {
		return err
	}
	_, err := h.Handle(ctx, in)
	return err
}

func TestStageIsShown(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.AcceptWork(t.Context(), store.NewWork{ID: "w", Kind: "k", Subject: "i1", RequestID: "r", Step: "database", State: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LeaseWork(t.Context(), "p/1", []string{"k"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), s, &bytes.Buffer{}, "heartbeat", "guest-i1",
		`{"instance_id": "i1", "payload": {"stage": {"name": "restore", "message": "copying", "done": 3, "total": 9, "unit": "B"}}}`); err != nil {
		t.Fatal(err)
	}
	ops, err := s.Operations(t.Context(), "i1", 1)
	if err != nil || len(ops) != 1 || len(ops[0].Steps) != 1 {
		t.Fatalf("operations: %+v, %v", ops, err)
	}
	if st := ops[0].Steps[0]; st.Name != "database" || st.Message != "copying" || *st.Progress != (trove.Progress{Done: 3, Total: 9, Unit: "B"}) {
		t.Errorf("step: %+v", st)
	}
}

// TestOldReports: what is much older than the agent's last heartbeat is a repeat;
// what was kept for long, but in its order, is not.
func TestOldReports(t *testing.T) {
	t.Parallel()
	beat := time.Now().Add(-time.Minute)
	reports := map[string]string{
		"notify_exc_info": `{"serialized_notification": {"instance_id": "i1", "notification_classname": "x"}, "message": "disk full"}`,
		"report_root":     `{"instance_id": "i1"}`,
		"heartbeat":       `{"instance_id": "i1", "sent": 1.5, "payload": {"service_status": "failed", "stage": {"name": "s", "message": "copying"}}}`,
	}
	for name, tc := range map[string]struct {
		made  time.Time
		beats bool
		taken bool
	}{
		"newer":                     {beat.Add(time.Second), true, true},
		"late":                      {beat.Add(-conductor.MaxLate), true, true},
		"much older":                {beat.Add(-conductor.MaxLate - time.Second), true, false},
		"no heartbeat yet":          {beat.Add(-100 * conductor.MaxLate), false, true},
		"its seal does not tell":    {time.Time{}, true, true},
		"in time by a clock behind": {beat.Add(10 * time.Minute), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			if _, err := s.AcceptWork(t.Context(), store.NewWork{ID: "w", Kind: "k", Subject: "i1", RequestID: "r", Step: "database", State: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.LeaseWork(t.Context(), "p/1", []string{"k"}, time.Hour); err != nil {
				t.Fatal(err)
			}
			if tc.beats {
				sent := float64(beat.UnixMicro()) / 1e6
				if _, err := s.Heartbeat(t.Context(), "i1", store.Beat{Sent: &sent}); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			h := rpcconductor.Handler(conductor.NewServer(s, conductor.Senders{GuestOf: guestOf}, slog.New(slog.NewTextHandler(&log, nil))))
			for method, args := range reports {
				in := &rpc.Incoming{Method: method, Version: "1.0", Sealed: true, SealedBy: "i1", Made: tc.made}
				if err := json.Unmarshal([]byte(args), &in.Args); err != nil {
					t.Fatal(err)
				}
				if _, err := h.Handle(t.Context(), in); err != nil {
					t.Fatal(err)
				}
			}
			i, err := s.Instance(t.Context(), "i1")
			if err != nil {
				t.Fatal(err)
			}
			root, err := s.RootHistory(t.Context(), "i1")
			if err != nil {
				t.Fatal(err)
			}
			ops, err := s.Operations(t.Context(), "i1", 1)
			if err != nil || len(ops) != 1 || len(ops[0].Steps) != 1 {
				t.Fatalf("operations: %+v, %v", ops, err)
			}
			if got := i.Fault != nil; got != tc.taken {
				t.Errorf("a fault is written: %v; logged %s", got, log.String())
			}
			if got := root.IsEnabled(); got != tc.taken {
				t.Errorf("root is written: %v; logged %s", got, log.String())
			}
			if got := ops[0].Steps[0].Message == "copying"; got != tc.taken {
				t.Errorf("a stage is written: %v; logged %s", got, log.String())
			}
		})
	}
}

func TestWithoutADatabaseTheMessageComesAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for method, args := range map[string]string{
		"heartbeat":       `{"instance_id": "i1", "payload": {"service_status": "healthy"}}`,
		"report_root":     `{"instance_id": "i1"}`,
		"notify_exc_info": `{"serialized_notification": {"instance_id": "i1"}, "message": "m"}`,
	} {
		if err := send(t.Context(), s, &bytes.Buffer{}, method, "", args); !trove.IsKind(err, trove.KindUnavailable) {
			t.Errorf("%s: %v", method, err)
		}
	}
}
