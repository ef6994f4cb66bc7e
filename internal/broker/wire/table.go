package wire

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Table is a field table. Values are bool, int8, uint8, int16, uint16, int32,
// uint32, int64, float32, float64, Decimal, string, []byte, Timestamp, []any,
// Table or nil. A nil Table is an empty one.
type Table map[string]any

// Decimal is a number with a decimal scale.
type Decimal struct {
	Scale uint8
	Value int32
}

// Timestamp is in seconds since 1970.
type Timestamp uint64

// maxNesting bounds tables and arrays within one another.
const maxNesting = 16

// ParseTable reads a table with its length and returns what follows it.
func ParseTable(b []byte) (Table, []byte, error) {
	c := coder{buf: b}
	t := c.readTable(0)
	return t, c.buf, c.err
}

// AppendTable appends t with its length, keys in order. It fails on a value
// of a type a Table may not hold, a key over 255 bytes or too deep nesting.
func AppendTable(dst []byte, t Table) ([]byte, error) {
	c := coder{buf: dst, writing: true}
	c.writeTable(t, 0)
	return c.buf, c.err
}

// sub cuts a length-prefixed part off the input.
func (c *coder) sub() *coder {
	n := c.take(4)
	if n == nil {
		return nil
	}
	b := c.take(int(binary.BigEndian.Uint32(n)))
	if c.err != nil {
		return nil
	}
	return &coder{buf: b}
}

func (c *coder) readTable(depth int) Table {
	if depth > maxNesting {
		c.fail("nested too deep")
		return nil
	}
	s := c.sub()
	if s == nil || len(s.buf) == 0 {
		return nil
	}
	t := Table{}
	for len(s.buf) > 0 && s.err == nil {
		var key string
		s.shortstr(&key)
		t[key] = s.readValue(depth + 1)
	}
	c.err = s.err
	return t
}

func (c *coder) readArray(depth int) []any {
	if depth > maxNesting {
		c.fail("nested too deep")
		return nil
	}
	s := c.sub()
	if s == nil {
		return nil
	}
	a := []any{}
	for len(s.buf) > 0 && s.err == nil {
		a = append(a, s.readValue(depth+1))
	}
	c.err = s.err
	return a
}

// uint reads a big-endian number of n bytes.
func (c *coder) uint(n int) uint64 {
	var v uint64
	for _, b := range c.take(n) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (c *coder) readValue(depth int) any {
	kind := c.take(1)
	if kind == nil {
		return nil
	}
	switch kind[0] {
	case 't':
		return c.uint(1) != 0
	case 'b':
		return int8(c.uint(1))
	case 'B':
		return uint8(c.uint(1))
	case 's', 'U':
		return int16(c.uint(2))
	case 'u':
		return uint16(c.uint(2))
	case 'I':
		return int32(c.uint(4))
	case 'i':
		return uint32(c.uint(4))
	case 'l', 'L':
		return int64(c.uint(8))
	case 'f':
		return math.Float32frombits(uint32(c.uint(4)))
	case 'd':
		return math.Float64frombits(c.uint(8))
	case 'D':
		return Decimal{Scale: uint8(c.uint(1)), Value: int32(c.uint(4))}
	case 'T':
		return Timestamp(c.uint(8))
	case 'S':
		var s string
		c.longstr(&s)
		return s
	case 'x':
		var s string
		c.longstr(&s)
		return []byte(s)
	case 'A':
		return c.readArray(depth)
	case 'F':
		return c.readTable(depth)
	case 'V':
		return nil
	default:
		c.fail(fmt.Sprintf("table value of type %#x", kind[0]))
		return nil
	}
}

// mark leaves room for a length; fill writes it when the end is known.
func (c *coder) mark() int {
	c.buf = append(c.buf, 0, 0, 0, 0)
	return len(c.buf)
}

func (c *coder) fill(at int) {
	binary.BigEndian.PutUint32(c.buf[at-4:], uint32(len(c.buf)-at))
}

func (c *coder) writeTable(t Table, depth int) {
	if depth > maxNesting {
		c.fail("nested too deep")
		return
	}
	at := c.mark()
	for _, k := range slices.Sorted(maps.Keys(t)) {
		c.shortstr(&k)
		c.writeValue(t[k], depth+1)
	}
	c.fill(at)
}

func (c *coder) number(kind byte, n int, v uint64) {
	c.buf = append(c.buf, kind)
	for i := n - 1; i >= 0; i-- {
		c.buf = append(c.buf, byte(v>>(8*i)))
	}
}

func (c *coder) writeValue(v any, depth int) {
	switch v := v.(type) {
	case nil:
		c.buf = append(c.buf, 'V')
	case bool:
		var n uint64
		if v {
			n = 1
		}
		c.number('t', 1, n)
	case int8:
		c.number('b', 1, uint64(v))
	case uint8:
		c.number('B', 1, uint64(v))
	case int16:
		c.number('s', 2, uint64(v))
	case uint16:
		c.number('u', 2, uint64(v))
	case int32:
		c.number('I', 4, uint64(v))
	case uint32:
		c.number('i', 4, uint64(v))
	case int64:
		c.number('l', 8, uint64(v))
	case float32:
		c.number('f', 4, uint64(math.Float32bits(v)))
	case float64:
		c.number('d', 8, math.Float64bits(v))
	case Decimal:
		c.number('D', 1, uint64(v.Scale))
		c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(v.Value))
	case Timestamp:
		c.number('T', 8, uint64(v))
	case string:
		c.buf = append(c.buf, 'S')
		c.longstr(&v)
	case []byte:
		s := string(v)
		c.buf = append(c.buf, 'x')
		c.longstr(&s)
	case []any:
		c.buf = append(c.buf, 'A')
		if depth > maxNesting {
			c.fail("nested too deep")
			return
		}
		at := c.mark()
		for _, e := range v {
			c.writeValue(e, depth+1)
		}
		c.fill(at)
	case Table:
		c.buf = append(c.buf, 'F')
		c.writeTable(v, depth)
	default:
		c.fail(fmt.Sprintf("table value of Go type %T", v))
	}
}
