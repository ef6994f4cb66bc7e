package server

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/telemetry"
)

// manageName is the program by which operators look after a cloud's Trove. Its
// commands have the original's names and arguments, beside our own.
const manageName = "trove-manage"

func manageCommand() *cobra.Command {
	m := &manage{}
	root := &cobra.Command{Use: manageName, Short: "Look after the database, the keys and the configuration"}
	m.files.flags(root.PersistentFlags())
	for _, group := range []func(*manage) []*cobra.Command{databaseCommands, datastoreCommands, keyCommands, fileCommands, doctorCommands} {
		root.AddCommand(group(m)...)
	}
	for _, c := range root.Commands() {
		for _, c := range append(c.Commands(), c) {
			c.SilenceErrors, c.SilenceUsage = true, true
		}
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	return root
}

// usageError is a wrong command line.
type usageError struct {
	cmd *cobra.Command
	err error
}

// Error tells what is wrong and what is right.
func (e *usageError) Error() string { return fmt.Sprintf("%v; usage: %s", e.err, e.cmd.UseLine()) }

// Unwrap gives what is wrong.
func (e *usageError) Unwrap() error { return e.err }

// arguments wants those of the command's Use line, one for each <name> in it.
func arguments(cmd *cobra.Command, args []string) error {
	want := strings.Count(cmd.Use, "<")
	if err := cobra.ExactArgs(want)(cmd, args); err != nil {
		return &usageError{cmd, err}
	}
	return nil
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
	for _, text := range osloconf.Told(warnings, checkConfig) {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", text)
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
	return m.onStore(cmd, c, nil, f)
}

// withTables is withStore on a database whose schema is new enough.
func (m *manage) withTables(cmd *cobra.Command, f func(ctx context.Context, s *store.Store) error) error {
	return m.withStore(cmd, func(ctx context.Context, s *store.Store) error {
		if err := s.CheckSchema(ctx); err != nil {
			return err
		}
		return f(ctx, s)
	})
}

func (m *manage) onStore(cmd *cobra.Command, c *Config, seal store.Sealer, f func(ctx context.Context, s *store.Store) error) error {
	config, err := c.Database.config()
	if err != nil {
		return err
	}
	if config.Log, err = m.log(cmd); err != nil {
		return err
	}
	config.Sealer = seal
	// Somebody waits for it.
	config.Pool.Retries = min(max(config.Pool.Retries, 0), 1)
	s, err := store.Open(cmd.Context(), config)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(cmd.Context(), s)
}

// withKeys runs f on the database of record and the keys that it is sealed with.
func (m *manage) withKeys(cmd *cobra.Command, f func(ctx context.Context, c *Config, s *store.Store, keys *keyring.Ring) error) error {
	c, err := m.config(cmd)
	if err != nil {
		return err
	}
	log, err := m.log(cmd)
	if err != nil {
		return err
	}
	k, err := c.Secure.keys(cmd.Context(), log)
	if err != nil {
		return err
	}
	k.TaskManagerTopic = c.TaskManagers
	var seal store.Sealer
	if len(k.Master) > 0 {
		seal = keyring.NewAtRest(k.Master...)
	}
	return m.onStore(cmd, c, seal, func(ctx context.Context, s *store.Store) error {
		if err := s.CheckSchema(ctx); err != nil {
			return err
		}
		ring, err := keyring.New(k, s, log, nil)
		if err != nil {
			return err
		}
		return f(ctx, c, s, ring)
	})
}
