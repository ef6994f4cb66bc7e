package docker_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
	"github.com/gotrove/gotrove/internal/guest/runtime/runtimetest"
)

// daemon is nil where there can be none.
var daemon *dockertest.Daemon

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if testing.Short() || dockertest.Missing(dockertest.Stable) != "" {
		return m.Run()
	}
	var err error
	if daemon, err = dockertest.Start(dockertest.Options{Sets: []string{dockertest.Stable}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := daemon.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// options are those of a container as root, whose directories tests make.
func options(t *testing.T) docker.Options {
	t.Helper()
	if daemon == nil {
		if testing.Short() {
			t.Skip("starts a Docker")
		}
		t.Skip(dockertest.Missing(dockertest.Stable))
	}
	images, err := dockertest.Images(dockertest.Stable)
	if err != nil {
		t.Fatal(err)
	}
	return docker.Options{Socket: daemon.Socket, Image: images["mariadb"], User: "0:0"}
}

func open(t *testing.T, o docker.Options) *docker.Runtime {
	t.Helper()
	r, err := docker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestConformance(t *testing.T) {
	o := options(t)
	runtimetest.Run(t, runtimetest.Harness{New: func(t *testing.T) runtime.Runtime { return open(t, o) }})
}
