package chaos

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"time"

	"github.com/gotrove/gotrove/test/region"
)

// fault is a way to break a world, and to mend it.
type fault struct {
	name string
	do   func() error
	// early: it begins before the work that comes with it.
	early bool
}

// faults are all ways to break a world, in the order in which they are tried.
func (w *world) faults() []fault {
	var out []fault
	for _, s := range w.Services() {
		out = append(out, w.killed(s))
	}
	out = append(out, w.brokerForgets(), w.databaseKilled())
	if full {
		out = append(out, w.brokerKilled(), w.cut("a conductor", w.toConductor), w.cut("a task manager and its guests", valve{w.toTaskMan}), w.cut("an API", valve{w.toAPI}))
	} else {
		out = append(out, w.cut("one of each service", links{w.toConductor, valve{w.toTaskMan}, valve{w.toAPI}}))
	}
	return append(out, w.keystoneAway(), w.frozen(w.taskmanager), w.clockJumps())
}

// some are a few of them.
func (w *world) some() []fault {
	return []fault{w.killed(w.taskmanager), w.brokerKilled(), w.killed(w.apis[0]), w.databaseKilled()}
}

func (w *world) killed(s *region.Service) fault {
	return fault{name: "kill " + s.Name, do: func() error {
		s.Kill()
		last(w.size.away)
		return s.Start()
	}}
}

// frozen is a process that does nothing for longer than its leases are, and
// then goes on as if nothing had been.
func (w *world) frozen(s *region.Service) fault {
	return fault{name: "freeze " + s.Name, do: func() error {
		s.Signal(syscall.SIGSTOP)
		last(w.size.cut)
		s.Signal(syscall.SIGCONT)
		return nil
	}}
}

// brokerForgets has requests wait in the broker, which has confirmed them, and
// then forget them with its transient queues: nobody takes them meanwhile.
func (w *world) brokerForgets() fault {
	return fault{name: "kill the broker with requests in it", do: func() error {
		w.taskmanager.Kill()
		w.stopInside()
		last(w.size.rest) // more requests come
		w.Broker.Stop()
		if err := within(w.Broker.Start); err != nil {
			return err
		}
		return errors.Join(w.taskmanager.Start(), w.startInside())
	}, early: true}
}

// brokerKilled has everybody lose the broker in the middle of something.
func (w *world) brokerKilled() fault {
	return fault{name: "kill the broker", do: func() error {
		w.Broker.Stop()
		return within(w.Broker.Start)
	}}
}

func (w *world) databaseKilled() fault {
	return fault{name: "kill the database", do: func() error {
		w.Database.Kill()
		last(w.size.away)
		return within(w.Database.Start)
	}}
}

// keystoneAway leaves the APIs to the tokens that they know.
func (w *world) keystoneAway() fault {
	return fault{name: "kill Keystone", do: func() error {
		demo := w.Demo()
		for _, api := range w.apis {
			region.Must(w.t, func() error { return served(demo, api) })
		}
		w.Keystone.Stop()
		last(w.size.away)
		for _, api := range w.apis {
			if err := served(demo, api); err != nil {
				w.t.Errorf("%s without Keystone: %v", api.Name, err)
			}
		}
		return within(w.Keystone.Start)
	}}
}

// clockJumps moves the clock of one of each service five minutes: back, and the
// next time forth from there to as far ahead.
func (w *world) clockJumps() fault {
	return fault{name: "a clock jumps", do: func() error {
		if w.clockAhead.Load() == 0 {
			w.clockAhead.Store(-int64(5 * time.Minute))
		} else {
			w.clockAhead.Store(-w.clockAhead.Load())
		}
		return nil
	}}
}

// link is a way that can be cut.
type link interface {
	Cut() error
	Mend() error
}

func (w *world) cut(whom string, l link) fault {
	return fault{name: "cut " + whom + " off the broker", do: func() error {
		if err := l.Cut(); err != nil {
			return err
		}
		last(w.size.cut)
		return l.Mend()
	}}
}

type valve struct{ *region.Valve }

func (v valve) Cut() error  { v.Shut(); return nil }
func (v valve) Mend() error { v.Open(); return nil }

// links are several as one.
type links []link

func (l links) Cut() error  { return l.each(link.Cut) }
func (l links) Mend() error { return l.each(link.Mend) }

func (l links) each(f func(link) error) error {
	for _, one := range l {
		if err := f(one); err != nil {
			return err
		}
	}
	return nil
}

// served is whether an API lists instances.
func served(c *region.Client, api *region.Service) error {
	a, err := c.Do(api, http.MethodGet, "instances?limit=1", nil)
	if err == nil && a.Code != http.StatusOK {
		err = unexpected(a)
	}
	return err
}

// last is how long a fault does: that is the point of it.
func last(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // see above
}

// within gives a start its deadline.
func within(start func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), region.StartPatience)
	defer cancel()
	return start(ctx)
}
