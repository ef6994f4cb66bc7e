package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// casts is a bus that hands over what it gets.
type casts chan rpc.Message

func (casts) Call(context.Context, rpc.Message, any) error { return nil }

func (c casts) Cast(ctx context.Context, m rpc.Message) error {
	select {
	case c <- m:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// From a change of an instance to its guest agent, and back: the message comes
// until the agent says that it has it, also after the broker lost it.
func TestRelayOnStore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := store.Open(ctx, store.Config{Path: filepath.Join(t.TempDir(), "trove.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	bus := make(casts)
	r := NewRelay(s, bus, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()

	const id = "instance"
	row, err := Row(ctx, rpc.Message{Topic: "guestagent." + id, Method: "prepare", Version: "1.0"}, id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateInstance(ctx, store.NewInstance{Instance: &trove.Instance{ID: id, Name: "n", TenantID: "t"}, Outbox: []store.OutboxRow{row}}); err != nil {
		t.Fatal(err)
	}
	next := func() {
		t.Helper()
		select {
		case m := <-bus:
			if m.UniqueID != row.ID || m.Method != "prepare" {
				t.Fatalf("got %s %s", m.Method, m.UniqueID)
			}
		case <-ctx.Done():
			t.Fatal("no message")
		}
	}
	next()
	r.Kick(time.Now())
	next()
	if _, err := s.Heartbeat(ctx, id, store.Beat{Done: []string{row.ID}}); err != nil {
		t.Fatal(err)
	}
	if left, err := s.Outbox(ctx, 0, 1); err != nil || len(left) > 0 {
		t.Errorf("%d rows are left (%v)", len(left), err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

var servers = map[dbtest.Engine]*dbtest.Shared{
	dbtest.MariaDB: {Engine: dbtest.MariaDB}, dbtest.PostgreSQL: {Engine: dbtest.PostgreSQL},
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range servers {
		s.Stop()
	}
	os.Exit(code)
}

// log is a bus that keeps what it got, and loses the connection of one process.
type log struct {
	mu    sync.Mutex
	order map[string][]string // ids by topic and subject, in the order they first came
	times map[string]int
	first chan struct{}
	all   int
}

type end struct {
	*log
	cut chan struct{} // closed: this process has no connection
}

func (end) Call(context.Context, rpc.Message, any) error { return nil }

func (e end) Cast(ctx context.Context, m rpc.Message) error {
	select {
	case <-e.cut:
		<-ctx.Done()
		return trove.Errorf(trove.KindUnavailable, "no connection")
	default:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	key := m.Topic + " " + m.Args["subject"].(string)
	if e.times[m.UniqueID]++; e.times[m.UniqueID] == 1 {
		e.order[key] = append(e.order[key], m.UniqueID)
		if len(e.times) == e.all {
			close(e.first)
		}
	}
	return nil
}

// Three processes write and publish at once, and one of them loses its connection
// to the broker: everything comes, in order, and hardly anything twice.
func TestRelaysShareADatabase(t *testing.T) {
	t.Parallel()
	share := func(t *testing.T, c store.Config) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		const subjects, topics, each = 5, 3, 12
		bus := &log{order: map[string][]string{}, times: map[string]int{}, first: make(chan struct{}), all: subjects * topics * each}
		var stores []*store.Store
		cut := make(chan struct{})
		for i := range 3 {
			s, err := store.Open(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			if i == 0 {
				if err := s.Migrate(ctx); err != nil {
					t.Fatal(err)
				}
			}
			stores = append(stores, s)
			caller := end{log: bus}
			if i == 2 {
				caller.cut = cut
			}
			r := NewRelay(s, caller, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
			running, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- r.Run(running) }()
			t.Cleanup(func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
		want := map[string][]string{}
		n := 0
		for i := range each {
			if i == each/2 {
				close(cut)
			}
			for topic := range topics {
				for subject := range subjects {
					to, about := fmt.Sprint("topic", topic), fmt.Sprint("subject", subject)
					row, err := Row(ctx, rpc.Message{Topic: to, Method: "m", Version: "1.0", Args: map[string]any{"subject": about}}, "", 0)
					if err != nil {
						t.Fatal(err)
					}
					row.Subject = about
					want[to+" "+about] = append(want[to+" "+about], row.ID)
					if err := stores[n%3].InsertOutbox(ctx, row); err != nil {
						t.Fatal(err)
					}
					n++
				}
			}
		}
		select {
		case <-bus.first:
		case <-ctx.Done():
			t.Error("not everything came")
		}
		bus.mu.Lock()
		defer bus.mu.Unlock()
		if d := cmp.Diff(want, bus.order); d != "" {
			t.Error(d)
		}
		// What is not acknowledged comes again after 4 s and later.
		if most := slices.Max(slices.Collect(maps.Values(bus.times))); most > 6 {
			t.Errorf("one message came %d times", most)
		}
	}
	t.Run("SQLite", func(t *testing.T) { share(t, store.Config{Path: filepath.Join(t.TempDir(), "db")}) })
	for e, s := range servers {
		t.Run(string(e), func(t *testing.T) { share(t, store.Config{URL: secret.New(s.Get(t).Database(t))}) })
	}
}
