package local_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/cloud/local"
)

// What is left of an instance's control group goes with its data.
func TestRemoveGroups(t *testing.T) {
	for _, controller := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if !exists(controller + "/cgroup.procs") {
			continue
		}
		id := fmt.Sprintf("removed-%d", os.Getpid())
		group := controller + "/gotrove/" + id
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Skip("no control group may be made here")
		}
		t.Cleanup(func() { _ = os.Remove(group) })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := local.RemoveGroups(ctx, slog.New(slog.DiscardHandler), id, "never-there"); err != nil {
			t.Fatal(err)
		}
		if exists(group) {
			t.Errorf("%s is still there", group)
		}
		return
	}
	t.Skip("no control groups here")
}
