package trove

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is. It decides the HTTP status, the
// exit code of the command line and the Python exception name on the bus; the
// text of an error never does.
type Kind uint8

// Kinds, with the HTTP status each becomes.
const (
	KindInternal       Kind = iota // 500 instanceFault
	KindBadRequest                 // 400 badRequest
	KindUnauthorized               // 401 unauthorized
	KindForbidden                  // 403 forbidden
	KindNotFound                   // 404 itemNotFound
	KindConflict                   // 409 conflict
	KindOverLimit                  // 413 overLimit
	KindUnprocessable              // 422 unprocessableEntity: not possible in this state
	KindNotImplemented             // 501 notImplemented
	KindUnavailable                // 503 serviceUnavailable: a part we need is away
	KindGuest                      // 400 badRequest: the guest agent refused or failed
	KindGuestTimeout               // 400 badRequest: the guest agent did not answer in time
	KindNotAcceptable              // 406 notAcceptable
)

var kindNames = [...]string{
	"internal", "bad request", "unauthorized", "forbidden", "not found", "conflict", "over limit",
	"unprocessable", "not implemented", "unavailable", "guest error", "guest timeout", "not acceptable",
}

// String names the kind for logs.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Error is an error with a kind. Message is meant for the person who made the
// request: it names what was wrong and what would be right, and never holds a
// secret. Action, when set, says what to do next. Err is the cause, whose text
// Message already tells as far as it may be told.
type Error struct {
	Kind    Kind
	Message string
	Action  string
	Err     error
}

// Error gives the message.
func (e *Error) Error() string {
	if e.Message == "" && e.Err != nil {
		return e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a kind from a format as fmt.Errorf takes it: a %w
// keeps the cause for errors.Is and errors.As.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: err}
}

// WithAction returns a copy of e that tells what to do next.
func (e *Error) WithAction(format string, args ...any) *Error {
	c := *e
	c.Action = fmt.Sprintf(format, args...)
	return &c
}

// KindOf returns the kind of the first Error in err's chain, KindInternal if
// there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// IsKind reports whether err is of kind k.
func IsKind(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// ActionOf returns the advice of the first Error in err's chain that has one.
func ActionOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Action != "" {
			return e.Action
		}
		err = e.Err
	}
	return ""
}
