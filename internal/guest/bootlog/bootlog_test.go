package bootlog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	guestapi "github.com/gotrove/gotrove/internal/rpcapi/guest"
)

func TestEachThingIsToldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(path)
	l.since = func() time.Duration { return 1500 * time.Millisecond }
	l.Reached(guestapi.BootStarted, "v1")
	l.Reached(guestapi.BootStarted, "v1")
	l.Failed(guestapi.BootBroker, errors.New("refused"))
	l.Failed(guestapi.BootBroker, errors.New("refused"))
	l.Failed(guestapi.BootBroker, errors.New("timeout"))
	l.Failed(guestapi.BootBroker, nil)
	l.Reached(guestapi.BootBroker, "")
	l.Failed(guestapi.BootBroker, errors.New("lost"))
	want := `kernel
trove-guestagent: [1.50] agent started: v1

trove-guestagent: [1.50] FAILED broker reached: refused

trove-guestagent: [1.50] FAILED broker reached: timeout

trove-guestagent: [1.50] broker reached
`
	if got, err := os.ReadFile(path); string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

func TestConsoleIsNotNeeded(t *testing.T) {
	New("").Reached(guestapi.BootStarted, "")
	New("").Failed(guestapi.BootStarted, errors.New("x"))
	New(filepath.Join(t.TempDir(), "none", "console")).Reached(guestapi.BootStarted, "")
	if sinceBoot() <= 0 {
		t.Error("the machine has not started yet")
	}
}
