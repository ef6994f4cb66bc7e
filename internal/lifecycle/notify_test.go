package lifecycle_test

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gotrove/gotrove/internal/lifecycle"
)

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := lifecycle.Notify(lifecycle.Ready); err != nil {
		t.Errorf("nobody listens: %v", err)
	}
	for name, path := range map[string]string{"file": filepath.Join(t.TempDir(), "n"), "abstract": "@gotrove-test-" + strconv.Itoa(int(time.Now().UnixNano()))} {
		t.Run(name, func(t *testing.T) {
			listen := path
			if listen[0] == '@' {
				listen = "\x00" + listen[1:]
			}
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: listen, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			t.Setenv("NOTIFY_SOCKET", path)
			if err := lifecycle.Notify(lifecycle.Ready); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			n, err := conn.Read(b)
			if err != nil || string(b[:n]) != "READY=1" {
				t.Errorf("%q, %v", b[:n], err)
			}
		})
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := lifecycle.Notify(lifecycle.Ready); err == nil {
		t.Error("a manager that is gone was told")
	}
}

func TestWatchdogPeriod(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "x": 0, "-1": 0, "30000000": 30 * time.Second} {
		t.Setenv("WATCHDOG_USEC", value)
		if got := lifecycle.WatchdogPeriod(); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	t.Setenv("WATCHDOG_PID", "1")
	if got := lifecycle.WatchdogPeriod(); got != 0 {
		t.Errorf("for another process: %v", got)
	}
}
