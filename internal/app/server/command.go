// Package server puts the control plane together: it turns configuration into
// constructed services and runs them until it is told to stop. It is the map of
// the system: what depends on what can be read here, and nowhere else do
// services meet.
package server

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/trove"
)

// Main runs a troved command line and returns the exit code: 0, 1 for a
// failure, 2 for a wrong command line.
func Main(version string, args []string, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "troved", Short: "The server roles of gotrove", Version: version,
		SilenceErrors: true, SilenceUsage: true, CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}}
	root.AddCommand(standaloneCommand(version), stopCommand())
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errs, "troved:", err)
	if action := trove.ActionOf(err); action != "" {
		fmt.Fprintln(errs, "What to do:", action)
	}
	if strings.HasPrefix(err.Error(), "unknown ") {
		return 2
	}
	return 1
}

// overrides are the options of the configuration that flags can set too.
type overrides struct {
	files                       []string
	dataDir, runDir             string
	apiAddress, identityAddress string
	loopbackRange               string
	debug, detach               bool
}

func (o *overrides) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&o.files, "config-file", nil, "configuration file, in oslo.config's format (repeatable)")
	f.StringVar(&o.dataDir, "data-dir", "", "where everything is kept (default: GOTROVE_HOME, else /var/lib/gotrove as root, else $XDG_DATA_HOME/gotrove)")
}

// load reads the configuration and lets the flags win.
func (o *overrides) load() (*Config, []string, error) {
	environ := os.Environ()
	for option, v := range map[string]string{
		"OS_GOTROVE__DATA_DIR": o.dataDir, "OS_GOTROVE__RUN_DIR": o.runDir, "OS_GOTROVE__LOOPBACK_RANGE": o.loopbackRange,
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
	return LoadConfig(o.files, environ)
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
