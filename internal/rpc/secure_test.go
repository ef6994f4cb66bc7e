package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

// box seals by a word in front of the method's argument "text".
type box struct {
	word string
	mu   sync.Mutex
	// away is how often opening says that it cannot tell now.
	away int
}

func (b *box) SealRequest(_ context.Context, _ string, r *wire.Request) (rpc.ReplyCodec, error) {
	if b.word == "broken" {
		return nil, errors.New("no key")
	}
	under, err := json.Marshal([]any{r.Made, r.Kept})
	if err != nil {
		return nil, err
	}
	r.Context = map[string]json.RawMessage{"word": json.RawMessage(`"` + b.word + `"`), "under": under}
	return func(reply *wire.Reply) error {
		s, ok := strings.CutPrefix(string(reply.Result), `"`+b.word+" ")
		if !ok {
			return trove.Errorf(trove.KindGuest, "not sealed")
		}
		reply.Result = json.RawMessage(`"` + s)
		return nil
	}, nil
}

func (b *box) OpenRequest(_ context.Context, _ string, r *wire.Request) (rpc.Opened, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away > 0 {
		b.away--
		return rpc.Opened{}, trove.Errorf(trove.KindUnavailable, "no database")
	}
	if string(r.Context["word"]) != `"`+b.word+`"` {
		return rpc.Opened{}, errors.New("another word")
	}
	if err := json.Unmarshal(r.Context["under"], &[]any{&r.Made, &r.Kept}); err != nil {
		return rpc.Opened{}, err
	}
	r.Context = map[string]json.RawMessage{"request_id": json.RawMessage(`"inside"`)}
	return rpc.Opened{Sealed: true, Instance: "i", Reply: func(reply *wire.Reply) error {
		reply.Result = json.RawMessage(`"` + b.word + " " + strings.TrimPrefix(string(reply.Result), `"`))
		return nil
	}}, nil
}

func TestSealedRequests(t *testing.T) {
	eachBroker(t, func(t *testing.T, b endpoint) {
		conn := connect(t, b.url)
		came := make(chan rpc.Incoming, 10)
		h := rpc.HandlerFunc(func(ctx context.Context, in *rpc.Incoming) (any, error) {
			if rpc.ContextFrom(ctx).RequestID != "inside" {
				t.Errorf("the context is %+v", rpc.ContextFrom(ctx))
			}
			came <- *in
			return "done", nil
		})
		right := &box{word: "right"}
		newServer(t, conn, h, rpc.ServerOptions{Topic: "sealed", Open: right, RequeueDelay: time.Millisecond})
		client := func(seal rpc.Sealer) *rpc.Client {
			c := rpc.NewClient(conn, rpc.ClientOptions{Exchange: exchange, Seal: seal, Log: logOf(t)})
			closing(t, c)
			return c
		}
		call := func(c *rpc.Client) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var result string
			err := c.Call(ctx, rpc.Message{Topic: "sealed", Method: "m"}, &result)
			return result, err
		}
		good := client(right)
		if result, err := call(good); result != "done" || err != nil {
			t.Errorf("%q, %v", result, err)
		}
		if in := until(t, came, "the call"); !in.Sealed || in.SealedBy != "i" || time.Since(in.Made).Abs() > time.Minute || in.Kept {
			t.Errorf("came as %+v", in)
		}
		written := time.UnixMicro(1_800_000_000_123_456)
		if err := good.Cast(within(t), rpc.Message{Topic: "sealed", Method: "m", Made: written, Kept: true}); err != nil {
			t.Fatal(err)
		}
		if in := until(t, came, "a message that is kept"); !in.Made.Equal(written) || !in.Kept {
			t.Errorf("came as %+v", in)
		}
		// Where it cannot be told now, the request comes again.
		right.mu.Lock()
		right.away = 3
		right.mu.Unlock()
		if err := good.Cast(within(t), rpc.Message{Topic: "sealed", Method: "m", UniqueID: "once"}); err != nil {
			t.Fatal(err)
		}
		until(t, came, "the cast")

		// Refused: at once, with one answer whatever the reason, which tells none.
		for name, c := range map[string]*rpc.Client{"another key": client(&box{word: "wrong"}), "in clear": client(nil)} {
			_, err := call(c)
			if err == nil || strings.Contains(err.Error(), "another word") {
				t.Errorf("%s: %v", name, err)
			}
			if err := c.Cast(within(t), rpc.Message{Topic: "sealed", Method: "m"}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := call(client(&box{word: "broken"})); err == nil || !strings.Contains(err.Error(), "cannot be sealed") {
			t.Errorf("without a key to seal with: %v", err)
		}
		// A request that is repeated whole is dropped; the last call shows that
		// all before it were settled.
		if err := good.Cast(within(t), rpc.Message{Topic: "sealed", Method: "m", UniqueID: "once"}); err != nil {
			t.Fatal(err)
		}
		if _, err := call(good); err != nil {
			t.Error(err)
		}
		until(t, came, "the last call")
		if len(came) != 0 {
			t.Errorf("came too: %+v", <-came)
		}
		// A plain answer to one who expects a sealed one.
		plain := rpc.HandlerFunc(func(context.Context, *rpc.Incoming) (any, error) { return "forged", nil })
		newServer(t, conn, plain, rpc.ServerOptions{Topic: "plain"})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := good.Call(ctx, rpc.Message{Topic: "plain", Method: "m"}, nil); !trove.IsKind(err, trove.KindGuest) || !strings.Contains(err.Error(), "cannot be believed") {
			t.Errorf("a plain answer: %v", err)
		}
	})
}
