package wire

import (
	"encoding/binary"
	"fmt"
)

// coder walks the fields of a method in one direction or the other, so that
// each method says its layout once. The first error sticks.
type coder struct {
	buf     []byte // reading: what is left; writing: what is there
	writing bool
	err     error
	bits    uint8
	nbits   uint8
}

func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrSyntax, what)
	}
}

// take cuts n bytes off the input.
func (c *coder) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || len(c.buf) < n {
		c.fail("cut short")
		return nil
	}
	b := c.buf[:n]
	c.buf = c.buf[n:]
	return b
}

// bit codes one of several adjacent bits, which share octets.
func (c *coder) bit(p *bool) {
	if c.writing {
		if *p {
			c.bits |= 1 << c.nbits
		}
		if c.nbits++; c.nbits == 8 {
			c.flushBits()
		}
		return
	}
	if c.nbits == 0 {
		if b := c.take(1); b != nil {
			c.bits = b[0]
		}
		c.nbits = 8
	}
	*p = c.bits&1 != 0
	c.bits >>= 1
	c.nbits--
}

// flushBits ends a run of bits: called before every other field.
func (c *coder) flushBits() {
	if c.writing && c.nbits > 0 {
		c.buf = append(c.buf, c.bits)
	}
	c.bits, c.nbits = 0, 0
}

func (c *coder) octet(p *uint8) {
	c.flushBits()
	if c.writing {
		c.buf = append(c.buf, *p)
	} else if b := c.take(1); b != nil {
		*p = b[0]
	}
}

func (c *coder) short(p *uint16) {
	c.flushBits()
	if c.writing {
		c.buf = binary.BigEndian.AppendUint16(c.buf, *p)
	} else if b := c.take(2); b != nil {
		*p = binary.BigEndian.Uint16(b)
	}
}

func (c *coder) long(p *uint32) {
	c.flushBits()
	if c.writing {
		c.buf = binary.BigEndian.AppendUint32(c.buf, *p)
	} else if b := c.take(4); b != nil {
		*p = binary.BigEndian.Uint32(b)
	}
}

func (c *coder) longlong(p *uint64) {
	c.flushBits()
	if c.writing {
		c.buf = binary.BigEndian.AppendUint64(c.buf, *p)
	} else if b := c.take(8); b != nil {
		*p = binary.BigEndian.Uint64(b)
	}
}

// reserved16 is a field the standard left unused ("ticket").
func (c *coder) reserved16() {
	var v uint16
	c.short(&v)
}

// reservedStr is a short string the standard left unused.
func (c *coder) reservedStr() {
	var s string
	c.shortstr(&s)
}

func (c *coder) shortstr(p *string) {
	c.flushBits()
	if c.writing {
		if len(*p) > 255 {
			c.fail("short string over 255 bytes")
			return
		}
		c.buf = append(c.buf, uint8(len(*p)))
		c.buf = append(c.buf, *p...)
		return
	}
	if n := c.take(1); n != nil {
		*p = string(c.take(int(n[0])))
	}
}

func (c *coder) longstr(p *string) {
	c.flushBits()
	if c.writing {
		c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(*p)))
		c.buf = append(c.buf, *p...)
		return
	}
	if n := c.take(4); n != nil {
		*p = string(c.take(int(binary.BigEndian.Uint32(n))))
	}
}

func (c *coder) table(p *Table) {
	c.flushBits()
	if c.writing {
		var err error
		if c.buf, err = AppendTable(c.buf, *p); err != nil && c.err == nil {
			c.err = err
		}
		return
	}
	if c.err != nil {
		return
	}
	t, rest, err := ParseTable(c.buf)
	if err != nil {
		c.err = err
		return
	}
	*p, c.buf = t, rest
}
