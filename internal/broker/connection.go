package broker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// closeGrace is how long a peer has to answer connection.close.
const closeGrace = 5 * time.Second

// conn is one client. Its reader goroutine owns what is not said otherwise.
type conn struct {
	b    *Broker
	id   uint64
	nc   net.Conn
	log  *slog.Logger
	out  *outgoing
	in   *wire.Reader
	dead *deadlines

	heartbeat atomic.Int64 // time.Duration, 0 is off
	frameMax  atomic.Int64

	user       string // written with Broker.mu held
	perms      Permissions
	name       string // what the client calls itself
	channelMax int
	canCancel  bool // the client understands basic.cancel from us
	since      time.Time

	partial int // bytes of contents being received

	// Broker.mu guards these.
	channels  map[uint16]*channel
	exclusive map[*queue]struct{}
	opened    bool
}

var (
	errForced = errors.New("connection is to be closed")
	errGone   = errors.New("client closed the connection")
)

// deadlines gives every read its deadline and lets another goroutine end the
// reading for a reason.
type deadlines struct {
	nc net.Conn

	mu     sync.Mutex
	idle   time.Duration // per read, 0 is none
	until  time.Time     // overrides idle if set
	reason *exception
	stop   chan struct{} // closed with reason
}

func (d *deadlines) Read(p []byte) (int, error) {
	d.mu.Lock()
	if d.reason != nil && d.until.IsZero() {
		d.mu.Unlock()
		return 0, errForced
	}
	t := d.until
	if t.IsZero() && d.idle > 0 {
		t = time.Now().Add(d.idle)
	}
	err := d.nc.SetReadDeadline(t)
	d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := d.nc.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && d.forced() != nil {
		err = errForced
	}
	return n, err
}

func (d *deadlines) forced() *exception {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason
}

// force ends the reading with a reason, once.
func (d *deadlines) force(e *exception) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reason != nil {
		return
	}
	d.reason = e
	d.until = time.Time{}
	close(d.stop)
	_ = d.nc.SetReadDeadline(time.Unix(1, 0))
}

// set changes what reads may take from now on.
func (d *deadlines) set(idle time.Duration, until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle, d.until = idle, until
}

// stallWriter cuts a peer that takes nothing for a while.
type stallWriter struct {
	nc    net.Conn
	stall time.Duration
}

func (w stallWriter) Write(p []byte) (int, error) {
	if err := w.nc.SetWriteDeadline(time.Now().Add(w.stall)); err != nil {
		return 0, err
	}
	return w.nc.Write(p)
}

func newConn(b *Broker, nc net.Conn, id uint64) *conn {
	c := &conn{
		b: b, id: id, nc: nc, since: time.Now(),
		log:       b.log.With("connection", id, "peer", nc.RemoteAddr().String()),
		out:       newOutgoing(b.limits.OutgoingBytes),
		dead:      &deadlines{nc: nc, stop: make(chan struct{})},
		channels:  map[uint16]*channel{},
		exclusive: map[*queue]struct{}{},
	}
	c.in = wire.NewReader(c.dead, ioBuffer, 2*wire.MinFrameSize)
	c.frameMax.Store(2 * wire.MinFrameSize)
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.nc.Close()
	c.dead.set(0, time.Now().Add(c.b.limits.Handshake))
	proto, err := c.in.Protocol()
	if err != nil {
		return
	}
	if proto != wire.ProtocolHeader {
		c.log.Info("not an AMQP 0-9-1 client")
		_, _ = stallWriter{c.nc, c.b.limits.WriteStall}.Write([]byte(wire.ProtocolHeader))
		return
	}
	go c.write()
	err = c.guard(func() error {
		if err := c.handshake(); err != nil {
			return err
		}
		return c.loop()
	})
	if e := c.guard(func() error { c.release(); return nil }); e != nil {
		err = e
	}
	c.end(err)
	c.out.close()
	<-c.out.ended
}

// guard keeps a fault in this program to the connection that came upon it: the
// others share the process with it.
func (c *conn) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("a connection panicked", "user", c.user, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = hardErr(internalError, "the broker failed in an unexpected way")
		}
	}()
	return f()
}

