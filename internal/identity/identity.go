// Package identity says who a caller is: what a token stands for. Tokens of a
// cloud are checked by keystone, those of a single machine by embedded, which
// is an identity service of its own.
//
// It owns no rule of what a caller may do: that is policy's.
package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Identity is what a valid token stands for. The project's fields are empty for
// a token that is not for a project: an unscoped one, or one for a domain or
// the whole system.
type Identity struct {
	UserID            string
	UserName          string
	UserDomainID      string
	UserDomainName    string
	ProjectID         string
	ProjectName       string
	ProjectDomainID   string
	ProjectDomainName string
	Roles             []string // names
	// Catalog is JSON, as Keystone v3 has it; empty if it was not asked for.
	Catalog   json.RawMessage
	ExpiresAt time.Time
	// NotAdminProject: the identity service has a project of administrators, and
	// this is not it.
	NotAdminProject bool
	// System: the token is for the whole system.
	System bool
	// Restricted: the token is of an application credential that may make the
	// calls of AccessRules and no other.
	Restricted  bool
	AccessRules []AccessRule
	// Services are the types of the services in the catalog, for restricted
	// tokens only.
	Services []string
}

// Validator checks tokens. KindUnauthorized: the token is no good.
// KindUnavailable: nobody could be asked; an Away in the chain tells when it is
// worth asking again.
type Validator interface {
	Validate(ctx context.Context, token string) (Identity, error)
}

// Away is the cause of an error of KindUnavailable.
type Away struct {
	Retry time.Duration // from now
	Err   error
}

func (a *Away) Error() string {
	return fmt.Sprintf("the identity service is away: %v", a.Err)
}

// Unwrap returns what happened.
func (a *Away) Unwrap() error { return a.Err }
