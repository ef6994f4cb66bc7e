// Package policy decides whether a caller may do something: OpenStack's policy
// rules by name, with the defaults of the original built in.
//
// It owns the rules and how they are checked. It knows nothing of HTTP, of
// tokens or of what a rule's operation does. A rule is a Check, made by hand
// for the defaults; a reader of policy files makes the same values and gives
// them to New.
package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/gotrove/gotrove/internal/trove"
)

// Creds is who asks.
type Creds struct {
	UserID    string
	ProjectID string
	Roles     []string
	IsAdmin   bool
}

// Target is what the operation is done to, by the names that rules use
// ("tenant" is the project that owns it).
type Target map[string]string

// Owned is the target of a thing that a project owns.
func Owned(projectID string) Target { return Target{"tenant": projectID} }

// Check is one condition of a rule.
type Check func(e *Enforcer, c Creds, t Target) bool

// Always lets everyone do it: an empty rule.
func Always() Check { return func(*Enforcer, Creds, Target) bool { return true } }

// Never lets no one do it: the rule "!".
func Never() Check { return func(*Enforcer, Creds, Target) bool { return false } }

// Role holds for callers with a role; case makes no difference ("role:admin").
func Role(name string) Check {
	return func(_ *Enforcer, c Creds, _ Target) bool {
		return slices.ContainsFunc(c.Roles, func(r string) bool { return strings.EqualFold(r, name) })
	}
}

// IsAdmin holds for callers the service has found to be administrators
// ("is_admin:True").
func IsAdmin() Check { return func(_ *Enforcer, c Creds, _ Target) bool { return c.IsAdmin } }

// Project holds for callers whose project is the member key of the target
// ("project_id:%(tenant)s").
func Project(key string) Check {
	return func(_ *Enforcer, c Creds, t Target) bool {
		owner, ok := t[key]
		return ok && owner == c.ProjectID
	}
}

// Rule holds when another rule does ("rule:admin"); one that does not exist
// holds for no one.
func Rule(name string) Check {
	return func(e *Enforcer, c Creds, t Target) bool {
		check, ok := e.rules[name]
		return ok && check(e, c, t)
	}
}

// Any holds when one of checks does.
func Any(checks ...Check) Check {
	return func(e *Enforcer, c Creds, t Target) bool {
		return slices.ContainsFunc(checks, func(check Check) bool { return check(e, c, t) })
	}
}

// Enforcer holds the rules of a service. It does not change once made, so that
// it may be used from any goroutine.
type Enforcer struct{ rules map[string]Check }

// New makes an enforcer of the defaults with rules laid over them by name.
// Rules must not refer to one another in a circle.
func New(rules map[string]Check) *Enforcer {
	all := Defaults()
	maps.Copy(all, rules)
	return &Enforcer{rules: all}
}

// Enforce returns nil if c may do what rule stands for to t, else an error of
// KindForbidden that names the rule. A rule that does not exist is refused as
// the rule "default" would be.
func (e *Enforcer) Enforce(rule string, c Creds, t Target) error {
	check, ok := e.rules[rule]
	if !ok {
		check = Rule("default")
	}
	if check(e, c, t) {
		return nil
	}
	return trove.Errorf(trove.KindForbidden, "Policy doesn't allow %s to be performed.", rule)
}

// Admin reports whether roles make an administrator (rule context_is_admin).
func (e *Enforcer) Admin(c Creds) bool {
	return e.Enforce("context_is_admin", c, Owned(c.ProjectID)) == nil
}

// Has reports whether there is a rule of this name.
func (e *Enforcer) Has(rule string) bool {
	_, ok := e.rules[rule]
	return ok
}
