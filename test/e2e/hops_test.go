package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBrokenHops breaks what is between a request and an agent that speaks: the
// creation ends within its time, and the fault, the operation and trovectl name
// the hop.
func TestBrokenHops(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := prepare(t, "[DEFAULT]", "usage_timeout = 10")
	s.wrap = []string{"unshare", "--mount", "--propagation", "private"}
	s.start()
	agent := filepath.Join(s.home, "bin", "trove-guestagent") // where troved keeps its own
	program := func(name, text string) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		agent string
		words []string
	}{
		{program("ends", "echo no such library; sleep 0.3; exit 127"), []string{"Server failed: ", "The guest agent failed"}},
		{program("mute", "exec sleep 1000"), []string{"Agent not started: ", "its console is empty"}},
	} {
		s.inside("mount", "--bind", c.agent, agent)
		s.creationFails("mariadb", c.words...)
		s.inside("umount", "--lazy", agent)
	}
	// The agent starts, and has nowhere to report to.
	socket := filepath.Join(s.run, "bus.sock")
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	s.creationFailed("postgresql", "Broker unreachable: ", "its guest agent started")
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	i := s.create("works", "postgresql", password)
	s.remove(i.ID)
	s.exactly()
	s.quota(0)
}
