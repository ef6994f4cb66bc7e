package server

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/osloconf"
	"github.com/gotrove/gotrove/internal/policy"
)

func fileCommands(m *manage) []*cobra.Command {
	conf := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	conf.AddCommand(
		&cobra.Command{Use: "sample", Args: arguments, Short: "Print every option of every service with its default",
			RunE: func(cmd *cobra.Command, _ []string) error {
				options, err := describedOptions()
				if err != nil {
					return err
				}
				return osloconf.Sample(cmd.OutOrStdout(), options)
			}},
		&cobra.Command{Use: "check", Args: arguments, Short: "Read the configuration files and tell what is wrong in them",
			RunE: func(cmd *cobra.Command, _ []string) error {
				src := m.files.sources(manageName)
				_, warnings, err := LoadConfig(src, false)
				if err != nil {
					return err
				}
				for _, w := range warnings {
					fmt.Fprintln(cmd.OutOrStdout(), w)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Read %d files and %d directories; %d lines to look at.\n", len(src.Files), len(src.Dirs), len(warnings))
				return nil
			}})
	return []*cobra.Command{conf, policyCommand(m)}
}

// policyCommand is about the policy: who may do what.
func policyCommand(m *manage) *cobra.Command {
	changed := false
	show := &cobra.Command{Use: "show", Aliases: []string{"check"}, Args: arguments, Short: "Check the policy files, and print the rules in force",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := m.config(cmd)
			if err != nil {
				return err
			}
			log, err := m.log(cmd)
			if err != nil {
				return err
			}
			e, err := policy.Open(cmd.Context(), c.Policy.config(c.places, log))
			if err != nil {
				return err
			}
			return e.WriteRules(cmd.OutOrStdout(), changed)
		}}
	show.Flags().BoolVar(&changed, "changed", false, "only the rules that differ from the defaults")
	group := &cobra.Command{Use: "policy", Short: "Look at the policy"}
	group.AddCommand(show, &cobra.Command{Use: "sample", Args: arguments, Short: "Print every rule with its calls and its default",
		RunE: func(cmd *cobra.Command, _ []string) error { return policy.Sample(cmd.OutOrStdout()) }})
	return group
}

// describedOptions are all options of the services, as a cloud's have them.
func describedOptions() ([]osloconf.Described, error) {
	options, err := osloconf.Describe(newConfig(false))
	if err != nil {
		return nil, err
	}
	texts, idle := help(), noEffect()
	for i := range options {
		o := &options[i]
		full := o.Group + "." + o.Name
		if o.Help == "" {
			o.Help = texts[full]
		}
		if reason := idle[full]; reason != "" {
			o.Help = "It has no effect: " + reason + "."
		}
	}
	return options, nil
}

// readable tells whether others than the owner and the group may read a file.
func readableByAll(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return st.Mode().Perm()&0o004 != 0, nil
}
