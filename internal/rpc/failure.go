package rpc

import (
	"encoding/json"
	"errors"

	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/trove"
)

const (
	troveModule = "trove.common.exception"
	builtins    = "builtins"
)

// classOf is the Python exception that stands for a kind. Only the classes
// that Python callers tell apart are worth a name; the rest is a GuestError or
// a TroveError, as which they pass anyway.
var classOf = map[trove.Kind]string{
	trove.KindInternal:       "TroveError",
	trove.KindBadRequest:     "BadRequest",
	trove.KindUnauthorized:   "Forbidden",
	trove.KindForbidden:      "Forbidden",
	trove.KindNotFound:       "NotFound",
	trove.KindConflict:       "BadRequest",
	trove.KindOverLimit:      "OverLimit",
	trove.KindUnprocessable:  "UnprocessableEntity",
	trove.KindNotImplemented: "DatastoreOperationNotSupported",
	trove.KindUnavailable:    "TroveError",
	trove.KindGuest:          "GuestError",
	trove.KindGuestTimeout:   "GuestTimeout",
	trove.KindNotAcceptable:  "BadRequest",
}

// kindOf is the kind that an exception of trove.common.exception stands for.
var kindOf = map[string]trove.Kind{
	"TroveError":                      trove.KindGuest,
	"GuestError":                      trove.KindGuest,
	"GuestTimeout":                    trove.KindGuestTimeout,
	"PollTimeOut":                     trove.KindGuestTimeout,
	"NotFound":                        trove.KindNotFound,
	"ModelNotFoundError":              trove.KindNotFound,
	"UserNotFound":                    trove.KindNotFound,
	"DatabaseNotFound":                trove.KindNotFound,
	"RootHistoryNotFound":             trove.KindNotFound,
	"LogFileNotFound":                 trove.KindNotFound,
	"ConfigNotFound":                  trove.KindNotFound,
	"BackupFileNotFound":              trove.KindNotFound,
	"BadRequest":                      trove.KindBadRequest,
	"MissingKey":                      trove.KindBadRequest,
	"BadValue":                        trove.KindBadRequest,
	"UserAlreadyExists":               trove.KindBadRequest,
	"DatabaseAlreadyExists":           trove.KindBadRequest,
	"Forbidden":                       trove.KindForbidden,
	"LogAccessForbidden":              trove.KindForbidden,
	"OverLimit":                       trove.KindOverLimit,
	"QuotaExceeded":                   trove.KindOverLimit,
	"UnprocessableEntity":             trove.KindUnprocessable,
	"InvalidInstanceState":            trove.KindUnprocessable,
	"DatastoreOperationNotSupported":  trove.KindNotImplemented,
	"ReplicationNotSupported":         trove.KindNotImplemented,
	"BackupCreationError":             trove.KindGuest,
	"IncompatibleReplicationStrategy": trove.KindGuest,
	"InsufficientSpaceForReplica":     trove.KindGuest,
	"UnableToDetermineLastMasterGTID": trove.KindGuest,
	"InsufficientSpaceForSnapshot":    trove.KindGuest,
}

// Arguments of our own in a failure: the exact kind, which the class of a
// Python exception only tells roughly, and the advice. Python's exceptions take
// any keyword.
const (
	kindKeyword   = "gotrove_kind"
	actionKeyword = "gotrove_action"
)

// Unwrap gives the trove.Error that the exception stands for, nil where its
// class says nothing.
func (e *RemoteError) Unwrap() error {
	if e.Module != troveModule {
		return nil
	}
	kind, ok := kindOf[e.Class]
	if !ok {
		return nil
	}
	if exact, found := e.exactKind(); found {
		kind = exact
	}
	t := &trove.Error{Kind: kind, Message: e.Message}
	_ = json.Unmarshal(e.Kwargs[actionKeyword], &t.Action)
	return t
}

func (e *RemoteError) exactKind() (trove.Kind, bool) {
	var name string
	if json.Unmarshal(e.Kwargs[kindKeyword], &name) != nil {
		return 0, false
	}
	for k := range classOf {
		if k.String() == name {
			return k, true
		}
	}
	return 0, false
}

func remoteError(f *wire.Failure) *RemoteError {
	return &RemoteError{Class: f.Class, Module: f.Module, Message: f.Message,
		Traceback: f.Traceback, Args: f.Args, Kwargs: f.Kwargs}
}

// failureOf serialises err so that Python can rebuild it. The text of an error
// that is nobody's message (of no kind) stays here: only its being internal is told.
func failureOf(err error) *wire.Failure {
	if r, ok := errors.AsType[*RemoteError](err); ok {
		return &wire.Failure{Class: r.Class, Module: r.Module, Message: r.Message,
			Traceback: r.Traceback, Args: r.Args, Kwargs: r.Kwargs}
	}
	kind, message := trove.KindInternal, "internal error; the server's log tells more"
	if e, ok := errors.AsType[*trove.Error](err); ok {
		kind, message = e.Kind, e.Error()
	}
	f := &wire.Failure{Class: classOf[kind], Module: troveModule, Message: message}
	if f.Class == "" {
		f.Class = "TroveError"
	}
	f.Kwargs = map[string]json.RawMessage{kindKeyword: quote(kind.String())}
	if f.Class == "GuestError" {
		// Its text is a format of its own around this argument.
		f.Kwargs["original_message"] = quote(message)
	} else {
		// The message is a format too, and ours may hold percent signs.
		f.Kwargs["message"], f.Kwargs["text"] = quote("%(text)s"), quote(message)
	}
	if action := trove.ActionOf(err); action != "" {
		f.Kwargs[actionKeyword] = quote(action)
	}
	return f
}

func quote(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil { // a string always has a form
		return json.RawMessage(`""`)
	}
	return b
}
