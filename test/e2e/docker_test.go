package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
)

// dockerGroup may use the Docker of tests; the engines' user is not in it but
// by troved's doing.
const dockerGroup = 4242

// inContainers is a standalone whose engines are containers of a Docker of its
// own.
func inContainers(t *testing.T) (*standalone, *dockertest.Daemon) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Docker")
	}
	if why := dockertest.Missing(dockertest.Stable); why != "" {
		t.Skip(why)
	}
	sets := []string{dockertest.Stable}
	if dockertest.Missing(dockertest.MySQL) == "" {
		sets = append(sets, dockertest.MySQL)
	}
	d, err := dockertest.Start(dockertest.Options{Sets: sets, GID: dockerGroup})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := prepare(t, "runtime = docker", "docker_socket = "+d.Socket)
	s.start()
	return s, d
}

// containers checks that Docker has n containers, whatever they do.
func (s *standalone) containers(d *dockertest.Daemon, n int) {
	s.t.Helper()
	s.eventually("the containers are as many as the instances", func() error {
		out, err := d.Docker(s.t.Context(), "ps", "--all", "--format", "{{.Names}} {{.Status}}")
		if err == nil && len(strings.Fields(strings.ReplaceAll(out, " ", "_"))) != n {
			err = fmt.Errorf("%d instances have the containers %s", n, out)
		}
		return err
	})
}

// TestDocker is the life of instances whose engines are containers, the end of
// an agent and of Docker in it.
func TestDocker(t *testing.T) {
	t.Parallel()
	s, d := inContainers(t)
	all := datastores
	if dockertest.Missing(dockertest.MySQL) == "" {
		all = append(slices.Clone(all), "mysql")
	}
	life(t, s, all...)
	s.containers(d, 0)

	both := s.both(10)
	s.containers(d, len(both))
	for _, i := range both {
		agent, engine := s.mustPIDs(i.ID)
		s.signal(agent, syscall.SIGKILL)
		s.eventually("another agent finds the engine of "+i.Name, func() error {
			now, same, err := s.pids(i.ID)
			switch {
			case err != nil:
				return err
			case same != engine:
				t.Fatalf("the engine was pid %d and is pid %d", engine, same)
			case now == agent:
				return errors.New("not yet")
			}
			return nil
		})
		s.trovectl("database", "create", i.ID, "later")
	}

	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, i := range both {
		s.unharmed(i, 10) // without Docker too
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	// It ended all that ran, as it does without live restore.
	for _, i := range both {
		s.eventually("the agent starts the engine of "+i.Name+" again", func() error {
			_, _, err := s.pids(i.ID)
			return err
		})
		s.unharmed(i, 10)
	}
	s.containers(d, len(both))

	s.kill9()
	s.start()
	for _, i := range both {
		s.unharmed(i, 10)
	}
	s.stop()
	s.containers(d, 0)
	s.start()
	var ids []string
	for _, i := range both {
		s.unharmed(i, 10)
		ids = append(ids, i.ID)
	}
	s.remove(ids...)
	s.containers(d, 0)
	s.exactly()
}
