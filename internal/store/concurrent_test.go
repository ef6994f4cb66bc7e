package store_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// race runs f n times at once.
func race(n int, f func(i int)) {
	start := make(chan struct{})
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() { <-start; f(i) })
	}
	close(start)
	g.Wait()
}

func newInstance(tenant string) store.NewInstance {
	id := trove.NewID()
	return store.NewInstance{
		Instance: &trove.Instance{ID: id, Name: "n", TenantID: tenant, Task: trove.TaskBuilding, VolumeSize: 2},
		Cost:     trove.QuotaDelta{trove.ResourceInstances: 1, trove.ResourceRAM: 512, trove.ResourceVolumes: 2},
		Limits:   trove.QuotaDelta{trove.ResourceInstances: 10, trove.ResourceRAM: -1, trove.ResourceVolumes: 40},
		Outbox:   []store.OutboxRow{{ID: trove.NewID(), Topic: "taskmanager", Method: "create_instance", Body: []byte("{}")}},
	}
}

func ready(t *testing.T, s *store.Store, tenant string) string {
	t.Helper()
	n := newInstance(tenant)
	n.Limits = nil
	must(t, s.CreateInstance(t.Context(), n))
	id := n.Instance.ID
	must(t, s.SetTask(t.Context(), id, trove.TaskNone))
	must(t, s.SetServiceStatus(t.Context(), id, trove.ServiceHealthy))
	must(t, s.Observe(t.Context(), map[string]trove.ServerObservation{id: {Status: trove.ServerActive}}))
	return id
}

func used(t *testing.T, s *store.Store, tenant string, r trove.Resource) int {
	t.Helper()
	qs, err := s.Quotas(t.Context(), tenant, nil)
	must(t, err)
	for _, q := range qs {
		if q.Resource == r {
			return q.InUse + q.Reserved
		}
	}
	return -1
}

// Quota 10, 30 creates at once by two processes: exactly 10.
func TestQuotaOfTwoProcesses(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		for round := range 3 {
			tenant := "tenant-" + strconv.Itoa(round) // new: its rows are not there yet
			var good, over atomic.Int64
			race(30, func(i int) {
				switch err := stores[i%2].CreateInstance(within(t), newInstance(tenant)); {
				case err == nil:
					good.Add(1)
				case trove.IsKind(err, trove.KindOverLimit):
					over.Add(1)
				default:
					t.Error(err)
				}
			})
			if good.Load() != 10 || over.Load() != 20 {
				t.Errorf("%d accepted, %d refused", good.Load(), over.Load())
			}
			page, _, err := stores[0].ListInstances(t.Context(), store.InstanceFilter{TenantID: tenant}, store.Page{})
			must(t, err)
			if n := used(t, stores[1], tenant, trove.ResourceRAM); len(page) != 10 || n != 5120 {
				t.Errorf("%d instances, %d MiB in use", len(page), n)
			}
			race(20, func(i int) {
				if err := stores[i%2].FinishDelete(within(t), page[i%10].ID); err != nil {
					t.Error(err)
				}
			})
			if n := used(t, stores[1], tenant, trove.ResourceVolumes); n != 0 {
				t.Errorf("%d GiB in use after everything was deleted", n)
			}
		}
	})
}

// Two processes that begin operations on one instance: one of them wins, and
// only its message is written.
func TestOneOperationWins(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		for range 5 {
			id := ready(t, stores[0], "t")
			var good, refused atomic.Int64
			tasks := []trove.Task{trove.TaskRebooting, trove.TaskResizing, trove.TaskNone}
			race(12, func(i int) {
				err := stores[i%2].BeginTask(within(t), id, store.TaskChange{Task: tasks[i%2], Service: &trove.ServiceRestarting,
					Outbox: []store.OutboxRow{{ID: trove.NewID(), Topic: "t", Method: "m" + strconv.Itoa(i), Subject: id, Body: []byte("b")}}})
				switch {
				case err == nil:
					good.Add(1)
				case trove.IsKind(err, trove.KindUnprocessable):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
			rows, err := stores[0].Outbox(t.Context(), 0, 1000)
			must(t, err)
			n := 0
			for _, r := range rows {
				if r.Subject == id && r.Method != "create_instance" {
					n++
				}
			}
			if good.Load() != 1 || refused.Load() != 11 || n != 1 {
				t.Errorf("%d began, %d were refused, %d messages", good.Load(), refused.Load(), n)
			}
		}
	})
}

// A replica is not made of an instance that is being deleted, and none is
// deleted that has a replica, whoever is first.
func TestReplicaOrDelete(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		for range 10 {
			id := ready(t, stores[0], "t")
			replica := newInstance("t")
			replica.Instance.ReplicaOf, replica.Limits = id, nil
			errs := make([]error, 2)
			race(2, func(i int) {
				if i == 0 {
					errs[0] = stores[0].CreateInstance(within(t), replica)
				} else {
					errs[1] = stores[1].BeginDelete(within(t), id, nil)
				}
			})
			if (errs[0] == nil) == (errs[1] == nil) {
				t.Fatalf("replica: %v, delete: %v: want one to succeed", errs[0], errs[1])
			}
			if errs[0] != nil && !trove.IsKind(errs[0], trove.KindUnprocessable) || errs[1] != nil && !trove.IsKind(errs[1], trove.KindForbidden) {
				t.Errorf("replica: %v, delete: %v", errs[0], errs[1])
			}
		}
	})
}

