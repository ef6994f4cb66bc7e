package openstack_test

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/cloudtest"
	"github.com/gotrove/gotrove/internal/cloud/openstack/openstacktest"
)

// nowAndThen fails the first request of every kind, and one in n of the rest.
func nowAndThen(n int, fault openstacktest.Fault) func(*http.Request) openstacktest.Fault {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(r *http.Request) openstacktest.Fault {
		words := strings.Split(r.URL.Path, "/")
		for i, w := range words {
			if len(w) >= 32 {
				words[i] = ""
			}
		}
		mu.Lock()
		defer mu.Unlock()
		call := r.Method + strings.Join(words, "/")
		first := !seen[call]
		seen[call] = true
		if first || rand.N(n) == 0 {
			return fault
		}
		return openstacktest.None
	}
}

// The suite passes whatever goes wrong now and then, tried again as flows do.
func TestSuiteWithFaults(t *testing.T) {
	faults := map[string]func(f *openstacktest.Cloud){
		"429":     func(f *openstacktest.Cloud) { f.Fail = nowAndThen(3, openstacktest.TooMany) },
		"500":     func(f *openstacktest.Cloud) { f.Fail = nowAndThen(3, openstacktest.Internal) },
		"503":     func(f *openstacktest.Cloud) { f.Fail = nowAndThen(3, openstacktest.Away) },
		"lost":    func(f *openstacktest.Cloud) { f.Fail = nowAndThen(3, openstacktest.Lost) },
		"slow":    func(f *openstacktest.Cloud) { f.Fail, f.Delay = nowAndThen(5, openstacktest.Slow), 10*time.Millisecond },
		"token":   func(f *openstacktest.Cloud) { f.Fail = nowAndThen(7, openstacktest.Forgotten) },
		"behind":  func(f *openstacktest.Cloud) { f.Lag = 60 * time.Millisecond },
		"old":     func(f *openstacktest.Cloud) { f.NovaMax, f.CinderMax = "2.30", "3.20" },
		"ancient": func(f *openstacktest.Cloud) { f.NovaMax, f.CinderMax = "2.12", "3.0" },
		"all": func(f *openstacktest.Cloud) {
			kinds := []func(*http.Request) openstacktest.Fault{nowAndThen(7, openstacktest.Lost), nowAndThen(11, openstacktest.Internal),
				nowAndThen(9, openstacktest.Away), nowAndThen(8, openstacktest.TooMany)}
			var n atomic.Int64
			f.Fail = func(r *http.Request) openstacktest.Fault { return kinds[n.Add(1)%int64(len(kinds))](r) }
			f.Lag = 30 * time.Millisecond
		},
	}
	// All at once: they wait most of the time.
	var wg sync.WaitGroup
	for name, set := range faults {
		if testing.Short() && name != "all" {
			continue
		}
		wg.Go(func() {
			t.Run(name, func(t *testing.T) {
				cloudtest.Run(t, func(t *testing.T) cloudtest.Harness {
					f := openstacktest.New(t)
					set(f)
					o := options(f)
					o.Settle = f.Lag + 20*time.Millisecond
					return harness(t, cloudtest.Persistent(open(t, o)), f)
				})
			})
		})
	}
	wg.Wait()
}
