package conductor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/rpc"
	rpcconductor "github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// keyed are the instances that seal.
type keyed map[string]bool

func (k keyed) HasKey(_ context.Context, id string) (bool, error) {
	must, there := k[id]
	if !there {
		return false, trove.Errorf(trove.KindNotFound, "no instance %s", id)
	}
	return must, nil
}

// notes is a store that only notes whom something is written about.
type notes struct{ about []string }

func (n *notes) Heartbeats(_ context.Context, beats []store.InstanceBeat) []store.BeatResult {
	for _, b := range beats {
		n.about = append(n.about, b.InstanceID)
	}
	return make([]store.BeatResult, len(beats))
}

func (n *notes) SetRoot(_ context.Context, id, _ string, _ bool) error {
	n.about = append(n.about, id)
	return nil
}

func (n *notes) SetFault(_ context.Context, id string, _ trove.Fault) error {
	n.about = append(n.about, id)
	return nil
}

func (n *notes) RecordStage(_ context.Context, id, _ string, _ *trove.Progress) error {
	n.about = append(n.about, id)
	return nil
}

func (n *notes) LastBeat(context.Context, string) (time.Time, error) { return time.Time{}, nil }

func (n *notes) RootHistory(context.Context, string) (trove.RootHistory, error) {
	return trove.RootHistory{}, nil
}

// Login, envelope and argument must agree; i1 has a key, i2 has none.
func TestWhoMaySpeakForWhom(t *testing.T) {
	t.Parallel()
	own := func(login string) (string, bool) { // every guest has a login of its own
		if login == "trove" {
			return "", false
		}
		id, ok := strings.CutPrefix(login, "guest-")
		if !ok {
			return "", true
		}
		return id, true
	}
	shared := func(string) (string, bool) { return "", false }
	for name, tc := range map[string]struct {
		shared               bool
		login, sealedBy, arg string
		admitted             bool
	}{
		"sealed, own login":                        {false, "guest-i1", "i1", "i1", true},
		"sealed, no login told":                    {false, "", "i1", "i1", true},
		"sealed, a shared login":                   {true, "trove", "i1", "i1", true},
		"sealed, our own login":                    {false, "trove", "i1", "i1", true},
		"sealed by another, for its login":         {false, "guest-i1", "i2", "i1", false},
		"sealed by another, for itself":            {false, "guest-i1", "i2", "i2", false},
		"sealed, argument of another":              {false, "guest-i1", "i1", "i2", false},
		"sealed, argument of another, no login":    {false, "", "i1", "i2", false},
		"sealed, login and argument of another":    {false, "guest-i2", "i1", "i2", false},
		"sealed, argument of another, shared":      {true, "trove", "i1", "i2", false},
		"sealed, a login of nobody":                {false, "someone", "i1", "i1", false},
		"in clear though there is a key":           {false, "guest-i1", "", "i1", false},
		"in clear though there is a key, no login": {false, "", "", "i1", false},
		"in clear though there is a key, shared":   {true, "", "", "i1", false},
		"in clear, shared login":                   {true, "trove", "", "i1", false},
		"in clear by our own services":             {false, "trove", "", "i1", true},
		"in clear without a key":                   {false, "guest-i2", "", "i2", true},
		"in clear without a key, shared":           {true, "", "", "i2", true},
		"in clear without a key, of another":       {false, "guest-i1", "", "i2", false},
		"in clear without a key, no login":         {false, "", "", "i2", false},
		"of no instance":                           {false, "guest-i1", "i1", "", false},
		"of an instance that is gone":              {false, "guest-i9", "", "i9", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for method, args := range map[string]string{
				"heartbeat":       `{"instance_id": "ID", "payload": {"service_status": "healthy"}}`,
				"report_root":     `{"instance_id": "ID", "user": "u"}`,
				"notify_exc_info": `{"serialized_notification": {"instance_id": "ID", "notification_classname": "os.system"}, "message": "m"}`,
			} {
				s := &notes{}
				keys := keyed{"i1": true, "i2": false}
				senders := conductor.Senders{GuestOf: own, ControlPlane: func(login string) bool { return login == "trove" }, Keys: keys}
				if tc.shared {
					senders = conductor.Senders{GuestOf: shared, Keys: keys}
				}
				var log bytes.Buffer
				h := rpcconductor.Handler(conductor.NewServer(s, senders, slog.New(slog.NewTextHandler(&log, nil))))
				in := &rpc.Incoming{Method: method, Version: "1.0", Sender: tc.login, Sealed: tc.sealedBy != "", SealedBy: tc.sealedBy}
				if err := json.Unmarshal([]byte(strings.ReplaceAll(args, "ID", tc.arg)), &in.Args); err != nil {
					t.Fatal(err)
				}
				if _, err := h.Handle(t.Context(), in); err != nil {
					t.Fatal(err)
				}
				if tc.admitted && !slices.Equal(s.about, []string{tc.arg}) || !tc.admitted && len(s.about) > 0 {
					t.Errorf("%s: written about %v; logged %s", method, s.about, log.String())
				}
				if !tc.admitted && !strings.Contains(log.String(), "dropped") {
					t.Errorf("%s: logged %s", method, log.String())
				}
			}
		})
	}
}

// New credentials are confirmed by their login and their key together.
func TestConfirmedByTheNewKeyOnly(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   rpc.Incoming
		want int
	}{
		"in clear":                   {rpc.Incoming{}, 1},
		"sealed with the new key":    {rpc.Incoming{Sealed: true, SealedBy: "a", SealedNext: true}, 1},
		"sealed with the one before": {rpc.Incoming{Sealed: true, SealedBy: "a"}, 0},
		"sealed with another's new":  {rpc.Incoming{Sealed: true, SealedBy: "b", SealedNext: true}, 0},
		"sealed with the shared key": {rpc.Incoming{Sealed: true}, 0},
	} {
		r := &rotations{}
		h := conductor.Confirming(rpc.HandlerFunc(func(context.Context, *rpc.Incoming) (any, error) { return nil, nil }),
			r, guest.ParseLogin, slog.New(slog.DiscardHandler))
		tc.in.Method, tc.in.Sender = "heartbeat", guest.Login("a", 1)
		if _, err := h.Handle(t.Context(), &tc.in); err != nil || len(r.confirmed) != tc.want {
			t.Errorf("%s: confirmed %v, %v", name, r.confirmed, err)
		}
	}
}

// A message that is repeated whole changes nothing: rpc drops it by its unique
// id, and one older than what it remembers is older than the last heartbeat.
func TestOldHeartbeatsChangeNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, args := range []string{
		`{"instance_id": "i1", "payload": {"service_status": "healthy"}, "sent": 2.5}`,
		`{"instance_id": "i1", "payload": {"service_status": "shutdown"}, "sent": 2.5}`,
		`{"instance_id": "i1", "payload": {"service_status": "crashed"}, "sent": 1.5}`,
	} {
		if err := send(t.Context(), s, &bytes.Buffer{}, "heartbeat", "guest-i1", args); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := s.Instance(t.Context(), "i1"); err != nil || i.Service != trove.ServiceHealthy {
		t.Errorf("%v, %v", i, err)
	}
}
