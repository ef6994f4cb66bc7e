package upgrade_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/rpcapi/upgrade"
	"github.com/gotrove/gotrove/internal/trove"
)

// last is a Caller that keeps what it was given.
type last struct{ m *rpc.Message }

func (l last) Call(_ context.Context, m rpc.Message, _ any) error { *l.m = m; return nil }
func (l last) Cast(_ context.Context, m rpc.Message) error        { *l.m = m; return nil }

func TestLevels(t *testing.T) {
	guests := func(method, version string, args map[string]any) rpc.Message {
		return rpc.Message{Topic: guest.Topic("i1"), Method: method, Version: version, Args: args}
	}
	prepare := guests("prepare", "1.1", map[string]any{"memory_mb": 1, "ds_version": "8.4"})
	resize := guests("resize_fs", "1.1", map[string]any{"device_path": "/dev/vdb", "online": true})
	changes := guests("start_db_with_conf_changes", "1.1", map[string]any{"config_contents": "", "ds_version": "8.4"})
	stop := guests("stop_db", "1.1", nil)
	restart := guests("restart", "1.0", nil)
	backup := guests("pre_create_backup", "1.2", nil)
	ssl := guests("ssl_show", "1.3", nil)
	create := taskmanager.DeleteMessage("taskmanager", "i1")
	beat := rpc.Message{Topic: "trove-conductor", Method: "heartbeat", Version: "1.0"}
	oldStop := guests("stop_db", "1.0", map[string]any{"do_not_start_on_reboot": false})
	for name, c := range map[string]struct {
		levels  upgrade.Levels
		m, want rpc.Message
		refused trove.Kind
	}{
		"latest":                    {m: ssl, want: ssl},
		"latest, prepare":           {m: prepare, want: prepare},
		"hibiscus":                  {levels: upgrade.Levels{Guest: "hibiscus"}, m: ssl, want: ssl},
		"epoxy allows snapshots":    {levels: upgrade.Levels{Guest: "epoxy"}, m: backup, want: backup},
		"epoxy forbids ssl":         {levels: upgrade.Levels{Guest: "epoxy"}, m: ssl, refused: trove.KindGuest},
		"victoria allows 1.1":       {levels: upgrade.Levels{Guest: "victoria"}, m: prepare, want: prepare},
		"victoria forbids 1.2":      {levels: upgrade.Levels{Guest: "victoria"}, m: backup, refused: trove.KindGuest},
		"ussuri, prepare":           {levels: upgrade.Levels{Guest: "ussuri"}, m: prepare, want: guests("prepare", "1.0", map[string]any{"memory_mb": 1})},
		"1.0, resize":               {levels: upgrade.Levels{Guest: "1.0"}, m: resize, want: guests("resize_fs", "1.0", map[string]any{"device_path": "/dev/vdb"})},
		"1, changes":                {levels: upgrade.Levels{Guest: "1"}, m: changes, want: guests("start_db_with_conf_changes", "1.0", map[string]any{"config_contents": ""})},
		"kilo, stop":                {levels: upgrade.Levels{Guest: "kilo"}, m: stop, want: oldStop},
		"newton, our own":           {levels: upgrade.Levels{Guest: "newton"}, m: guests("rotate_credentials", "1.3", nil), want: guests("rotate_credentials", "1.0", nil)},
		"newton, restart":           {levels: upgrade.Levels{Guest: "newton"}, m: restart, want: restart},
		"another major":             {levels: upgrade.Levels{Guest: "2.0"}, m: prepare, refused: trove.KindGuest},
		"above ours":                {levels: upgrade.Levels{Guest: "1.9"}, m: ssl, want: ssl},
		"task manager":              {levels: upgrade.Levels{TaskManager: "juno"}, m: create, want: create},
		"task manager, other major": {levels: upgrade.Levels{TaskManager: "2.0"}, m: create, refused: trove.KindInternal},
		"conductor":                 {levels: upgrade.Levels{Conductor: "1.0"}, m: beat, want: beat},
		"conductor, other major":    {levels: upgrade.Levels{Conductor: "0.9"}, m: beat, refused: trove.KindInternal},
		"of none of them":           {levels: upgrade.Levels{Guest: "0.1"}, m: rpc.Message{Topic: "x"}, want: rpc.Message{Topic: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got rpc.Message
			caller, err := c.levels.Caller(last{&got}, "taskmanager", "trove-conductor")
			if err != nil {
				t.Fatal(err)
			}
			before, err := json.Marshal(c.m)
			if err != nil {
				t.Fatal(err)
			}
			for _, send := range []func() error{
				func() error { return caller.Cast(t.Context(), c.m) },
				func() error { return caller.Call(t.Context(), c.m, nil) },
			} {
				got = rpc.Message{}
				err := send()
				if c.want.Topic == "" {
					if err == nil || trove.KindOf(err) != c.refused || got.Topic != "" {
						t.Errorf("sent %+v, error %v", got, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
			}
			if after, _ := json.Marshal(c.m); string(after) != string(before) {
				t.Errorf("the message itself was changed: %s", after)
			}
		})
	}
}

func TestLevelsRefused(t *testing.T) {
	for _, l := range []upgrade.Levels{{TaskManager: "zed"}, {Conductor: "victoria"}, {Guest: "1.x"}, {Guest: "-1.0"}, {Guest: "havana"}} {
		if _, err := l.Caller(last{}, "taskmanager", "trove-conductor"); !trove.IsKind(err, trove.KindBadRequest) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

type agent struct {
	guest.Agent
	prepared guest.Prepare
}

func (a *agent) Prepare(_ context.Context, p guest.Prepare) error { a.prepared = p; return nil }

type conductorServer struct {
	conductor.Server
	beats int
}

func (s *conductorServer) Heartbeat(context.Context, conductor.Sender, conductor.Heartbeat) error {
	s.beats++
	return nil
}

// Servers take what older and newer peers of the same major version send: an
// argument less, an argument more; and refuse a minor version above theirs.
func TestNeighbours(t *testing.T) {
	a, s := &agent{}, &conductorServer{}
	for name, c := range map[string]struct {
		h       rpc.Handler
		in      rpc.Incoming
		refused bool
	}{
		"older control plane": {h: guest.Handler(a), in: rpc.Incoming{Method: "prepare", Version: "1.0", Args: raw(`{"memory_mb": 512}`)}},
		"no version":          {h: guest.Handler(a), in: rpc.Incoming{Method: "prepare", Args: raw(`{"memory_mb": 512}`)}},
		"newer argument":      {h: guest.Handler(a), in: rpc.Incoming{Method: "prepare", Version: "1.3", Args: raw(`{"memory_mb": 512, "of_tomorrow": {"a": 1}}`)}},
		"newer version":       {h: guest.Handler(a), in: rpc.Incoming{Method: "prepare", Version: "1.4", Args: raw(`{}`)}, refused: true},
		"other major":         {h: guest.Handler(a), in: rpc.Incoming{Method: "prepare", Version: "2.0", Args: raw(`{}`)}, refused: true},
		"newer agent":         {h: conductor.Handler(s), in: rpc.Incoming{Method: "heartbeat", Version: "1.0", Args: raw(`{"instance_id": "i", "payload": {"x": 1}, "of_tomorrow": 1}`)}},
		"newer conductor API": {h: conductor.Handler(s), in: rpc.Incoming{Method: "heartbeat", Version: "1.1", Args: raw(`{}`)}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.h.Handle(t.Context(), &c.in)
			if refused := err != nil; refused != c.refused {
				t.Errorf("%v", err)
			}
		})
	}
	if a.prepared.MemoryMB != 512 || s.beats != 1 {
		t.Error(a.prepared, s.beats)
	}
}

func raw(s string) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		panic(err)
	}
	return m
}
