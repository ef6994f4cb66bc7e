package cloud

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/rpcapi/conductor"
	"github.com/gotrove/gotrove/internal/trove"
	"github.com/gotrove/gotrove/test/region"
)

// burst sends 5,000 sealed heartbeats as fast as they go, and kills a conductor
// that has its hands full of them: the database is frozen meanwhile. Each
// guest's last one must be what the database says.
func burst(t *testing.T, r *region.Region, conductors []*region.Service) {
	const beats = 10
	statuses := []trove.ServiceStatus{trove.ServiceRunning, trove.ServiceHealthy, trove.ServiceShutdown, trove.ServiceCrashed,
		trove.ServicePaused, trove.ServiceBlocked}
	guests := r.Guests(500, "burst")
	type last struct {
		sent   float64
		status trove.ServiceStatus
	}
	final := map[string]last{}
	var mu sync.Mutex
	var sent atomic.Int64
	third, half := make(chan struct{}), make(chan struct{})
	began := time.Now()
	work := make(chan region.Guest)
	var sending sync.WaitGroup
	for range 64 {
		sending.Go(func() {
			for g := range work {
				at := float64(time.Now().UnixMicro()) / 1e6
				status := statuses[rand.IntN(len(statuses))]
				ctx, cancel := context.WithTimeout(context.Background(), region.Patience)
				err := g.Conductor.Heartbeat(ctx, conductor.Heartbeat{InstanceID: g.ID, Sent: &at, Payload: conductor.Payload{ServiceStatus: status.Description}})
				cancel()
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				if at > final[g.ID].sent {
					final[g.ID] = last{at, status}
				}
				mu.Unlock()
				switch sent.Add(1) {
				case int64(len(guests) * beats / 3):
					close(third)
				case int64(len(guests) * beats / 2):
					close(half)
				}
			}
		})
	}
	var killing sync.WaitGroup
	killing.Go(func() {
		<-third
		if err := r.Database.Pause(); err != nil {
			t.Error(err)
		}
		<-half
		conductors[0].Kill()
		r.Database.Resume()
		if err := conductors[0].Start(); err != nil {
			t.Error(err)
		}
	})
	// A part of the guests after the other, so that some are at their last when
	// the conductor is killed.
	for part := range slices.Chunk(guests, 50) {
		for range beats {
			for _, g := range part {
				work <- g
			}
		}
	}
	close(work)
	sending.Wait()
	t.Logf("%d heartbeats were sent in %s", sent.Load(), time.Since(began).Round(time.Millisecond))
	killing.Wait()
	region.Must(t, func() error {
		rows, err := r.SQL.QueryContext(t.Context(), "SELECT s.instance_id, s.status_description, c.sent FROM service_statuses s JOIN conductor_lastseen c ON c.instance_id = s.instance_id AND c.method_name = 'heartbeat'")
		if err != nil {
			return err
		}
		defer rows.Close()
		right := 0
		for rows.Next() {
			var id, status string
			var at float64
			if err := rows.Scan(&id, &status, &at); err != nil {
				return err
			}
			if f, ours := final[id]; ours && f.sent-at < 1e-3 && at-f.sent < 1e-3 && f.status.Description == status {
				right++
			}
		}
		if right != len(guests) {
			return fmt.Errorf("of %d guests, %d are in the state they were last in", len(guests), right)
		}
		return rows.Err()
	})
	t.Logf("all were written down after %s", time.Since(began).Round(time.Millisecond))
}
