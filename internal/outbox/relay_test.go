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

// memory is a store in memory, so that time can be a bubble's. It is what
// several processes share.
type memory struct {
	mu      sync.Mutex
	rows    []held
	seq     int64
	relays  map[string]chan struct{} // by owner
	lookups int
	away    bool
}

type held struct {
	store.OutboxRow
	by        string
	next      time.Time
	published time.Time
}

func newMemory() *memory { return &memory{relays: map[string]chan struct{}{}} }

// write adds rows as the process of the relay owner, or one without a relay.
func (m *memory) write(owner string, rows ...store.OutboxRow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range rows {
		m.seq++
		r.Seq, r.Created = m.seq, time.Now()
		if r.GiveUpAfter > 0 {
			r.Deadline = r.Created.Add(r.GiveUpAfter)
		}
		h := held{OutboxRow: r, by: owner, next: r.Created}
		if owner != "" {
			h.next = h.next.Add(5 * time.Second)
		}
		m.rows = append(m.rows, h)
	}
	if c := m.relays[owner]; c != nil {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (m *memory) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(r held) bool { return r.ID == id })
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

func (m *memory) looks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lookups
}

func (m *memory) ids() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rows {
		out = append(out, r.ID)
	}
	return out
}

func (m *memory) ServeOutbox(owner string) (<-chan struct{}, func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relays[owner] = make(chan struct{}, 1)
	return m.relays[owner], func() { m.mu.Lock(); delete(m.relays, owner); m.mu.Unlock() }
}

func (m *memory) ready(owner string) (out []*held) {
	type key struct{ subject, topic string }
	blocked := map[key]bool{}
	for i := range m.rows {
		r := &m.rows[i]
		due := !r.next.After(time.Now())
		k := key{r.Subject, r.Topic}
		if (due || r.by == owner) && !blocked[k] {
			out = append(out, r)
		}
		if (r.Attempts == 0 || r.by != "") && r.by != owner && !due {
			blocked[k] = true
		}
	}
	return out
}

func (m *memory) ReadyTopics(_ context.Context, owner string, limit int) (topics []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookups++
	if m.away {
		return nil, trove.Errorf(trove.KindUnavailable, "away")
	}
	for _, r := range m.ready(owner) {
		if !slices.Contains(topics, r.Topic) && len(topics) < limit {
			topics = append(topics, r.Topic)
		}
	}
	return topics, nil
}

func (m *memory) ClaimOutbox(_ context.Context, owner, topic string, limit int, hold time.Duration) (out []store.OutboxRow, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.ready(owner) {
		if r.Topic != topic || len(out) == limit {
			continue
		}
		if r.by != owner || time.Until(r.next) < hold/2 {
			r.by, r.next = owner, time.Now().Add(hold)
		}
		row := r.OutboxRow
		row.Left, row.Past = time.Until(r.next), !r.Deadline.IsZero() && !r.Deadline.After(time.Now())
		out = append(out, row)
	}
	return out, nil
}

func (m *memory) SettleOutbox(_ context.Context, owner string, rows ...store.Sent) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range rows {
		if s.Gone {
			m.rows = slices.DeleteFunc(m.rows, func(r held) bool { return r.ID == s.ID })
		}
		for i := range m.rows {
			r := &m.rows[i]
			if r.ID != s.ID || r.by != owner {
				continue
			}
			r.by, r.next = "", time.Now().Add(s.Again)
			if !r.Deadline.IsZero() && r.Deadline.Before(r.next) {
				r.next = r.Deadline
			}
			if s.Published {
				r.Attempts++
				r.published = time.Now()
			}
		}
	}
	return nil
}

func (m *memory) RepeatOutbox(_ context.Context, ago time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.rows {
		if r := &m.rows[i]; r.Attempts > 0 && r.by == "" && r.next.After(time.Now()) && !r.published.After(time.Now().Add(-ago)) {
			r.next = time.Now()
		}
	}
	return nil
}

func (m *memory) ExpireOutbox(context.Context) (out []store.OutboxRow, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = slices.DeleteFunc(m.rows, func(r held) bool {
		gone := !r.Deadline.IsZero() && !r.Deadline.After(time.Now())
		if gone {
			out = append(out, r.OutboxRow)
		}
		return gone
	})
	return out, nil
}

