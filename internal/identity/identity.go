// Package identity says who a caller is: what a token stands for. The embedded
// Keystone of a single machine is in embedded.
//
// It owns no rule of what a caller may do: that is policy's.
package identity

import (
	"context"
	"encoding/json"
	"time"
)

// Identity is what a valid token stands for. The project's fields are empty for
// an unscoped token.
type Identity struct {
	UserID      string
	UserName    string
	ProjectID   string
	ProjectName string
	Roles       []string // names
	Catalog     json.RawMessage
	ExpiresAt   time.Time
}

// Validator checks tokens. KindUnauthorized: the token is no good.
// KindUnavailable: nobody could be asked.
type Validator interface {
	Validate(ctx context.Context, token string) (Identity, error)
}
