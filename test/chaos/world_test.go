package chaos

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/app/server"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/test/region"
)

// size is how much of everything a test does.
type size struct {
	instances int
	away      time.Duration // how long what is killed stays away
	cut       time.Duration // how long a network is cut
	rest      time.Duration // between two faults
}

func sizeOf() size {
	if full {
		return size{instances: 100, away: 3 * time.Second, cut: 30 * time.Second, rest: 3 * time.Second}
	}
	return size{instances: 12, away: 500 * time.Millisecond, cut: 4 * time.Second, rest: time.Second}
}

// world is a region with two of each service and what is needed to break it:
// one of each reaches the broker by a way that can be cut.
type world struct {
	*region.Region
	t    *testing.T
	size size
	apis []*region.Service
	// taskmanager is the one that is a process; the other runs inside the test.
	taskmanager *region.Service
	toConductor *region.Link
	toTaskMan   *region.Valve
	toAPI       *region.Valve
	clockAhead  atomic.Int64 // of the task manager inside, nanoseconds
	stopInside  func()
}

func newWorld(t *testing.T, engine dbtest.Engine) *world {
	t.Helper()
	w := &world{t: t, size: sizeOf(), Region: region.New(t, region.Options{Bin: bin, Database: engine})}
	// One conductor lives in a network of its own, with a link to the broker
	// and one to the database: a cut of the first leaves the second.
	n := region.NewNamespace(t)
	var brokerAddress string
	brokerAddress, w.toConductor = n.Link(t, w.Broker.Addr())
	databaseAddress, _ := n.Link(t, w.Database.Addr())
	w.toTaskMan, w.toAPI = w.Valve(t, w.Broker.Addr()), w.Valve(t, w.Broker.Addr())
	w.apis = append(w.apis, w.Start(region.API))
	w.apis = append(w.apis, w.Start(region.API, "OS_DEFAULT__TRANSPORT_URL="+w.BrokerURL(w.toAPI.Addr())))
	// What guests it starts are behind the same way.
	w.taskmanager = w.Start(region.TaskManager, "OS_DEFAULT__TRANSPORT_URL="+w.BrokerURL(w.toTaskMan.Addr()))
	w.Start(region.Conductor)
	// This one notices a cut while it lasts.
	far := w.NewService(region.Conductor, "OS_DEFAULT__TRANSPORT_URL="+w.BrokerURL(brokerAddress),
		"OS_DATABASE__CONNECTION="+w.DatabaseAt(databaseAddress), "OS_OSLO_MESSAGING_RABBIT__HEARTBEAT_TIMEOUT_THRESHOLD=10")
	far.Wrap = n.Wrap()
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.startInside(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stopInside()
		if t.Failed() {
			t.Logf("log of the task manager inside:\n%s", region.Tail(w.Dir+"/taskmanager-inside.log", 6000))
		}
	})
	return w
}

// startInside runs the second task manager in this process, with a clock that
// jumps, until stopInside.
func (w *world) startInside() error {
	log, err := os.OpenFile(w.Dir+"/taskmanager-inside.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- server.RunRole(ctx, region.TaskManager, osloconf.Sources{Files: []string{w.Config}, Environ: []string{"OS_DEFAULT__HOST=taskmanager-inside"}},
			func() time.Time { return time.Now().Add(time.Duration(w.clockAhead.Load())) }, log, func() { close(ready) })
	}()
	w.stopInside = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Errorf("the task manager inside: %v", err)
		}
		log.Close()
	})
	select {
	case <-ready:
		return nil
	case err := <-ended:
		ended <- nil
		return fmt.Errorf("the task manager inside: %w", err)
	}
}
