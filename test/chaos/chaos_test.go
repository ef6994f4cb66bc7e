package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
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
	clients   int
	cut       time.Duration // of a network
	rest      time.Duration // between two faults
}

func sizeOf() size {
	if full {
		return size{instances: 100, clients: 4, cut: 30 * time.Second, rest: 4 * time.Second}
	}
	return size{instances: 12, clients: 3, cut: 5 * time.Second, rest: time.Second}
}

// world is a region with two of each service and what is needed to break it.
type world struct {
	*region.Region
	t          *testing.T
	apis       []*region.Service
	broker     *region.Link // of a conductor and an API to the broker
	clockAhead atomic.Int64 // of the task manager in this process, nanoseconds
}

func newWorld(t *testing.T, engine dbtest.Engine) *world {
	t.Helper()
	w := &world{t: t, Region: region.New(t, region.Options{Bin: bin, Database: engine})}
	// One conductor lives in a network of its own, with a link to the broker
	// and one to the database: a cut of the first leaves the second.
	n := region.NewNamespace(t)
	brokerAddress, brokerLink := n.Link(t, w.Broker.Addr())
	databaseAddress, _ := n.Link(t, w.Database.Addr())
	w.broker = brokerLink
	for range 2 {
		w.apis = append(w.apis, w.Start(region.API))
	}
	w.Start(region.TaskManager)
	w.Start(region.Conductor)
	far := w.NewService(region.Conductor, "OS_DEFAULT__TRANSPORT_URL="+w.BrokerURL(brokerAddress),
		"OS_DATABASE__CONNECTION="+w.DatabaseAt(databaseAddress))
	far.Wrap = n.Wrap()
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	w.startInside()
	return w
}

// startInside runs the second task manager in this process, with a clock that
// jumps.
func (w *world) startInside() {
	w.t.Helper()
	log, err := os.Create(w.Dir + "/taskmanager-inside.log")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- server.RunRole(ctx, region.TaskManager, osloconf.Sources{Files: []string{w.Config}, Environ: []string{"OS_DEFAULT__HOST=taskmanager-inside"}},
			func() time.Time { return time.Now().Add(time.Duration(w.clockAhead.Load())) }, log, func() { close(ready) })
	}()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Errorf("the task manager inside: %v", err)
		}
		log.Close()
		if w.t.Failed() {
			w.t.Logf("log of the task manager inside:\n%s", region.Tail(log.Name(), 6000))
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		w.t.Fatalf("the task manager inside: %v", err)
	}
}

// fault is a way to break a world, and to mend it.
type fault struct {
	name string
	do   func(w *world, s size) error
}

// faults are all ways to break a world, in the order in which they are tried.
func (w *world) faults() []fault {
	var out []fault
	for _, s := range w.Services() {
		out = append(out, fault{"kill " + s.Name, func(_ *world, z size) error {
			s.Kill()
			time.Sleep(z.rest) //nolint:forbidigo // how long it is away is the point
			return s.Start()
		}})
	}
	return append(out,
		fault{"kill the broker", func(w *world, _ size) error {
			w.Broker.Stop()
			ctx, cancel := context.WithTimeout(context.Background(), region.Patience)
			defer cancel()
			return w.Broker.Start(ctx)
		}},
		fault{"kill the database", func(w *world, _ size) error {
			w.Database.Kill()
			ctx, cancel := context.WithTimeout(context.Background(), region.Patience)
			defer cancel()
			return w.Database.Start(ctx)
		}},
		fault{"cut a conductor off the broker", func(w *world, z size) error {
			if err := w.broker.Cut(); err != nil {
				return err
			}
			time.Sleep(z.cut) //nolint:forbidigo // how long it lasts is the point
			return w.broker.Mend()
		}},
		fault{"a clock jumps", func(w *world, _ size) error {
			w.clockAhead.Add(int64(5 * time.Minute))
			return nil
		}},
	)
}

// TestChaos creates instances, and deletes them, while everything breaks in
// turn. The whole of it is `make chaos`.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("needs RabbitMQ, a database server and Keystone")
	}
	for _, engine := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(engine), func(t *testing.T) {
			if !full && engine != dbtest.MariaDB {
				t.Skip("part of make chaos")
			}
			w, z := newWorld(t, engine), sizeOf()
			warm(w)
			made := w.createAll(z)
			live := map[string]bool{}
			for _, id := range made {
				live[id] = true
			}
			w.allActive(made)
			region.Must(t, func() error { return w.Left(live) })
			w.deleteAll(made, z)
			w.AssertNothingLeft()
		})
	}
}

// warm builds what only the first instance waits for.
func warm(w *world) {
	demo := w.Demo()
	id := demo.Create(w.apis[0], "warm", "mariadb")
	demo.AwaitActive(w.apis[0], id)
	demo.Want(w.apis[0], http.StatusAccepted, "DELETE", "instances/"+id, nil, nil)
	demo.AwaitGone(w.apis[1], id)
}

// rage breaks one thing after the other until done is closed and each was
// broken once.
func (w *world) rage(z size, done <-chan struct{}) *sync.WaitGroup {
	var running sync.WaitGroup
	running.Go(func() {
		faults := w.faults()
		for n := 0; ; n++ {
			select {
			case <-done:
				if n >= len(faults) {
					return
				}
			default:
			}
			f := faults[n%len(faults)]
			w.t.Logf("%s: %s", time.Now().Format(time.TimeOnly), f.name)
			if err := f.do(w, z); err != nil {
				w.t.Errorf("%s: %v", f.name, err)
				return
			}
			time.Sleep(z.rest) //nolint:forbidigo // time for the system to do something
		}
	})
	return &running
}