// Two engines lease what is accepted at the same time: each piece once, one per
// instance at a time, in the order it was accepted.
func TestTwoEnginesLease(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		ctx := within(t)
		const instances, each, workers = 5, 8, 6
		subjects := make([]string, instances)
		for i := range subjects {
			subjects[i] = ready(t, stores[0], "t")
		}
		subjects[0] = "no instance" // and so nothing to lock
		var mu sync.Mutex
		running, done := map[string]string{}, map[string]int{}
		var left atomic.Int64
		left.Store(instances * each)
		accept := func(n int) {
			w := store.NewWork{ID: trove.NewID(), Kind: "k", Subject: subjects[n%instances], RequestID: "r" + strconv.Itoa(n), Step: "one", State: []byte("{}")}
			for range 2 { // as a message that comes twice
				if _, err := stores[n%2].AcceptWork(ctx, w); err != nil {
					t.Error(err)
				}
			}
		}
		work := func(worker int) {
			s := stores[worker%2]
			for turn := 0; left.Load() > 0 && ctx.Err() == nil; turn++ {
				owner := fmt.Sprintf("%d/%d", worker, turn)
				w, err := s.LeaseWork(ctx, owner, []string{"k"}, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if w == nil {
					select {
					case <-ctx.Done():
					case <-time.After(time.Millisecond):
					}
					continue
				}
				mu.Lock()
				if other, busy := running[w.Subject]; busy {
					t.Errorf("%s and %s work on %s", owner, other, w.Subject)
				}
				running[w.Subject] = owner
				mu.Unlock()
				u := store.WorkUpdate{ID: w.ID, Owner: owner, Version: w.Version, Step: "two", State: []byte("{}"), Lease: time.Minute,
					Events: []trove.OperationEvent{{OperationID: w.ID, InstanceID: w.Subject, Kind: "k", Step: "one", State: trove.OperationDone}}}
				saved, err := s.SaveWork(ctx, u)
				if err == nil {
					mu.Lock()
					delete(running, w.Subject)
					mu.Unlock()
					if w.Step == "one" { // and once more, by anyone
						u.Release = true
					} else {
						u.Finished = trove.OperationDone
					}
					u.Version, u.SeenWakes = saved.Version, saved.Wakes
					_, err = s.SaveWork(ctx, u)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if u.Finished != "" {
					mu.Lock()
					done[w.ID]++
					mu.Unlock()
					left.Add(-1)
				}
			}
		}
		race(instances*each+workers, func(i int) {
			if i < instances*each {
				accept(i)
			} else {
				work(i)
			}
		})
		if len(done) != instances*each {
			t.Errorf("%d pieces of work are done, want %d", len(done), instances*each)
		}
		for id, n := range done {
			if n != 1 {
				t.Errorf("%s was done %d times", id, n)
			}
		}
	})
}

// Who reads events on from the last sequence misses none, though several write.
func TestEventsAreInOrder(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		ctx := within(t)
		id := ready(t, stores[0], "t")
		const writers, each = 6, 15
		seen := map[string]bool{}
		var writing sync.WaitGroup
		writing.Add(writers)
		race(writers+1, func(i int) {
			if i < writers {
				defer writing.Done()
				for n := range each {
					if err := stores[i%2].AddWorkEvent(ctx, trove.OperationEvent{OperationID: "w", InstanceID: id, Message: fmt.Sprint(i, n)}); err != nil {
						t.Error(err)
					}
				}
				return
			}
			finished := make(chan struct{})
			go func() { writing.Wait(); close(finished) }()
			last, over := int64(0), false
			for {
				select {
				case <-finished:
					over = true
				default:
				}
				events, err := stores[0].Events(ctx, id, last, 7)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					seen[e.Message], last = true, e.Sequence
				}
				if over && len(events) == 0 {
					return
				}
			}
		})
		if len(seen) != writers*each {
			t.Errorf("%d events were seen, want %d", len(seen), writers*each)
		}
	})
}

// A burst of writes of every kind about the same instances: none is lost, and
// none fails.
func TestBurst(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func() *store.Store) {
		stores := []*store.Store{open(), open()}
		ctx := within(t)
		const instances = 200
		ids := make([]string, instances)
		race(8, func(w int) {
			for i := w; i < instances; i += 8 {
				ids[i] = ready(t, stores[w%2], "t")
			}
		})
		seen := map[string]trove.ServerObservation{}
		for _, id := range ids {
			seen[id] = trove.ServerObservation{Status: trove.ServerActive}
		}
		race(12, func(w int) {
			s := stores[w%2]
			if w < 3 {
				if err := s.Observe(ctx, seen); err != nil {
					t.Error(err)
				}
				return
			}
			for i := range ids {
				id := ids[(i+w*20)%instances]
				var err error
				switch w % 3 {
				case 0:
					_, err = s.Heartbeat(ctx, id, store.Beat{Status: &trove.ServiceHealthy})
				case 1:
					err = s.RecordStage(ctx, id, "copying", nil)
				default:
					err = s.SetFault(ctx, id, trove.Fault{Message: "m"})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		page, _, err := stores[0].ListInstances(ctx, store.InstanceFilter{TenantID: "t"}, store.Page{})
		must(t, err)
		if n := used(t, stores[0], "t", trove.ResourceInstances); len(page) != instances || n != instances {
			t.Errorf("%d instances, %d in use", len(page), n)
		}
		for _, i := range page {
			if i.Fault == nil || i.Service != trove.ServiceHealthy || i.Server.Status != trove.ServerActive {
				t.Errorf("%s: %+v", i.ID, i)
			}
		}
	})
}
