package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gotrove/gotrove/internal/guestlogin"
	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
)

// bus connects to the standalone's bus with a login.
func (s *standalone) bus(login string) (*amqp.Connection, error) {
	key, err := os.ReadFile(filepath.Join(s.home, "bus.key"))
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(s.run, "bus.sock")
	u, err := url.Parse(guestlogin.New(key, guestlogin.Place{Exchange: "trove"}, socket).URL(login).Reveal())
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	return amqp.DialConfig("amqp://localhost/", amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{Username: login, Password: password}}, Vhost: "/", Heartbeat: 10 * time.Second,
		Dial: func(string, string) (net.Conn, error) { return net.DialTimeout("unix", socket, 10*time.Second) }})
}

// onBus tells whether an instance's queues are there and whether its agent's
// login is let in.
func (s *standalone) onBus(id string) (queues, login bool) {
	s.t.Helper()
	control, err := s.bus(guestlogin.ControlPlane)
	if err != nil {
		s.t.Fatal(err)
	}
	defer control.Close()
	for _, name := range []string{"guestagent." + id, "guestagent." + id + "." + id} {
		channel, err := control.Channel()
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = channel.QueueDeclarePassive(name, false, false, false, false, nil)
		var refused *amqp.Error
		switch {
		case err == nil:
			queues = true
		case !errors.As(err, &refused) || refused.Code != amqp.NotFound:
			s.t.Fatal(err)
		}
	}
	// The one that the user data carried, and the one that replaced it.
	for _, login := range []string{guestlogin.Name(id), guestapi.Login(id, 1)} {
		connection, err := s.bus(login)
		if err == nil {
			connection.Close()
			return queues, true
		} else if !errors.Is(err, amqp.ErrCredentials) && !errors.Is(err, amqp.ErrSASL) {
			s.t.Fatal(err)
		}
	}
	return queues, false
}

// TestDeleteDuringBuild: whatever the creation had come to, nothing is left of
// it.
func TestDeleteDuringBuild(t *testing.T) {
	t.Parallel()
	r := random(t)
	s := newStandalone(t)
	stays := s.create("stays", "postgresql", password)
	if connection, err := s.bus(guestlogin.Name(stays.ID)); err == nil {
		connection.Close()
		t.Error("the login that the user data carried is still let in")
	}
	if queues, login := s.onBus(stays.ID); !queues || !login {
		t.Fatalf("of an instance that serves: queues %v, login %v", queues, login)
	}
	const count = 8
	var wg sync.WaitGroup
	var ids [count]string
	for n := range count {
		pause := time.Duration(r.Int64N(int64(2 * time.Second)))
		if n == 0 {
			pause = 0
		}
		wg.Go(func() {
			id, err := s.build(fmt.Sprint("brief-", n), datastores[n%2], password)
			if err != nil {
				t.Error(err)
				return
			}
			ids[n] = id
			after(pause)
			i, err := s.show(id)
			if err == nil {
				t.Logf("deleted after %s while %s", pause, i.Status)
				_, err = s.rest("DELETE", "instances/"+id, nil, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		s.eventually("instance "+id+" is gone", func() error { return s.gone(id) })
		s.deleted = append(s.deleted, id)
		if queues, login := s.onBus(id); queues || login {
			t.Errorf("left of %s: queues %v, login %v", id, queues, login)
		}
	}
	s.exactly(stays)
	s.quota(1)
	s.serving(stays.ID)
}
