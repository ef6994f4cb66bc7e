package porttest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if asked := os.Getenv("PORTTEST_LOCK"); asked != "" {
		port, err := strconv.Atoi(asked)
		if err != nil {
			panic(err)
		}
		unlock, err := lock(port)
		os.Stdout.WriteString(map[bool]string{true: "taken", false: "free"}[unlock == nil && err == nil])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestFree(t *testing.T) {
	t.Parallel()
	first, last, err := kernelRange()
	if err != nil {
		t.Fatal(err)
	}
	left := first > from || last < to-1
	seen := map[int]bool{}
	for range 100 {
		port, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < from || port >= to || left && first <= port && port <= last {
			t.Errorf("port %d, before it %v", port, seen)
		}
		seen[port] = true
	}
}

// A port is the process's for as long as it lives, whether anybody listens or not.
func TestReserved(t *testing.T) {
	t.Parallel()
	port, err := Free()
	if err != nil {
		t.Fatal(err)
	}
	other := func(port int) string {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "PORTTEST_LOCK="+strconv.Itoa(port))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := other(port); got != "taken" {
		t.Errorf("to another process a port of ours is %s", got)
	}
	if got := other(1); got != "free" {
		t.Errorf("to another process a port of nobody is %s", got)
	}
	if unlock, err := lock(port); unlock != nil || err != nil {
		t.Errorf("the same port twice: %v", err)
	}
}
