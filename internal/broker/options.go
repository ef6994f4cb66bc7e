package broker

import (
	"log/slog"
	"time"
)

// Limits bound what clients can make the broker hold. A zero field takes the
// default.
type Limits struct {
	Connections        int           // at once, 1024
	ConnectionsPerUser int           // at once, 256
	Channels           int           // per connection, 256
	Consumers          int           // per channel, 256
	Unacked            int           // deliveries per channel awaiting an ack, 65536
	MessageBytes       int           // body of one message, 64 MiB
	QueueMessages      int           // per queue, ready and unacked, 100000
	QueueBytes         int64         // per queue, ready and unacked, 128 MiB
	TotalBytes         int64         // of all queues, and again of messages being received, 256 MiB
	Queues             int           // 16384
	Exchanges          int           // 4096
	Bindings           int           // 65536
	OutgoingBytes      int           // per connection awaiting a slow reader, 1 MiB
	FrameBytes         int           // frame-max offered, 131072
	Heartbeat          time.Duration // offered, 60 s, whole seconds
	Handshake          time.Duration // from accept to open, 10 s
	WriteStall         time.Duration // a peer that takes nothing for so long is cut, 30 s
}

// Options of a broker. Auth is required.
type Options struct {
	Auth   Authenticator
	Logger *slog.Logger // nil: slog.Default
	Limits Limits
}

func orDefault[T ~int | ~int64](p *T, def T) {
	if *p <= 0 {
		*p = def
	}
}

func (l Limits) withDefaults() Limits {
	orDefault(&l.Connections, 1024)
	orDefault(&l.ConnectionsPerUser, 256)
	orDefault(&l.Channels, 256)
	orDefault(&l.Consumers, 256)
	orDefault(&l.Unacked, 65536)
	orDefault(&l.MessageBytes, 64<<20)
	orDefault(&l.QueueMessages, 100_000)
	orDefault(&l.QueueBytes, 128<<20)
	orDefault(&l.TotalBytes, 256<<20)
	orDefault(&l.Queues, 16384)
	orDefault(&l.Exchanges, 4096)
	orDefault(&l.Bindings, 65536)
	orDefault(&l.OutgoingBytes, 1<<20)
	orDefault(&l.FrameBytes, 131072)
	orDefault(&l.Heartbeat, time.Minute)
	orDefault(&l.Handshake, 10*time.Second)
	orDefault(&l.WriteStall, 30*time.Second)
	return l
}
