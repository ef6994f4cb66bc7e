// Package wire is the codec of oslo.messaging's bodies: the envelope, the
// request and the reply with its serialised failure, as Python's library
// writes and reads them on RabbitMQ.
//
// It turns bytes into structs and back and checks their form. It does no I/O
// and knows neither connections nor what a method means. Values of arguments,
// contexts and results stay raw JSON, so that nothing is lost on the way.
package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What every body is published as. A Python receiver drops, without a word, a
// message of another content type.
const (
	ContentType     = "application/json"
	ContentEncoding = "utf-8"
)

// DefaultMaxBody bounds a body, in bytes, where no other bound is given.
const DefaultMaxBody = 64 << 20

var (
	errUTF8   = fmt.Errorf("%w: not UTF-8", ErrForm)
	errObject = fmt.Errorf("%w: not a JSON object", ErrForm)
)

const (
	envelopeVersion = "2.0"
	keyVersion      = "oslo.version"
	keyMessage      = "oslo.message"
	contextPrefix   = "_context_"
)

// Errors of decoding, for errors.Is.
var (
	ErrTooLarge = errors.New("body exceeds the bound")
	ErrVersion  = errors.New("envelope version is not compatible with " + envelopeVersion)
	ErrForm     = errors.New("not a message of oslo.messaging")
)

// Request is a call or, without MsgID, a cast.
type Request struct {
	Method     string
	Args       map[string]json.RawMessage
	Version    string // of the RPC API; "" is 1.0
	Namespace  string
	MsgID      string // names the call
	ReplyQueue string
	// Timeout, in seconds, asks the server to show every half of it that it
	// is still at work; 0 asks for nothing.
	Timeout  float64
	UniqueID string
	Context  map[string]json.RawMessage
	// Made and Kept do not travel in the envelope, which anyone may write: only
	// what seals the request carries them. Made is when the request was made, in
	// microseconds since 1970, 0 if that is not known; Kept is whether its sender
	// keeps it until it hears that it was taken.
	Made int64
	Kept bool
}

// Reply answers a call, or part of it: only one with Ending is the last.
type Reply struct {
	MsgID    string
	UniqueID string
	Result   json.RawMessage // nil is null
	Failure  *Failure
	Ending   bool
}

// EncodeRequest gives the body of r.
func EncodeRequest(r Request) ([]byte, error) {
	inner := make(map[string]any, 8+len(r.Context))
	for k, v := range r.Context {
		inner[contextPrefix+k] = v
	}
	args := r.Args
	if args == nil {
		args = map[string]json.RawMessage{}
	}
	inner["method"], inner["args"], inner["_unique_id"] = r.Method, args, r.UniqueID
	if r.Version != "" {
		inner["version"] = r.Version
	}
	if r.Namespace != "" {
		inner["namespace"] = r.Namespace
	}
	if r.MsgID != "" {
		inner["_msg_id"], inner["_reply_q"], inner["_timeout"] = r.MsgID, r.ReplyQueue, nil
		if r.Timeout > 0 {
			inner["_timeout"] = r.Timeout
		}
	}
	return seal(inner)
}

// DecodeRequest reads a body of at most limit bytes (0: DefaultMaxBody), in an
// envelope or bare as in version 1.0.
func DecodeRequest(body []byte, limit int) (Request, error) {
	inner, err := open(body, limit)
	if err != nil {
		return Request{}, err
	}
	r := Request{Context: map[string]json.RawMessage{}}
	var timeout *float64
	for _, f := range []struct {
		key  string
		into any
	}{
		{"method", &r.Method}, {"args", &r.Args}, {"version", &r.Version}, {"namespace", &r.Namespace},
		{"_msg_id", &r.MsgID}, {"_reply_q", &r.ReplyQueue}, {"_timeout", &timeout}, {"_unique_id", &r.UniqueID},
	} {
		if err := member(inner, f.key, f.into); err != nil {
			return Request{}, err
		}
	}
	if r.Method == "" {
		return Request{}, fmt.Errorf("%w: no method", ErrForm)
	}
	if timeout != nil && *timeout > 0 {
		r.Timeout = *timeout
	}
	for k, v := range inner {
		if name, ok := strings.CutPrefix(k, contextPrefix); ok {
			r.Context[name] = v
		}
	}
	return r, nil
}

