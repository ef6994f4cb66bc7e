package guestlogin

import (
	"context"
	"time"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/amqp"
	"github.com/gotrove/gotrove/internal/rpcapi/guest"
	"github.com/gotrove/gotrove/internal/secret"
)

// Credentials are a login with its password.
type Credentials struct {
	Login    string
	Password secret.String
	// TransportURL holds login and password; it is empty where the operator's
	// own configuration of the agents has it.
	TransportURL secret.String
}

// Keeper keeps the logins of a broker. Its methods may be called again and
// again, by several processes at once.
type Keeper interface {
	// Ensure makes an instance's login of a generation, or finds it, with
	// exactly the rights of RightsOf.
	Ensure(ctx context.Context, instanceID string, generation int) (Credentials, error)
	// Remove takes away an instance's logins of some generations, which need
	// not be there, and returns when none of their connections is served any
	// more.
	Remove(ctx context.Context, instanceID string, generations ...int) error
	// PerGuest is whether guests have logins of their own.
	PerGuest() bool
}

// Queues declares and removes the queues of a guest agent. The control plane
// does it: a guest may not declare anything.
type Queues interface {
	DeclareGuestQueues(ctx context.Context, queues ...string) error
	DeleteQueues(ctx context.Context, queues ...string) error
}

// Bus keeps logins and queues together, as the flows need them.
type Bus struct {
	keeper Keeper
	queues Queues
}

// On makes a Bus of the logins that k keeps.
func On(k Keeper, q Queues) *Bus { return &Bus{k, q} }

// NewBus makes a Bus on an embedded broker; kick closes the connections of a
// login.
func NewBus(l *Logins, q Queues, kick func(login string)) *Bus {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kick = kick
	return On(l, q)
}

// EnsureGuest makes the queues and the first login of an instance's guest agent,
// or finds them, and gives the transport URL for it: the same each time. It is
// empty where guests share a login.
func (b *Bus) EnsureGuest(ctx context.Context, instanceID string) (string, error) {
	if err := validID(instanceID); err != nil {
		return "", err
	}
	if err := b.queues.DeclareGuestQueues(ctx, guest.Queues(instanceID)...); err != nil {
		return "", err
	}
	c, err := b.keeper.Ensure(ctx, instanceID, 0)
	return c.TransportURL.Reveal(), err
}

// PerGuest is whether guests have logins of their own, which can be rotated.
func (b *Bus) PerGuest() bool { return b.keeper.PerGuest() }

// EnsureLogin makes an instance's login of a generation, or finds it.
func (b *Bus) EnsureLogin(ctx context.Context, instanceID string, generation int) (login, password string, err error) {
	if err := validID(instanceID); err != nil {
		return "", "", err
	}
	c, err := b.keeper.Ensure(ctx, instanceID, generation)
	return c.Login, c.Password.Reveal(), err
}

// RemoveLogins takes away an instance's logins before a generation and ends
// their connections.
func (b *Bus) RemoveLogins(ctx context.Context, instanceID string, before int) error {
	if err := validID(instanceID); err != nil {
		return err
	}
	return b.keeper.Remove(ctx, instanceID, around(before-1)...)
}

// RemoveGuest takes all logins and the queues of an instance's guest agent away
// and ends its connections. last is the newest generation of its credentials
// that there may be.
func (b *Bus) RemoveGuest(ctx context.Context, instanceID string, last int) error {
	if err := validID(instanceID); err != nil {
		return err
	}
	if err := b.keeper.Remove(ctx, instanceID, around(last)...); err != nil {
		return err
	}
	return b.queues.DeleteQueues(ctx, guest.Queues(instanceID)...)
}

// Seen is what the bus shows of an instance's agent; last is the newest
// generation of credentials that it may have.
func (b *Bus) Seen(ctx context.Context, instanceID string, last int) (guest.Presence, error) {
	var p guest.Presence
	if q, ok := b.queues.(interface {
		Look(ctx context.Context, queue string) (rpc.QueueState, error)
	}); ok {
		state, err := q.Look(ctx, guest.Topic(instanceID))
		if err != nil {
			return p, err
		}
		p = guest.Presence{Queue: state.There, Consumers: state.Consumers, Waiting: state.Messages}
	}
	if k, ok := b.keeper.(interface {
		Connections(ctx context.Context, login string) (int, error)
	}); ok {
		all := 0
		for _, generation := range around(last) {
			n, err := k.Connections(ctx, guest.Login(instanceID, generation))
			if err != nil {
				return p, err
			}
			all += n
		}
		p.Connections = &all
	}
	return p, nil
}

// around are the generations up to last that there may still be: a rotation
// begins when the logins before it are removed.
func around(last int) []int {
	var all []int
	for g := last; g >= 0 && g > last-3; g-- {
		all = append(all, g)
	}
	return all
}

// topologyWait bounds one dialogue about queues.
const topologyWait = 30 * time.Second

// Topology declares and deletes on a connection of the control plane. It
// implements Queues.
type Topology struct {
	conn     *amqp.Conn
	exchange string
	reply    string
}

// NewTopology declares on conn, binding to the exchange. With replies it
// declares the exchange for the replies of guests too, which they may not.
func NewTopology(conn *amqp.Conn, controlExchange string, replies bool) *Topology {
	t := &Topology{conn: conn, exchange: controlExchange}
	if replies {
		t.reply = ReplyExchange(controlExchange)
	}
	return t
}

// DeclareGuestQueues implements Queues.
func (t *Topology) DeclareGuestQueues(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, topologyWait)
	defer cancel()
	if t.reply != "" {
		if err := rpc.DeclareQueues(ctx, t.conn, t.reply); err != nil {
			return err
		}
	}
	return rpc.DeclareQueues(ctx, t.conn, t.exchange, names...)
}

// Look looks at a queue.
func (t *Topology) Look(ctx context.Context, queue string) (rpc.QueueState, error) {
	ctx, cancel := context.WithTimeout(ctx, topologyWait)
	defer cancel()
	return rpc.Look(ctx, t.conn, queue)
}

// DeleteQueues implements Queues.
func (t *Topology) DeleteQueues(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, topologyWait)
	defer cancel()
	return rpc.DeleteQueues(ctx, t.conn, names...)
}

// Shared is the Keeper of a bus whose guests all have the operator's one login,
// which is in the operator's configuration of the agents.
type Shared struct{}

// Ensure implements Keeper.
func (Shared) Ensure(context.Context, string, int) (Credentials, error) { return Credentials{}, nil }

// Remove implements Keeper.
func (Shared) Remove(context.Context, string, ...int) error { return nil }

// PerGuest implements Keeper.
func (Shared) PerGuest() bool { return false }
