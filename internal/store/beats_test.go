package store_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/store/dbtest"
	"github.com/gotrove/gotrove/internal/trove"
)

// A server that is killed and started again while groups of beats are written
// loses none that is not told to be lost.
func TestHeartbeatsWhileTheServerRestarts(t *testing.T) {
	t.Parallel()
	for _, e := range []dbtest.Engine{dbtest.MariaDB, dbtest.PostgreSQL} {
		t.Run(string(e), func(t *testing.T) {
			t.Parallel()
			server := dbtest.Start(t, e)
			s := openURL(t, server.Database(t))
			ctx := within(t)
			must(t, s.Migrate(ctx))
			var ids []string
			for range 30 {
				ids = append(ids, ready(t, s, "t"))
			}
			var written atomic.Int64
			restarted := make(chan struct{})
			last := make([]float64, len(ids)) // each instance belongs to one goroutine
			var wg sync.WaitGroup
			for g := range 3 {
				wg.Go(func() {
					mine, over := ids[g*10:g*10+10], 0
					for sent := 1.0; over < 5 && ctx.Err() == nil; sent++ {
						var beats []store.InstanceBeat
						status := &trove.ServiceHealthy
						if int(sent)%2 == 0 {
							status = &trove.ServiceCrashed
						}
						for _, id := range mine {
							beats = append(beats, store.InstanceBeat{InstanceID: id, Beat: store.Beat{Status: status, Sent: &sent}})
						}
						for i, r := range s.Heartbeats(ctx, beats) {
							switch {
							case r.Err == nil:
								last[g*10+i] = sent
								written.Add(1)
							case !trove.IsKind(r.Err, trove.KindUnavailable):
								t.Error(r.Err)
							}
						}
						select {
						case <-restarted:
							over++
						default:
						}
					}
				})
			}
			for range 3 {
				at := written.Load()
				for written.Load() < at+100 && ctx.Err() == nil {
					must(t, s.Ping(ctx))
				}
				server.Kill()
				must(t, server.Start(ctx))
			}
			close(restarted)
			wg.Wait()
			for i, id := range ids {
				got, err := s.Instance(ctx, id)
				must(t, err)
				want := trove.ServiceHealthy
				if int(last[i])%2 == 0 {
					want = trove.ServiceCrashed
				}
				if got.Service != want {
					t.Errorf("instance %d is %v; its last beat %v said %v", i, got.Service, last[i], want)
				}
			}
		})
	}
}
