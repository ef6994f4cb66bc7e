package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// How old a status is does not depend on the clocks of who wrote and who reads
// it.
func TestClocksOfServicesDiffer(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			dbtest.Require(t, e)
			url := servers[e].Get(t).Database(t)
			must(t, openURL(t, url).Migrate(t.Context()))
			stores := map[string]*store.Store{}
			for name, ahead := range map[string]time.Duration{"right": 0, "ahead": 5 * time.Minute, "behind": -5 * time.Minute} {
				s, err := store.Open(t.Context(), store.Config{URL: secret.New(url), Clock: func() time.Time { return time.Now().Add(ahead) }})
				must(t, err)
				t.Cleanup(func() { must(t, s.Close()) })
				stores[name] = s
			}
			ctx := within(t)
			for by, s := range stores {
				n := newInstance("t")
				n.Instance.Task = trove.TaskNone
				id := n.Instance.ID
				fresh := func(what string) {
					t.Helper()
					for reader, r := range stores {
						i, err := r.Instance(ctx, id)
						must(t, err)
						page, _, err := r.ListInstances(ctx, store.InstanceFilter{TenantID: "t", Short: true}, store.Page{})
						must(t, err)
						for _, i := range append(page, i) {
							if i.ServiceAge < -2*time.Second || i.ServiceAge > time.Minute {
								t.Errorf("%s by the one whose clock is %s, read by the one %s: %s old", what, by, reader, i.ServiceAge)
							}
						}
						if b, err := r.Backlog(ctx, time.Minute); err != nil || b.Silent != 0 || b.SilentLongest > time.Minute {
							t.Errorf("%s, counted by the one %s: %+v, %v", what, reader, b, err)
						}
					}
				}
				must(t, s.CreateInstance(ctx, n))
				fresh("made")
				now := float64(time.Now().Unix())
				for _, sent := range []struct {
					at   float64
					want bool
				}{{now, true}, {now - 100, false}} {
					applied, err := s.Heartbeat(ctx, id, store.Beat{Status: &trove.ServiceHealthy, Sent: &sent.at})
					if must(t, err); applied != sent.want {
						t.Errorf("by the one %s: a beat of %f is applied: %t", by, sent.at, applied)
					}
				}
				fresh("heard of")
				must(t, s.SetServiceStatus(ctx, id, trove.ServiceRestarting))
				fresh("set")
			}
			// The original's conductor writes a time of its own.
			long := time.Now().UTC().Add(-200 * time.Second).Format(time.DateTime)
			must(t, store.BreakForTest(ctx, stores["right"], fmt.Sprintf("UPDATE service_statuses SET updated_at = '%s'", long)))
			for reader, r := range stores {
				page, _, err := r.ListInstances(ctx, store.InstanceFilter{TenantID: "t"}, store.Page{})
				must(t, err)
				for _, i := range page {
					if i.ServiceAge < 190*time.Second || i.ServiceAge > 260*time.Second {
						t.Errorf("the original's, read by the one %s: %s old", reader, i.ServiceAge)
					}
				}
			}
		})
	}
}
