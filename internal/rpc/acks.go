package rpc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// ackLinger is how long a cast that was handled waits for others before the
// broker is told: those that one transaction wrote end at the same time.
const ackLinger = 2 * time.Millisecond

// acks settles the deliveries of one channel. Casts that were handled it
// acknowledges together: one frame stands for all before the first delivery that
// is not settled, and only those behind that one have a frame each.
//
//	delivered  1 2 3 4 5 6 7 8
//	handled    ✓ ✓ ✓ ✓ · ✓ · ·     one frame for 1 to 4, one for 6
//
// It is the Acknowledger of its deliveries: what goes through that is told to
// the broker at once.
type acks struct {
	ch  amqp091.Acknowledger
	log *slog.Logger

	wake chan struct{}
	mu   sync.Mutex
	// A delivery is numbered by its channel, from 1. Several consumers hand
	// theirs over in any order.
	came  uint64          // all up to this one came
	early map[uint64]bool // those that came and are greater than the next
	open  map[uint64]bool // those that came and are not settled
	first uint64          // none before it is open
	owed  []uint64        // handled; the broker is not told yet
}

func newAcks(ch amqp091.Acknowledger, log *slog.Logger) *acks {
	return &acks{ch: ch, log: log, wake: make(chan struct{}, 1), early: map[uint64]bool{}, open: map[uint64]bool{}, first: 1}
}

// add notes a delivery that came.
func (a *acks) add(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[tag], a.early[tag] = true, true
	for a.early[a.came+1] {
		a.came++
		delete(a.early, a.came)
	}
}

// Ack implements amqp091.Acknowledger.
func (a *acks) Ack(tag uint64, multiple bool) error {
	err := a.ch.Ack(tag, multiple)
	a.settled(tag)
	return err
}

// Nack implements amqp091.Acknowledger.
func (a *acks) Nack(tag uint64, multiple, requeue bool) error {
	err := a.ch.Nack(tag, multiple, requeue)
	a.settled(tag)
	return err
}

// Reject implements amqp091.Acknowledger.
func (a *acks) Reject(tag uint64, requeue bool) error {
	err := a.ch.Reject(tag, requeue)
	a.settled(tag)
	return err
}

// handled has a delivery acknowledged soon.
func (a *acks) handled(tag uint64) {
	a.mu.Lock()
	delete(a.open, tag)
	a.owed = append(a.owed, tag)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// settled notes a delivery that the broker was told of.
func (a *acks) settled(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, tag)
}

// run tells the broker, until ctx ends.
func (a *acks) run(ctx context.Context) {
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		pause(ctx, ackLinger)
		a.flush()
	}
}

// flush tells the broker of all that was handled. There is one at a time.
func (a *acks) flush() {
	var up uint64
	var single []uint64
	a.mu.Lock()
	for a.first <= a.came && !a.open[a.first] {
		a.first++
	}
	for _, tag := range a.owed {
		if tag < a.first {
			up = max(up, tag)
		} else {
			single = append(single, tag)
		}
	}
	a.owed = a.owed[:0]
	a.mu.Unlock()
	if up > 0 {
		a.acknowledged(a.ch.Ack(up, true))
	}
	for _, tag := range single {
		a.acknowledged(a.ch.Ack(tag, false))
	}
}

// acknowledged logs that the broker could not be told: it will deliver again.
func (a *acks) acknowledged(err error) {
	if err != nil {
		a.log.Debug("rpc: not acknowledged, will be delivered again", "error", err)
	}
}
