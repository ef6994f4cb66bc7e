package wire

// ConnectionStart is connection.start.
type ConnectionStart struct {
	VersionMajor     uint8
	VersionMinor     uint8
	ServerProperties Table
	Mechanisms       string
	Locales          string
}

// ID is connection.start's.
func (*ConnectionStart) ID() (class, method uint16) { return classConnection, 10 }

func (m *ConnectionStart) fields(c *coder) {
	c.octet(&m.VersionMajor)
	c.octet(&m.VersionMinor)
	c.table(&m.ServerProperties)
	c.longstr(&m.Mechanisms)
	c.longstr(&m.Locales)
}

// ConnectionStartOk is connection.start-ok.
type ConnectionStartOk struct {
	ClientProperties Table
	Mechanism        string
	Response         string
	Locale           string
}

// ID is connection.start-ok's.
func (*ConnectionStartOk) ID() (class, method uint16) { return classConnection, 11 }

func (m *ConnectionStartOk) fields(c *coder) {
	c.table(&m.ClientProperties)
	c.shortstr(&m.Mechanism)
	c.longstr(&m.Response)
	c.shortstr(&m.Locale)
}

// ConnectionTune is connection.tune.
type ConnectionTune struct {
	ChannelMax uint16
	FrameMax   uint32
	Heartbeat  uint16
}

// ID is connection.tune's.
func (*ConnectionTune) ID() (class, method uint16) { return classConnection, 30 }

func (m *ConnectionTune) fields(c *coder) {
	c.short(&m.ChannelMax)
	c.long(&m.FrameMax)
	c.short(&m.Heartbeat)
}

// ConnectionTuneOk is connection.tune-ok.
type ConnectionTuneOk struct {
	ChannelMax uint16
	FrameMax   uint32
	Heartbeat  uint16
}

// ID is connection.tune-ok's.
func (*ConnectionTuneOk) ID() (class, method uint16) { return classConnection, 31 }

func (m *ConnectionTuneOk) fields(c *coder) {
	c.short(&m.ChannelMax)
	c.long(&m.FrameMax)
	c.short(&m.Heartbeat)
}

// ConnectionOpen is connection.open.
type ConnectionOpen struct {
	VirtualHost string
}

// ID is connection.open's.
func (*ConnectionOpen) ID() (class, method uint16) { return classConnection, 40 }

func (m *ConnectionOpen) fields(c *coder) {
	c.shortstr(&m.VirtualHost)
	c.reservedStr()
	var reserved bool
	c.bit(&reserved)
}

// ConnectionOpenOk is connection.open-ok.
type ConnectionOpenOk struct{}

// ID is connection.open-ok's.
func (*ConnectionOpenOk) ID() (class, method uint16) { return classConnection, 41 }

func (*ConnectionOpenOk) fields(c *coder) {
	c.reservedStr()
}

// ConnectionClose is connection.close.
type ConnectionClose struct {
	ReplyCode uint16
	ReplyText string
	ClassID   uint16
	MethodID  uint16
}

// ID is connection.close's.
func (*ConnectionClose) ID() (class, method uint16) { return classConnection, 50 }

func (m *ConnectionClose) fields(c *coder) {
	c.short(&m.ReplyCode)
	c.shortstr(&m.ReplyText)
	c.short(&m.ClassID)
	c.short(&m.MethodID)
}

// ConnectionCloseOk is connection.close-ok.
type ConnectionCloseOk struct{}

// ID is connection.close-ok's.
func (*ConnectionCloseOk) ID() (class, method uint16) { return classConnection, 51 }

func (*ConnectionCloseOk) fields(*coder) {}

// ChannelOpen is channel.open.
type ChannelOpen struct{}

// ID is channel.open's.
func (*ChannelOpen) ID() (class, method uint16) { return classChannel, 10 }

func (*ChannelOpen) fields(c *coder) {
	c.reservedStr()
}

// ChannelOpenOk is channel.open-ok.
type ChannelOpenOk struct{}

// ID is channel.open-ok's.
func (*ChannelOpenOk) ID() (class, method uint16) { return classChannel, 11 }

func (*ChannelOpenOk) fields(c *coder) {
	var reserved string
	c.longstr(&reserved)
}

// ChannelFlow is channel.flow.
type ChannelFlow struct {
	Active bool
}

// ID is channel.flow's.
func (*ChannelFlow) ID() (class, method uint16) { return classChannel, 20 }

func (m *ChannelFlow) fields(c *coder) {
	c.bit(&m.Active)
}

// ChannelFlowOk is channel.flow-ok.
type ChannelFlowOk struct {
	Active bool
}

// ID is channel.flow-ok's.
func (*ChannelFlowOk) ID() (class, method uint16) { return classChannel, 21 }

func (m *ChannelFlowOk) fields(c *coder) {
	c.bit(&m.Active)
}

// ChannelClose is channel.close.
type ChannelClose struct {
	ReplyCode uint16
	ReplyText string
	ClassID   uint16
	MethodID  uint16
}

// ID is channel.close's.
func (*ChannelClose) ID() (class, method uint16) { return classChannel, 40 }

func (m *ChannelClose) fields(c *coder) {
	c.short(&m.ReplyCode)
	c.shortstr(&m.ReplyText)
	c.short(&m.ClassID)
	c.short(&m.MethodID)
}

// ChannelCloseOk is channel.close-ok.
type ChannelCloseOk struct{}

// ID is channel.close-ok's.
func (*ChannelCloseOk) ID() (class, method uint16) { return classChannel, 41 }

func (*ChannelCloseOk) fields(*coder) {}

// ConfirmSelect is confirm.select.
type ConfirmSelect struct {
	NoWait bool
}

// ID is confirm.select's.
func (*ConfirmSelect) ID() (class, method uint16) { return classConfirm, 10 }

func (m *ConfirmSelect) fields(c *coder) {
	c.bit(&m.NoWait)
}

// ConfirmSelectOk is confirm.select-ok.
type ConfirmSelectOk struct{}

// ID is confirm.select-ok's.
func (*ConfirmSelectOk) ID() (class, method uint16) { return classConfirm, 11 }

func (*ConfirmSelectOk) fields(*coder) {}
