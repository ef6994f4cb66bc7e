package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gotrove/gotrove/test/region"
)

// outcome is what the caller of an API knows afterwards.
type outcome int

const (
	accepted outcome = iota
	refused          // with a 5xx that says so: it will not be done
	unknown          // no answer: the process was killed
)

// call makes a request that is to end with one of the codes. What else may be is
// a refusal that says why, and no answer by a process that is gone; all other
// fails the test.
func (w *world) call(c *region.Client, api *region.Service, method, path string, body any, codes ...int) (region.Answer, outcome) {
	life, served := api.Life()
	began := time.Now()
	a, err := c.Do(api, method, path, body)
	if took := time.Since(began); took > 15*time.Second {
		w.t.Errorf("%s %s at %s took %s", method, path, api.Name, took)
	}
	if err != nil {
		if now, serves := api.Life(); served && serves && now == life {
			w.t.Errorf("%s %s: %s serves and gave no answer: %v", method, path, api.Name, err)
		}
		return a, unknown
	}
	for _, code := range codes {
		if a.Code == code {
			return a, accepted
		}
	}
	if a.Code < 500 || !told(a) {
		w.t.Errorf("%s %s at %s: %v", method, path, api.Name, unexpected(a))
	}
	return a, refused
}

func unexpected(a region.Answer) error { return fmt.Errorf("%d: %s", a.Code, a.Body) }

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

// ledger is what became of the names that creations were asked for with.
type ledger struct {
	mu       sync.Mutex
	outcomes map[string]outcome
}

// create asks for instances until one is accepted, each time by a new name, so
// that what becomes of each request can be told.
func (w *world) create(c *region.Client, l *ledger, name string) {
	n := 0
	if err := region.Until(context.Background(), func() error {
		n++
		try := fmt.Sprintf("%s.%d", name, n)
		a, o := w.call(c, w.apis[rand.IntN(len(w.apis))], http.MethodPost, "instances", region.NewInstance(try, "mariadb"), http.StatusOK)
		l.mu.Lock()
		l.outcomes[try] = o
		l.mu.Unlock()
		if o != accepted {
			return fmt.Errorf("create %s: %d: %s", try, a.Code, a.Body)
		}
		return nil
	}); err != nil {
		w.t.Error(err)
	}
}

// delete asks until a deletion is accepted. A second request is one too many
// where the first was accepted without an answer, and only there.
func (w *world) delete(c *region.Client, id string) {
	first, before := true, accepted
	if err := region.Until(context.Background(), func() error {
		codes := []int{http.StatusAccepted}
		if !first && before == unknown {
			codes = append(codes, http.StatusNotFound, http.StatusUnprocessableEntity)
		}
		a, o := w.call(c, w.apis[rand.IntN(len(w.apis))], http.MethodDelete, "instances/"+id, nil, codes...)
		first = false
		if before != unknown {
			before = o
		}
		if o != accepted {
			return fmt.Errorf("delete %s: %d: %s", id, a.Code, a.Body)
		}
		return nil
	}); err != nil {
		w.t.Error(err)
	}
}

// list gives all instances by id, page for page.
func (w *world) list(c *region.Client, api *region.Service) map[string]region.Instance {
	w.t.Helper()
	all := map[string]region.Instance{}
	for query := "limit=20"; ; {
		var page struct {
			Instances []region.Instance
			Links     []struct{ Rel, Href string }
		}
		c.Want(api, http.StatusOK, http.MethodGet, "instances?"+query, nil, &page)
		for _, i := range page.Instances {
			if _, twice := all[i.ID]; twice {
				w.t.Fatalf("instance %s is on two pages", i.ID)
			}
			all[i.ID] = i
		}
		if len(page.Links) == 0 {
			return all
		}
		next, err := url.Parse(page.Links[0].Href)
		if err != nil {
			w.t.Fatal(err)
		}
		query = next.RawQuery
	}
}

// watch reads from each API all the time until done is closed, as people do.
func (w *world) watch(c *region.Client, done <-chan struct{}) *sync.WaitGroup {
	var watching sync.WaitGroup
	for _, api := range w.apis {
		watching.Go(func() {
			tick := time.NewTicker(300 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
					w.call(c, api, http.MethodGet, "instances?limit=20", nil, http.StatusOK)
				}
			}
		})
	}
	return &watching
}
