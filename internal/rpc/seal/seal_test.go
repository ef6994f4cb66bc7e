package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/secret"
)

const (
	ann       = "5e9c3d2a-0000-4000-8000-000000000001"
	bob       = "5e9c3d2a-0000-4000-8000-000000000002"
	goldenKey = "kF3sT9aBcDeFgHiJkLmNoPqRsTuVwXyZ"
)

func newKey(t testing.TB, text string) *Key {
	t.Helper()
	k, err := NewKey(secret.New(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

func request() wire.Request {
	return wire.Request{Method: "create_user", Version: "1.0", UniqueID: "u1", MsgID: "m1", ReplyQueue: "reply_1",
		Args:    map[string]json.RawMessage{"users": raw(`[{"_name":"jo","_password":"s3cret/"}]`), "none": raw("null"), "text": raw(`"ü"`)},
		Context: map[string]json.RawMessage{"request_id": raw(`"req-1"`), "auth_token": raw(`"t0ken"`)}}
}

// sent is what r says after it was on the bus.
func sent(t testing.TB, r wire.Request) wire.Request {
	t.Helper()
	body, err := wire.EncodeRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"s3cret", "t0ken"} {
		if bytes.Contains(body, []byte(word)) {
			t.Errorf("%s can be read: %s", word, body)
		}
	}
	out, err := wire.DecodeRequest(body, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sentReply(t testing.TB, r wire.Reply) wire.Reply {
	t.Helper()
	body, err := wire.EncodeReply(r)
	if err != nil {
		t.Fatal(err)
	}
	out, err := wire.DecodeReply(body, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	forms = []Form{Original, Authenticated}
	roads = []Road{ToTaskManager, ToGuest, ToConductor}
)

func each(t *testing.T, f func(t *testing.T, form Form, road Road, key *Key)) {
	for _, form := range forms {
		for _, road := range roads {
			t.Run(form.String()+"/"+string(road), func(t *testing.T) { f(t, form, road, newKey(t, MakeKey(form).Reveal())) })
		}
	}
}

func TestThereAndBack(t *testing.T) {
	each(t, func(t *testing.T, form Form, road Road, key *Key) {
		r := request()
		openReply, err := key.SealRequest(road, ann, &r)
		if err != nil {
			t.Fatal(err)
		}
		if got := FormOf(&r); got != form {
			t.Errorf("it looks %s", got)
		}
		if got := Claimed(&r); road == ToConductor && got != ann {
			t.Errorf("it claims to be of %q", got)
		}
		got := sent(t, r)
		by, sealReply, err := OpenRequest([]*Key{newKey(t, MakeKey(form).Reveal()), key}, road, ann, &got)
		if err != nil || by != key {
			t.Fatalf("opened with %v: %v", by, err)
		}
		if d := cmp.Diff(request(), got); d != "" {
			t.Error(d)
		}
		for name, reply := range map[string]wire.Reply{
			"result":  {Result: raw(`{"a":[1,null]}`)},
			"null":    {},
			"failure": {Failure: &wire.Failure{Class: "NotFound", Module: "trove.common.exception", Message: "no", Kwargs: map[string]json.RawMessage{}}},
		} {
			reply.MsgID, reply.UniqueID, reply.Ending = "m1", "u2", true
			sealed := reply
			if err := sealReply(&sealed); err != nil {
				t.Fatal(err)
			}
			back := sentReply(t, sealed)
			if bytes.Contains(back.Result, []byte("null")) || form == Authenticated && back.Failure != nil {
				t.Errorf("%s can be read: %s", name, back.Result)
			}
			if err := openReply(&back); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if string(back.Result) == "null" {
				back.Result = nil
			}
			back.UniqueID = reply.UniqueID
			if back.Failure != nil {
				back.Failure.Args, back.Failure.Traceback = nil, nil
			}
			if d := cmp.Diff(reply, back); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
	})
}

// When a request was made, and whether it is kept, is told under the seal or not
// at all, and nobody can add or change it.
func TestMadeAndKept(t *testing.T) {
	each(t, func(t *testing.T, form Form, road Road, key *Key) {
		r := request()
		r.Made, r.Kept = 1_800_000_000_123_456, true
		if _, err := key.SealRequest(road, ann, &r); err != nil {
			t.Fatal(err)
		}
		got := sent(t, r)
		if got.Made != 0 || got.Kept {
			t.Errorf("in clear: %d, %v", got.Made, got.Kept)
		}
		got.Context["made"], got.Context["kept"] = raw("1"), raw("true")
		got.Args["made"] = got.Args[memberPayload]
		_, _, err := OpenRequest([]*Key{key}, road, ann, &got)
		want := wire.Request{}
		if form == Authenticated {
			want.Made, want.Kept = 1_800_000_000_123_456, true
		}
		if form == Authenticated && err != nil || got.Made != want.Made || got.Kept != want.Kept {
			t.Errorf("opened: %d, %v, %v", got.Made, got.Kept, err)
		}
		// One that an earlier version sealed.
		old := request()
		if _, err := key.SealRequest(road, ann, &old); err != nil {
			t.Fatal(err)
		}
		old = sent(t, old)
		if _, _, err := OpenRequest([]*Key{key}, road, ann, &old); err != nil || old.Made != 0 || old.Kept {
			t.Errorf("of an earlier version: %d, %v, %v", old.Made, old.Kept, err)
		}
	})
}

// What the serializers of the original wrote, with a context as it has it.
func TestPythonsSerializers(t *testing.T) {
	b, err := os.ReadFile("testdata/trove18.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
		var g struct {
			Name          string
			Context, Args map[string]json.RawMessage
		}
		if err := d.Decode(&g); err != nil {
			t.Fatal(err)
		}
		road := ToGuest
		if g.Name == "conductor" {
			road = ToConductor
		}
		r := wire.Request{Context: g.Context, Args: g.Args}
		if _, _, err := OpenRequest([]*Key{newKey(t, goldenKey)}, road, ann, &r); err != nil {
			t.Errorf("%s: %v", g.Name, err)
			continue
		}
		if string(r.Context["request_id"]) != `"req-1"` {
			t.Errorf("%s: context %s", g.Name, r.Context)
		}
		want := map[string]any{"instance_id": ann, "sent": 1700000000.25, "nothing": nil,
			"payload": map[string]any{"service_status": "running", "text": "grüß€"}}
		got := map[string]any{}
		for k, v := range r.Args {
			var x any
			if err := json.Unmarshal(v, &x); err != nil {
				t.Errorf("%s: %s: %v", g.Name, k, err)
			}
			got[k] = x
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", g.Name, d)
		}
	}
}

// What somebody between or beside the ends may try. The original's way cannot
// know all of it.
func TestTampering(t *testing.T) {
	each(t, func(t *testing.T, form Form, road Road, key *Key) {
		other := newKey(t, MakeKey(form).Reveal())
		otherForm := newKey(t, MakeKey(3-form).Reveal())
		for _, c := range []struct {
			name     string
			keys     []*Key
			instance string
			road     Road
			change   func(r *wire.Request)
			want     error
			ours     bool // only the authenticated way notices
		}{
			{name: "another key", keys: []*Key{other}, want: ErrKey},
			{name: "a key of the other way", keys: []*Key{otherForm}, want: ErrForm},
			{name: "no key", keys: []*Key{}, want: ErrForm},
			{name: "another instance", instance: bob, want: ErrKey, ours: road != ToConductor},
			{name: "another road", road: map[Road]Road{ToGuest: ToTaskManager, ToTaskManager: ToGuest, ToConductor: ToGuest}[road], want: ErrKey, ours: road != ToConductor},
			{name: "in clear", change: func(r *wire.Request) { *r = request() }, want: ErrPlain},
			{name: "context in clear", change: func(r *wire.Request) { r.Context = request().Context }, want: ErrPlain},
			{name: "arguments in clear", change: func(r *wire.Request) { r.Args = request().Args }, want: ErrKey},
			{name: "another method", change: func(r *wire.Request) { r.Method = "delete_user" }, want: ErrKey, ours: true},
			{name: "another version", change: func(r *wire.Request) { r.Version = "1.1" }, want: ErrKey, ours: true},
			{name: "repeated under another id", change: func(r *wire.Request) { r.UniqueID = "u2" }, want: ErrKey, ours: true},
			{name: "answer to somebody else", change: func(r *wire.Request) { r.ReplyQueue = "reply_2" }, want: ErrKey, ours: true},
			{name: "a call as a cast", change: func(r *wire.Request) { r.MsgID, r.ReplyQueue = "", "" }, want: ErrKey, ours: true},
			{name: "an argument left out", change: func(r *wire.Request) {
				for k := range r.Args {
					delete(r.Args, k)
					return
				}
			}, want: ErrKey, ours: true},
			{name: "marked as the other way", change: func(r *wire.Request) {
				if form == Original {
					r.Context[memberSeal] = raw(version)
				} else {
					delete(r.Context, memberSeal)
					r.Context[memberContext] = r.Args[memberPayload]
				}
			}, want: ErrForm},
		} {
			r := request()
			if _, err := key.SealRequest(road, ann, &r); err != nil {
				t.Fatal(err)
			}
			r = sent(t, r)
			if c.change != nil {
				c.change(&r)
			}
			keys, instance, by := c.keys, ann, road
			if keys == nil {
				keys = []*Key{key}
			}
			if c.instance != "" {
				instance = c.instance
			}
			if c.road != "" {
				by = c.road
			}
			before := wire.Request{Args: maps.Clone(r.Args), Context: maps.Clone(r.Context)}
			_, _, err := OpenRequest(keys, by, instance, &r)
			if c.ours && form == Original {
				if err != nil {
					t.Errorf("%s: the original's way notices: %v", c.name, err)
				}
				continue
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
			if d := cmp.Diff(before, wire.Request{Args: r.Args, Context: r.Context}); d != "" {
				t.Errorf("%s: changed though refused: %s", c.name, d)
			}
		}
	})
}

func TestRepliesOfOthers(t *testing.T) {
	for _, form := range forms {
		key, other := newKey(t, MakeKey(form).Reveal()), newKey(t, MakeKey(form).Reveal())
		r := request()
		open, err := key.SealRequest(ToGuest, ann, &r)
		if err != nil {
			t.Fatal(err)
		}
		first, second := request(), request()
		second.MsgID = "m2"
		for name, c := range map[string]struct {
			by      func() wire.Reply
			refused bool
		}{
			"its own":             {func() wire.Reply { return reply(t, key.sealReply(ToGuest, ann, &first)) }, false},
			"with another key":    {func() wire.Reply { return reply(t, other.sealReply(ToGuest, ann, &first)) }, true},
			"to another call":     {func() wire.Reply { return reply(t, key.sealReply(ToGuest, ann, &second)) }, form == Authenticated},
			"of another instance": {func() wire.Reply { return reply(t, key.sealReply(ToGuest, bob, &first)) }, form == Authenticated},
			"a result in clear":   {func() wire.Reply { return wire.Reply{Result: raw(`"forged"`)} }, true},
			"nothing in clear":    {func() wire.Reply { return wire.Reply{} }, true},
			"a failure in clear":  {func() wire.Reply { return wire.Reply{Failure: &wire.Failure{Class: "X"}} }, form == Authenticated},
		} {
			got := c.by()
			if err := open(&got); (err != nil) != c.refused {
				t.Errorf("%s, %s: %v", form, name, err)
			}
		}
	}
}

func reply(t *testing.T, seal func(*wire.Reply) error) wire.Reply {
	r := wire.Reply{Result: raw(`"done"`)}
	if err := seal(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNewKey(t *testing.T) {
	for text, want := range map[string]Form{"": Plain, "v2.short": Plain, "v2": Original, goldenKey: Original,
		"v2." + goldenKey: Authenticated, strings.Repeat("ü", 100): Original} {
		k, err := NewKey(secret.New(text))
		if (err != nil) != (want == Plain) || err == nil && k.Form() != want {
			t.Errorf("%q: %v, %v", text, k, err)
		}
	}
	for _, form := range forms {
		if k := newKey(t, MakeKey(form).Reveal()); k.Form() != form {
			t.Errorf("a key made for %s is for %s", form, k.Form())
		}
	}
}

func FuzzOpen(f *testing.F) {
	keys := []*Key{newKey(f, goldenKey), newKey(f, "v2."+goldenKey)}
	for _, k := range keys {
		for _, road := range roads {
			r := request()
			if _, err := k.SealRequest(road, ann, &r); err != nil {
				f.Fatal(err)
			}
			body, err := wire.EncodeRequest(r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := wire.DecodeRequest(body, 0)
		if err != nil {
			return
		}
		for _, road := range roads {
			for _, instance := range []string{ann, Claimed(&r)} {
				got := r
				_, _, err := OpenRequest(keys, road, instance, &got)
				if err != nil && err != ErrPlain && err != ErrForm && err != ErrKey {
					t.Errorf("error %v", err)
				}
			}
		}
		answer := wire.Reply{Result: body}
		for _, k := range keys {
			_ = k.openReply(ToGuest, ann, &r)(&answer)
		}
	})
}

func BenchmarkHeartbeat(b *testing.B) {
	beat := wire.Request{Method: "heartbeat", Version: "1.0", UniqueID: strings.Repeat("u", 32),
		Args: map[string]json.RawMessage{"instance_id": raw(`"` + ann + `"`), "payload": raw(`{"service_status":"healthy"}`), "sent": raw("1700000000.25")},
		Context: map[string]json.RawMessage{"request_id": raw("null"), "user": raw("null"), "project_id": raw("null"), "is_admin": raw("false"),
			"roles": raw("[]"), "auth_token": raw("null"), "service_catalog": raw("null"), "user_identity": raw(`"- - - - -"`)}}
	for _, form := range forms {
		k := newKey(b, MakeKey(form).Reveal())
		keys := []*Key{k}
		sealed := beat
		if _, err := k.SealRequest(ToConductor, ann, &sealed); err != nil {
			b.Fatal(err)
		}
		b.Run(form.String()+"/seal", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := beat
				if _, err := k.SealRequest(ToConductor, ann, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(form.String()+"/open", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := sealed
				if _, _, err := OpenRequest(keys, ToConductor, ann, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
