package outbox

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/store"
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