// EncodeReply gives the body of r.
func EncodeReply(r Reply) ([]byte, error) {
	inner := map[string]any{
		"result": nil, "failure": nil, "ending": r.Ending, "_msg_id": r.MsgID, "_unique_id": r.UniqueID,
	}
	if len(r.Result) > 0 {
		inner["result"] = r.Result
	}
	if r.Failure != nil {
		f, err := r.Failure.encode()
		if err != nil {
			return nil, err
		}
		inner["failure"] = f
	}
	return seal(inner)
}

// DecodeReply reads a body of at most limit bytes (0: DefaultMaxBody).
func DecodeReply(body []byte, limit int) (Reply, error) {
	inner, err := open(body, limit)
	if err != nil {
		return Reply{}, err
	}
	var r Reply
	var failure *string
	for _, f := range []struct {
		key  string
		into any
	}{
		{"_msg_id", &r.MsgID}, {"_unique_id", &r.UniqueID}, {"ending", &r.Ending}, {"failure", &failure},
	} {
		if err := member(inner, f.key, f.into); err != nil {
			return Reply{}, err
		}
	}
	if r.MsgID == "" {
		return Reply{}, fmt.Errorf("%w: a reply without _msg_id", ErrForm)
	}
	if v := inner["result"]; !isNull(v) {
		r.Result = v
	}
	if failure != nil {
		if r.Failure, err = decodeFailure(*failure); err != nil {
			return Reply{}, err
		}
	}
	return r, nil
}

func member(inner map[string]json.RawMessage, key string, into any) error {
	v, ok := inner[key]
	if !ok {
		return nil
	}
	switch into := into.(type) {
	case *string:
		if s, ok := Text(v); ok {
			*into = s
			return nil
		}
	case *map[string]json.RawMessage:
		if o, err := Members(v); err == nil {
			*into = o
			return nil
		}
	}
	if err := json.Unmarshal(v, into); err != nil {
		// Not the decoder's text: it may quote a value.
		return fmt.Errorf("%w: member %s has the wrong type", ErrForm, key)
	}
	return nil
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

// open takes the envelope off.
func open(body []byte, limit int) (map[string]json.RawMessage, error) {
	if limit <= 0 {
		limit = DefaultMaxBody
	}
	if len(body) > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(body), limit)
	}
	if !utf8.Valid(body) {
		return nil, errUTF8
	}
	envelope, err := Members(body)
	if err != nil {
		return nil, err
	}
	version, message := envelope[keyVersion], envelope[keyMessage]
	if version == nil || isNull(message) {
		return envelope, nil // version 1.0 had none
	}
	v, ok := Text(version)
	if !isText(message) || !ok && !isNull(version) {
		return nil, fmt.Errorf("%w: members of the envelope are not strings", ErrForm)
	}
	if !understood(v) {
		return nil, fmt.Errorf("%w: %.20q", ErrVersion, v)
	}
	return Members(unescape(message))
}

// understood is oslo.messaging's rule: the same major version, and a minor one
// that is not above ours, which is zero.
func understood(v string) bool {
	major, minor, _ := strings.Cut(v, ".")
	ma, err := strconv.Atoi(major)
	if err != nil || ma != 2 {
		return false
	}
	if minor == "" {
		return true
	}
	mi, err := strconv.Atoi(minor)
	return err == nil && mi <= 0
}

func seal(inner map[string]any) ([]byte, error) {
	message, err := encode(inner)
	if err != nil {
		return nil, err
	}
	return encode(map[string]string{keyVersion: envelopeVersion, keyMessage: string(message)})
}

// encode is JSON in ASCII, as Python writes it.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return ascii(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// ascii writes what is not ASCII, which in JSON can only be inside strings, as
// \uXXXX.
func ascii(b []byte) []byte {
	i := bytes.IndexFunc(b, func(r rune) bool { return r >= utf8.RuneSelf })
	if i < 0 {
		return b
	}
	out := make([]byte, i, len(b)+len(b)/2)
	copy(out, b)
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		i += n
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
