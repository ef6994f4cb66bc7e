package bootlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// Causes that alternate do not fill the console.
func TestAlternatingCausesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, now := New(path), time.Duration(0)
	l.since = func() time.Duration { return now }
	for range 600 { // ten minutes, one a second
		now += time.Second
		l.Failed(guestapi.BootBroker, fmt.Errorf("from port %d: refused", now/time.Second))
		l.Failed(guestapi.BootBroker, errors.New("timeout"))
	}
	l.Failed(guestapi.BootLogin, errors.New("refused")) // another stage has lines of its own
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "FAILED broker reached"); n < failuresAtOnce+8 || n > failuresAtOnce+10 {
		t.Errorf("%d lines in ten minutes:\n%s", n, text)
	}
	if strings.Count(string(text), "\n") != 2*strings.Count(string(text), "FAILED") || !strings.Contains(string(text), guestapi.BootLine{Since: now, Stage: guestapi.BootLogin, Failed: true, Detail: "refused"}.String()) {
		t.Errorf("another stage is not told:\n%s", text)
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
