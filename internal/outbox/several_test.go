package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/trove"
)

// Two relays and rows that both may take: each row is published first by one,
// in order within an instance, also when one process is killed in between.
func TestTwoRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		one := start(t, m, &dying{bus: b, after: 70}, Options{})
		two := start(t, m, b, Options{})
		want := map[string][]string{}
		for i := range 200 {
			r := mustRow(t, "t", fmt.Sprintf("m%03d", i))
			r.Subject = fmt.Sprint(i % 7)
			want[r.Subject] = append(want[r.Subject], r.ID)
			writer := one
			if i%3 > 0 {
				writer = two
			}
			writer.add(r)
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(20 * time.Second)
		got := map[string][]string{}
		for _, s := range b.take() {
			var n int
			fmt.Sscanf(s.id, "m%d", &n)
			subject := fmt.Sprint(n % 7)
			if !slices.Contains(got[subject], s.id) {
				got[subject] = append(got[subject], s.id)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		one.end()
		two.end()
	})
}

// dying is the bus of a process that is held up for ever after some casts.
type dying struct {
	*bus
	mu    sync.Mutex
	after int
}

func (d *dying) Cast(ctx context.Context, m rpc.Message) error {
	d.mu.Lock()
	d.after--
	dead := d.after < 0
	d.mu.Unlock()
	if dead {
		time.Sleep(time.Hour) // whatever its deadline
		return ctx.Err()
	}
	return d.bus.Cast(ctx, m)
}

// What a dead process wrote is published by another within seconds; what is
// written beside a relay is published by its own at once.
func TestTakenOver(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		m.write("dead", mustRow(t, "t", "left"))
		r.add(mustRow(t, "u", "own"))
		synctest.Wait()
		if d := cmp.Diff([]string{"own"}, ids(b.take())); d != "" {
			t.Error(d)
		}
		time.Sleep(5*time.Second + 2*look)
		if sent := ids(b.take()); !slices.Contains(sent, "left") {
			t.Errorf("sent %v", sent)
		}
	})
}

func TestHangingTopicsHoldNobodyUp(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		b.mu.Lock()
		b.hangs = func(m rpc.Message) bool { return strings.HasPrefix(m.Topic, "hangs") }
		b.mu.Unlock()
		for i := range publishers / 2 {
			r.add(mustRow(t, fmt.Sprint("hangs", i), fmt.Sprint("h", i)))
		}
		synctest.Wait()
		for i := range 20 {
			began := time.Now()
			id := fmt.Sprint("m", i)
			r.add(mustRow(t, "t", id))
			synctest.Wait()
			if d := cmp.Diff([]string{id}, ids(b.take())); d != "" || time.Since(began) > 0 {
				t.Errorf("after %s: %s", time.Since(began), d)
			}
			m.remove(id)
			time.Sleep(777 * time.Millisecond)
		}
	})
}

// The broker restarts and every process connects again, one after the other:
// each row comes once more.
func TestBrokerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		var all []process
		var connected []chan struct{}
		for range 5 {
			c := make(chan struct{}, 1)
			connected = append(connected, c)
			all = append(all, start(t, m, b, Options{Connected: c}))
		}
		var want []string
		for i := range 100 {
			id := fmt.Sprintf("m%02d", i)
			want = append(want, id)
			all[i%5].add(mustRow(t, fmt.Sprint("t", i%10), id))
		}
		time.Sleep(10 * time.Minute)
		// None is due by itself now.
		m.mu.Lock()
		for i := range m.rows {
			m.rows[i].next, m.rows[i].published = time.Now().Add(time.Minute), time.Now().Add(-10*time.Second)
		}
		m.mu.Unlock()
		b.take()
		for _, c := range connected {
			c <- struct{}{}
			time.Sleep(500 * time.Millisecond)
		}
		got := ids(b.take())
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for _, p := range all {
			p.end()
		}
	})
}

func TestMixedTaskManagers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		queue := false
		b.refuse = func(msg rpc.Message) error {
			if msg.Topic == "taskmanager" && !(msg.Mandatory && queue) {
				return trove.Errorf(trove.KindUnavailable, "no queue")
			}
			return nil
		}
		p := start(t, m, b, Options{MixedTaskManagers: true})
		guest := mustRow(t, "guestagent.i", "for a guest")
		guest.InstanceID = "i"
		p.add(mustRow(t, "taskmanager", "for a task manager"), guest)
		time.Sleep(time.Second)
		if m.len() != 2 {
			t.Errorf("%d rows while no task manager was there", m.len())
		}
		b.mu.Lock()
		queue = true
		b.mu.Unlock()
		time.Sleep(10 * time.Second)
		if d := cmp.Diff([]string{"for a guest"}, m.ids()); d != "" {
			t.Error(d)
		}
		p.end()
	})
}

// An idle relay looks once a second.
func TestIdle(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, _ *bus, _ process) {
		before := m.looks()
		time.Sleep(100 * time.Second)
		if n := m.looks() - before; n > 100*8/7+1 {
			t.Errorf("%d looks in 100 s", n)
		}
		m.mu.Lock()
		m.away = true
		m.mu.Unlock()
		before = m.looks()
		time.Sleep(100 * time.Second)
		if n := m.looks() - before; n > 25 {
			t.Errorf("%d looks in 100 s at a database that is away", n)
		}
	})
}

// A relay that stops gives back what it holds.
func TestStopGivesBack(t *testing.T) {
	relay(t, func(t *testing.T, m *memory, b *bus, r process) {
		b.mu.Lock()
		b.hangs = func(rpc.Message) bool { return true }
		b.mu.Unlock()
		r.add(mustRow(t, "t", "a"), mustRow(t, "t", "b"))
		synctest.Wait()
		r.end()
		for _, row := range m.rows {
			if row.by != "" || row.next.After(time.Now()) {
				t.Errorf("%s is still claimed", row.ID)
			}
		}
	})
}

// A process without a connection does not keep messages from those that have one.
func TestProcessWithoutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMemory(), &bus{start: time.Now()}
		none := &bus{hangs: func(rpc.Message) bool { return true }}
		cut, good := start(t, m, none, Options{}), start(t, m, b, Options{})
		for i := range 20 {
			id := fmt.Sprint("m", i)
			began := time.Now()
			cut.add(mustRow(t, "t", id))
			for len(b.take()) == 0 {
				time.Sleep(100 * time.Millisecond)
			}
			// The hold of the one that cannot publish, and how long the other then waits, jitter included.
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("%s took %s", id, took)
			}
			m.remove(id)
			time.Sleep(time.Second)
		}
		cut.end()
		good.end()
	})
}
