package cli

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/apiclient"
	"github.com/gotrove/gotrove/internal/trove"
)

func (a *app) instance() *cobra.Command {
	return group("instance", "Database instances",
		a.instanceCreate(), a.instanceList(), a.instanceShow(), a.instanceDelete(), a.instanceRestart(), a.instanceResize(), a.instanceAccess(), a.instanceWait(), a.instanceConnect())
}

var listColumns = []string{"ID", "Name", "Datastore", "Version", "Status", "Operating status", "Address", "Flavor", "Size (GiB)"}

func (a *app) instanceList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the project's instances", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			all, err := c.Instances(cmd.Context())
			if err != nil {
				return err
			}
			var rows []row
			for _, i := range all {
				rows = append(rows, instanceRow(&i))
			}
			return a.list(listColumns, rows)
		}}
}

func (a *app) instanceShow() *cobra.Command {
	return &cobra.Command{Use: "show INSTANCE", Short: "Show an instance (by name or id)", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.showInstance(i)
		}}
}

func instanceRow(i *apiclient.Instance) row {
	r := row{"ID": i.ID, "Name": i.Name, "Status": i.Status, "Operating status": i.OperatingStatus,
		"Datastore": i.Datastore.Type, "Version": i.Datastore.Version, "Flavor": i.Flavor.ID, "Region": i.Region,
		"Created": i.Created.Format(time.RFC3339), "Updated": i.Updated.Format(time.RFC3339)}
	var addresses []string
	for _, ad := range i.Addresses {
		addresses = append(addresses, ad.Address)
	}
	r["Address"] = addresses
	if i.Volume != nil {
		r["Size (GiB)"] = i.Volume.Size
		if i.Volume.Used != nil {
			r["Used (GB)"] = math.Round(*i.Volume.Used*1000) / 1000
		}
	}
	if i.Fault != nil {
		r["Fault"] = i.Fault.Message
	}
	return r
}

func (a *app) showInstance(i *apiclient.Instance) error {
	r := instanceRow(i)
	columns := append([]string{}, listColumns...)
	for _, c := range []string{"Used (GB)", "Region", "Created", "Updated", "Fault"} {
		if r[c] != nil {
			columns = append(columns, c)
		}
	}
	return a.show(columns, r)
}

func (a *app) instanceCreate() *cobra.Command {
	var (
		flavor, datastore, version, user, passwordFile string
		size                                           int
		databases                                      []string
		nic                                            string
		wait                                           bool
	)
	cmd := &cobra.Command{Use: "create NAME", Short: "Create an instance", Args: cobra.ExactArgs(1),
		Example: "  trovectl instance create shop --datastore postgresql --flavor db.small --database shop --user app --wait",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.client(ctx)
			if err != nil {
				return err
			}
			flavorID, err := findFlavor(ctx, c, flavor)
			if err != nil {
				return err
			}
			n := apiclient.NewInstance{Name: args[0], FlavorRef: flavorID, Datastore: map[string]string{}}
			if size > 0 {
				n.Volume = &apiclient.Volume{Size: size}
			}
			if datastore != "" {
				n.Datastore["type"] = datastore
			}
			if version != "" {
				n.Datastore["version"] = version
			}
			if nic != "" {
				n.NICs = []apiclient.NIC{{NetworkID: nic}}
			}
			for _, d := range databases {
				n.Databases = append(n.Databases, apiclient.Database{Name: d})
			}
			generated := ""
			if user != "" {
				var password string
				if password, generated, err = a.password(passwordFile); err != nil {
					return err
				}
				n.Users = []apiclient.User{{Name: user, Password: password, Databases: n.Databases}}
			} else if passwordFile != "" {
				return fmt.Errorf("--password-file needs --user")
			}
			i, err := c.CreateInstance(ctx, n)
			if err != nil {
				return err
			}
			if generated != "" {
				fmt.Fprintf(a.Err, "Password of %s, shown only now: %s\n", user, generated)
			}
			if wait {
				if err := a.follow(ctx, c, i.ID, "create_instance", nil, func(i *apiclient.Instance) bool { return i.Ready() }); err != nil {
					return err
				}
				if i, err = c.Instance(ctx, i.ID); err != nil {
					return err
				}
			}
			return a.showInstance(i)
		}}
	f := cmd.Flags()
	f.StringVar(&flavor, "flavor", "", "flavor, by name or id")
	f.StringVar(&datastore, "datastore", "", "engine: mariadb, postgresql, … (default: the cloud's)")
	f.StringVar(&version, "datastore-version", "", "version of the engine (default: the datastore's)")
	f.IntVar(&size, "size", 1, "volume size in GiB")
	f.StringArrayVar(&databases, "database", nil, "database to create (repeatable)")
	f.StringVar(&user, "user", "", "user to create, with access to the databases")
	f.StringVar(&passwordFile, "password-file", "", "file with the user's password, - for standard input (default: one is made and shown)")
	f.StringVar(&nic, "nic", "", "network id")
	f.BoolVar(&wait, "wait", false, "show each step and return when the instance serves")
	must(cmd.MarkFlagRequired("flavor"))
	must(cmd.RegisterFlagCompletionFunc("flavor", a.flavorNames))
	return cmd
}

func findFlavor(ctx context.Context, c *apiclient.Client, idOrName string) (string, error) {
	all, err := c.Flavors(ctx)
	if err != nil {
		return "", err
	}
	var have []string
	for _, f := range all {
		if f.ID == idOrName || f.Name == idOrName {
			return f.ID, nil
		}
		have = append(have, f.Name)
	}
	return "", trove.Errorf(trove.KindNotFound, "There is no flavor %q: there are %s.", idOrName, strings.Join(have, ", "))
}

func (a *app) instanceDelete() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: "delete INSTANCE…", Short: "Delete instances with all their data", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				c, i, err := a.find(cmd.Context(), arg)
				if err != nil {
					return err
				}
				before := a.operationsBefore(cmd.Context(), c, i.ID)
				if err := c.DeleteInstance(cmd.Context(), i.ID); err != nil {
					return err
				}
				if wait {
					if err := a.follow(cmd.Context(), c, i.ID, "delete_instance", before, nil); err != nil {
						return err
					}
				}
			}
			return nil
		}}
	cmd.Flags().BoolVar(&wait, "wait", false, "show each step and return when they are gone")
	return cmd
}

func (a *app) instanceRestart() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: "restart INSTANCE", Short: "Restart an instance's engine", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			before := a.operationsBefore(cmd.Context(), c, i.ID)
			if err := c.RestartInstance(cmd.Context(), i.ID); err != nil {
				return err
			}
			if !wait {
				return nil
			}
			return a.follow(cmd.Context(), c, i.ID, "restart", before, func(i *apiclient.Instance) bool { return i.Ready() })
		}}
	cmd.Flags().BoolVar(&wait, "wait", false, "show each step and return when the engine serves again")
	return cmd
}

func (a *app) instanceWait() *cobra.Command {
	return &cobra.Command{Use: "wait INSTANCE", Short: "Return when an instance serves", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.instanceNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.until(cmd.Context(), c, i.ID)
		}}
}
