package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	topic = "taskmanager"
	ann   = "11111111-1111-4111-8111-111111111111"
	bob   = "22222222-2222-4222-8222-222222222222"
)

// rows is a store of keys.
type rows struct {
	mu    sync.Mutex
	keys  map[string][2]string
	asked atomic.Int64
	err   error
}

func (s *rows) set(id, current, pending string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string][2]string{}
	}
	s.keys[id] = [2]string{current, pending}
}

func (s *rows) InstanceKeys(_ context.Context, id string) (string, string, error) {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	if s.err == nil && !ok {
		return "", "", trove.Errorf(trove.KindNotFound, "no instance %s", id)
	}
	return k[0], k[1], s.err
}

func (s *rows) SomeInstanceKeys(context.Context, int) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	some := map[string]string{}
	for id, k := range s.keys {
		some[id] = k[0]
	}
	return some, nil
}

func (s *rows) RekeyInstances(_ context.Context, change func(id, key string) string) (n int, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.keys {
		if to := change(id, k[0]); to != k[0] {
			s.keys[id] = [2]string{to, k[1]}
			n++
		}
	}
	return n, nil
}

func (s *rows) Reseal(context.Context) (int, int, error) { return 0, 0, nil }

type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func config(form seal.Form, masters ...string) Config {
	c := Config{TaskManager: []secret.String{seal.MakeKey(form)}, TaskManagerTopic: topic, NewKeys: true, NewForm: form}
	for _, m := range masters {
		c.Master = append(c.Master, secret.New(m))
	}
	return c
}

