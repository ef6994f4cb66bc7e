package server

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/osloconf"
)

// TestHangup: logrotate's signal to all services ends none, with a log file or
// without. If it does, the whole test does.
func TestHangup(t *testing.T) {
	c, warnings, err := LoadConfig(osloconf.Sources{Environ: []string{"OS_GOTROVE__METRICS_LISTEN=127.0.0.1:0", "OS_GOTROVE__DATA_DIR=" + t.TempDir()}}, false)
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	p, err := newProcess(t.Context(), "trove-conductor", c, warnings, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- run(ctx, p, "test", func(context.Context) ([]any, error) { return nil, nil }, func() { close(ready) })
	}()
	<-ready
	deadline := time.Now().Add(60 * time.Second)
	for !strings.Contains(log.String(), "SIGHUP") {
		if time.Now().After(deadline) {
			t.Fatalf("no word of the signal:\n%s", log.String())
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
