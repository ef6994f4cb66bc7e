// Package policy decides whether a caller may do something: OpenStack's policy
// rules by name, with the defaults of the original built in and oslo.policy's
// files laid over them, read again when they change.
//
// It owns the rule language, the files, and how rules are checked: as Debian's
// python3-oslo.policy does, which a test compares with on generated rules. It
// knows nothing of HTTP, of tokens or of what a rule's operation does. Where
// oslo.policy guesses at a rule that nobody can have meant, this refuses the
// file; nothing that cannot be decided is allowed.
package policy

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// Creds is who asks. An attribute that is empty is None to the rules.
type Creds struct {
	UserID    string
	ProjectID string
	Roles     []string
	IsAdmin   bool

	UserDomainID    string
	ProjectDomainID string
	// NotAdminProject: the identity service has a project of administrators, and
	// this is not it.
	NotAdminProject bool
	// The service that passes the request on (X-Service-Token), if one does.
	ServiceUserID    string
	ServiceProjectID string
	ServiceRoles     []string

	// More are further attributes: strings, booleans, integers, nil, and lists
	// and string-keyed maps ([]any, map[string]any) of them.
	More map[string]any
}

// attribute gives what rules call by a name.
func (c *Creds) attribute(name string) (any, bool) {
	text := func(s string) (any, bool) {
		if s == "" {
			return nil, true
		}
		return s, true
	}
	switch name {
	case "user_id", "user":
		return text(c.UserID)
	case "project_id", "project", "tenant":
		return text(c.ProjectID)
	case "user_domain_id", "user_domain":
		return text(c.UserDomainID)
	case "project_domain_id", "project_domain":
		return text(c.ProjectDomainID)
	case "service_user_id":
		return text(c.ServiceUserID)
	case "service_project_id":
		return text(c.ServiceProjectID)
	case "roles":
		return c.Roles, true
	case "service_roles":
		return c.ServiceRoles, true
	case "is_admin":
		return c.IsAdmin, true
	case "is_admin_project":
		return !c.NotAdminProject, true
	case "domain_id", "domain", "system_scope":
		return nil, true // only tokens of a project get this far
	}
	v, ok := c.More[name]
	return v, ok
}

// Target is what the operation is done to, by the names that rules use
// ("tenant" is the project that owns it).
type Target map[string]string

// Owned is the target of a thing that a project owns.
func Owned(projectID string) Target { return Target{"tenant": projectID} }

// Enforcer holds the rules of a service. It may be used from any goroutine.
type Enforcer struct {
	o      Options
	static bool // there are no files
	rules  atomic.Pointer[ruleSet]

	due    atomic.Int64 // when the files are looked at next, Unix nanoseconds
	mu     sync.Mutex   // held by whoever looks at them
	files  files
	broken atomic.Pointer[trove.Error]
}

// New makes an enforcer of the defaults with rules laid over them by name, and
// of no files. If the rules go round in a circle it allows nothing.
func New(over map[string]Check) *Enforcer {
	e := &Enforcer{o: Options{}.withDefaults(), static: true}
	s, err := newRuleSet(over, e.o.DefaultRule)
	if err != nil {
		e.o.Log.Error("policy: all is refused", "error", err)
		s = &ruleSet{}
	}
	e.rules.Store(s)
	return e
}

// Enforce returns nil if c may do what rule stands for to t, else an error of
// KindForbidden that names the rule. A rule that does not exist is refused as
// the rule "default" would be.
func (e *Enforcer) Enforce(rule string, c Creds, t Target) error {
	if e.allows(rule, &c, t) {
		return nil
	}
	return trove.Errorf(trove.KindForbidden, "Policy doesn't allow %s to be performed.", rule)
}

func (e *Enforcer) allows(name string, c *Creds, t Target) bool {
	e.look()
	question := evaluation{rules: e.rules.Load(), creds: c, target: t}
	_, check := question.rules.find(name)
	allowed := check != nil && check.holds(&question)
	if question.err != nil {
		e.o.Log.Warn("a policy rule cannot be decided and refuses", "rule", name, "error", question.err)
		return false
	}
	return allowed
}

// Admin reports whether a caller is an administrator: has one of the roles of
// Options.AdminRoles if there are any, else by the rule context_is_admin.
func (e *Enforcer) Admin(c Creds) bool {
	if len(e.o.AdminRoles) > 0 {
		return slices.ContainsFunc(c.Roles, func(r string) bool { return slices.Contains(e.o.AdminRoles, strings.ToLower(r)) })
	}
	return e.allows("context_is_admin", &c, Owned(c.ProjectID))
}

// Has reports whether there is a rule of this name.
func (e *Enforcer) Has(rule string) bool {
	_, ok := e.rules.Load().checks[rule]
	return ok
}

// Broken is why the files as they are now cannot be used, and rules read
// earlier are in force; nil if they can.
func (e *Enforcer) Broken() error {
	if err := e.broken.Load(); err != nil {
		return err
	}
	return nil
}

// Options of an enforcer with files. None is needed.
type Options struct {
	// File has the rules that differ from the defaults: policy.yaml if empty. If
	// that is not there, policy.json beside it does. It may be missing.
	File string
	// Dirs hold more such files, read after File in order of name. They may be
	// missing.
	Dirs []string
	// Search are the directories that a relative File and Dirs are looked for
	// in: the first that has it.
	Search []string
	// DefaultRule stands for rules that are not there: "default" if empty.
	DefaultRule string
	// AdminRoles, in small letters, make administrators if there are any, in
	// place of the rule context_is_admin.
	AdminRoles []string

	Log *slog.Logger     // nil: slog.Default
	Now func() time.Time // nil: time.Now
}

func (o Options) withDefaults() Options {
	if o.File == "" {
		o.File = defaultFile
	}
	if o.DefaultRule == "" {
		o.DefaultRule = "default"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}
