package keystone

import (
	"context"

	"github.com/gotrove/gotrove/internal/identity"
)

// Self tells who we are at Keystone: what Ping asks about, with the catalog
// unless it is not wanted. An error tells what to change.
func (v *Validator) Self(ctx context.Context) (identity.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*v.o.Timeout)
	defer cancel()
	own, err := v.service.token(ctx, "")
	if err != nil {
		return identity.Identity{}, v.explain(err, 0)
	}
	id, err := v.ask(ctx, own.token)
	return id, v.explain(err, 0)
}
