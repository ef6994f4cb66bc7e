package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// memory is a store in memory, so that time can be a bubble's.
type memory struct {
	mu      sync.Mutex
	rows    []store.OutboxRow
	seq     int64
	changed chan struct{}
}

func newMemory() *memory { return &memory{changed: make(chan struct{}, 1)} }

func (m *memory) add(rows ...store.OutboxRow) {
	m.mu.Lock()
	for _, r := range rows {
		m.seq++
		r.Seq, r.Created, r.NextAt = m.seq, time.Now(), time.Now()
		if r.GiveUpAfter > 0 {
			r.Deadline = r.Created.Add(r.GiveUpAfter)
		}
		m.rows = append(m.rows, r)
	}
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *memory) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(r store.OutboxRow) bool { return r.ID == id })
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

func (m *memory) DueOutbox(_ context.Context, asOf time.Time, after int64, limit int) (out []store.OutboxRow, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows {
		if r.Seq > after && (r.Attempts == 0 || !r.NextAt.After(asOf)) && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, nil
}

func (m *memory) NextOutbox(context.Context) (next time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows {
		at := r.NextAt
		if !r.Deadline.IsZero() && r.Deadline.Before(at) {
			at = r.Deadline
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next, nil
}

func (m *memory) Published(_ context.Context, id string, next time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.rows {
		if m.rows[i].ID == id {
			m.rows[i].Attempts++
			m.rows[i].NextAt = next
		}
	}
	return nil
}

func (m *memory) ExpireOutbox(context.Context) (out []store.OutboxRow, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(r store.OutboxRow) bool {
		gone := !r.Deadline.IsZero() && !r.Deadline.After(time.Now())
		if gone {
			out = append(out, r)
		}
		return gone
	})
	return out, nil
}

func (m *memory) OutboxChanged() (<-chan struct{}, func()) { return m.changed, func() {} }

// bus records casts and may refuse them.
type bus struct {
	mu     sync.Mutex
	start  time.Time
	sent   []sending
	refuse func(rpc.Message) error
}

type sending struct {
	topic, id string
	at        time.Duration // since the start
}

func (b *bus) Call(context.Context, rpc.Message, any) error { return errors.New("no calls") }

func (b *bus) Cast(ctx context.Context, m rpc.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(m); err != nil {
			return err
		}
	}
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("a cast without deadline")
	}
	b.sent = append(b.sent, sending{m.Topic, m.UniqueID, time.Since(b.start)})
	return nil
}

func (b *bus) take() []sending {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sent
	b.sent = nil
	return s
}

func ids(ss []sending) (out []string) {
	for _, s := range ss {
		out = append(out, s.id)
	}
	return out
}

// relay runs a relay in a bubble of time for as long as f runs.
func relay(t *testing.T, f func(t *testing.T, m *memory, b *bus, r *Relay)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		r := NewRelay(m, b, slog.New(slog.NewTextHandler(t.Output(), nil)), nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		f(t, m, b, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func mustRow(t *testing.T, topic, id string) store.OutboxRow {
	t.Helper()
	r, err := Row(t.Context(), rpc.Message{Topic: topic, Method: "m", Version: "1.0", UniqueID: id}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPublishedAtOnceAndAgain(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, _ *Relay) {
		time.Sleep(time.Hour) // an idle relay does no harm
		b.mu.Lock()
		b.start = time.Now()
		b.mu.Unlock()
		m.add(mustRow(t, "t", "a"))
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		sent := b.take()
		if len(sent) < 8 || sent[0].at > 20*time.Millisecond {
			t.Fatalf("sent %v", sent)
		}
		for i, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			got := sent[i+1].at - sent[i].at
			if want *= time.Second; got < want*8/10 || got > want*12/10+20*time.Millisecond {
				t.Errorf("repeat %d after %v, want %v give or take a fifth", i+1, got, want)
			}
		}
		m.remove("a")
		time.Sleep(5 * time.Minute)
		if sent := b.take(); len(sent) > 0 {
			t.Errorf("sent %v after it was gone", sent)
		}
	})
}

func TestOrderWithinTopic(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, _ *Relay) {
		broken := true
		b.mu.Lock() // also guards broken
		b.refuse = func(msg rpc.Message) error {
			if broken && msg.UniqueID == "one-001" {
				return trove.Errorf(trove.KindUnavailable, "no queue")
			}
			return nil
		}
		b.mu.Unlock()
		var rows []store.OutboxRow
		var want []string
		for i := range 200 { // several pages
			want = append(want, fmt.Sprintf("one-%03d", i))
			rows = append(rows, mustRow(t, "one", fmt.Sprintf("one-%03d", i)), mustRow(t, "two", fmt.Sprintf("two-%03d", i)))
		}
		m.add(rows...)
		time.Sleep(3 * time.Second)
		var one, two []string
		for _, s := range b.take() {
			if s.topic == "one" {
				one = append(one, s.id)
			} else {
				two = append(two, s.id)
			}
		}
		if d := cmp.Diff(want[:1], one); d != "" {
			t.Error("overtaken:", d)
		}
		if len(two) != 200 || !slices.IsSorted(two) {
			t.Errorf("topic two waits for topic one, or is in disorder: %v", two)
		}
		for _, r := range two {
			m.remove(r)
		}
		b.mu.Lock()
		broken = false
		b.mu.Unlock()
		m.remove("one-000")
		time.Sleep(12 * time.Second)
		first := slices.Compact(ids(b.take()))[:199]
		if d := cmp.Diff(want[1:], first); d != "" {
			t.Error(d)
		}
	})
}