// createAll asks for instances while things break, each name until one is made
// of it, and gives their ids by name.
func (w *world) createAll(z size) map[string]string {
	demo := w.Demo()
	done := make(chan struct{})
	raging := w.rage(z, done)
	names := make(chan string)
	var mu sync.Mutex
	made := map[string]string{}
	var clients sync.WaitGroup
	for range z.clients {
		clients.Go(func() {
			for name := range names {
				id := w.create(demo, name)
				mu.Lock()
				made[name] = id
				mu.Unlock()
			}
		})
	}
	for n := range z.instances {
		names <- fmt.Sprintf("chaos-%03d", n)
	}
	close(names)
	clients.Wait()
	w.t.Logf("%s: all are accepted", time.Now().Format(time.TimeOnly))
	close(done)
	raging.Wait()
	return made
}

// create asks until an instance of a name is there. What was refused must not
// be; what had no answer may be.
func (w *world) create(demo *region.Client, name string) string {
	var id string
	region.Must(w.t, func() error {
		api := w.apis[rand.IntN(len(w.apis))]
		a, err := demo.Do(api, "POST", "instances", region.NewInstance(name, "mariadb"))
		if err == nil && a.Code == http.StatusOK {
			var made struct{ Instance region.Instance }
			if err := a.Into(&made); err != nil {
				return err
			}
			id = made.Instance.ID
			return nil
		}
		if err == nil {
			if a.Code < 500 {
				w.t.Errorf("create %s: %d: %s", name, a.Code, a.Body)
			}
			if !told(a) {
				w.t.Errorf("create %s: %d without a word: %s", name, a.Code, a.Body)
			}
			err = fmt.Errorf("%d: %s", a.Code, a.Body)
		}
		found, lerr := w.named(demo, name)
		if lerr != nil {
			return lerr
		}
		if len(found) == 0 {
			return err
		}
		if a.Code != 0 {
			w.t.Errorf("create %s was refused with %d, and yet there is %v", name, a.Code, found)
		}
		id = found[0]
		return nil
	})
	return id
}

// told is whether a refusal says why, in Trove's shape of a fault.
func told(a region.Answer) bool {
	var fault map[string]struct {
		Code    int
		Message string
	}
	if json.Unmarshal(a.Body, &fault) != nil {
		return false
	}
	for _, f := range fault {
		return f.Code == a.Code && f.Message != ""
	}
	return false
}

// named lists the instances of a name, with whichever API answers.
func (w *world) named(demo *region.Client, name string) (ids []string, err error) {
	err = region.Until(context.Background(), func() error {
		all, err := w.list(demo, w.apis[rand.IntN(len(w.apis))])
		ids = nil
		for id, n := range all {
			if n == name {
				ids = append(ids, id)
			}
		}
		return err
	})
	return ids, err
}

// list gives the names of all instances by id, page for page.
func (w *world) list(demo *region.Client, api *region.Service) (map[string]string, error) {
	all := map[string]string{}
	for marker := ""; ; {
		a, err := demo.Do(api, "GET", "instances?limit=20&marker="+marker, nil)
		if err == nil && a.Code != http.StatusOK {
			err = fmt.Errorf("list: %d: %s", a.Code, a.Body)
		}
		var page struct{ Instances []region.Instance }
		if err == nil {
			err = a.Into(&page)
		}
		if err != nil {
			return nil, err
		}
		if len(page.Instances) == 0 {
			return all, nil
		}
		for _, i := range page.Instances {
			all[i.ID], marker = i.Name, i.ID
		}
	}
}

// allActive waits for all to be ACTIVE and HEALTHY, and holds that there is one
// of each name.
func (w *world) allActive(made map[string]string) {
	w.t.Helper()
	demo := w.Demo()
	for _, id := range made {
		demo.AwaitActive(w.apis[0], id)
	}
	all, err := w.list(demo, w.apis[1])
	if err != nil {
		w.t.Fatal(err)
	}
	times := map[string]int{}
	for _, name := range all {
		times[name]++
	}
	for name := range made {
		if times[name] != 1 {
			w.t.Errorf("%d instances have the name %s", times[name], name)
		}
	}
	if len(all) != len(made) {
		w.t.Errorf("%d instances were made, %d are there", len(made), len(all))
	}
}

// deleteAll deletes all while things break.
func (w *world) deleteAll(made map[string]string, z size) {
	demo := w.Demo()
	done := make(chan struct{})
	raging := w.rage(z, done)
	for name, id := range made {
		region.Must(w.t, func() error {
			a, err := demo.Do(w.apis[rand.IntN(len(w.apis))], "DELETE", "instances/"+id, nil)
			if err != nil {
				return err
			}
			switch a.Code {
			case http.StatusAccepted, http.StatusNotFound:
				return nil
			case http.StatusUnprocessableEntity: // a request without an answer was taken
				return nil
			}
			if a.Code < 500 || !told(a) {
				w.t.Errorf("delete %s: %d: %s", name, a.Code, a.Body)
			}
			return fmt.Errorf("delete %s: %d: %s", name, a.Code, a.Body)
		})
	}
	close(done)
	raging.Wait()
	for _, id := range made {
		demo.AwaitGone(w.apis[0], id)
	}
}
