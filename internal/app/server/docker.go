package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/gotrove/gotrove/internal/cloud/local"
	"github.com/gotrove/gotrove/internal/trove"
)

// engineOptions say how the local cloud runs engines.
type engineOptions struct {
	Runtime string `conf:"gotrove.runtime" default:"process" help:"How the local cloud runs engines: process, those installed on this machine, or docker, containers of the images that are here (--runtime)."`
	Docker  string `conf:"gotrove.docker_socket" default:"/run/docker.sock" help:"Where Docker listens (--docker-socket)."`
}

// Values of [gotrove] runtime.
const (
	runtimeProcess = "process"
	runtimeDocker  = "docker"
)

func (o *engineOptions) check() error {
	switch o.Runtime {
	case runtimeProcess, runtimeDocker:
		return nil
	}
	return trove.Errorf(trove.KindBadRequest, "[gotrove] runtime: %q is neither %s nor %s", o.Runtime, runtimeProcess, runtimeDocker)
}

// socket is where Docker listens; empty if engines are no containers.
func (o *engineOptions) socket() string {
	if o.Runtime == runtimeDocker {
		return o.Docker
	}
	return ""
}

// agentsUser is whom agents run as: engineUser, who may use Docker if he is to.
func (c *Config) agentsUser() (*local.User, error) {
	u, err := engineUser(c.EngineUser)
	if err != nil || u == nil || c.Engines.socket() == "" {
		return u, err
	}
	st, err := os.Stat(c.Engines.Docker)
	if err != nil {
		return nil, trove.Errorf(trove.KindUnavailable, "Docker's socket: %w", err).
			WithAction("Install and start Docker (apt-get install docker.io), or choose --runtime process.")
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok && s.Gid != 0 {
		u.Groups = append(u.Groups, int(s.Gid))
	}
	return u, nil
}

// discoverArgs are how trove-guestagent lists the engines.
func (o *engineOptions) discoverArgs() []string {
	if o.socket() == "" {
		return []string{"engines"}
	}
	return []string{"engines", "--docker-socket", o.Docker}
}

// install is how people get what was not found.
func (o *engineOptions) install() string {
	if o.socket() == "" {
		return "apt-get install mariadb-server-core postgresql"
	}
	return "docker pull mariadb:11.8; docker pull postgres:17"
}

// removeContainers removes what agents that are gone left in Docker. Where there
// is none, or none for us, there is nothing.
func (c *Config) removeContainers(ctx context.Context, ids []string) error {
	agent := c.path("bin", "trove-guestagent")
	if _, err := os.Stat(agent); err != nil || len(ids) == 0 {
		return nil
	}
	if _, err := os.Stat(c.Engines.Docker); err != nil {
		return nil
	}
	out, err := agentCommand(ctx, nil, agent, append([]string{"remove", "--docker-socket", c.Engines.Docker}, ids...)...).CombinedOutput()
	if err != nil && c.Engines.socket() != "" {
		return fmt.Errorf("remove containers: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
