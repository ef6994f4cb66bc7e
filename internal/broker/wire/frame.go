package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Frame types.
const (
	FrameMethod    = 1
	FrameHeader    = 2
	FrameBody      = 3
	FrameHeartbeat = 8

	frameEnd = 0xCE
	// FrameOverhead is what a frame has beside its payload: type, channel,
	// length and end mark.
	FrameOverhead = 8
	// MinFrameSize is the smallest frame-max a peer may ask for.
	MinFrameSize = 4096
)

// ProtocolHeader opens every connection.
const ProtocolHeader = "AMQP\x00\x00\x09\x01"

// keepBuffer is the payload buffer a Reader keeps between frames: a connection
// that once got a large frame does not hold its memory for ever.
const keepBuffer = 16 << 10

// Errors of the framing layer. ErrFrame is in the chain of each of them.
var (
	ErrFrame         = errors.New("malformed frame")
	ErrFrameTooLarge = fmt.Errorf("%w: larger than negotiated", ErrFrame)
	ErrFrameEnd      = fmt.Errorf("%w: no end mark", ErrFrame)
	ErrSyntax        = errors.New("malformed method, header or table")
)

// Frame is one frame. Payload is valid until the next call of Reader.Next.
type Frame struct {
	Type    uint8
	Channel uint16
	Payload []byte
}

// Reader reads frames. It is not safe for concurrent use.
type Reader struct {
	r   *bufio.Reader
	max int // of the whole frame
	buf []byte
}

// NewReader returns a Reader that refuses frames over frameMax bytes.
func NewReader(r io.Reader, bufSize, frameMax int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, bufSize), max: frameMax}
}

// SetFrameMax changes the largest frame accepted, in bytes with overhead.
func (r *Reader) SetFrameMax(n int) { r.max = n }

// Protocol reads the eight bytes that open a connection.
func (r *Reader) Protocol() (string, error) {
	var h [8]byte
	_, err := io.ReadFull(r.r, h[:])
	return string(h[:]), err
}

// Next reads one frame. Errors are those of the connection (io.EOF only
// between frames) or have ErrFrame in their chain.
func (r *Reader) Next() (Frame, error) {
	if cap(r.buf) > keepBuffer {
		r.buf = nil
	}
	h, err := r.r.Peek(7)
	if err != nil {
		if errors.Is(err, io.EOF) && len(h) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	f := Frame{Type: h[0], Channel: binary.BigEndian.Uint16(h[1:])}
	size := uint64(binary.BigEndian.Uint32(h[3:]))
	if size+FrameOverhead > uint64(r.max) {
		return Frame{}, ErrFrameTooLarge
	}
	if _, err := r.r.Discard(7); err != nil {
		return Frame{}, err
	}
	n := int(size) + 1
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if _, err := io.ReadFull(r.r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	if b[n-1] != frameEnd {
		return Frame{}, ErrFrameEnd
	}
	f.Payload = b[:n-1]
	return f, nil
}

func appendFrameHead(dst []byte, typ uint8, channel uint16, size int) []byte {
	dst = append(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, channel)
	return binary.BigEndian.AppendUint32(dst, uint32(size))
}

// AppendMethod appends m as one frame. It fails when a string of m is longer
// than its field allows; dst is then returned as it was.
func AppendMethod(dst []byte, channel uint16, m Method) ([]byte, error) {
	start := len(dst)
	dst = appendFrameHead(dst, FrameMethod, channel, 0)
	class, method := m.ID()
	dst = binary.BigEndian.AppendUint16(dst, class)
	dst = binary.BigEndian.AppendUint16(dst, method)
	c := coder{buf: dst, writing: true}
	m.fields(&c)
	c.flushBits()
	if c.err != nil {
		return dst[:start], c.err
	}
	dst = c.buf
	binary.BigEndian.PutUint32(dst[start+3:], uint32(len(dst)-start-7))
	return append(dst, frameEnd), nil
}

// AppendHeader appends a content header frame of class basic. props are the
// property flags and values as Header.Raw has them.
func AppendHeader(dst []byte, channel uint16, bodySize uint64, props []byte) []byte {
	dst = appendFrameHead(dst, FrameHeader, channel, 12+len(props))
	dst = binary.BigEndian.AppendUint16(dst, classBasic)
	dst = binary.BigEndian.AppendUint16(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, bodySize)
	dst = append(dst, props...)
	return append(dst, frameEnd)
}

// AppendBodyHead appends the head of a body frame of size bytes; the payload
// and AppendEnd follow.
func AppendBodyHead(dst []byte, channel uint16, size int) []byte {
	return appendFrameHead(dst, FrameBody, channel, size)
}

// AppendEnd appends the mark that ends a frame.
func AppendEnd(dst []byte) []byte { return append(dst, frameEnd) }

// AppendHeartbeat appends a heartbeat frame.
func AppendHeartbeat(dst []byte) []byte {
	return append(appendFrameHead(dst, FrameHeartbeat, 0, 0), frameEnd)
}
