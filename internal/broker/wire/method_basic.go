package wire

// BasicQos is basic.qos.
type BasicQos struct {
	PrefetchSize  uint32
	PrefetchCount uint16
	Global        bool
}

// ID is basic.qos's.
func (*BasicQos) ID() (class, method uint16) { return classBasic, 10 }

func (m *BasicQos) fields(c *coder) {
	c.long(&m.PrefetchSize)
	c.short(&m.PrefetchCount)
	c.bit(&m.Global)
}

// BasicQosOk is basic.qos-ok.
type BasicQosOk struct{}

// ID is basic.qos-ok's.
func (*BasicQosOk) ID() (class, method uint16) { return classBasic, 11 }

func (*BasicQosOk) fields(*coder) {}

// BasicConsume is basic.consume.
type BasicConsume struct {
	Queue       string
	ConsumerTag string
	NoLocal     bool
	NoAck       bool
	Exclusive   bool
	NoWait      bool
	Arguments   Table
}

// ID is basic.consume's.
func (*BasicConsume) ID() (class, method uint16) { return classBasic, 20 }

func (m *BasicConsume) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.shortstr(&m.ConsumerTag)
	c.bit(&m.NoLocal)
	c.bit(&m.NoAck)
	c.bit(&m.Exclusive)
	c.bit(&m.NoWait)
	c.table(&m.Arguments)
}

// BasicConsumeOk is basic.consume-ok.
type BasicConsumeOk struct {
	ConsumerTag string
}

// ID is basic.consume-ok's.
func (*BasicConsumeOk) ID() (class, method uint16) { return classBasic, 21 }

func (m *BasicConsumeOk) fields(c *coder) {
	c.shortstr(&m.ConsumerTag)
}

// BasicCancel is basic.cancel.
type BasicCancel struct {
	ConsumerTag string
	NoWait      bool
}

// ID is basic.cancel's.
func (*BasicCancel) ID() (class, method uint16) { return classBasic, 30 }

func (m *BasicCancel) fields(c *coder) {
	c.shortstr(&m.ConsumerTag)
	c.bit(&m.NoWait)
}

// BasicCancelOk is basic.cancel-ok.
type BasicCancelOk struct {
	ConsumerTag string
}

// ID is basic.cancel-ok's.
func (*BasicCancelOk) ID() (class, method uint16) { return classBasic, 31 }

func (m *BasicCancelOk) fields(c *coder) {
	c.shortstr(&m.ConsumerTag)
}

// BasicPublish is basic.publish.
type BasicPublish struct {
	Exchange   string
	RoutingKey string
	Mandatory  bool
	Immediate  bool
}

// ID is basic.publish's.
func (*BasicPublish) ID() (class, method uint16) { return classBasic, 40 }

func (m *BasicPublish) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
	c.bit(&m.Mandatory)
	c.bit(&m.Immediate)
}

// BasicReturn is basic.return.
type BasicReturn struct {
	ReplyCode  uint16
	ReplyText  string
	Exchange   string
	RoutingKey string
}

// ID is basic.return's.
func (*BasicReturn) ID() (class, method uint16) { return classBasic, 50 }

func (m *BasicReturn) fields(c *coder) {
	c.short(&m.ReplyCode)
	c.shortstr(&m.ReplyText)
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
}

// BasicDeliver is basic.deliver.
type BasicDeliver struct {
	ConsumerTag string
	DeliveryTag uint64
	Redelivered bool
	Exchange    string
	RoutingKey  string
}

// ID is basic.deliver's.
func (*BasicDeliver) ID() (class, method uint16) { return classBasic, 60 }

func (m *BasicDeliver) fields(c *coder) {
	c.shortstr(&m.ConsumerTag)
	c.longlong(&m.DeliveryTag)
	c.bit(&m.Redelivered)
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
}

// BasicGet is basic.get.
type BasicGet struct {
	Queue string
	NoAck bool
}

// ID is basic.get's.
func (*BasicGet) ID() (class, method uint16) { return classBasic, 70 }

func (m *BasicGet) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.bit(&m.NoAck)
}

// BasicGetOk is basic.get-ok.
type BasicGetOk struct {
	DeliveryTag  uint64
	Redelivered  bool
	Exchange     string
	RoutingKey   string
	MessageCount uint32
}

// ID is basic.get-ok's.
func (*BasicGetOk) ID() (class, method uint16) { return classBasic, 71 }

func (m *BasicGetOk) fields(c *coder) {
	c.longlong(&m.DeliveryTag)
	c.bit(&m.Redelivered)
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
	c.long(&m.MessageCount)
}

// BasicGetEmpty is basic.get-empty.
type BasicGetEmpty struct{}

// ID is basic.get-empty's.
func (*BasicGetEmpty) ID() (class, method uint16) { return classBasic, 72 }

func (*BasicGetEmpty) fields(c *coder) {
	c.reservedStr()
}

// BasicAck is basic.ack.
type BasicAck struct {
	DeliveryTag uint64
	Multiple    bool
}

// ID is basic.ack's.
func (*BasicAck) ID() (class, method uint16) { return classBasic, 80 }

func (m *BasicAck) fields(c *coder) {
	c.longlong(&m.DeliveryTag)
	c.bit(&m.Multiple)
}

// BasicReject is basic.reject.
type BasicReject struct {
	DeliveryTag uint64
	Requeue     bool
}

// ID is basic.reject's.
func (*BasicReject) ID() (class, method uint16) { return classBasic, 90 }

func (m *BasicReject) fields(c *coder) {
	c.longlong(&m.DeliveryTag)
	c.bit(&m.Requeue)
}

// BasicRecoverAsync is basic.recover-async.
type BasicRecoverAsync struct {
	Requeue bool
}

// ID is basic.recover-async's.
func (*BasicRecoverAsync) ID() (class, method uint16) { return classBasic, 100 }

func (m *BasicRecoverAsync) fields(c *coder) {
	c.bit(&m.Requeue)
}

// BasicRecover is basic.recover.
type BasicRecover struct {
	Requeue bool
}

// ID is basic.recover's.
func (*BasicRecover) ID() (class, method uint16) { return classBasic, 110 }

func (m *BasicRecover) fields(c *coder) {
	c.bit(&m.Requeue)
}

// BasicRecoverOk is basic.recover-ok.
type BasicRecoverOk struct{}

// ID is basic.recover-ok's.
func (*BasicRecoverOk) ID() (class, method uint16) { return classBasic, 111 }

func (*BasicRecoverOk) fields(*coder) {}

// BasicNack is basic.nack.
type BasicNack struct {
	DeliveryTag uint64
	Multiple    bool
	Requeue     bool
}

// ID is basic.nack's.
func (*BasicNack) ID() (class, method uint16) { return classBasic, 120 }

func (m *BasicNack) fields(c *coder) {
	c.longlong(&m.DeliveryTag)
	c.bit(&m.Multiple)
	c.bit(&m.Requeue)
}
