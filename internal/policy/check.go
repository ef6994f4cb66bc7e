package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Check is one condition of a rule, made by Parse, Always or Never.
type Check interface {
	// String gives the condition in the rule language.
	String() string
	// holds decides. What cannot be decided is noted in e, and refuses the whole
	// rule: inside a "not", false would have let somebody in.
	holds(e *evaluation) bool
	// inside gives the conditions that this one is made of.
	inside() []Check
}

// evaluation is one question to the rules.
type evaluation struct {
	rules  *ruleSet
	creds  *Creds
	target Target
	err    error
}

func (e *evaluation) fail(format string, args ...any) bool {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
	return false
}

// Always lets everyone do it: the rule "@", or an empty one.
func Always() Check { return constant(true) }

// Never lets no one do it: the rule "!".
func Never() Check { return constant(false) }

type constant bool

func (c constant) String() string {
	if c {
		return "@"
	}
	return "!"
}
func (c constant) holds(*evaluation) bool { return bool(c) }
func (constant) inside() []Check          { return nil }

type not struct{ check Check }

func (n not) String() string           { return "not " + n.check.String() }
func (n not) holds(e *evaluation) bool { return !n.check.holds(e) }
func (n not) inside() []Check          { return []Check{n.check} }

type all []Check

func (a all) String() string { return join(a, " and ") }
func (a all) holds(e *evaluation) bool {
	return !slices.ContainsFunc(a, func(c Check) bool { return !c.holds(e) })
}
func (a all) inside() []Check { return a }

type anyOf []Check

func (a anyOf) String() string { return join(a, " or ") }
func (a anyOf) holds(e *evaluation) bool {
	return slices.ContainsFunc(a, func(c Check) bool { return c.holds(e) })
}
func (a anyOf) inside() []Check { return a }

func join(checks []Check, word string) string {
	texts := make([]string, len(checks))
	for i, c := range checks {
		texts[i] = c.String()
	}
	return "(" + strings.Join(texts, word) + ")"
}

// rule holds when another rule does. One that is not there stands for the
// default rule; if that is not there either, it holds for no one.
type rule string

func (r rule) String() string { return "rule:" + string(r) }
func (r rule) holds(e *evaluation) bool {
	_, c := e.rules.find(string(r))
	return c != nil && c.holds(e)
}
func (rule) inside() []Check { return nil }

// role holds for callers with a role; case makes no difference.
type role struct{ match template }

func (r role) String() string { return "role:" + r.match.text }
func (r role) holds(e *evaluation) bool {
	want, ok := r.match.fill(e.target)
	if !ok {
		return false
	}
	want = strings.ToLower(want)
	return slices.ContainsFunc(e.creds.Roles, func(has string) bool { return strings.ToLower(has) == want })
}
func (role) inside() []Check { return nil }

// literal compares a constant with something of the target:
// 'Member':%(role.name)s.
type literal struct {
	kind  string // as written
	value string
	match template
}

func (l literal) String() string { return l.kind + ":" + l.match.text }
func (l literal) holds(e *evaluation) bool {
	want, ok := l.match.fill(e.target)
	return ok && want == l.value
}
func (literal) inside() []Check { return nil }

// attribute compares something of the caller with something of the target:
// project_id:%(tenant)s.
type attribute struct {
	kind  string
	path  []string
	match template
}

func (a attribute) String() string { return a.kind + ":" + a.match.text }
func (a attribute) holds(e *evaluation) bool {
	want, ok := a.match.fill(e.target)
	if !ok {
		return false
	}
	v, ok := e.creds.attribute(a.path[0])
	return ok && a.search(e, v, a.path[1:], want)
}
func (attribute) inside() []Check { return nil }

// search follows path into v. In a list, one element that fits is enough.
func (a attribute) search(e *evaluation, v any, path []string, want string) bool {
	switch v := v.(type) {
	case []string:
		return slices.ContainsFunc(v, func(x string) bool { return a.search(e, x, path, want) })
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return a.search(e, x, path, want) })
	}
	if len(path) > 0 {
		m, ok := v.(map[string]any)
		if !ok {
			return e.fail("%s: there is nothing inside the caller's attribute to look for %q in", a, path[0])
		}
		v, ok := m[path[0]]
		return ok && a.search(e, v, path[1:], want)
	}
	text, ok := python(v)
	return ok && text == want
}

// python gives the text that a value has in Python, which is what the rules
// that people have written compare with; false for what has members.
func python(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "None", true
	case string:
		return v, true
	case bool:
		if v {
			return "True", true
		}
		return "False", true
	case int:
		return strconv.Itoa(v), true
	}
	return "", false
}

// template is a text with %(name)s in it, for members of the target.
type template struct {
	text  string   // as written
	parts []string // literal, name, literal, …, literal
}

// fill puts the target's values in; false if the target lacks one.
func (t template) fill(target Target) (string, bool) {
	if len(t.parts) == 1 {
		return t.parts[0], true
	}
	if len(t.parts) == 3 && t.parts[0] == "" && t.parts[2] == "" { // the usual one
		v, ok := target[t.parts[1]]
		return v, ok
	}
	var b strings.Builder
	for i, p := range t.parts {
		if i%2 == 1 {
			v, ok := target[p]
			if !ok {
				return "", false
			}
			p = v
		}
		b.WriteString(p)
	}
	return b.String(), true
}
