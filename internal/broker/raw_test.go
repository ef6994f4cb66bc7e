package broker_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/broker/wire"
)

// raw is a client that does what no library would.
type raw struct {
	testing.TB
	nc net.Conn
	r  *wire.Reader
}

func rawDial(t testing.TB, addr string) *raw {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(2 * patience))
	return &raw{t, nc, wire.NewReader(nc, 4096, 131072)}
}

func (r *raw) bytes(b []byte) {
	r.Helper()
	if _, err := r.nc.Write(b); err != nil {
		r.Fatal(err)
	}
}

func (r *raw) send(channel uint16, m wire.Method) {
	r.Helper()
	b, err := wire.AppendMethod(nil, channel, m)
	if err != nil {
		r.Fatal(err)
	}
	r.bytes(b)
}

// method reads the next method, leaving out heartbeats and contents.
func (r *raw) method() wire.Method {
	r.Helper()
	for {
		f, err := r.r.Next()
		if err != nil {
			r.Fatal(err)
		}
		if f.Type != wire.FrameMethod {
			continue
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			r.Fatal(err)
		}
		return m
	}
}

func want[M wire.Method](r *raw) M {
	r.Helper()
	m := r.method()
	if got, ok := m.(M); ok {
		return got
	}
	var no M
	r.Fatalf("got %T %+v, want %T", m, m, no)
	return no
}

// open goes through the handshake and opens channel 1.
func (r *raw) open(heartbeat uint16) {
	r.Helper()
	r.bytes([]byte(wire.ProtocolHeader))
	want[*wire.ConnectionStart](r)
	r.send(0, &wire.ConnectionStartOk{Mechanism: "PLAIN", Response: "\x00guest\x00guest", Locale: "en_US"})
	tune := want[*wire.ConnectionTune](r)
	r.send(0, &wire.ConnectionTuneOk{ChannelMax: tune.ChannelMax, FrameMax: tune.FrameMax, Heartbeat: heartbeat})
	r.send(0, &wire.ConnectionOpen{VirtualHost: "/"})
	want[*wire.ConnectionOpenOk](r)
	r.send(1, &wire.ChannelOpen{})
	want[*wire.ChannelOpenOk](r)
}

// closed reads until the broker closes the connection and says why, 0 if it
// says nothing.
func (r *raw) closed() uint16 {
	r.Helper()
	for {
		f, err := r.r.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.Fatal("connection was not closed")
		}
		if err != nil {
			return 0
		}
		if f.Type != wire.FrameMethod {
			continue
		}
		m, err := wire.ParseMethod(f.Payload)
		if err != nil {
			r.Fatal(err)
		}
		if c, ok := m.(*wire.ConnectionClose); ok {
			r.send(0, &wire.ConnectionCloseOk{})
			return c.ReplyCode
		}
	}
}
