package wire

// ExchangeDeclare is exchange.declare.
type ExchangeDeclare struct {
	Exchange   string
	Type       string
	Passive    bool
	Durable    bool
	AutoDelete bool
	Internal   bool
	NoWait     bool
	Arguments  Table
}

// ID is exchange.declare's.
func (*ExchangeDeclare) ID() (class, method uint16) { return classExchange, 10 }

func (m *ExchangeDeclare) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Exchange)
	c.shortstr(&m.Type)
	c.bit(&m.Passive)
	c.bit(&m.Durable)
	c.bit(&m.AutoDelete)
	c.bit(&m.Internal)
	c.bit(&m.NoWait)
	c.table(&m.Arguments)
}

// ExchangeDeclareOk is exchange.declare-ok.
type ExchangeDeclareOk struct{}

// ID is exchange.declare-ok's.
func (*ExchangeDeclareOk) ID() (class, method uint16) { return classExchange, 11 }

func (*ExchangeDeclareOk) fields(*coder) {}

// ExchangeDelete is exchange.delete.
type ExchangeDelete struct {
	Exchange string
	IfUnused bool
	NoWait   bool
}

// ID is exchange.delete's.
func (*ExchangeDelete) ID() (class, method uint16) { return classExchange, 20 }

func (m *ExchangeDelete) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Exchange)
	c.bit(&m.IfUnused)
	c.bit(&m.NoWait)
}

// ExchangeDeleteOk is exchange.delete-ok.
type ExchangeDeleteOk struct{}

// ID is exchange.delete-ok's.
func (*ExchangeDeleteOk) ID() (class, method uint16) { return classExchange, 21 }

func (*ExchangeDeleteOk) fields(*coder) {}

// QueueDeclare is queue.declare.
type QueueDeclare struct {
	Queue      string
	Passive    bool
	Durable    bool
	Exclusive  bool
	AutoDelete bool
	NoWait     bool
	Arguments  Table
}

// ID is queue.declare's.
func (*QueueDeclare) ID() (class, method uint16) { return classQueue, 10 }

func (m *QueueDeclare) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.bit(&m.Passive)
	c.bit(&m.Durable)
	c.bit(&m.Exclusive)
	c.bit(&m.AutoDelete)
	c.bit(&m.NoWait)
	c.table(&m.Arguments)
}

// QueueDeclareOk is queue.declare-ok.
type QueueDeclareOk struct {
	Queue         string
	MessageCount  uint32
	ConsumerCount uint32
}

// ID is queue.declare-ok's.
func (*QueueDeclareOk) ID() (class, method uint16) { return classQueue, 11 }

func (m *QueueDeclareOk) fields(c *coder) {
	c.shortstr(&m.Queue)
	c.long(&m.MessageCount)
	c.long(&m.ConsumerCount)
}

// QueueBind is queue.bind.
type QueueBind struct {
	Queue      string
	Exchange   string
	RoutingKey string
	NoWait     bool
	Arguments  Table
}

// ID is queue.bind's.
func (*QueueBind) ID() (class, method uint16) { return classQueue, 20 }

func (m *QueueBind) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
	c.bit(&m.NoWait)
	c.table(&m.Arguments)
}

// QueueBindOk is queue.bind-ok.
type QueueBindOk struct{}

// ID is queue.bind-ok's.
func (*QueueBindOk) ID() (class, method uint16) { return classQueue, 21 }

func (*QueueBindOk) fields(*coder) {}

// QueueUnbind is queue.unbind.
type QueueUnbind struct {
	Queue      string
	Exchange   string
	RoutingKey string
	Arguments  Table
}

// ID is queue.unbind's.
func (*QueueUnbind) ID() (class, method uint16) { return classQueue, 50 }

func (m *QueueUnbind) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.shortstr(&m.Exchange)
	c.shortstr(&m.RoutingKey)
	c.table(&m.Arguments)
}

// QueueUnbindOk is queue.unbind-ok.
type QueueUnbindOk struct{}

// ID is queue.unbind-ok's.
func (*QueueUnbindOk) ID() (class, method uint16) { return classQueue, 51 }

func (*QueueUnbindOk) fields(*coder) {}

// QueuePurge is queue.purge.
type QueuePurge struct {
	Queue  string
	NoWait bool
}

// ID is queue.purge's.
func (*QueuePurge) ID() (class, method uint16) { return classQueue, 30 }

func (m *QueuePurge) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.bit(&m.NoWait)
}

// QueuePurgeOk is queue.purge-ok.
type QueuePurgeOk struct {
	MessageCount uint32
}

// ID is queue.purge-ok's.
func (*QueuePurgeOk) ID() (class, method uint16) { return classQueue, 31 }

func (m *QueuePurgeOk) fields(c *coder) {
	c.long(&m.MessageCount)
}

// QueueDelete is queue.delete.
type QueueDelete struct {
	Queue    string
	IfUnused bool
	IfEmpty  bool
	NoWait   bool
}

// ID is queue.delete's.
func (*QueueDelete) ID() (class, method uint16) { return classQueue, 40 }

func (m *QueueDelete) fields(c *coder) {
	c.reserved16()
	c.shortstr(&m.Queue)
	c.bit(&m.IfUnused)
	c.bit(&m.IfEmpty)
	c.bit(&m.NoWait)
}

// QueueDeleteOk is queue.delete-ok.
type QueueDeleteOk struct {
	MessageCount uint32
}

// ID is queue.delete-ok's.
func (*QueueDeleteOk) ID() (class, method uint16) { return classQueue, 41 }

func (m *QueueDeleteOk) fields(c *coder) {
	c.long(&m.MessageCount)
}
