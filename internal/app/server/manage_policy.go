package server

import (
	"github.com/spf13/cobra"

	"github.com/gotrove/gotrove/internal/policy"
)

// policyCommands are about the policy: who may do what.
func policyCommands(m *manage) []*cobra.Command {
	sample := &cobra.Command{Use: "sample", Short: "Print a policy file with every rule, its calls and its default", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return policy.Sample(cmd.OutOrStdout()) }}
	changed := false
	show := &cobra.Command{Use: "show", Short: "Check the policy files, and print the rules in force", Args: cobra.NoArgs,
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
	group := &cobra.Command{Use: "policy", Short: "Look at the policy: who may do what"}
	group.AddCommand(sample, show)
	return []*cobra.Command{group}
}
