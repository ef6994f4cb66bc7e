package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/apiclient"
)

// about makes a command whose first argument is an instance.
func (a *app) about(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, c *apiclient.Client, id string, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, i.ID, args[1:])
		}}
}

func (a *app) database() *cobra.Command {
	var characterSet, collate string
	create := a.about("create INSTANCE NAME…", "Create databases", cobra.MinimumNArgs(2),
		func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
			var dbs []apiclient.Database
			for _, name := range args {
				dbs = append(dbs, apiclient.Database{Name: name, CharacterSet: characterSet, Collate: collate})
			}
			return c.CreateDatabases(ctx, id, dbs)
		})
	create.Flags().StringVar(&characterSet, "character-set", "", "character set (default: the engine's)")
	create.Flags().StringVar(&collate, "collate", "", "collation (default: the engine's)")
	return group("database", "Databases of an instance", create,
		a.about("list INSTANCE", "List databases", cobra.ExactArgs(1),
			func(ctx context.Context, c *apiclient.Client, id string, _ []string) error {
				dbs, err := c.Databases(ctx, id)
				if err != nil {
					return err
				}
				var rows []row
				for _, d := range dbs {
					rows = append(rows, row{"Name": d.Name})
				}
				return a.list([]string{"Name"}, rows)
			}),
		a.about("delete INSTANCE NAME", "Delete a database with all its data", cobra.ExactArgs(2),
			func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
				return c.DeleteDatabase(ctx, id, args[0])
			}))
}

func (a *app) user() *cobra.Command {
	var (
		host, passwordFile string
		databases          []string
	)
	create := a.about("create INSTANCE NAME", "Create a user", cobra.ExactArgs(2),
		func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
			password, generated, err := a.password(passwordFile)
			if err != nil {
				return err
			}
			u := apiclient.User{Name: args[0], Password: password, Host: host, Databases: named(databases)}
			if err := c.CreateUsers(ctx, id, []apiclient.User{u}); err != nil {
				return err
			}
			if generated == "" {
				return nil
			}
			return a.show([]string{"Name", "Password"}, row{"Name": u.Name, "Password": generated})
		})
	f := create.Flags()
	f.StringVar(&host, "host", "", "host the user may connect from (default: any)")
	f.StringVar(&passwordFile, "password-file", "", "file with the password, - for standard input (default: one is made and shown)")
	f.StringArrayVar(&databases, "database", nil, "database the user may use (repeatable)")
	return group("user", "Users of an instance", create,
		a.about("list INSTANCE", "List users", cobra.ExactArgs(1),
			func(ctx context.Context, c *apiclient.Client, id string, _ []string) error {
				users, err := c.Users(ctx, id)
				if err != nil {
					return err
				}
				var rows []row
				for _, u := range users {
					var dbs []string
					for _, d := range u.Databases {
						dbs = append(dbs, d.Name)
					}
					rows = append(rows, row{"Name": u.Name, "Host": u.Host, "Databases": dbs})
				}
				return a.list([]string{"Name", "Host", "Databases"}, rows)
			}),
		a.about("delete INSTANCE NAME[@HOST]", "Delete a user", cobra.ExactArgs(2),
			func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
				return c.DeleteUser(ctx, id, args[0])
			}),
		a.about("grant INSTANCE NAME[@HOST] DATABASE…", "Let a user use databases", cobra.MinimumNArgs(3),
			func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
				return c.GrantAccess(ctx, id, args[0], named(args[1:]))
			}),
		a.about("revoke INSTANCE NAME[@HOST] DATABASE", "Take a database from a user", cobra.ExactArgs(3),
			func(ctx context.Context, c *apiclient.Client, id string, args []string) error {
				return c.RevokeAccess(ctx, id, args[0], args[1])
			}))
}

func named(databases []string) []apiclient.Database {
	out := []apiclient.Database{}
	for _, d := range databases {
		out = append(out, apiclient.Database{Name: d})
	}
	return out
}

func (a *app) rootUser() *cobra.Command {
	var passwordFile string
	enable := a.about("enable INSTANCE", "Let the engine's root user connect, and show its password", cobra.ExactArgs(1),
		func(ctx context.Context, c *apiclient.Client, id string, _ []string) error {
			password := ""
			if passwordFile != "" {
				var err error
				if password, _, err = a.password(passwordFile); err != nil {
					return err
				}
			}
			u, err := c.EnableRoot(ctx, id, password)
			if err != nil {
				return err
			}
			return a.show([]string{"Name", "Password"}, row{"Name": u.Name, "Password": u.Password})
		})
	enable.Flags().StringVar(&passwordFile, "password-file", "", "file with the password, - for standard input (default: one is made)")
	return group("root", "The engine's root user", enable,
		a.about("disable INSTANCE", "Shut root out", cobra.ExactArgs(1),
			func(ctx context.Context, c *apiclient.Client, id string, _ []string) error {
				return c.DisableRoot(ctx, id)
			}),
		a.about("show INSTANCE", "Show whether root is enabled", cobra.ExactArgs(1),
			func(ctx context.Context, c *apiclient.Client, id string, _ []string) error {
				enabled, err := c.RootEnabled(ctx, id)
				if err != nil {
					return err
				}
				return a.show([]string{"Enabled"}, row{"Enabled": fmt.Sprint(enabled)})
			}))
}
