package wire

import (
	"fmt"
)

// Header is a content header of class basic.
type Header struct {
	BodySize uint64
	// Raw are the property flags and values as they came: passed on unchanged.
	// It aliases the parsed payload.
	Raw        []byte
	Properties Properties
}

// Properties are those of a message.
type Properties struct {
	ContentType     string
	ContentEncoding string
	Headers         Table
	DeliveryMode    uint8
	Priority        uint8
	CorrelationID   string
	ReplyTo         string
	Expiration      string
	MessageID       string
	Timestamp       uint64
	Type            string
	UserID          string
	AppID           string
	ClusterID       string
	// Flags tells which of them are present, as on the wire.
	Flags uint16
}

// Property flags a broker asks for.
const (
	FlagExpiration = 1 << 8
	FlagUserID     = 1 << 4
)

// ParseHeader reads the payload of a header frame.
func ParseHeader(payload []byte) (Header, error) {
	var h Header
	c := coder{buf: payload}
	var class, weight uint16
	c.short(&class)
	c.short(&weight)
	c.longlong(&h.BodySize)
	if c.err == nil && class != classBasic {
		c.fail(fmt.Sprintf("header of class %d", class))
	}
	h.Raw = c.buf
	h.Properties.fields(&c)
	if c.err == nil && len(c.buf) != 0 {
		c.fail("trailing bytes after properties")
	}
	return h, c.err
}

// AppendProperties appends flags and values of p as Header.Raw has them.
func AppendProperties(dst []byte, p Properties) ([]byte, error) {
	c := coder{buf: dst, writing: true}
	p.fields(&c)
	return c.buf, c.err
}

func (p *Properties) fields(c *coder) {
	c.short(&p.Flags)
	if p.Flags&3 != 0 {
		c.fail("unknown property flags")
		return
	}
	str := func(bit int, s *string) {
		if p.Flags&(1<<bit) != 0 {
			c.shortstr(s)
		}
	}
	str(15, &p.ContentType)
	str(14, &p.ContentEncoding)
	if p.Flags&(1<<13) != 0 {
		c.table(&p.Headers)
	}
	if p.Flags&(1<<12) != 0 {
		c.octet(&p.DeliveryMode)
	}
	if p.Flags&(1<<11) != 0 {
		c.octet(&p.Priority)
	}
	str(10, &p.CorrelationID)
	str(9, &p.ReplyTo)
	str(8, &p.Expiration)
	str(7, &p.MessageID)
	if p.Flags&(1<<6) != 0 {
		c.longlong(&p.Timestamp)
	}
	str(5, &p.Type)
	str(4, &p.UserID)
	str(3, &p.AppID)
	str(2, &p.ClusterID)
}
