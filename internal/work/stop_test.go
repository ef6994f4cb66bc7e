package work_test

import (
	"context"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/work"
	"github.com/gotrove/gotrove/internal/work/worktest"
)

// lateClaims is a store that is told to stop while it commits a claim. Like
// PostgreSQL's driver it then gives up a COMMIT that the server has carried out.
type lateClaims struct {
	work.Store
	claimed chan struct{}
	stopped <-chan struct{}
}

func (l lateClaims) LeaseWork(ctx context.Context, owner string, kinds []string, lease time.Duration) (*store.Work, error) {
	w, err := l.Store.LeaseWork(context.WithoutCancel(ctx), owner, kinds, lease)
	if w == nil || err != nil {
		return w, err
	}
	close(l.claimed)
	<-l.stopped
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return w, nil
}

// What a process claimed in the moment in which it was stopped is given back: the
// next one need not wait for the end of a lease.
func TestStopGivesBackWhatIsBeingClaimed(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	ctx, stop := context.WithCancel(t.Context())
	late := lateClaims{Store: s, claimed: make(chan struct{}), stopped: ctx.Done()}
	o := quick()
	o.Lease = time.Hour
	e, err := work.New(late, o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{step("one")}})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, e, "k", "i1", "m1", counter{})
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	wait(t, late.claimed, "a claim")
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(worktest.Patience):
		t.Fatal("the engine does not stop")
	}
	w, err := s.LeaseWork(t.Context(), "another", []string{"k"}, time.Minute)
	if err != nil || w == nil {
		t.Fatalf("another process gets %v, %v: the work was not given back", w, err)
	}
	if w.Step != "one" || w.Attempt != 0 {
		t.Errorf("the work is at step %s, attempt %d: it should not have begun", w.Step, w.Attempt)
	}
}

// A step is told that its lease ends while nobody else can have the row yet: what
// it had begun in a cloud is over when another process looks.
func TestStepEndsBeforeItsLease(t *testing.T) {
	t.Parallel()
	s := worktest.Store(t)
	o := quick()
	o.Lease = 12 * time.Second
	taken := make(chan *store.Work, 1)
	e, _ := start(t, &deaf{Store: s}, o, work.Flow[counter]{Kind: "k", Steps: []work.Step[counter]{{Name: "only",
		Do: func(ctx context.Context, r *work.Run[counter]) work.Outcome {
			<-ctx.Done()
			w, err := s.LeaseWork(context.WithoutCancel(ctx), "another", []string{"k"}, time.Minute)
			if err != nil {
				t.Error(err)
			}
			taken <- w
			return work.Done()
		}}}})
	accept(t, e, "k", "i1", "m1", counter{})
	select {
	case w := <-taken:
		if w != nil {
			t.Error("another process had the row when the step was told")
		}
	case <-time.After(worktest.Patience):
		t.Fatal("the step was not told")
	}
}
