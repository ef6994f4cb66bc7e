package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/test/region"
)

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
			w := newWorld(t, engine)
			w.warm()
			live := w.createAll()
			w.allActive(live)
			w.restartAll(live)
			w.anyClock(live)
			region.Must(t, func() error { return w.Left(live) })
			w.deleteAll(live)
			w.AssertNothingLeft()
		})
	}
}

// warm builds what only the first instance waits for.
func (w *world) warm() {
	demo := w.Demo()
	id := demo.Create(w.apis[0], "warm", "mariadb")
	demo.AwaitActive(w.apis[0], id)
	demo.Want(w.apis[0], http.StatusAccepted, "DELETE", "instances/"+id, nil, nil)
	demo.AwaitGone(w.apis[1], id)
}

// rage breaks one thing after the other. A share of the work begins with each
// fault, all of it within moments: some of it before, some after the break.
func (w *world) rage(faults []fault, work []func()) {
	demo := w.Demo()
	done := make(chan struct{})
	watching := w.watch(demo, done)
	var working sync.WaitGroup
	for n, f := range faults {
		w.t.Logf("%s: %s", time.Now().Format(time.TimeOnly), f.name)
		for _, one := range work[len(work)*n/len(faults) : len(work)*(n+1)/len(faults)] {
			working.Go(func() {
				last(rand.N(w.size.rest))
				one()
			})
		}
		if !f.early {
			last(rand.N(w.size.rest))
		}
		if err := f.do(); err != nil {
			w.t.Errorf("%s: %v", f.name, err)
		}
		last(w.size.rest)
	}
	working.Wait()
	w.t.Logf("%s: all is accepted", time.Now().Format(time.TimeOnly))
	close(done)
	watching.Wait()
}

// createAll asks for instances while things break, holds that those are there
// that were accepted and none that was refused, and gives all there are.
func (w *world) createAll() map[string]bool {
	demo := w.Demo()
	l := &ledger{outcomes: map[string]outcome{}}
	var work []func()
	for n := range w.size.instances {
		work = append(work, func() { w.create(demo, l, fmt.Sprintf("chaos-%03d", n)) })
	}
	w.rage(w.faults(), work)
	all := w.list(demo, w.apis[1])
	times, live := map[string]int{}, map[string]bool{}
	for id, i := range all {
		times[i.Name]++
		live[id] = true
	}
	counts := map[outcome]int{}
	for name, o := range l.outcomes {
		counts[o]++
		switch {
		case o == accepted && times[name] != 1, o == refused && times[name] != 0, times[name] > 1:
			w.t.Errorf("%s: %d instances, outcome %d (0 accepted, 1 refused, 2 without an answer)", name, times[name], o)
		}
	}
	w.t.Logf("%d accepted, %d refused, %d without an answer: %d instances", counts[accepted], counts[refused], counts[unknown], len(all))
	return live
}

// allActive waits for all to be ACTIVE and HEALTHY.
func (w *world) allActive(live map[string]bool) {
	w.t.Helper()
	demo := w.Demo()
	defer func() {
		if w.t.Failed() {
			w.tell(demo, live)
		}
	}()
	for id := range live {
		demo.AwaitActive(w.apis[0], id)
	}
	w.t.Logf("%s: all are ACTIVE", time.Now().Format(time.TimeOnly))
}

// restartAll asks every agent for something: all hear, whatever became of their
// queues, logins and keys.
func (w *world) restartAll(live map[string]bool) {
	w.t.Helper()
	demo := w.Demo()
	for id := range live {
		demo.Want(w.apis[rand.IntN(len(w.apis))], http.StatusAccepted, http.MethodPost, "instances/"+id+"/action",
			map[string]any{"restart": map[string]any{}}, nil)
	}
	w.allActive(live)
}

// anyClock holds that an instance looks the same at every API, whose clock is
// five minutes behind, right, or five ahead, and whose conductor wrote down its
// last heartbeats: that was one with the same clock, for a third of them.
func (w *world) anyClock(live map[string]bool) {
	w.t.Helper()
	demo := w.Demo()
	if w.clockAhead.Load() >= 0 {
		w.t.Errorf("the clock is %s ahead", time.Duration(w.clockAhead.Load()))
	}
	for range 2 {
		for _, api := range w.apis {
			for id, i := range w.list(demo, api) {
				if live[id] && (i.Status != "ACTIVE" || i.Operating != "HEALTHY") {
					w.t.Errorf("with a clock that is %s ahead, %s shows %s, %s", time.Duration(w.clockAhead.Load()), api.Name, i.Status, i.Operating)
				}
			}
		}
		if err := w.clockJumps().do(); err != nil {
			w.t.Error(err)
		}
	}
}

// tell logs what happened to instances that did not get where they should.
func (w *world) tell(demo *region.Client, live map[string]bool) {
	for id := range live {
		var got struct{ Instance region.Instance }
		a, err := demo.Do(w.apis[0], http.MethodGet, "instances/"+id, nil)
		if err == nil {
			err = a.Into(&got)
		}
		if i := got.Instance; err != nil || i.Status != "ACTIVE" || i.Operating != "HEALTHY" {
			w.t.Logf("instance %s is %s, %s: %v\n%s", id, i.Status, i.Operating, err, w.History(id))
		}
	}
}

// deleteAll deletes all while things break.
func (w *world) deleteAll(live map[string]bool) {
	demo := w.Demo()
	var work []func()
	for id := range live {
		work = append(work, func() { w.delete(demo, id) })
	}
	faults := w.some()
	if full {
		faults = w.faults()
	}
	w.rage(faults, work)
	for id := range live {
		demo.AwaitGone(w.apis[0], id)
	}
	w.t.Logf("%s: all are gone", time.Now().Format(time.TimeOnly))
}
