package broker

import (
	"bufio"
	"sync"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

const (
	ioBuffer = 4 << 10
	// keepItems bounds the memory an idle connection keeps for its next burst.
	keepItems = 64
	itemCost  = 128
)

// item is one method on its way out, with its content if it has one.
type item struct {
	channel uint16
	method  wire.Method
	msg     *message
}

func (it *item) cost() int {
	if it.msg != nil {
		return itemCost + len(it.msg.body)
	}
	return itemCost
}

// outgoing is what waits to be written to one connection. Pushing never
// blocks: consumers of a connection over the limit get nothing more until it
// has drained, and its reader waits in waitRoom, so that only who reads slowly
// waits.
type outgoing struct {
	limit int

	mu      sync.Mutex
	items   []item
	bytes   int
	starved bool // a delivery was held back: call resume when drained
	closed  bool

	wake  chan struct{} // items are there, or closed
	room  chan struct{} // below the limit again
	ended chan struct{} // the writer is gone
}

func newOutgoing(limit int) *outgoing {
	return &outgoing{
		limit: limit,
		wake:  make(chan struct{}, 1),
		room:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (o *outgoing) push(it item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.items = append(o.items, it)
	o.bytes += it.cost()
	signal(o.wake)
}

// close lets the writer end after what has been pushed.
func (o *outgoing) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	signal(o.wake)
}

// hasRoom reports whether a delivery may be pushed; if not, resume will be
// called when one may.
func (o *outgoing) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bytes >= o.limit {
		o.starved = true
		return false
	}
	return true
}

// waitRoom blocks the reader of the connection while its peer does not take
// the answers.
func (o *outgoing) waitRoom(stop <-chan struct{}) {
	for {
		o.mu.Lock()
		over := o.bytes >= o.limit
		o.mu.Unlock()
		if !over {
			return
		}
		select {
		case <-o.room:
		case <-o.ended:
			return
		case <-stop:
			return
		}
	}
}

// take returns all items, reusing the memory of the last batch.
func (o *outgoing) take(last []item) (items []item, closed bool) {
	clear(last)
	if cap(last) > keepItems {
		last = nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	items, o.items = o.items, last[:0]
	return items, o.closed
}

// wrote takes an item off the account; true if resume must be called.
func (o *outgoing) wrote(it *item) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	over := o.bytes >= o.limit
	o.bytes -= it.cost()
	if over && o.bytes < o.limit {
		signal(o.room)
	}
	if o.starved && o.bytes <= o.limit/2 {
		o.starved = false
		return true
	}
	return false
}

// write is the writer goroutine.
func (c *conn) write() {
	defer close(c.out.ended)
	_ = c.guard(func() error { c.writeAll(); return nil })
}

// writeAll sends what is pushed until close or an error, and a heartbeat after
// every idle period of half the heartbeat.
func (c *conn) writeAll() {
	o := c.out
	// The reader must learn of an error, whatever it waits for; without one it
	// is the reader who waits.
	clean := false
	defer func() {
		if !clean {
			_ = c.nc.Close()
		}
	}()
	w := bufio.NewWriterSize(stallWriter{c.nc, c.b.limits.WriteStall}, ioBuffer)
	beat := time.NewTimer(time.Hour)
	defer beat.Stop()
	var scratch []byte
	var items []item
	for {
		var closed bool
		items, closed = o.take(items)
		if len(items) == 0 {
			if w.Flush() != nil {
				return
			}
			if closed {
				clean = true
				return
			}
			if hb := c.heartbeat.Load(); hb > 0 {
				beat.Reset(time.Duration(hb) / 2)
			}
			select {
			case <-o.wake:
			case <-beat.C:
				if _, err := w.Write(wire.AppendHeartbeat(scratch[:0])); err != nil {
					return
				}
			}
			continue
		}
		for i := range items {
			var err error
			if scratch, err = c.writeItem(w, scratch, &items[i]); err != nil {
				return
			}
			if o.wrote(&items[i]) {
				c.resume()
			}
		}
	}
}

func (c *conn) writeItem(w *bufio.Writer, scratch []byte, it *item) ([]byte, error) {
	scratch, err := wire.AppendMethod(scratch[:0], it.channel, it.method)
	if err != nil {
		return scratch, err
	}
	if it.msg == nil {
		_, err = w.Write(scratch)
		return scratch, err
	}
	body := it.msg.body
	scratch = wire.AppendHeader(scratch, it.channel, uint64(len(body)), it.msg.props)
	room := int(c.frameMax.Load()) - wire.FrameOverhead
	for len(body) > 0 {
		part := body[:min(room, len(body))]
		body = body[len(part):]
		scratch = wire.AppendBodyHead(scratch, it.channel, len(part))
		if _, err := w.Write(scratch); err != nil {
			return scratch, err
		}
		if _, err := w.Write(part); err != nil {
			return scratch, err
		}
		scratch = wire.AppendEnd(scratch[:0])
	}
	_, err = w.Write(scratch)
	return scratch, err
}