func ring(t testing.TB, c Config, s Store, clock func() time.Time) *Ring {
	t.Helper()
	r, err := New(c, s, slog.New(slog.DiscardHandler), clock)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func heartbeat(id string) wire.Request {
	return wire.Request{Method: "heartbeat", Version: "1.0", UniqueID: "u",
		Args:    map[string]json.RawMessage{"instance_id": json.RawMessage(`"` + id + `"`), "payload": json.RawMessage(`{"service_status":"healthy"}`)},
		Context: map[string]json.RawMessage{"request_id": json.RawMessage(`"req"`)}}
}

// inClear is the key of an instance in clear.
func inClear(t testing.TB, r *Ring, encrypted string) secret.String {
	t.Helper()
	k, err := r.OpenKey(t.Context(), "", encrypted)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(k)
}

func agent(t testing.TB, id string, keys ...secret.String) *Agent {
	t.Helper()
	a, err := NewAgent(id, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// report is an agent's heartbeat as the conductor opens it.
func report(t testing.TB, a *Agent, r *Ring, about string) (rpc.Opened, error) {
	t.Helper()
	q := heartbeat(about)
	if _, err := a.SealRequest(t.Context(), "trove-conductor", &q); err != nil {
		t.Fatal(err)
	}
	o, err := r.Conductor().OpenRequest(t.Context(), "", &q)
	if err == nil && string(q.Args["instance_id"]) != `"`+about+`"` {
		t.Errorf("opened is %s", q.Args)
	}
	return o, err
}

var forms = []seal.Form{seal.Original, seal.Authenticated}

// Every road there is, with a key at both ends, at one, and at none.
func TestRoads(t *testing.T) {
	for _, form := range forms {
		t.Run(form.String(), func(t *testing.T) {
			s := &rows{}
			r := ring(t, config(form, "master"), s, nil)
			s.set(ann, r.MakeKey(), "")
			s.set(bob, "", "")
			off := ring(t, Config{TaskManagerTopic: topic}, s, nil)
			key := inClear(t, r, s.keys[ann][0])
			if strings.HasPrefix(key.Reveal(), seal.AuthenticatedPrefix) != (form == seal.Authenticated) {
				t.Errorf("a key of the wrong form")
			}

			send := func(from rpc.Sealer, topic string, to rpc.Opener) (sealed bool, o rpc.Opened, err error) {
				t.Helper()
				q := heartbeat(ann)
				back, err := from.SealRequest(t.Context(), topic, &q)
				if err != nil {
					t.Fatal(err)
				}
				sealed = seal.FormOf(&q) != seal.Plain
				if o, err = to.OpenRequest(t.Context(), "", &q); err != nil {
					return sealed, o, err
				}
				if string(q.Args["instance_id"]) != `"`+ann+`"` || string(q.Context["request_id"]) != `"req"` {
					t.Errorf("opened is %+v", q)
				}
				reply := wire.Reply{Result: json.RawMessage(`"r"`)}
				if (back == nil) != (o.Reply == nil) && topic != "trove-conductor" {
					t.Errorf("of the reply one side only is sealed")
				}
				if back != nil && o.Reply != nil {
					if err := errors.Join(o.Reply(&reply), back(&reply)); err != nil || string(reply.Result) != `"r"` {
						t.Errorf("reply %s, %v", reply.Result, err)
					}
				}
				return sealed, o, nil
			}
			withKey, without := agent(t, ann, key), agent(t, ann)
			for name, c := range map[string]struct {
				from   rpc.Sealer
				topic  string
				to     rpc.Opener
				sealed bool
				err    error
			}{
				"to the task manager":                    {r, topic, r.TaskManager(), true, nil},
				"to the task manager, no keys":           {off, topic, off.TaskManager(), false, nil},
				"to the task manager, sender without":    {off, topic, r.TaskManager(), false, seal.ErrPlain},
				"to the task manager, receiver without":  {r, topic, off.TaskManager(), true, errNoKey},
				"to the conductor from our own services": {r, "trove-conductor", r.Conductor(), false, nil},
				"to an agent":                            {r, guest.Topic(ann), withKey, true, nil},
				"to an agent, no keys":                   {r, guest.Topic(bob), without, false, nil},
				"to an agent, sender without":            {r, guest.Topic(bob), withKey, false, seal.ErrPlain},
				"to an agent, receiver without":          {r, guest.Topic(ann), without, true, errNoKey},
				"to an agent of another instance":        {r, guest.Topic(ann), agent(t, ann, seal.MakeKey(form)), true, seal.ErrKey},
				"to an agent of the other form":          {r, guest.Topic(ann), agent(t, ann, seal.MakeKey(3-form)), true, seal.ErrForm},
				"from an agent":                          {withKey, "trove-conductor", r.Conductor(), true, nil},
				"from an agent without":                  {without, "trove-conductor", r.Conductor(), false, nil}, // the conductor refuses it
				"from an agent of another key":           {agent(t, ann, seal.MakeKey(form)), "trove-conductor", r.Conductor(), true, seal.ErrKey},
				"from an agent, receiver without":        {agent(t, bob, key), "trove-conductor", r.Conductor(), true, errNoKey},
			} {
				sealed, o, err := send(c.from, c.topic, c.to)
				if sealed != c.sealed || !errors.Is(err, c.err) {
					t.Errorf("%s: sealed %v, %v; want %v, %v", name, sealed, err, c.sealed, c.err)
				}
				if err == nil && (o.Sealed != c.sealed || o.Instance != "" && o.Instance != ann) {
					t.Errorf("%s: %+v", name, o)
				}
			}
			if o, err := report(t, withKey, r, bob); err != nil || o.Instance != ann {
				t.Errorf("what ann says of bob is ann's: %+v, %v", o, err)
			}
			if _, err := report(t, agent(t, "gone", key), r, "gone"); !trove.IsKind(err, trove.KindNotFound) {
				t.Errorf("of an instance that is not there: %v", err)
			}
			s.err = trove.Errorf(trove.KindUnavailable, "away")
			r.Forget(ann)
			if _, err := report(t, withKey, r, ann); !trove.IsKind(err, trove.KindUnavailable) {
				t.Errorf("with the database away: %v", err)
			}
		})
	}
}

// A key is replaced while messages go on: nothing is refused at any moment, and
// the old key ends.
func TestKeyIsReplaced(t *testing.T) {
	s, c := &rows{}, &clock{}
	r, other := ring(t, config(seal.Authenticated, "master"), s, c.now), ring(t, config(seal.Authenticated, "master"), s, c.now)
	first := r.MakeKey()
	s.set(ann, first, "")
	oldKey := inClear(t, r, first)
	a := agent(t, ann, oldKey)
	heard := func(what string, next bool) {
		t.Helper()
		for i, r := range []*Ring{r, other} {
			if o, err := report(t, a, r, ann); err != nil || o.Next != next {
				t.Errorf("%s, process %d: %+v, %v", what, i, o, err)
			}
		}
	}
	asked := func(what string) {
		t.Helper()
		for i, r := range []*Ring{r, other} {
			q := heartbeat(ann)
			if _, err := r.SealRequest(t.Context(), guest.Topic(ann), &q); err != nil {
				t.Fatal(err)
			}
			if _, err := a.OpenRequest(t.Context(), "", &q); err != nil {
				t.Errorf("%s, process %d: %v", what, i, err)
			}
		}
	}
	heard("at first", false)
	asked("at first")

	second, err := r.NewKey(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	s.set(ann, first, second)
	heard("pending", false)
	if err := a.Set(inClear(t, r, second), oldKey); err != nil {
		t.Fatal(err)
	}
	heard("with the new key", true)
	asked("still with the old key")
	s.set(ann, second, "")
	asked("with what is cached")
	c.advance(fresh)
	heard("confirmed", false)
	asked("confirmed")
	before := agent(t, ann, oldKey)
	if _, err := report(t, before, r, ann); err != nil {
		t.Errorf("what was on its way is refused: %v", err)
	}
	c.advance(lateFor + fresh)
	if _, err := report(t, before, r, ann); !errors.Is(err, seal.ErrKey) {
		t.Errorf("the old key is still good: %v", err)
	}
	heard("at last", false)
}

func TestCache(t *testing.T) {
	s, c := &rows{}, &clock{}
	r := ring(t, config(seal.Original, "master"), s, c.now)
	s.set(ann, r.MakeKey(), "")
	a := agent(t, ann, inClear(t, r, s.keys[ann][0]))
	for range 100 {
		if _, err := report(t, a, r, ann); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked the database %d times for 100 messages", n)
	}
	c.advance(fresh)
	if must, err := r.HasKey(t.Context(), ann); !must || err != nil || s.asked.Load() != 2 {
		t.Errorf("%v, %v; asked %d times", must, err, s.asked.Load())
	}
	for i := range maxCached + 100 {
		id := fmt.Sprint(i)
		s.set(id, s.keys[ann][0], "")
		if _, err := r.HasKey(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.cache) > maxCached {
		t.Errorf("%d cached", len(r.cache))
	}
}

func TestRekey(t *testing.T) {
	s := &rows{}
	old, both, fresh := ring(t, config(seal.Original, "old"), s, nil), ring(t, config(seal.Original, "new", "old"), s, nil), ring(t, config(seal.Original, "new"), s, nil)
	keys := map[string]string{}
	for i := range 20 {
		id := fmt.Sprint("i", i)
		s.set(id, old.MakeKey(), "")
		keys[id] = inClear(t, old, s.keys[id][0]).Reveal()
	}
	if err := fresh.Check(t.Context(), s); err == nil {
		t.Error("a wrong key is not noticed")
	}
	for _, r := range []*Ring{old, both} {
		if err := r.Check(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	s.set("damaged", "AAAA", "")
	done, err := both.Rekey(t.Context(), s)
	if err != nil || done.Keys != 20 || done.Failed != 1 || len(done.Instances) != 1 || done.Instances[0] != "damaged" {
		t.Errorf("%+v, %v", done, err)
	}
	if done, err := both.Rekey(t.Context(), s); err != nil || done.Keys != 0 {
		t.Errorf("again: %+v, %v", done, err)
	}
	for id, want := range keys {
		if got := inClear(t, fresh, s.keys[id][0]).Reveal(); got != want {
			t.Errorf("%s: another key", id)
		}
	}
	if _, err := old.OpenKey(t.Context(), "i0", s.keys["i0"][0]); err == nil {
		t.Error("the old key still opens")
	}
}

func TestAtRest(t *testing.T) {
	old, both, fresh := NewAtRest(secret.New("old")), NewAtRest(secret.New("new"), secret.New("old")), NewAtRest(secret.New("new"))
	plain := []byte(`{"password":"s3cret"}`)
	sealed := old.Seal("outbox 1", plain)
	if bytes.Contains(sealed, []byte("s3cret")) || !json.Valid(sealed) {
		t.Errorf("sealed is %s", sealed)
	}
	for name, c := range map[string]struct {
		by     *AtRest
		place  string
		stored []byte
		opens  bool
		fresh  bool
	}{
		"itself":         {old, "outbox 1", sealed, true, true},
		"both keys":      {both, "outbox 1", sealed, true, false},
		"another key":    {fresh, "outbox 1", sealed, false, false},
		"another row":    {old, "outbox 2", sealed, false, false},
		"another table":  {old, "work 1", sealed, false, false},
		"not sealed yet": {fresh, "outbox 1", plain, true, false},
		"the new key":    {fresh, "outbox 1", both.Seal("outbox 1", plain), true, true},
	} {
		got, err := c.by.Open(c.place, bytes.Clone(c.stored))
		if (err == nil) != c.opens || c.opens && !bytes.Equal(got, plain) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if is := c.by.Fresh(c.place, c.stored); is != c.fresh {
			t.Errorf("%s: fresh %v", name, is)
		}
	}
}

func FuzzOpenReport(f *testing.F) {
	s := &rows{}
	r := ring(f, config(seal.Original, "master"), s, nil)
	s.set(ann, r.MakeKey(), "")
	q := heartbeat(ann)
	if _, err := agent(f, ann, inClear(f, r, s.keys[ann][0])).SealRequest(f.Context(), "c", &q); err != nil {
		f.Fatal(err)
	}
	body, err := wire.EncodeRequest(q)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(bytes.ReplaceAll(body, []byte(ann), []byte(bob)))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := wire.DecodeRequest(body, 0)
		if err != nil {
			return
		}
		o, err := r.Conductor().OpenRequest(t.Context(), "", &q)
		if err == nil && o.Sealed && o.Instance != ann {
			t.Errorf("sealed by %q", o.Instance)
		}
	})
}

// The conductor's part of a heartbeat, with its key in the cache.
func BenchmarkOpenReport(b *testing.B) {
	for _, form := range forms {
		b.Run(form.String(), func(b *testing.B) {
			s := &rows{}
			r := ring(b, config(form, "master"), s, nil)
			s.set(ann, r.MakeKey(), "")
			q := heartbeat(ann)
			if _, err := agent(b, ann, inClear(b, r, s.keys[ann][0])).SealRequest(b.Context(), "c", &q); err != nil {
				b.Fatal(err)
			}
			conductor := r.Conductor()
			b.ReportAllocs()
			for b.Loop() {
				got := q
				if _, err := conductor.OpenRequest(b.Context(), "", &got); err != nil {
					b.Fatal(err)
				}
			}
			if s.asked.Load() > 100 {
				b.Errorf("asked the database %d times", s.asked.Load())
			}
		})
	}
}
