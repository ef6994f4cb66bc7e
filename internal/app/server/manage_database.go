package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/durable"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func databaseCommands(m *manage) []*cobra.Command {
	sync := &cobra.Command{Use: "db_sync", Args: arguments,
		Short: "Bring the database's schema up to date; take over one of OpenStack Trove",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.withStore(cmd, func(ctx context.Context, s *store.Store) error { return migrate(ctx, cmd, s) })
		}}
	var version string
	upgrade := &cobra.Command{Use: "db_upgrade", Args: arguments,
		Short: "The same as db_sync",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version != "" && version != "head" {
				return &usageError{cmd, errors.New("the schema is brought to this program's version only: leave --version out")}
			}
			return m.withStore(cmd, func(ctx context.Context, s *store.Store) error { return migrate(ctx, cmd, s) })
		}}
	upgrade.Flags().StringVar(&version, "version", "", "head, the newest")
	wipe := confirmed(m, &cobra.Command{Use: "db_wipe", Short: "Drop every table of Trove with all that is in it"},
		func(ctx context.Context, cmd *cobra.Command, s *store.Store) error {
			if err := s.Wipe(ctx); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The database holds no tables of Trove any more.")
			return nil
		})
	recreate := confirmed(m, &cobra.Command{Use: "db_recreate", Short: "Drop every table of Trove and make them anew, empty"},
		func(ctx context.Context, cmd *cobra.Command, s *store.Store) error {
			if err := s.Wipe(ctx); err != nil {
				return err
			}
			return migrate(ctx, cmd, s)
		})
	all := []*cobra.Command{sync, upgrade, wipe, recreate}
	for _, c := range []*cobra.Command{sync, upgrade, recreate} {
		c.Flags().String("repo_path", "", "")
		// It can only fail for a flag that is not there.
		_ = c.Flags().MarkDeprecated("repo_path", "the migrations are in the program")
	}
	return append(all, moveCommand(m))
}

func migrate(ctx context.Context, cmd *cobra.Command, s *store.Store) error {
	if err := s.Migrate(ctx); err != nil {
		return err
	}
	have, _, err := s.SchemaVersion(ctx)
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "The database is at version %d of gotrove's schema.\n", have)
	}
	return err
}

// confirmed makes a command that destroys the database, after its name was
// typed.
func confirmed(m *manage, cmd *cobra.Command, do func(context.Context, *cobra.Command, *store.Store) error) *cobra.Command {
	var yes bool
	cmd.Args = arguments
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := m.config(cmd)
		if err != nil {
			return err
		}
		if !yes {
			if err := confirm(cmd, databaseOf(c.Database.Connection.Reveal())); err != nil {
				return err
			}
		}
		return m.onStore(cmd, c, nil, func(ctx context.Context, s *store.Store) error { return do(ctx, cmd, s) })
	}
	return cmd
}

// databaseOf is the name of the database in a URL.
func databaseOf(url string) string {
	url, _, _ = strings.Cut(url, "?")
	return url[strings.LastIndexByte(url, '/')+1:]
}

func confirm(cmd *cobra.Command, database string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "All instances, backups and quotas that the database %q knows are forgotten; servers and volumes stay.\nType its name to go on: ", database)
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != database || database == "" {
		return trove.Errorf(trove.KindBadRequest, "nothing was done: that is not the name of the database").
			WithAction("type %s, or give --yes", database)
	}
	return nil
}

func moveCommand(m *manage) *cobra.Command {
	var from string
	cmd := &cobra.Command{Use: "move --from FILE", Args: arguments,
		Short: "Copy a standalone's database into an empty [database] connection",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return &usageError{cmd, errors.New("--from is missing")}
			}
			return m.withStore(cmd, func(ctx context.Context, to *store.Store) error { return m.move(ctx, cmd, from, to) })
		}}
	cmd.Flags().StringVar(&from, "from", "", "file of the standalone's database: gotrove.db in its data directory")
	return cmd
}

func (m *manage) move(ctx context.Context, cmd *cobra.Command, from string, to *store.Store) error {
	// Opening makes a file that is not there.
	if st, err := os.Stat(from); err != nil || !st.Mode().IsRegular() {
		return trove.Errorf(trove.KindNotFound, "there is no database %s", from).
			WithAction("give --from the file gotrove.db of the standalone's data directory")
	}
	if path := filepath.Join(filepath.Dir(from), lockName); exists(path) {
		held, err := durable.TryLock(path)
		switch {
		case errors.Is(err, durable.ErrLocked):
			return trove.Errorf(trove.KindConflict, "the standalone with this database runs").WithAction("stop it first: troved stop")
		case err == nil:
			defer held.Unlock()
		}
	}
	log, err := m.log(cmd)
	if err != nil {
		return err
	}
	source, err := store.Open(ctx, store.Config{Path: from, Log: log})
	if err != nil {
		return err
	}
	defer source.Close()
	if err := source.Migrate(ctx); err != nil {
		return err
	}
	if err := to.Migrate(ctx); err != nil {
		return err
	}
	all := 0
	if err := store.Copy(ctx, source, to, func(table string, rows int) {
		all += rows
		fmt.Fprintf(cmd.OutOrStdout(), "%-40s %d\n", table, rows)
	}); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d rows were copied; %s is as it was.\n", all, from)
	if path := filepath.Join(filepath.Dir(from), keysName); exists(path) {
		fmt.Fprintf(cmd.OutOrStdout(), "What the database holds is sealed with the keys in %s: put them into trove.conf.\n", path)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
