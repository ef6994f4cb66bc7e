package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/gotrove/gotrove/internal/trove"
)

// explanation is what a user may be told of a driver's error.
type explanation struct {
	kind            trove.Kind
	message, action string
}

// classify gives err a kind and a text without the driver's words, which stay
// in its chain. An error that has a kind keeps it.
func (s *Store) classify(err error, query string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*trove.Error](err); ok {
		return err
	}
	if x := s.d.explain(err); x != nil {
		return &trove.Error{Kind: x.kind, Message: x.message, Action: x.action, Err: err}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &trove.Error{Kind: trove.KindUnavailable, Message: "The database did not answer in time.", Action: "Try again.", Err: err}
	}
	if s.closed.Load() || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) {
		return &trove.Error{Kind: trove.KindUnavailable, Message: "The database is being closed.", Err: err}
	}
	s.log.Error("the database refused a statement", "statement", query, "error", err)
	return &trove.Error{Kind: trove.KindInternal, Message: "The database refused a statement.",
		Action: "Look at the service's log.", Err: err}
}
