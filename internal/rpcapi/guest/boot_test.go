package guest_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gotrove/gotrove/internal/rpcapi/guest"
)

func TestBootLines(t *testing.T) {
	lines := []guest.BootLine{
		{Since: 4210 * time.Millisecond, Stage: guest.BootStarted, Detail: "1.0"},
		{Since: 5 * time.Second, Stage: guest.BootConfig},
		{Since: 65020 * time.Millisecond, Stage: guest.BootFound, Failed: true, Detail: "There is no disk: none. a: b"},
	}
	console := "[    0.0] Linux version 6.1\r\nlogin: " + lines[0].String() + "\r\n" + lines[1].String() + "\n" +
		"trove-guestagent: [x] nonsense\ntrove-guestagent: other\n" + lines[2].String()
	if diff := cmp.Diff(lines, guest.ParseBoot(console)); diff != "" {
		t.Error(diff)
	}
	if got := (guest.BootLine{Stage: guest.BootReady, Detail: "one\ntrove-guestagent: [1.00] engine ready"}).String(); got !=
		"trove-guestagent: [0.00] engine ready: one trove-guestagent: [1.00] engine ready" {
		t.Errorf("a detail makes lines of its own: %q", got)
	}
}
