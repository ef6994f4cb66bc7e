package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/store"
	"github.com/gotrove/gotrove/internal/trove"
)

// maxRules bounds a file of validation rules.
const maxRules = 4 << 20

func datastoreCommands(m *manage) []*cobra.Command {
	return append([]*cobra.Command{
		{Use: "datastore_update <datastore_name> <default_version>", Args: arguments,
			Short: "Make a datastore, or set the default version of one; '' is none",
			RunE: func(cmd *cobra.Command, args []string) error {
				return m.withTables(cmd, func(ctx context.Context, s *store.Store) error {
					if err := s.UpdateDatastore(ctx, args[0], args[1]); err != nil {
						return err
					}
					fmt.Fprintf(cmd.OutOrStdout(), "Datastore '%s' updated.\n", args[0])
					return nil
				})
			}},
		versionCommand(m),
		ofVersion(m, &cobra.Command{Use: "db_load_datastore_config_parameters <datastore> <datastore_version_name> <config_file_location>",
			Short: "Say what configurations of a version may set, by the original's validation-rules.json"}, loadParameters),
		ofVersion(m, &cobra.Command{Use: "db_remove_datastore_config_parameters <datastore> <datastore_version_name>",
			Short: "Forget what configurations of a version may set"}, removeParameters),
	}, bindingCommands(m)...)
}

func versionCommand(m *manage) *cobra.Command {
	var tags, number, registry, replication string
	cmd := &cobra.Command{Use: "datastore_version_update <datastore> <version_name> <manager> <image_id> <packages> <active>", Args: arguments,
		Short: "Make a version of a datastore, or give it these properties; active is 0 or 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[5] != "0" && args[5] != "1" {
				return &usageError{cmd, errors.New("active is 0 or 1")}
			}
			v := trove.DatastoreVersion{DatastoreName: args[0], Name: args[1], Manager: args[2], ImageID: args[3],
				ImageTags: words(tags), Packages: words(args[4]), Active: args[5] == "1",
				Number: number, RegistryExt: registry, ReplStrategy: replication}
			return m.withTables(cmd, func(ctx context.Context, s *store.Store) error {
				if _, err := s.UpdateVersion(ctx, v); err != nil {
					return err
				}
				if number == "" {
					number = v.Name
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Datastore version '%s(%s)' updated.\n", v.Name, number)
				return nil
			})
		}}
	f := cmd.Flags()
	f.StringVar(&tags, "image-tags", "", "tags that its images have, separated by commas")
	f.StringVar(&number, "version", "", "version number, such as 5.7.30; version_name if it is missing")
	f.StringVar(&registry, "registry-ext", "", "manager and its class in the agent of OpenStack Trove")
	f.StringVar(&replication, "repl-strategy", "", "strategy of replication in the agent of OpenStack Trove")
	return cmd
}

// words are the parts of a list separated by commas; none of an empty one.
func words(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(w string) bool { return strings.TrimSpace(w) == "" })
}

// target is a version that a command is about, with its arguments.
type target struct {
	cmd  *cobra.Command
	s    *store.Store
	id   string
	args []string
}

func (t *target) say(format string, args ...any) {
	fmt.Fprintf(t.cmd.OutOrStdout(), format+"\n", args...)
}

// ofVersion makes a command about the version of a datastore that its first two
// arguments and the flag --version name.
func ofVersion(m *manage, cmd *cobra.Command, do func(ctx context.Context, t *target) error) *cobra.Command {
	var number string
	cmd.Args = arguments
	cmd.Flags().StringVar(&number, "version", "", "version number, where there are several of this name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return m.withTables(cmd, func(ctx context.Context, s *store.Store) error {
			v, err := s.FindVersion(ctx, args[0], args[1], number)
			if err != nil {
				return err
			}
			return do(ctx, &target{cmd, s, v.ID, args})
		})
	}
	return cmd
}

func loadParameters(ctx context.Context, t *target) error {
	path := t.args[2]
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxRules {
		return trove.Errorf(trove.KindBadRequest, "%s is too large for validation rules", path)
	}
	rules, err2 := os.ReadFile(path)
	if err := errors.Join(err, err2); err != nil {
		return trove.Errorf(trove.KindBadRequest, "cannot read the validation rules: %w", err2)
	}
	parameters, err := store.ParseConfigurationParameters(rules)
	if err != nil {
		return err
	}
	if err := t.s.LoadConfigurationParameters(ctx, t.id, parameters); err != nil {
		return err
	}
	t.say("Loaded %d config parameters for datastore (%s) version (%s)", len(parameters), t.args[0], t.args[1])
	return nil
}

func removeParameters(ctx context.Context, t *target) error {
	n, err := t.s.RemoveConfigurationParameters(ctx, t.id)
	if err != nil {
		return err
	}
	t.say("Removed %d config parameters for datastore (%s) version (%s)", n, t.args[0], t.args[1])
	return nil
}

func bindingCommands(m *manage) (out []*cobra.Command) {
	for _, b := range []struct{ key, word, title string }{
		{store.BindFlavor, "flavor", "flavors"}, {store.BindVolumeType, "volume_type", "volume types"},
	} {
		out = append(out,
			ofVersion(m, &cobra.Command{Use: "datastore_version_" + b.word + "_add <datastore_name> <datastore_version_name> <" + b.word + "_ids>",
				Short: "Allow a version these " + b.title + ", separated by commas, and no others but those allowed before"},
				func(ctx context.Context, t *target) error {
					ids := words(t.args[2])
					if len(ids) == 0 {
						return &usageError{t.cmd, fmt.Errorf("no %s are given", b.title)}
					}
					for _, id := range ids {
						if err := t.s.BindVersion(ctx, t.id, b.key, id); err != nil {
							return err
						}
					}
					t.say("Added %s '%s' to the '%s' '%s'.", b.title, t.args[2], t.args[0], t.args[1])
					return nil
				}),
			ofVersion(m, &cobra.Command{Use: "datastore_version_" + b.word + "_delete <datastore_name> <datastore_version_name> <" + b.word + "_id>",
				Short: "Take one of a version's " + b.title + " back"},
				func(ctx context.Context, t *target) error {
					if err := t.s.UnbindVersion(ctx, t.id, b.key, t.args[2]); err != nil {
						return err
					}
					t.say("Deleted %s '%s' from '%s' '%s'.", strings.ReplaceAll(b.word, "_", " "), t.args[2], t.args[0], t.args[1])
					return nil
				}),
			ofVersion(m, &cobra.Command{Use: "datastore_version_" + b.word + "_list <datastore_name> <datastore_version_name>",
				Short: "List the " + b.title + " that a version is bound to"},
				func(ctx context.Context, t *target) error {
					bound, err := t.s.VersionMetadata(ctx, t.id)
					if err != nil {
						return err
					}
					all, what := bound[b.key], strings.ReplaceAll(b.word, "_", " ")
					for _, v := range all {
						t.say("Datastore: %s, Version: %s, %s: %s", t.args[0], t.args[1], strings.ToUpper(what[:1])+what[1:], v)
					}
					if len(all) == 0 {
						t.say("Datastore %s, version %s may have any of the %s.", t.args[0], t.args[1], b.title)
					}
					return nil
				}))
	}
	return out
}