func TestKick(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r *Relay) {
		m.add(mustRow(t, "t", "a"))
		time.Sleep(2 * time.Second)
		if sent := ids(b.take()); len(sent) != 1 {
			t.Fatalf("sent %v", sent)
		}
		r.Kick()
		r.Kick()
		synctest.Wait()
		if sent := ids(b.take()); !slices.Contains(sent, "a") {
			t.Errorf("sent %v after a kick", sent)
		}
	})
}

func TestGivenUp(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, _ *Relay) {
		r := mustRow(t, "t", "a")
		r.GiveUpAfter = 7 * time.Second
		m.add(r)
		time.Sleep(6900 * time.Millisecond)
		if m.len() != 1 {
			t.Error("given up too early")
		}
		time.Sleep(200 * time.Millisecond)
		if m.len() != 0 {
			t.Error("not given up")
		}
	})
}

func TestUnreadableBodyHoldsNobodyUp(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, _ *Relay) {
		m.add(store.OutboxRow{ID: "bad", Topic: "t", Method: "m", Body: []byte(`{"args":{"password":"hunter2"`)}, mustRow(t, "t", "good"))
		time.Sleep(time.Second)
		if d := cmp.Diff([]string{"good"}, ids(b.take())); d != "" {
			t.Error(d)
		}
	})
}

func TestStopsWhileTheBrokerIsAway(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, _ *Relay) {
		b.mu.Lock()
		b.refuse = func(rpc.Message) error { return trove.Errorf(trove.KindUnavailable, "away") }
		b.mu.Unlock()
		for i := range 50 {
			m.add(mustRow(t, fmt.Sprint("topic", i), fmt.Sprint(i)))
		}
		time.Sleep(time.Minute)
	})
}

func TestRowKeepsTheMessage(t *testing.T) {
	rc := rpc.Context{RequestID: "req-1", User: "u", ProjectID: "p", IsAdmin: true, Roles: []string{"admin"}, AuthToken: "secret",
		Notification: json.RawMessage(`{"a":1}`)}
	m := rpc.Message{Topic: "guestagent.i", Server: "i", Method: "create_user", Version: "1.0", Mandatory: true,
		Args: map[string]any{"big": json.Number("12345678901234567"), "users": []any{map[string]any{"_password": "hunter2 \" <&> 🐬"}}, "none": nil}}
	r, err := Row(rpc.WithContext(t.Context(), rc), m, "i", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.ID) != 32 || strings.Trim(r.ID, "0123456789abcdef") != "" || r.InstanceID != "i" || r.GiveUpAfter != time.Minute {
		t.Errorf("row is %+v", r)
	}
	got, gotContext, err := message(r)
	if err != nil {
		t.Fatal(err)
	}
	m.UniqueID = r.ID
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(rc, gotContext); d != "" {
		t.Error(d)
	}
	again, err := Row(t.Context(), m, "i", 0)
	if err != nil || again.ID != r.ID {
		t.Errorf("a message with an id got another: %v, %v", again.ID, err)
	}
	m.Args["x"] = strings.Repeat("x", maxBody)
	if _, err := Row(t.Context(), m, "i", 0); !trove.IsKind(err, trove.KindBadRequest) {
		t.Errorf("a message too big: %v", err)
	}
	m.Args["x"] = func() {}
	if _, err := Row(t.Context(), m, "i", 0); !trove.IsKind(err, trove.KindInternal) {
		t.Errorf("a message that cannot be stored: %v", err)
	}
}

func TestLogsNoBody(t *testing.T) {
	var log strings.Builder
	row := store.OutboxRow{ID: "id", Topic: "t", Method: "m", Body: []byte("hunter2")}
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", attrs(row)...)
	if strings.Contains(log.String(), "hunter2") || !strings.Contains(log.String(), "message_id=id") {
		t.Error(log.String())
	}
}
