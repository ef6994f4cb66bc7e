package local

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Threads that start agents go to the agents' groups for a moment. All must come
// home: what is in an instance's group is killed with the instance.
func TestThreadsComeHome(t *testing.T) {
	name := "gotrove-test-" + strconv.Itoa(os.Getpid())
	g := findCgroups(name, slog.New(slog.DiscardHandler))
	if g.parent == "" {
		t.Skip("no memory control group may be made here")
	}
	const instances, starts = 16, 40
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for i := range instances {
			if err := g.remove(ctx, strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
		}
	})
	var wg sync.WaitGroup
	for i := range instances {
		wg.Go(func() {
			for range starts {
				cmd := exec.CommandContext(ctx, "true")
				cmd.SysProcAttr = &syscall.SysProcAttr{}
				if failed, err := g.start(cmd, strconv.Itoa(i), 64); failed != nil || err != nil {
					t.Errorf("start: %v, %v", failed, err)
					return
				}
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range instances {
		if pids := g.pids(strconv.Itoa(i)); slices.Contains(pids, os.Getpid()) {
			t.Errorf("a thread of ours stayed in group %d", i)
		}
	}
}
