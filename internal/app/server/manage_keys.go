package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/keyring"
	"github.com/gotrove/gotrove/internal/outbox"
	"github.com/gotrove/gotrove/internal/rpc/seal"
	"github.com/gotrove/gotrove/internal/rpcapi/taskmanager"
	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

func keyCommands(m *manage) []*cobra.Command {
	var all bool
	rotate := &cobra.Command{Use: "rotate-credentials [instance…]", Args: cobra.ArbitraryArgs,
		Short: "Give the agents of instances a new login and a new key; the task manager does it when it runs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return &usageError{cmd, errors.New("name instances, or give --all")}
			}
			return m.withKeys(cmd, func(ctx context.Context, c *Config, s *store.Store, _ *keyring.Ring) error {
				return rotateCredentials(ctx, cmd, c.TaskManagers, s, args)
			})
		}}
	rotate.Flags().BoolVar(&all, "all", false, "of all instances")
	var original bool
	key := &cobra.Command{Use: "key", Args: arguments, Short: "Print a new random key, for the options whose names end in _key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			form := seal.Authenticated
			if original {
				form = seal.Original
			}
			fmt.Fprintln(cmd.OutOrStdout(), seal.MakeKey(form).Reveal())
			return nil
		}}
	key.Flags().BoolVar(&original, "original", false, "for a bus that services of OpenStack Trove are on too (docs/operator/keys.md)")
	return []*cobra.Command{
		key,
		{Use: "rekey", Args: arguments,
			Short: "Bring what the database holds under the new inst_rpc_key_encr_key, beside running services",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return m.withKeys(cmd, func(ctx context.Context, _ *Config, s *store.Store, keys *keyring.Ring) error {
					return rekey(ctx, cmd, s, keys)
				})
			}},
		rotate,
	}
}

func rekey(ctx context.Context, cmd *cobra.Command, s *store.Store, keys *keyring.Ring) error {
	done, err := keys.Rekey(ctx, s)
	fmt.Fprintf(cmd.OutOrStdout(), "Encrypted anew: %d keys of instances, %d messages and pieces of work.\n", done.Keys, done.Rows)
	if err != nil {
		return err
	}
	if done.Failed > 0 {
		return trove.Errorf(trove.KindConflict, "%d keys and rows are under a key that is not configured: %s", done.Failed, strings.Join(done.Instances, " ")).
			WithAction("set [gotrove] second_inst_rpc_key_encr_key to the key they are under, and run this again; until then keep every older key")
	}
	fmt.Fprintln(cmd.OutOrStdout(), "Nothing is left under another key: second_inst_rpc_key_encr_key can be taken out of trove.conf.")
	return nil
}

// rotateCredentials asks the task manager, by the outbox of the database.
func rotateCredentials(ctx context.Context, cmd *cobra.Command, topic string, s *store.Store, ids []string) error {
	live, err := s.LiveInstances(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, i := range live {
		there[i.ID] = true
	}
	if len(ids) == 0 {
		for _, i := range live {
			ids = append(ids, i.ID)
		}
	}
	var rows []store.OutboxRow
	for _, id := range ids {
		if !there[id] {
			return trove.Errorf(trove.KindNotFound, "there is no instance %q", id)
		}
		row, err := outbox.Row(ctx, taskmanager.RotateMessage(topic, id), "", 0)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		if err := s.InsertOutbox(ctx, rows...); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The credentials of %d instances will be replaced; watch their operations.\n", len(rows))
	return nil
}
