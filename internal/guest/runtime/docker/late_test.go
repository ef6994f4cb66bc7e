package docker_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/trove"
)

// A Docker that takes longer than there is time for is one to ask again: an error
// of the limit alone had a resize taken back, on a server that was slow to start.
func TestTooLate(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // it takes connections, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, err := docker.New(docker.Options{Socket: socket, Image: "mariadb:10.11", User: "1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = r.Fetch(ctx, func(runtime.Progress) {})
	if !trove.IsKind(err, trove.KindGuestTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fetch from a silent Docker: %v (%v), want KindGuestTimeout of the deadline", err, trove.KindOf(err))
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := r.Fetch(ended, func(runtime.Progress) {}); !errors.Is(err, context.Canceled) || trove.IsKind(err, trove.KindGuestTimeout) {
		t.Errorf("Fetch that was called off: %v, want context.Canceled", err)
	}
}
