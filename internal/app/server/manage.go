package server

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
)

// manageName is the program by which operators look after a cloud's Trove. Its
// commands have the original's names and arguments.
const manageName = "trove-manage"

func manageCommand() *cobra.Command {
	m := &manage{}
	root := &cobra.Command{Use: manageName, Short: "Look after the database, the keys and the configuration"}
	m.files.flags(root.PersistentFlags())
	for _, group := range []func(*manage) []*cobra.Command{databaseCommands} {
		root.AddCommand(group(m)...)
	}
	return root
}

// manage is what the commands have in common.
type manage struct {
	files files
}

// config reads the configuration; its warnings go to the command's errors.
func (m *manage) config(cmd *cobra.Command) (*Config, error) {
	c, warnings, err := LoadConfig(m.files.sources(manageName), false)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
	}
	return c, nil
}

// log is for what goes wrong behind a command.
func (m *manage) log(cmd *cobra.Command) (*slog.Logger, error) {
	return telemetry.NewLogger(cmd.ErrOrStderr(), telemetry.Options{Level: "warn", Format: "text"})
}

// withStore runs f on the database of record.
func (m *manage) withStore(cmd *cobra.Command, f func(ctx context.Context, s *store.Store) error) error {
	c, err := m.config(cmd)
	if err != nil {
		return err
	}
	config, err := c.Database.config()
	if err != nil {
		return err
	}
	if config.Log, err = m.log(cmd); err != nil {
		return err
	}
	s, err := store.Open(cmd.Context(), config)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(cmd.Context(), s)
}

func databaseCommands(m *manage) []*cobra.Command {
	sync := &cobra.Command{Use: "db_sync", Args: cobra.NoArgs,
		Short: "Bring the database's schema up to date; take over one of OpenStack Trove",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.withStore(cmd, func(ctx context.Context, s *store.Store) error {
				if err := s.Migrate(ctx); err != nil {
					return err
				}
				have, _, err := s.SchemaVersion(ctx)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "The database is at version %d of gotrove's schema.\n", have)
				}
				return err
			})
		}}
	return []*cobra.Command{sync}
}
