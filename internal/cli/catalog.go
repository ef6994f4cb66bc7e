package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) datastore() *cobra.Command {
	return group("datastore", "Engines that instances can be made of",
		&cobra.Command{Use: "list", Short: "List engines and their versions", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := a.client(cmd.Context())
				if err != nil {
					return err
				}
				all, err := c.Datastores(cmd.Context())
				if err != nil {
					return err
				}
				var rows []row
				for _, d := range all {
					for _, v := range d.Versions {
						rows = append(rows, row{"Datastore": d.Name, "Version": v.Name, "Number": v.Number, "Default": v.ID == d.DefaultVersion, "Version ID": v.ID})
					}
				}
				return a.list([]string{"Datastore", "Version", "Number", "Default", "Version ID"}, rows)
			}})
}

func (a *app) flavor() *cobra.Command {
	return group("flavor", "Sizes of instances",
		&cobra.Command{Use: "list", Short: "List flavors", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := a.client(cmd.Context())
				if err != nil {
					return err
				}
				all, err := c.Flavors(cmd.Context())
				if err != nil {
					return err
				}
				var rows []row
				for _, f := range all {
					rows = append(rows, row{"ID": f.ID, "Name": f.Name, "RAM (MiB)": f.RAM, "VCPUs": f.VCPUs, "Disk (GiB)": f.Disk})
				}
				return a.list([]string{"ID", "Name", "RAM (MiB)", "VCPUs", "Disk (GiB)"}, rows)
			}})
}

func (a *app) flavorNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
	defer cancel()
	c, err := a.client(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := c.Flavors(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, f := range all {
		out = append(out, f.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) limits() *cobra.Command {
	return &cobra.Command{Use: "limits", Short: "Show the project's limits", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			limits, err := c.Limits(cmd.Context())
			if err != nil {
				return err
			}
			var rows []row
			for _, name := range slices.Sorted(maps.Keys(limits)) {
				rows = append(rows, row{"Resource": strings.TrimPrefix(name, "max_"), "Limit": limits[name]})
			}
			return a.list([]string{"Resource", "Limit"}, rows)
		}}
}

func (a *app) endpoint() *cobra.Command {
	return &cobra.Command{Use: "endpoint", Short: "Show the address of the database API", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, c.Endpoint())
			return err
		}}
}