func (m *memory) RejectOutbox(_ context.Context, id string, _ store.Rejection) (bool, error) {
	m.remove(id)
	return true, nil
}

// bus records casts and may refuse them, or hang.
type bus struct {
	mu     sync.Mutex
	start  time.Time
	sent   []sending
	refuse func(rpc.Message) error
	hangs  func(rpc.Message) bool
}

type sending struct {
	topic, id string
	at        time.Duration // since the start
}

func (b *bus) Call(context.Context, rpc.Message, any) error { return errors.New("no calls") }

func (b *bus) Cast(ctx context.Context, m rpc.Message) error {
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("a cast without deadline")
	}
	b.mu.Lock()
	hangs := b.hangs != nil && b.hangs(m)
	b.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(m); err != nil {
			return err
		}
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

// process is a relay of a process of its own.
type process struct {
	*Relay
	store *memory
	end   func()
}

func (p process) add(rows ...store.OutboxRow) { p.store.write(p.owner, rows...) }

func start(t *testing.T, m *memory, c rpc.Caller, o Options) process {
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	r := NewRelay(m, c, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return process{r, m, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})}
}

// relay runs a relay in a bubble of time for as long as f runs.
func relay(t *testing.T, f func(t *testing.T, m *memory, b *bus, p process)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		p := start(t, m, b, Options{})
		f(t, m, b, p)
		p.end()
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
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		time.Sleep(time.Hour) // an idle relay does no harm
		b.mu.Lock()
		b.start = time.Now()
		b.mu.Unlock()
		r.add(mustRow(t, "t", "a"))
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		sent := b.take()
		if len(sent) < 8 || sent[0].at > 20*time.Millisecond {
			t.Fatalf("sent %v", sent)
		}
		for i, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			got := sent[i+1].at - sent[i].at
			if want *= time.Second; got < want*8/10 || got > want*12/10+2*look {
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
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
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
		r.add(rows...)
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
		b.mu.Lock()
		broken = false
		b.mu.Unlock()
		time.Sleep(14 * time.Second)
		var first []string // publications of one
		for _, s := range b.take() {
			if s.topic == "one" && s.id != "one-000" && !slices.Contains(first, s.id) {
				first = append(first, s.id)
			}
		}
		if d := cmp.Diff(want[1:], first); d != "" {
			t.Error(d)
		}
	})
}

func TestKick(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		r.add(mustRow(t, "t", "a"))
		time.Sleep(2 * time.Second)
		if sent := ids(b.take()); len(sent) != 1 {
			t.Fatalf("sent %v", sent)
		}
		r.Kick(time.Now())
		r.Kick(time.Now())
		synctest.Wait()
		if sent := ids(b.take()); !slices.Contains(sent, "a") {
			t.Errorf("sent %v after a kick", sent)
		}
	})
}

func TestGivenUp(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		row := mustRow(t, "t", "a")
		row.GiveUpAfter = 7 * time.Second
		r.add(row)
		time.Sleep(6900 * time.Millisecond)
		if m.len() != 1 {
			t.Error("given up too early")
		}
		time.Sleep(200*time.Millisecond + 2*look)
		if m.len() != 0 {
			t.Error("not given up")
		}
	})
}

func TestUnreadableBodyHoldsNobodyUp(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		r.add(store.OutboxRow{ID: "bad", Topic: "t", Method: "m", Body: []byte(`{"args":{"password":"hunter2"`)}, mustRow(t, "t", "good"))
		time.Sleep(time.Second)
		if d := cmp.Diff([]string{"good"}, ids(b.take())); d != "" || m.len() != 1 {
			t.Error(d, m.len())
		}
	})
}

func TestStopsWhileTheBrokerIsAway(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		b.mu.Lock()
		b.refuse = func(rpc.Message) error { return trove.Errorf(trove.KindUnavailable, "away") }
		b.mu.Unlock()
		for i := range 50 {
			r.add(mustRow(t, fmt.Sprint("topic", i), fmt.Sprint(i)))
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
