package guest

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/guest/engine"
	"github.com/gotrove/gotrove/internal/guest/engine/mariadb"
	"github.com/gotrove/gotrove/internal/guest/engine/mysql"
	"github.com/gotrove/gotrove/internal/guest/engine/postgres"
	"github.com/gotrove/gotrove/internal/guest/runtime"
	"github.com/gotrove/gotrove/internal/guest/runtime/docker"
	"github.com/gotrove/gotrove/internal/guest/runtime/process"
	"github.com/gotrove/gotrove/internal/guest/usernet"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// dockerOptions are what an agent is told whose engine is a container.
type dockerOptions struct {
	Socket   string        `conf:"gotrove.docker_socket" default:"/run/docker.sock" help:"Where Docker listens; the agent's user must be in its group."`
	Network  string        `conf:"gotrove.docker_network" default:"host" help:"host: the container has the machine's network; bridge: a network of Docker's, with the port published at address; else the name of a network of Docker's, in which the container has address."`
	Restart  bool          `conf:"gotrove.docker_restart" default:"true" help:"Docker itself starts an engine again that ends, and after a restart of the machine."`
	Registry string        `conf:"guest_agent.container_registry" help:"Registry that the next two are a login of."`
	User     string        `conf:"guest_agent.container_registry_username" help:"User at the registry."`
	Password secret.String `conf:"guest_agent.container_registry_password" help:"That user's password. A secret."`

	MariaDB    string `conf:"mariadb.docker_image" default:"mariadb" help:"Image of MariaDB; without a tag, the datastore version is it."`
	MySQL      string `conf:"mysql.docker_image" default:"mysql" help:"The same of MySQL."`
	PostgreSQL string `conf:"postgresql.docker_image" default:"postgres" help:"The same of PostgreSQL."`
}

// defaultImages are the names of the images by manager.
var defaultImages = map[string]string{mariadb.Manager: "mariadb", mysql.Manager: "mysql", postgres.Manager: "postgres"}

// image is the image of a manager's version.
func (o *dockerOptions) image(manager, version string) string {
	name := map[string]string{mariadb.Manager: o.MariaDB, mysql.Manager: o.MySQL, postgres.Manager: o.PostgreSQL}[manager]
	if last := name[strings.LastIndex(name, "/")+1:]; strings.ContainsAny(last, ":@") {
		return name
	}
	if version == "" {
		version = "latest"
	}
	return name + ":" + version
}

// openRuntime is how the engine is run, with what the engine must know of it.
func (c *config) openRuntime(log *slog.Logger) (runtime.Runtime, engine.Settings, error) {
	s := c.settings()
	switch c.Runtime {
	case process.Name:
		r, err := process.New(process.Options{})
		return r, s, err
	case docker.Name:
		port, err := c.userPort()
		if err != nil {
			return nil, s, err
		}
		r, err := docker.New(docker.Options{Port: port,
			Socket: c.Docker.Socket, Image: c.Docker.image(c.Manager, c.Version),
			Registry: c.Docker.Registry, RegistryUser: c.Docker.User, RegistryPassword: c.Docker.Password,
			Network: c.Docker.Network, Address: c.Address, MemoryMB: s.MemoryMB, Restart: c.Docker.Restart, Log: log})
		if err != nil {
			return nil, s, err
		}
		s.Tools = r
		if port != nil {
			s.Address = port.Addresses[0].IP.String()
			if routes := port.Routes(); len(routes) > 0 {
				log.Warn("host routes of the user's subnet are not set in the engine's container", "routes", routes)
			}
		}
		if port != nil || c.Docker.Network != docker.HostNetwork {
			s.Listen = "*"
		}
		return r, s, nil
	}
	return nil, s, trove.Errorf(trove.KindBadRequest, "option [gotrove] runtime: this agent does not know %q; it knows %s, %s", c.Runtime, process.Name, docker.Name)
}

// userPort is the port that only the engine's container is to have; nil if there
// is none.
func (c *config) userPort() (*usernet.Port, error) {
	if !c.Isolation || c.Runtime != docker.Name {
		return nil, nil
	}
	return usernet.Load(c.UserPort)
}

// imagesHere lists the engines of which Docker has an image.
func imagesHere(ctx context.Context, socket string) ([]installation, error) {
	var all []installation
	for manager, name := range defaultImages {
		tags, err := docker.Tags(ctx, socket, name)
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			if tag[0] >= '0' && tag[0] <= '9' { // others are no versions
				all = append(all, installation{Manager: manager, Version: tag,
					TemplateArgs: []string{"--docker-socket", socket, "--image", name + ":" + tag}})
			}
		}
	}
	slices.SortFunc(all, func(a, b installation) int { return strings.Compare(a.Manager+a.Version, b.Manager+b.Version) })
	return all, nil
}

// toolFlags are flags of commands that run an engine's own programs; the
// function gives what runs them, nil for those of this machine.
func toolFlags(flags *flag.FlagSet) func() (runtime.Tools, error) {
	socket := flags.String("docker-socket", docker.Socket, "where Docker listens")
	image := flags.String("image", "", "run the engine's programs from this `image` by Docker")
	return func() (runtime.Tools, error) {
		if *image == "" {
			return nil, nil
		}
		return docker.New(docker.Options{Socket: *socket, Image: *image})
	}
}

// removeContainers ends and removes what an agent that is gone left in Docker.
func removeContainers(ctx context.Context, args []string, errs io.Writer) error {
	flags := flag.NewFlagSet("trove-guestagent remove", flag.ContinueOnError)
	flags.SetOutput(errs)
	socket := flags.String("docker-socket", docker.Socket, "where Docker listens")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return errors.Join(errUsage, err)
	}
	for _, id := range flags.Args() {
		if err := docker.RemoveInstance(ctx, *socket, id); err != nil {
			return err
		}
	}
	return nil
}
