package chaos

import (
	"context"
	"errors"
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
	apis []*region.Service // the last one runs inside the test
	// taskmanager is the one that is a process; the other runs inside the test.
	taskmanager *region.Service
	toConductor *region.Link
	toTaskMan   *region.Valve
	toAPI       *region.Valve
	clockAhead  atomic.Int64 // of the services inside, nanoseconds
	insideEnv   []string
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
	port := region.FreePort(t)
	w.insideEnv = []string{"OS_DEFAULT__HOST=inside", fmt.Sprintf("OS_DEFAULT__BIND_PORT=%d", port), "OS_GOTROVE__RATE_PER_MINUTE=6000"}
	w.apis = append(w.apis, &region.Service{Role: region.API, Name: "api-inside", URL: fmt.Sprintf("http://127.0.0.1:%d", port)})
	if err := w.startInside(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stopInside()
		if t.Failed() {
			t.Logf("log of the services inside:\n%s", region.Tail(w.Dir+"/inside.log", 6000))
		}
	})
	return w
}

// startInside runs one more of each service in this process, with a clock that
// jumps, until stopInside.
func (w *world) startInside() error {
	log, err := os.OpenFile(w.Dir+"/inside.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	clock := func() time.Time { return time.Now().Add(time.Duration(w.clockAhead.Load())) }
	roles := []string{region.TaskManager, region.Conductor, region.API}
	ready, ended := make(chan struct{}, len(roles)), make(chan error, len(roles))
	for _, role := range roles {
		go func() {
			err := server.RunRole(ctx, role, osloconf.Sources{Files: []string{w.Config}, Environ: w.insideEnv}, clock, log, func() { ready <- struct{}{} })
			if err != nil {
				err = fmt.Errorf("%s inside: %w", role, err)
			}
			ended <- err
		}()
	}
	w.stopInside = sync.OnceFunc(func() {
		stop()
		for range roles {
			if err := <-ended; err != nil {
				w.t.Error(err)
			}
		}
		log.Close()
	})
	for range roles {
		select {
		case <-ready:
		case err := <-ended:
			ended <- nil
			return errors.Join(err, fmt.Errorf("a service inside ended before it served"))
		}
	}
	return nil
}
