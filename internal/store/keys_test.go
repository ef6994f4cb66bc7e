package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// marks is a Sealer that a test can read: it seals with its first letter and
// opens what any of its letters sealed.
type marks string

func (m marks) Seal(place string, plain []byte) []byte {
	return []byte(string(m[0]) + ":" + place + ":" + string(reversed(plain)))
}

func (m marks) Open(place string, stored []byte) ([]byte, error) {
	if bytes.HasPrefix(stored, []byte("{")) {
		return stored, nil
	}
	rest, ok := bytes.CutPrefix(stored[1:], []byte(":"+place+":"))
	if !ok || !strings.Contains(string(m), string(stored[:1])) {
		return nil, errors.New("sealed with another key, or for another place")
	}
	return reversed(rest), nil
}

func (m marks) Fresh(_ string, stored []byte) bool { return stored[0] == m[0] }

func reversed(b []byte) []byte {
	out := bytes.Clone(b)
	slices.Reverse(out)
	return out
}

// eachSealed runs f on every engine; open opens the same database with a sealer.
func eachSealed(t *testing.T, f func(t *testing.T, open func(store.Sealer) *store.Store)) {
	run := func(name string, config func(t *testing.T) store.Config) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(t)
			f(t, func(sealer store.Sealer) *store.Store {
				c := c
				c.Sealer, c.Log = sealer, slog.New(slog.NewTextHandler(t.Output(), nil))
				s, err := store.Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				if err := s.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
	run("sqlite", func(t *testing.T) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "db")} })
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		run(string(e), func(t *testing.T) store.Config {
			dbtest.Require(t, e)
			return store.Config{URL: secret.New(servers[e].Get(t).Database(t))}
		})
	}
}

func TestRowsAreSealed(t *testing.T) {
	t.Parallel()
	eachSealed(t, func(t *testing.T, open func(store.Sealer) *store.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		plain, a, b, ba := open(nil), open(marks("a")), open(marks("b")), open(marks("ba"))
		// raw reads what is stored; nil opens nothing.
		bodies := func(s *store.Store) string {
			t.Helper()
			rows, err := s.Outbox(ctx, 0, 10)
			ok(err)
			var out []string
			for _, r := range rows {
				out = append(out, string(r.Body))
			}
			return strings.Join(out, " ")
		}
		claimed := func(s *store.Store) string {
			t.Helper()
			rows, err := s.ClaimOutbox(ctx, "me", "t", 10, time.Minute)
			ok(err)
			var ids []string
			for _, r := range rows {
				ids = append(ids, r.ID+string(r.Body))
				ok(s.SettleOutbox(ctx, "me", store.Sent{ID: r.ID}))
			}
			return strings.Join(ids, " ")
		}

		ok(plain.InsertOutbox(ctx, store.OutboxRow{ID: "m0", Topic: "t", Subject: "s0", Body: []byte(`{"old"}`)}))
		ok(a.InsertOutbox(ctx, store.OutboxRow{ID: "m1", Topic: "t", Subject: "s1", Body: []byte(`{"x"}`)}))
		ok(b.InsertOutbox(ctx, store.OutboxRow{ID: "m2", Topic: "t", Subject: "s1", Body: []byte(`{"y"}`)}))
		if got, want := bodies(plain), `{"old"} a:outbox m1:}"x"{ b:outbox m2:}"y"{`; got != want {
			t.Errorf("stored is %s, want %s", got, want)
		}
		if got, want := bodies(ba), `{"old"} {"x"} {"y"}`; got != want {
			t.Errorf("with both keys %s, want %s", got, want)
		}
		// Without the key of m1 its subject waits, and nothing else.
		if got, want := claimed(b), `m0{"old"}`; got != want {
			t.Errorf("without a key %s, want %s", got, want)
		}
		if got := claimed(ba); got != `m0{"old"}` {
			t.Errorf("while they rest: %s", got)
		}

		accept := func(s *store.Store, id string) {
			t.Helper()
			_, err := s.AcceptWork(ctx, store.NewWork{ID: id, Kind: "k", Subject: "s" + id, RequestID: "r" + id, Step: "one", State: []byte(`{"p":1}`)})
			ok(err)
		}
		accept(a, "w1")
		accept(b, "w2")
		if w, err := b.LeaseWork(ctx, "b/1", []string{"k"}, time.Minute); err != nil || w == nil || w.ID != "w2" || string(w.State) != `{"p":1}` {
			t.Fatalf("leased %+v, %v; w1 cannot be opened with b", w, err)
		} else if _, err := b.SaveWork(ctx, store.WorkUpdate{ID: w.ID, Owner: "b/1", Version: w.Version, Step: "two", State: []byte(`{"p":2}`),
			Release: true}); err != nil {
			t.Fatal(err)
		}
		if w, err := ba.LeaseWork(ctx, "ba/1", []string{"k"}, time.Minute); err != nil || w == nil || w.ID != "w2" || string(w.State) != `{"p":2}` {
			t.Fatalf("leased %+v, %v; w1 rests", w, err)
		}

		if n, failed, err := b.Reseal(ctx); n != 1 || failed != 2 || err != nil { // m0; m1 and w1 are of a
			t.Errorf("resealed with b alone: %d, failed %d, %v", n, failed, err)
		}
		if n, failed, err := ba.Reseal(ctx); n != 2 || failed != 0 || err != nil {
			t.Errorf("resealed: %d, failed %d, %v", n, failed, err)
		}
		if n, failed, err := ba.Reseal(ctx); n != 0 || failed != 0 || err != nil {
			t.Errorf("resealed again: %d, failed %d, %v", n, failed, err)
		}
		if got, want := bodies(b), `{"old"} {"x"} {"y"}`; got != want {
			t.Errorf("with the new key alone %s, want %s", got, want)
		}
	})
}

func TestKeysOfInstancesAreReplaced(t *testing.T) {
	t.Parallel()
	eachSealed(t, func(t *testing.T, open func(store.Sealer) *store.Store) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		s := open(nil)
		add := func(id, key string) {
			t.Helper()
			if err := s.CreateInstance(ctx, store.NewInstance{Instance: &trove.Instance{ID: id, Name: id, TenantID: "p", EncryptedKey: key}}); err != nil {
				t.Fatal(err)
			}
		}
		add("i1", "old1")
		add("i2", "")
		add("i3", "new3")
		add("i4", "old4")
		if _, err := s.BeginRotation(ctx, "i3", "oldpending"); err != nil {
			t.Fatal(err)
		}
		replace := func(_, key string) string { return strings.Replace(key, "old", "new", 1) }
		// What somebody else changes while it is looked at stays theirs.
		n, err := s.RekeyInstances(ctx, func(id, key string) string {
			if id == "i4" {
				if err := s.ConfirmRotation(ctx, "i3", 1); err != nil {
					t.Error(err)
				}
			}
			return replace(id, key)
		})
		if n != 2 || err != nil {
			t.Errorf("replaced %d, %v", n, err)
		}
		if n, err := s.RekeyInstances(ctx, replace); n != 1 || err != nil {
			t.Errorf("replaced %d more, %v", n, err)
		}
		for id, want := range map[string]string{"i1": "new1", "i2": "", "i3": "newpending", "i4": "new4"} {
			if key, pending, err := s.InstanceKeys(ctx, id); key != want || pending != "" || err != nil {
				t.Errorf("%s: %q, %q, %v", id, key, pending, err)
			}
		}
	})
}
