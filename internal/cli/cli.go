// Package cli is trovectl: databases from a terminal. It turns words on a
// command line into calls of apiclient and answers into tables, JSON or bare
// values. It holds no state and knows no service of ours but the REST API.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gotrove/gotrove/internal/apiclient"
	"github.com/gotrove/gotrove/internal/trove"
)

// Exit codes of trovectl.
const (
	ExitOK          = 0
	ExitFailed      = 1 // an operation failed, or the API refused
	ExitUsage       = 2 // the command line is wrong
	ExitNotFound    = 3
	ExitUnavailable = 4 // the cloud cannot be reached
	ExitDenied      = 5 // not logged in, or not allowed
	ExitTimeout     = 6 // --timeout passed while waiting
)

// Terminal is where a command reads and writes.
type Terminal struct {
	In       io.Reader
	Out, Err io.Writer
	// Live says that Err is a terminal whose line can be rewritten.
	Live bool
	// Color says that Err shows colours.
	Color bool
}

// Stdio is the process's own terminal. NO_COLOR and a dumb terminal are
// honoured.
func Stdio() Terminal {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	live := err == nil && os.Getenv("TERM") != "dumb"
	return Terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Live: live, Color: live && os.Getenv("NO_COLOR") == ""}
}

// app is what every command shares.
type app struct {
	Terminal
	answer  *checked // writes to Out
	cloud   string
	format  string
	columns []string
	timeout time.Duration
}

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, term Terminal, version string, args []string) int {
	a := &app{Terminal: term, answer: &checked{to: term.Out}}
	root := a.root(version)
	root.SetArgs(args)
	root.SetIn(term.In)
	root.SetOut(term.Out)
	root.SetErr(term.Err)
	err := root.ExecuteContext(ctx)
	if err == nil && a.answer.err != nil {
		err = trove.Errorf(trove.KindInternal, "The answer could not be written: %w", a.answer.err)
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprintln(term.Err, a.red("Error:"), visible(err.Error()))
	if action := trove.ActionOf(err); action != "" {
		fmt.Fprintln(term.Err, "What to do:", visible(action))
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if errors.Is(err, context.DeadlineExceeded) {
		return ExitTimeout
	}
	if _, ours := errors.AsType[*trove.Error](err); !ours {
		return ExitUsage // cobra's own errors are all about the command line
	}
	switch trove.KindOf(err) {
	case trove.KindNotFound:
		return ExitNotFound
	case trove.KindUnavailable:
		return ExitUnavailable
	case trove.KindUnauthorized, trove.KindForbidden:
		return ExitDenied
	}
	return ExitFailed
}

func (a *app) root(version string) *cobra.Command {
	root := &cobra.Command{
		Use:           "trovectl",
		Short:         "Databases on demand: create them, watch them, connect to them",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.cloud, "os-cloud", "", "entry of clouds.yaml to use (default: OS_CLOUD, else the OS_* variables)")
	flags.StringVarP(&a.format, "format", "f", "table", "output format: table, json or value")
	flags.StringSliceVarP(&a.columns, "column", "c", nil, "columns to show, in this order (default: all)")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Minute, "how long to wait at most with --wait")
	must(root.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "value"}, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(a.instance(), a.database(), a.user(), a.rootUser(), a.datastore(), a.flavor(), a.limits(), a.endpoint())
	return root
}

// must is for what can only fail if this program is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (a *app) client(ctx context.Context) (*apiclient.Client, error) {
	return apiclient.New(ctx, a.cloud)
}

// find logs in and finds the instance a command is about.
func (a *app) find(ctx context.Context, idOrName string) (*apiclient.Client, *apiclient.Instance, error) {
	c, err := a.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	i, err := c.Instance(ctx, idOrName)
	return c, i, err
}

// group is a command that only has subcommands.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return fmt.Errorf("%s needs one of: %s", c.CommandPath(), strings.Join(names(c), ", "))
	}}
	g.AddCommand(children...)
	return g
}

func names(c *cobra.Command) []string {
	var out []string
	for _, child := range c.Commands() {
		out = append(out, child.Name())
	}
	return out
}

// instanceNames completes the first argument with the project's instances.
func (a *app) instanceNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
	defer cancel()
	c, err := a.client(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := c.Instances(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, i := range all {
		out = append(out, i.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) red(s string) string {
	if !a.Color {
		return s
	}
	return "\x1b[31m" + s + "\x1b[0m"
}

func (a *app) green(s string) string {
	if !a.Color {
		return s
	}
	return "\x1b[32m" + s + "\x1b[0m"
}
