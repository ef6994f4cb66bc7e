package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ruleSet is a set of rules that fit together. It does not change once made.
type ruleSet struct {
	checks   map[string]Check
	fallback string // the rule that stands for those that are not there
}

// find gives the rule that name stands for, and its name; nil if there is none.
func (s *ruleSet) find(name string) (string, Check) {
	if c, ok := s.checks[name]; ok {
		return name, c
	}
	return s.fallback, s.checks[s.fallback]
}

// newRuleSet lays rules over the defaults. An error names rules that go round
// in a circle.
func newRuleSet(over map[string]Check, fallback string) (*ruleSet, error) {
	s := &ruleSet{checks: defaultChecks(), fallback: fallback}
	maps.Copy(s.checks, over)
	const (
		open = 1
		done = 2
	)
	state := map[string]int{}
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		name, c := s.find(name)
		path = append(path, name)
		if state[name] == open {
			return fmt.Errorf("rules go round in a circle: %s", strings.Join(path[slices.Index(path, name):], " → "))
		}
		if c == nil || state[name] == done {
			return nil
		}
		state[name] = open
		for next := range references(c) {
			if err := visit(next, path); err != nil {
				return err
			}
		}
		state[name] = done
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.checks)) {
		if err := visit(name, nil); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// doubts tells what is strange about rules laid over the defaults, though they
// can be followed.
func (s *ruleSet) doubts(over map[string]Check) []string {
	known := defaultChecks()
	used := map[string]bool{s.fallback: true}
	for _, c := range s.checks {
		for name := range references(c) {
			used[name] = true
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(over)) {
		if known[name] == nil && !used[name] {
			out = append(out, fmt.Sprintf("rule %q has no effect: there is no operation of this name, and no rule refers to it", name))
		}
		for next := range references(over[name]) {
			if s.checks[next] == nil {
				out = append(out, fmt.Sprintf("rule %q refers to rule %q, which is not there: it is taken for %q", name, next, s.fallback))
			}
		}
		for part := range parts(over[name]) {
			if a, ok := part.(attribute); ok && a.path[0] == "tenant" {
				out = append(out, fmt.Sprintf("rule %q has %s: the attribute tenant is deprecated, write project_id", name, a))
			}
		}
	}
	return out
}

// parts goes through a condition and all that it is made of.
func parts(c Check) func(yield func(Check) bool) {
	return func(yield func(Check) bool) {
		var walk func(Check) bool
		walk = func(c Check) bool {
			return yield(c) && !slices.ContainsFunc(c.inside(), func(c Check) bool { return !walk(c) })
		}
		walk(c)
	}
}

// references gives the names of the rules that a condition asks.
func references(c Check) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for p := range parts(c) {
			if r, ok := p.(rule); ok && !yield(string(r)) {
				return
			}
		}
	}
}
