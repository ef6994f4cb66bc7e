package amqp

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/trove"
)

// setupTimeout bounds a dialogue with the broker that has no context of its
// own: a broker that does not answer by then loses the connection.
const setupTimeout = 30 * time.Second

// Session is one connection, from its login to its loss. It never comes back.
type Session struct {
	conn   *amqp091.Connection
	socket net.Conn
	login  string
	config Declarations
	done   chan struct{} // closed when the connection is lost or closed
	err    error         // why, readable after done

	blocked  atomic.Pointer[blockage]
	requests chan *request // to the publisher
	running  sync.WaitGroup
}

func newSession(c *Conn, conn *amqp091.Connection, socket net.Conn, login string) *Session {
	s := &Session{
		conn: conn, socket: socket, login: login, config: c.cfg.Declare,
		done: make(chan struct{}), requests: make(chan *request),
	}
	closed := conn.NotifyClose(make(chan *amqp091.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp091.Blocking, 8))
	s.running.Go(func() { s.watchBlocking(c.log, blocked) })
	s.running.Go(func() {
		if err := <-closed; err != nil {
			s.err = err
		} else {
			s.err = amqp091.ErrClosed
		}
		close(s.done)
	})
	s.running.Go(func() { newPublisher(s).run() })
	return s
}

// blockage is a time in which the broker takes no messages, for want of memory
// or disk.
type blockage struct {
	reason string
	over   chan struct{}
}

// Error tells what it is, for the log and the health check.
func (b *blockage) Error() string { return "the message bus takes no messages: " + b.reason }

func (s *Session) watchBlocking(log *slog.Logger, blocked <-chan amqp091.Blocking) {
	for b := range blocked {
		before := s.blocked.Load()
		switch {
		case b.Active && before == nil:
			log.Warn("message bus: the broker takes no messages", "reason", b.Reason)
			s.blocked.Store(&blockage{reason: b.Reason, over: make(chan struct{})})
		case !b.Active && before != nil:
			log.Info("message bus: the broker takes messages again")
			s.blocked.Store(nil)
			close(before.over)
		}
	}
}

// Done is closed when the connection is lost.
func (s *Session) Done() <-chan struct{} { return s.done }

// Login is the name the session logged in with: the user_id of what it sends.
func (s *Session) Login() string { return s.login }

func (s *Session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *Session) close() {
	if !s.ended() {
		_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout))
	}
	_ = s.socket.Close()
	s.running.Wait()
}

// Channel opens a channel and sets it up with f, whose dialogue with the broker
// is bounded in time. If f fails the channel is closed.
func (s *Session) Channel(f func(ch *amqp091.Channel) error) (*amqp091.Channel, error) {
	defer s.guard()()
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := f(ch); err != nil {
		_ = ch.Close()
		return nil, explain(err)
	}
	return ch, nil
}

// maxUnreachable bounds how many queues of a topology are made anew at once.
const maxUnreachable = 8

// Topology is Channel for an f that declares queues and may run again: a queue
// whose process is gone is deleted, with what is in it, and declared anew. One
// on a node that is down RabbitMQ does not let us delete; that is the error, and
// ends when the node is back.
func (s *Session) Topology(f func(ch *amqp091.Channel) error) (*amqp091.Channel, error) {
	for n := 0; ; n++ {
		ch, err := s.Channel(f)
		lost, ok := errors.AsType[*UnreachableQueue](err)
		if !ok || n == maxUnreachable {
			return ch, err
		}
		deleted := s.Do(func(ch *amqp091.Channel) error {
			_, err := ch.QueueDelete(lost.Name, false, false, false)
			return err
		})
		if deleted != nil {
			return nil, trove.Errorf(trove.KindUnavailable, "message bus: %w", lost).
				WithAction("start the RabbitMQ node again, or take it out of the cluster (rabbitmqctl forget_cluster_node)")
		}
	}
}

// Do runs f on a channel of its own.
func (s *Session) Do(f func(ch *amqp091.Channel) error) error {
	ch, err := s.Channel(f)
	if err != nil {
		return err
	}
	return s.Bounded(ch.Close)
}

// DoTopology runs f, as Topology does, on a channel of its own.
func (s *Session) DoTopology(f func(ch *amqp091.Channel) error) error {
	ch, err := s.Topology(f)
	if err != nil {
		return err
	}
	return s.Bounded(ch.Close)
}

// Bounded runs a dialogue with the broker, which loses the connection if it
// does not answer in time. That all is closed already is no error.
func (s *Session) Bounded(f func() error) error {
	defer s.guard()()
	if err := f(); err != nil && !errors.Is(err, amqp091.ErrClosed) {
		return err
	}
	return nil
}

// guard cuts the connection if the broker does not answer in time: the library
// has no other way out of a wait.
func (s *Session) guard() (release func()) {
	t := time.AfterFunc(setupTimeout, func() { _ = s.socket.Close() })
	return func() { t.Stop() }
}
