package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/gotrove/gotrove/internal/guest/runtime/docker/dockertest"
)

// dockerSeconds is how long a create may take whose engine is a container, with
// the image there.
const dockerSeconds = 6

// docker measures creates with containers, one after the other, by a Docker of
// its own. Where it cannot have one it says so.
func (b *bench) docker(ctx context.Context) (err error) {
	if why := dockertest.Missing(dockertest.Stable); why != "" {
		fmt.Fprintln(b.out, "# part docker is left out:", why)
		return nil
	}
	const group = 4242
	d, err := dockertest.Start(dockertest.Options{Sets: []string{dockertest.Stable}, GID: group})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	s, err := newStandalone(b.bin, "runtime = docker", "docker_socket = "+d.Socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove()) }()
	if _, err := s.start(ctx); err != nil {
		return err
	}
	if err := s.login(ctx); err != nil {
		return err
	}
	for _, g := range goals {
		var times []float64
		for n := range b.rounds + 1 {
			id, took, err := s.create(ctx, g.datastore)
			if err != nil {
				return err
			}
			if n == b.rounds { // the last one only sits there
				if err := b.dockerAgent(g.datastore, id); err != nil {
					return err
				}
			} else {
				times = append(times, took.Seconds())
			}
			if err := s.delete(ctx, id); err != nil {
				return err
			}
		}
		one := median(times)
		if err := b.most("docker_create_"+g.datastore, one, "s", "<=", dockerSeconds,
			fmt.Sprintf("as create_%s, the engine in a container, the image there, median of %d, best %.3g, worst %.3g", g.datastore, b.rounds, times[0], times[len(times)-1])); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) dockerAgent(datastore, id string) error {
	agent, _, err := family(id)
	if err != nil {
		return err
	}
	value, err := rss(agent)
	if err != nil {
		return err
	}
	return b.info("docker_guestagent_"+datastore+"_rss", value, "MiB", "resident, as soon as the instance served")
}
