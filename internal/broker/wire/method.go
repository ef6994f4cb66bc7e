package wire

import "fmt"

// Method is a method with its arguments.
type Method interface {
	// ID is the number of the class and of the method in it.
	ID() (class, method uint16)
	fields(c *coder)
}

const (
	classConnection = 10
	classChannel    = 20
	classExchange   = 40
	classQueue      = 50
	classBasic      = 60
	classConfirm    = 85
)

// UnknownMethodError is a method this codec does not have.
type UnknownMethodError struct{ Class, Method uint16 }

func (e *UnknownMethodError) Error() string {
	return fmt.Sprintf("method %d of class %d", e.Method, e.Class)
}

// ParseMethod reads the payload of a method frame. The error is an
// *UnknownMethodError or has ErrSyntax in its chain.
func ParseMethod(payload []byte) (Method, error) {
	c := coder{buf: payload}
	var class, id uint16
	c.short(&class)
	c.short(&id)
	if c.err != nil {
		return nil, c.err
	}
	m := newMethod(class, id)
	if m == nil {
		return nil, &UnknownMethodError{class, id}
	}
	m.fields(&c)
	c.flushBits()
	if c.err == nil && len(c.buf) != 0 {
		c.fail("trailing bytes after method")
	}
	return m, c.err
}

func newMethod(class, id uint16) Method {
	switch uint32(class)<<16 | uint32(id) {
	case classConnection<<16 | 10:
		return &ConnectionStart{}
	case classConnection<<16 | 11:
		return &ConnectionStartOk{}
	case classConnection<<16 | 30:
		return &ConnectionTune{}
	case classConnection<<16 | 31:
		return &ConnectionTuneOk{}
	case classConnection<<16 | 40:
		return &ConnectionOpen{}
	case classConnection<<16 | 41:
		return &ConnectionOpenOk{}
	case classConnection<<16 | 50:
		return &ConnectionClose{}
	case classConnection<<16 | 51:
		return &ConnectionCloseOk{}
	case classChannel<<16 | 10:
		return &ChannelOpen{}
	case classChannel<<16 | 11:
		return &ChannelOpenOk{}
	case classChannel<<16 | 20:
		return &ChannelFlow{}
	case classChannel<<16 | 21:
		return &ChannelFlowOk{}
	case classChannel<<16 | 40:
		return &ChannelClose{}
	case classChannel<<16 | 41:
		return &ChannelCloseOk{}
	case classExchange<<16 | 10:
		return &ExchangeDeclare{}
	case classExchange<<16 | 11:
		return &ExchangeDeclareOk{}
	case classExchange<<16 | 20:
		return &ExchangeDelete{}
	case classExchange<<16 | 21:
		return &ExchangeDeleteOk{}
	case classQueue<<16 | 10:
		return &QueueDeclare{}
	case classQueue<<16 | 11:
		return &QueueDeclareOk{}
	case classQueue<<16 | 20:
		return &QueueBind{}
	case classQueue<<16 | 21:
		return &QueueBindOk{}
	case classQueue<<16 | 30:
		return &QueuePurge{}
	case classQueue<<16 | 31:
		return &QueuePurgeOk{}
	case classQueue<<16 | 40:
		return &QueueDelete{}
	case classQueue<<16 | 41:
		return &QueueDeleteOk{}
	case classQueue<<16 | 50:
		return &QueueUnbind{}
	case classQueue<<16 | 51:
		return &QueueUnbindOk{}
	case classBasic<<16 | 10:
		return &BasicQos{}
	case classBasic<<16 | 11:
		return &BasicQosOk{}
	case classBasic<<16 | 20:
		return &BasicConsume{}
	case classBasic<<16 | 21:
		return &BasicConsumeOk{}
	case classBasic<<16 | 30:
		return &BasicCancel{}
	case classBasic<<16 | 31:
		return &BasicCancelOk{}
	case classBasic<<16 | 40:
		return &BasicPublish{}
	case classBasic<<16 | 50:
		return &BasicReturn{}
	case classBasic<<16 | 60:
		return &BasicDeliver{}
	case classBasic<<16 | 70:
		return &BasicGet{}
	case classBasic<<16 | 71:
		return &BasicGetOk{}
	case classBasic<<16 | 72:
		return &BasicGetEmpty{}
	case classBasic<<16 | 80:
		return &BasicAck{}
	case classBasic<<16 | 90:
		return &BasicReject{}
	case classBasic<<16 | 100:
		return &BasicRecoverAsync{}
	case classBasic<<16 | 110:
		return &BasicRecover{}
	case classBasic<<16 | 111:
		return &BasicRecoverOk{}
	case classBasic<<16 | 120:
		return &BasicNack{}
	case classConfirm<<16 | 10:
		return &ConfirmSelect{}
	case classConfirm<<16 | 11:
		return &ConfirmSelectOk{}
	}
	return nil
}
