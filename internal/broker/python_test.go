package broker_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/broker"
)

// TestOsloMessaging runs Debian's oslo.messaging, unmodified, against the
// broker. Package rpc has the full interoperability tests.
func TestOsloMessaging(t *testing.T) {
	if testing.Short() {
		t.Skip("needs oslo.messaging")
	}
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import oslo_messaging").Run(); err != nil {
		t.Fatal("install Debian's package python3-oslo.messaging")
	}
	b, addr := start(t, broker.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/oslo_call.py", "rabbit://guest:guest@"+addr+"//")
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "ok\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	waitFor(t, "connections to end", func() bool { return len(b.Connections()) == 0 })
}
