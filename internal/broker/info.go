package broker

import (
	"slices"
	"strings"
	"time"
)

// QueueInfo is a queue as metrics and tests see it.
type QueueInfo struct {
	Name       string
	Durable    bool
	AutoDelete bool
	Exclusive  bool
	Messages   int   // ready
	Unacked    int   // delivered, not yet acknowledged
	Bytes      int64 // of both
	Consumers  int
	Bindings   int
	// Published counts messages taken since the queue was declared, Delivered
	// deliveries, Refused messages over a bound, Expired those past their time.
	Published, Delivered, Refused, Expired uint64
}

// ConnectionInfo is an open connection.
type ConnectionInfo struct {
	User     string
	Name     string // what the client calls itself
	Peer     string
	Channels int
	Since    time.Time
}

// Queues lists all queues by name.
func (b *Broker) Queues() []QueueInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	qs := make([]QueueInfo, 0, len(b.queues))
	for _, q := range b.queues {
		qs = append(qs, QueueInfo{
			Name: q.name, Durable: q.durable, AutoDelete: q.autoDelete, Exclusive: q.owner != nil,
			Messages: q.ready, Unacked: q.unacked, Bytes: q.bytes, Consumers: len(q.consumers), Bindings: len(q.bindings),
			Published: q.published, Delivered: q.delivered, Refused: q.refused, Expired: q.expired,
		})
	}
	slices.SortFunc(qs, func(a, b QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return qs
}

// Connections lists the connections that have logged in, oldest first.
func (b *Broker) Connections() []ConnectionInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var cs []ConnectionInfo
	for c := range b.conns {
		if c.opened {
			cs = append(cs, ConnectionInfo{
				User: c.user, Name: c.name, Peer: c.nc.RemoteAddr().String(), Channels: len(c.channels), Since: c.since,
			})
		}
	}
	slices.SortFunc(cs, func(a, b ConnectionInfo) int { return a.Since.Compare(b.Since) })
	return cs
}
