package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/gotrove/gotrove/internal/trove"
)

// faultOf says which status and which key a kind of error becomes (contract:
// REST API 1.6).
var faultOf = map[trove.Kind]struct {
	status int
	key    string
}{
	trove.KindInternal:       {http.StatusInternalServerError, "instanceFault"},
	trove.KindBadRequest:     {http.StatusBadRequest, "badRequest"},
	trove.KindUnauthorized:   {http.StatusUnauthorized, "unauthorized"},
	trove.KindForbidden:      {http.StatusForbidden, "forbidden"},
	trove.KindNotFound:       {http.StatusNotFound, "itemNotFound"},
	trove.KindConflict:       {http.StatusConflict, "conflict"},
	trove.KindOverLimit:      {http.StatusRequestEntityTooLarge, "overLimit"},
	trove.KindUnprocessable:  {http.StatusUnprocessableEntity, "unprocessableEntity"},
	trove.KindNotImplemented: {http.StatusNotImplemented, "notImplemented"},
	trove.KindUnavailable:    {http.StatusServiceUnavailable, "serviceUnavailable"},
	trove.KindGuest:          {http.StatusBadRequest, "badRequest"},
	trove.KindGuestTimeout:   {http.StatusBadRequest, "badRequest"},
	trove.KindNotAcceptable:  {http.StatusNotAcceptable, "notAcceptable"},
}

// fault is the body of an error; the rate limit's has two members more.
type fault struct {
	Code       int    `json:"code"`
	Message    string `json:"message"`
	Details    string `json:"details,omitempty"`
	RetryAfter string `json:"retryAfter,omitempty"`
}

var errNoResource = trove.Errorf(trove.KindNotFound, "The resource could not be found.")

// errMediaType has no kind of its own: only HTTP knows it.
var errMediaType = errors.New("a body must be application/json")

// rateError is a request over its rate limit.
type rateError struct {
	verb  string
	limit int
	retry time.Duration
}

func (e *rateError) Error() string {
	return fmt.Sprintf("Only %d %s request(s) can be made every minute.", e.limit, e.verb)
}

// writeError answers with the fault that err stands for. What the caller may
// not know is logged under an id that the answer names.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	if over, ok := errors.AsType[*rateError](err); ok {
		seconds := strconv.Itoa(int((over.retry + time.Second - 1) / time.Second))
		w.Header().Set("Retry-After", seconds)
		writeFault(w, http.StatusRequestEntityTooLarge, "overLimit", fault{
			Message: "This request was rate-limited.", Details: over.Error(), RetryAfter: seconds})
		return
	}
	if errors.Is(err, errMediaType) {
		writeFault(w, http.StatusUnsupportedMediaType, "badMediaType", fault{
			Message: "The body must be of content type application/json."})
		return
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		// The caller has gone; no one reads this.
		s.log.DebugContext(ctx, "the caller left before the answer")
		return
	}
	kind := trove.KindOf(err)
	f, ok := faultOf[kind]
	if !ok {
		f = faultOf[trove.KindInternal]
	}
	if f.status >= http.StatusInternalServerError && kind != trove.KindNotImplemented {
		s.log.LogAttrs(ctx, slog.LevelError, "request failed", slog.Any("error", rootError(err)), slog.String("kind", kind.String()))
	}
	if f.status == http.StatusInternalServerError {
		s.writeInternal(w, r, err)
		return
	}
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", s.challenge)
	}
	message := err.Error()
	if action := trove.ActionOf(err); action != "" {
		message += " " + action
	}
	writeFault(w, f.status, f.key, fault{Message: message})
}

// rootError gives for the log what a trove.Error only tells in short.
func rootError(err error) error {
	if e, ok := errors.AsType[*trove.Error](err); ok && e.Err != nil {
		return fmt.Errorf("%s: %w", e.Error(), e.Err)
	}
	return err
}

func (s *Server) writeInternal(w http.ResponseWriter, r *http.Request, err error) {
	id := trove.NewID()
	s.log.ErrorContext(r.Context(), "internal error", "fault_id", id, "error", err)
	writeFault(w, http.StatusInternalServerError, "instanceFault", fault{
		Message: "Internal Server Error. Please keep this ID to help us figure out what went wrong: (" + id + ")."})
}

func writeFault(w http.ResponseWriter, status int, key string, f fault) {
	f.Code = status
	writeJSON(w, status, map[string]fault{key: f})
}

// writeJSON answers with v; nil is an empty body.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	if v == nil {
		if status != http.StatusNoContent {
			w.Header().Set("Content-Length", "0")
		}
		w.WriteHeader(status)
		return
	}
	buf := getBuffer()
	defer putBuffer(buf)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// Views hold only what JSON can hold, but for a float from a guest
		// that is no number.
		http.Error(w, `{"instanceFault":{"code":500,"message":"The answer could not be encoded."}}`, http.StatusInternalServerError)
		return
	}
	b := buf.Bytes()[:buf.Len()-1] // without the encoder's newline
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // an error means that the caller has gone
}
