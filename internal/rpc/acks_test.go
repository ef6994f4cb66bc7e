package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// unacked is a broker's record of a channel: what it delivered and was not told
// of. As RabbitMQ, it takes a tag that it does not know for an error.
type unacked struct {
	mu     sync.Mutex
	open   map[uint64]bool
	frames int
}

var errUnknownTag = errors.New("unknown delivery tag")

func (u *unacked) Ack(tag uint64, multiple bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.frames++
	if !u.open[tag] {
		return errUnknownTag
	}
	for t := range u.open {
		if t == tag || multiple && t < tag {
			delete(u.open, t)
		}
	}
	return nil
}

func (u *unacked) Nack(tag uint64, _, _ bool) error { return u.Reject(tag, false) }

func (u *unacked) Reject(tag uint64, _ bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.open[tag] {
		return errUnknownTag
	}
	delete(u.open, tag)
	return nil
}

func (u *unacked) deliver(tag uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[tag] = true
}

func (u *unacked) counts() (frames, open int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.frames, len(u.open)
}

// What is handled is acknowledged at the next flush, and nothing else ever is,
// whatever the order in which deliveries come and end.
func TestAcksAreOfWhatWasHandled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		broker := &unacked{open: map[uint64]bool{}}
		a := newAcks(broker, slog.New(slog.DiscardHandler))
		const most = 40
		var delivered uint64
		var coming, running []uint64 // delivered; handed over, and not settled
		settled := map[uint64]bool{}
		take := func(from *[]uint64, what string) uint64 {
			i := rapid.IntRange(0, len(*from)-1).Draw(t, what)
			tag := (*from)[i]
			*from = append((*from)[:i:i], (*from)[i+1:]...)
			return tag
		}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 5).Draw(t, "what"); {
			case what == 0 && delivered < most:
				delivered++
				broker.open[delivered] = true
				coming = append(coming, delivered)
			case what == 1 && len(coming) > 0:
				tag := take(&coming, "comes")
				a.add(tag)
				running = append(running, tag)
			case what == 2 && len(running) > 0:
				tag := take(&running, "rejected")
				settled[tag] = true
				if err := a.Reject(tag, false); err != nil {
					t.Fatalf("%d is rejected: %v", tag, err)
				}
			case what == 3 || what == 4 && len(running) > 0:
				if len(running) == 0 {
					continue
				}
				tag := take(&running, "handled")
				settled[tag] = true
				a.handled(tag)
			default:
				a.flush()
			}
			for tag := range delivered {
				if tag++; !broker.open[tag] && !settled[tag] {
					t.Fatalf("%d is acknowledged and not handled", tag)
				}
			}
		}
		a.flush()
		if len(broker.open) != len(coming)+len(running) {
			t.Fatalf("not acknowledged: %v; coming %v, running %v", broker.open, coming, running)
		}
		if len(a.open) != len(running) || len(a.owed) != 0 {
			t.Fatalf("kept: %v, %v", a.open, a.owed)
		}
	})
}

// Those that end at about the same time take one frame, the others one each.
func TestAcksShareFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := &unacked{open: map[uint64]bool{}}
		a := newAcks(broker, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go a.run(ctx)
		const n = 500
		for tag := range uint64(n) {
			broker.deliver(tag + 1)
			a.add(tag + 1)
		}
		for tag := range uint64(n - 1) {
			a.handled(n - tag) // all but the first, from the last
		}
		synctest.Wait()
		if frames, _ := broker.counts(); frames != 0 {
			t.Fatalf("%d frames at once", frames)
		}
		pause(ctx, 2*ackLinger)
		synctest.Wait()
		if frames, open := broker.counts(); frames != n-1 || open != 1 {
			t.Fatalf("the first is not handled: %d frames, %d not acknowledged", frames, open)
		}
		for tag := range uint64(n) {
			broker.deliver(n + tag + 1)
			a.add(n + tag + 1)
			a.handled(n + tag + 1)
		}
		a.handled(1)
		pause(ctx, 2*ackLinger)
		synctest.Wait()
		if frames, open := broker.counts(); frames != n || open != 0 {
			t.Fatalf("%d frames, %d not acknowledged", frames-n+1, open)
		}
	})
}
