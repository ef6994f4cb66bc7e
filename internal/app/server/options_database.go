package server

import (
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/store"
)

// databaseOptions is the group [database], with oslo.db's names and defaults.
type databaseOptions struct {
	Connection secret.String `conf:"database.connection"`
}

// config says where the database of record is.
func (o *databaseOptions) config() (store.Config, error) {
	return store.Config{URL: o.Connection}, nil
}
