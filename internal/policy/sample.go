package policy

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Sample writes a policy file that has every rule as a comment: its
// description, the calls that ask it, and its default.
func Sample(w io.Writer) error {
	b := bufio.NewWriter(w)
	b.WriteString(`# The policy of the database service: who may do what. Every rule is here with its
# default; take away the "#" before a rule, change it, and put the file where
# [oslo_policy] policy_file says: /etc/trove/policy.yaml. Services read it again
# when it changes.
`)
	for _, d := range Defaults() {
		fmt.Fprintf(b, "\n# %s\n", d.Description)
		for _, call := range d.Calls {
			method, path, _ := strings.Cut(call, " ")
			fmt.Fprintf(b, "# %-6s %s\n", method, path)
		}
		fmt.Fprintf(b, "#%q: %q\n", d.Name, d.Check)
	}
	return b.Flush()
}

// WriteRules writes the rules that are in force, as a policy file; with
// changedOnly, those that differ from the defaults.
func (e *Enforcer) WriteRules(w io.Writer, changedOnly bool) error {
	b := bufio.NewWriter(w)
	checks, defaults := e.rules.Load().checks, defaultChecks()
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		text := checks[name].String()
		if d := defaults[name]; !changedOnly || d == nil || d.String() != text {
			fmt.Fprintf(b, "%q: %q\n", name, text)
		}
	}
	return b.Flush()
}
