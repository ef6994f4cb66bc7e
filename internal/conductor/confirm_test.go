package conductor_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/gotrove/gotrove/internal/conductor"
	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/trove"
)

type rotations struct {
	confirmed []string
	err       error
}

func (r *rotations) ConfirmRotation(_ context.Context, id string, generation int) error {
	if r.err == nil {
		r.confirmed = append(r.confirmed, fmt.Sprintf("%s %d", id, generation))
	}
	return r.err
}

func TestFirstMessageUnderNewCredentials(t *testing.T) {
	r := &rotations{}
	handled := 0
	h := conductor.Confirming(rpc.HandlerFunc(func(context.Context, *rpc.Incoming) (any, error) { handled++; return nil, nil }),
		r, guest.ParseLogin, slog.New(slog.DiscardHandler))
	send := func(sender string) error {
		_, err := h.Handle(t.Context(), &rpc.Incoming{Method: "heartbeat", Sender: sender})
		return err
	}
	r.err = trove.Errorf(trove.KindUnavailable, "away")
	if err := send("guest-a+1"); !trove.IsKind(err, trove.KindUnavailable) || handled != 0 {
		t.Errorf("with the database away: %v, handled %d", err, handled)
	}
	r.err = nil
	for _, sender := range []string{"guest-a+1", "guest-a+1", "guest-a", "", "trove", "guest-b+2", "guest-a+2", "guest-a+01", "guest-a+-1"} {
		if err := send(sender); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"a 1", "b 2", "a 2"}; !slices.Equal(r.confirmed, want) || handled != 9 {
		t.Errorf("confirmed %v, want %v; handled %d", r.confirmed, want, handled)
	}
}
