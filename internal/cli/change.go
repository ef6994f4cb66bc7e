package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/apiclient"
)

// change is a command that changes an instance; ask asks for it and gives the
// kind of operation that it becomes.
func (a *app) change(use, short, example string, args cobra.PositionalArgs, ask func(context.Context, *apiclient.Client, *apiclient.Instance) (string, error)) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: args, ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, i, err := a.find(ctx, args[0])
			if err != nil {
				return err
			}
			before := a.operationsBefore(ctx, c, i.ID)
			kind, err := ask(ctx, c, i)
			if err != nil || !wait {
				return err
			}
			return a.follow(ctx, c, i.ID, kind, before, func(i *apiclient.Instance) bool { return i.Ready() })
		}}
	cmd.Flags().BoolVar(&wait, "wait", false, "show each step and return when the instance serves again")
	return cmd
}

func (a *app) instanceResize() *cobra.Command {
	var (
		flavor string
		size   int
	)
	cmd := a.change("resize INSTANCE", "Change an instance's flavor, or grow its volume",
		"  trovectl instance resize shop --flavor db.small --wait\n  trovectl instance resize shop --volume 5 --wait", cobra.ExactArgs(1),
		func(ctx context.Context, c *apiclient.Client, i *apiclient.Instance) (string, error) {
			if (flavor == "") == (size == 0) {
				return "", errors.New("give --flavor or --volume; each is a resize of its own")
			}
			if flavor == "" {
				return "resize_volume", c.ResizeVolume(ctx, i.ID, size)
			}
			id, err := findFlavor(ctx, c, flavor)
			if err != nil {
				return "", err
			}
			return "resize_flavor", c.ResizeFlavor(ctx, i.ID, id)
		})
	cmd.Flags().StringVar(&flavor, "flavor", "", "new flavor, by name or id; the engine is restarted")
	cmd.Flags().IntVar(&size, "volume", 0, "new size of the volume in GiB, more than it has")
	must(cmd.RegisterFlagCompletionFunc("flavor", a.flavorNames))
	return cmd
}

func (a *app) instanceAccess() *cobra.Command {
	var (
		public bool
		cidrs  []string
	)
	cmd := a.change("access INSTANCE", "Say who may reach an instance",
		"  trovectl instance access shop --allow 192.0.2.0/24 --public", cobra.ExactArgs(1),
		func(ctx context.Context, c *apiclient.Client, i *apiclient.Instance) (string, error) {
			return "update_access", c.SetAccess(ctx, i.ID, public, cidrs)
		})
	cmd.Flags().BoolVar(&public, "public", false, "reachable from outside of the cloud, by a public address")
	cmd.Flags().StringArrayVar(&cidrs, "allow", nil, "network that may reach it, as 192.0.2.0/24 (repeatable; default: the operator's, usually everyone)")
	return cmd
}