// loop handles frames until an error.
func (c *conn) loop() error {
	for {
		c.out.waitRoom(c.dead.stop)
		f, err := c.in.Next()
		if err != nil {
			return err
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

// handle acts on one frame. Its errors end the connection.
func (c *conn) handle(f wire.Frame) error {
	switch f.Type {
	case wire.FrameHeartbeat:
		return nil
	case wire.FrameMethod, wire.FrameHeader, wire.FrameBody:
	default:
		return hardErr(frameError, "frame of unknown type %d", f.Type)
	}
	if f.Channel == 0 {
		return c.handleZero(f)
	}
	ch := c.channels[f.Channel]
	if f.Type != wire.FrameMethod {
		if ch == nil {
			return hardErr(channelError, "expected 'channel.open' on channel %d", f.Channel)
		}
		if ch.closing {
			return nil
		}
		return ch.content(f)
	}
	m, err := wire.ParseMethod(f.Payload)
	if err != nil {
		return err
	}
	if _, ok := m.(*wire.ChannelOpen); ok {
		return c.openChannel(f.Channel, ch)
	}
	if ch == nil {
		return hardErr(channelError, "expected 'channel.open' on channel %d", f.Channel)
	}
	err = ch.handle(m)
	if e := asException(err); e != nil && e.soft {
		class, id := m.ID()
		ch.fail(e, class, id)
		return nil
	}
	return err
}

func (c *conn) handleZero(f wire.Frame) error {
	if f.Type != wire.FrameMethod {
		return hardErr(unexpectedFrame, "content on channel 0")
	}
	m, err := wire.ParseMethod(f.Payload)
	if err != nil {
		return err
	}
	switch m.(type) {
	case *wire.ConnectionClose:
		c.send(0, &wire.ConnectionCloseOk{})
		return errGone
	case *wire.ConnectionCloseOk:
		return nil
	}
	class, id := m.ID()
	return hardErr(commandInvalid, "unexpected method %d.%d on channel 0", class, id)
}

func (c *conn) openChannel(id uint16, open *channel) error {
	if open != nil {
		return hardErr(channelError, "second 'channel.open' seen on channel %d", id)
	}
	if len(c.channels) >= c.channelMax {
		return hardErr(notAllowed, "number of channels opened (%d) has reached the negotiated channel_max (%d)",
			len(c.channels), c.channelMax)
	}
	c.b.mu.Lock()
	c.channels[id] = newChannel(c, id)
	c.b.mu.Unlock()
	c.send(id, &wire.ChannelOpenOk{})
	return nil
}

// release gives back everything the connection has.
func (c *conn) release() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for _, ch := range c.channels {
		ch.release()
	}
	clear(c.channels)
	for q := range c.exclusive {
		c.b.deleteQueue(q)
	}
	c.b.disconnected(c)
}

// end tells the client why, if it is still there to hear.
func (c *conn) end(err error) {
	var e *exception
	switch {
	case errors.Is(err, errGone), errors.Is(err, io.EOF):
		c.log.Debug("connection closed", "user", c.user)
		return
	case errors.Is(err, errSilent):
		return
	case errors.Is(err, errForced):
		e = c.dead.forced()
	case errors.Is(err, wire.ErrFrame):
		e = &exception{code: frameError, text: err.Error()}
	case errors.Is(err, wire.ErrSyntax):
		e = &exception{code: syntaxError, text: err.Error()}
	default:
		if u, ok := errors.AsType[*wire.UnknownMethodError](err); ok {
			e = &exception{code: notImplemented, text: u.Error()}
		} else if e = asException(err); e == nil {
			c.log.Info("connection lost", "user", c.user, "cause", err.Error())
			return
		}
	}
	c.log.Info("closing connection", "user", c.user, "code", int(e.code), "reason", e.text)
	c.send(0, &wire.ConnectionClose{ReplyCode: uint16(e.code), ReplyText: e.Error()})
	c.awaitCloseOk()
}

// awaitCloseOk reads on until the peer has answered connection.close, so that
// it sees the reason and not a reset.
func (c *conn) awaitCloseOk() {
	c.dead.set(0, time.Now().Add(closeGrace))
	for {
		f, err := c.in.Next()
		if err != nil {
			return
		}
		if f.Type != wire.FrameMethod || f.Channel != 0 {
			continue
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			continue
		}
		switch m.(type) {
		case *wire.ConnectionCloseOk:
			return
		case *wire.ConnectionClose:
			c.send(0, &wire.ConnectionCloseOk{})
			return
		}
	}
}

func (c *conn) send(channel uint16, m wire.Method) {
	c.out.push(item{channel: channel, method: m})
}

func (c *conn) sendDelivery(cons *consumer, tag uint64, e *entry) {
	c.out.push(item{channel: cons.ch.id, msg: e.msg, method: &wire.BasicDeliver{
		ConsumerTag: cons.tag, DeliveryTag: tag, Redelivered: e.redelivered,
		Exchange: e.msg.exchange, RoutingKey: e.msg.key,
	}})
}

// resume gives messages to consumers that were held back while the peer did
// not read. The writer calls it.
func (c *conn) resume() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	for _, ch := range c.channels {
		ch.resume()
	}
}

// forceClose asks the connection to end; it does so in its own time.
func (c *conn) forceClose(reason string) {
	c.dead.force(&exception{code: connectionForced, text: fmt.Sprintf("broker forced connection closure with reason '%s'", reason)})
}
