// Package server puts the control plane together: it turns configuration into
// constructed services and runs them until it is told to stop. It is the map of
// the system: what depends on what can be read here, and nowhere else do
// services meet.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	runtimedebug "runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/trove"
)

// Main runs a command line and returns the exit code: 0, 1 for a failure, 2 for
// a wrong command line. The name that the program is called by may be that of a
// role: trove-api is `troved api`.
func Main(version string, args []string, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	program := filepath.Base(args[0])
	root := rootCommand(version, program)
	root.SetArgs(args[1:])
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errs, "%s: %v\n", program, err)
	if action := trove.ActionOf(err); action != "" {
		fmt.Fprintln(errs, "What to do:", action)
	}
	var usage *usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown ") {
		return 2
	}
	return 1
}

// rootCommand is the command line of a program: a role's own, or troved's with
// the roles as its commands.
func rootCommand(version, program string) *cobra.Command {
	var root *cobra.Command
	if program == manageName {
		root = manageCommand()
	}
	for _, r := range roles {
		if r.name == program {
			root = roleCommand(r, version)
		}
	}
	if root == nil {
		root = &cobra.Command{Use: "troved", Short: "The server roles of gotrove"}
		root.AddCommand(standaloneCommand(version), stopCommand())
		for _, r := range roles {
			cmd := roleCommand(r, version)
			cmd.Use = strings.TrimPrefix(r.name, "trove-")
			root.AddCommand(cmd)
		}
		cmd := manageCommand()
		cmd.Use = strings.TrimPrefix(manageName, "trove-")
		root.AddCommand(cmd)
	}
	root.Version, root.SilenceErrors, root.SilenceUsage = version, true, true
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// files are the flags that say where the configuration is.
type files struct{ files, dirs []string }

func (f *files) flags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.files, "config-file", nil, "configuration file, in oslo.config's format (repeatable)")
	flags.StringArrayVar(&f.dirs, "config-dir", nil, "directory whose *.conf files are read after those (repeatable)")
}

// sources are where the configuration of a program is read from: what its flags
// name, else where OpenStack's services look.
func (f *files) sources(program string) osloconf.Sources {
	src := osloconf.Sources{Files: f.files, Dirs: f.dirs, Environ: os.Environ()}
	if len(f.files)+len(f.dirs) == 0 {
		src.Files, src.Dirs = osloconf.Find("trove", program)
	}
	return src
}

// roleCommand runs a role of a cloud.
func roleCommand(r role, version string) *cobra.Command {
	var (
		f     files
		debug bool
	)
	cmd := &cobra.Command{Use: r.name, Short: r.does, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		src := f.sources(r.name)
		if debug {
			src.Environ = append(src.Environ, "OS_DEFAULT__DEBUG=true")
		}
		c, warnings, err := LoadConfig(src, false)
		if err != nil {
			return err
		}
		p, err := newProcess(cmd.Context(), r.name, c, warnings, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if os.Getenv("GOGC") == "" {
			// Live data are few and messages many: at the default of 100 a tenth
			// of a busy process's time goes into collecting 4 MiB again and again.
			runtimedebug.SetGCPercent(200)
		}
		return run(cmd.Context(), p, version, func(ctx context.Context) ([]any, error) { return r.start(ctx, p) }, func() {})
	}}
	f.flags(cmd.Flags())
	cmd.Flags().BoolVar(&debug, "debug", false, "log more")
	return cmd
}

// overrides are the options of the configuration that flags can set too.
type overrides struct {
	files                       []string
	dataDir, runDir             string
	apiAddress, identityAddress string
	loopbackRange               string
	runtime, dockerSocket       string
	debug, detach               bool
}

func (o *overrides) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.files, "config-file", nil, "configuration file, in oslo.config's format (repeatable)")
	f.StringVar(&o.dataDir, "data-dir", "", "where everything is kept (default: GOTROVE_HOME, else /var/lib/gotrove as root, else $XDG_DATA_HOME/gotrove)")
	f.StringVar(&o.dockerSocket, "docker-socket", "", "where Docker listens (default /run/docker.sock)")
}

// load reads the configuration and lets the flags win.
func (o *overrides) load() (*Config, []osloconf.Warning, error) {
	environ := os.Environ()
	for option, v := range map[string]string{
		"OS_GOTROVE__DATA_DIR": o.dataDir, "OS_GOTROVE__RUN_DIR": o.runDir, "OS_GOTROVE__LOOPBACK_RANGE": o.loopbackRange,
		"OS_GOTROVE__RUNTIME": o.runtime, "OS_GOTROVE__DOCKER_SOCKET": o.dockerSocket,
	} {
		if v != "" {
			environ = append(environ, option+"="+v)
		}
	}
	for prefix, address := range map[string]string{"OS_DEFAULT__BIND": o.apiAddress, "OS_GOTROVE__IDENTITY": o.identityAddress} {
		if address == "" {
			continue
		}
		host, port, err := splitAddress(address)
		if err != nil {
			return nil, nil, err
		}
		environ = append(environ, prefix+"_HOST="+host, prefix+"_PORT="+port)
	}
	if o.debug {
		environ = append(environ, "OS_DEFAULT__DEBUG=true")
	}
	return LoadConfig(osloconf.Sources{Files: o.files, Environ: environ}, true)
}

func splitAddress(s string) (host, port string, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", trove.Errorf(trove.KindBadRequest, "%q is not an address: want host:port, for example 127.0.0.1:8779", s)
	}
	return strings.Trim(s[:i], "[]"), s[i+1:], nil
}

func standaloneCommand(version string) *cobra.Command {
	var o overrides
	cmd := &cobra.Command{Use: "standalone", Args: cobra.NoArgs,
		Short: "Run every role in this process, with an embedded bus, database and identity service",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, warnings, err := o.load()
			if err != nil {
				return err
			}
			if o.detach {
				return detach(cmd.Context(), c, cmd.OutOrStdout())
			}
			return runStandalone(cmd.Context(), c, version, warnings, cmd.ErrOrStderr())
		}}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.runDir, "run-dir", "", "where sockets are (default: below /run or $XDG_RUNTIME_DIR)")
	f.StringVar(&o.apiAddress, "listen", "", "address of the database API (default 127.0.0.1:8779)")
	f.StringVar(&o.identityAddress, "identity-listen", "", "address of the identity API (default 127.0.0.1:5000)")
	f.StringVar(&o.runtime, "runtime", "", "how engines run: process, as installed here, or docker, as containers (default process)")
	f.StringVar(&o.loopbackRange, "loopback-range", "", "addresses for instances (default 127.20.0.0/16)")
	f.BoolVar(&o.debug, "debug", false, "log more")
	f.BoolVar(&o.detach, "detach", false, "start in the background and return when it serves")
	return cmd
}

func stopCommand() *cobra.Command {
	var (
		o      overrides
		remove bool
	)
	cmd := &cobra.Command{Use: "stop", Args: cobra.NoArgs,
		Short: "Stop a standalone that runs in the background, its guest agents and its engines",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := o.load()
			if err != nil {
				return err
			}
			return stop(cmd.Context(), c, remove, cmd.OutOrStdout())
		}}
	o.flags(cmd)
	cmd.Flags().BoolVar(&remove, "remove", false, "remove its data, all instances with them")
	return cmd
}
