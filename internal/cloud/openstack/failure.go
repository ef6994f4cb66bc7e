package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/gotrove/gotrove/internal/trove"
)

// failed makes an error of what a service answered; doing tells what was tried,
// as in "create a port". Its kind tells whether to try again.
func failed(ctx context.Context, err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(doing, args...)
	if ctx.Err() != nil {
		return fmt.Errorf("cannot %s: %w", what, ctx.Err())
	}
	if known, ok := errors.AsType[*trove.Error](err); ok {
		return trove.Errorf(known.Kind, "Cannot %s: %w", what, known)
	}
	if code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok {
		return refused(code, what)
	}
	kind := trove.KindInternal
	if transient(err) {
		kind = trove.KindUnavailable
	}
	return trove.Errorf(kind, "Cannot %s: %w", what, short(err))
}

// loginFailed is failed for a login, whose refusal may be an operator's change
// under way.
func loginFailed(ctx context.Context, err error) error {
	if code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok && ctx.Err() == nil {
		switch code.Actual {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest:
			return trove.Errorf(trove.KindUnavailable, "Keystone refuses the login in [service_credentials] (HTTP %d).", code.Actual).
				WithAction("compare auth_url, user, password, project and their domains in [service_credentials]")
		}
	}
	return failed(ctx, err, "log in at Keystone")
}

// errNothing is of an answer that says yes and holds not what was asked for, as
// something between us and a service may give.
var errNothing = errors.New("the answer holds nothing of it")

// transient tells of failures of the connection, and answers that broke off or
// are somebody else's.
func transient(err error) bool {
	var (
		network net.Error
		place   *url.Error
		syntax  *json.SyntaxError
	)
	return errors.As(err, &network) || errors.As(err, &place) || errors.As(err, &syntax) || errors.Is(err, errNothing) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// short is err without the request it belongs to: a URL says little to people.
func short(err error) error {
	if place, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("%s does not answer: %w", hostOf(place.URL), place.Err)
	}
	return err
}

func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return "the service"
}

// refused makes an error of a status that says no.
func refused(code gophercloud.ErrUnexpectedResponseCode, what string) error {
	word, message := said(code.Body)
	if message == "" {
		message = http.StatusText(code.Actual)
	}
	kind, action := trove.KindBadRequest, ""
	switch s := code.Actual; {
	case s == http.StatusNotFound:
		kind = trove.KindNotFound
	case quota(s, word, message):
		kind, action = trove.KindOverLimit, "Free some of it, or have the quota of the service's project raised, then try again."
	case s == http.StatusForbidden:
		kind, action = trove.KindForbidden, "Give the user in [service_credentials] the roles that its calls need."
	case s == http.StatusConflict:
		kind = trove.KindConflict
		if exhausted[word] {
			kind, action = trove.KindOverLimit, "Free addresses of the network, or choose another."
		}
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s == http.StatusUnauthorized, s >= http.StatusInternalServerError:
		kind = trove.KindUnavailable
	}
	e := trove.Errorf(kind, "Cannot %s: %s (HTTP %d from %s)", what, message, code.Actual, hostOf(code.URL))
	e.Action = action
	return e
}

// quota tells whether a refusal is for a quota. Cinder says so by 413, Neutron by
// a word; Nova says 403 as for a missing role, and only its text tells the two
// apart.
func quota(status int, word, message string) bool {
	return status == http.StatusRequestEntityTooLarge || word == "OverQuota" ||
		status == http.StatusForbidden && strings.Contains(message, "uota")
}

// exhausted are Neutron's words for networks without a free address.
var exhausted = map[string]bool{"IpAddressGenerationFailure": true, "IpAddressGenerationFailureNoMatchingSubnet": true,
	"ExternalIpAddressExhausted": true, "NoMoreNetworksAvailable": true}

// said takes what people can read out of an answer: each service wraps it in
// another word. type is Neutron's, else that wrapping word.
func said(body []byte) (word, message string) {
	var wrapped map[string]json.RawMessage
	if json.Unmarshal(body, &wrapped) != nil {
		return "", ""
	}
	for key, raw := range wrapped {
		var e struct{ Type, Message, Detail string }
		if json.Unmarshal(raw, &e) == nil && e.Message != "" {
			if word = e.Type; word == "" {
				word = key
			}
			return word, clip(e.Message)
		}
		var text string // older Neutron, and its extensions
		if json.Unmarshal(raw, &text) == nil && text != "" {
			word, message = key, clip(text)
		}
	}
	return word, message
}

const mostSaid = 400 // bytes of a service's message

func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > mostSaid {
		s = strings.ToValidUTF8(s[:mostSaid], "") + "…"
	}
	return s
}

// isStatus tells whether a service answered with one of these.
func isStatus(err error, codes ...int) bool {
	for _, c := range codes {
		if gophercloud.ResponseCodeIs(err, c) {
			return true
		}
	}
	return false
}

// lostAnswer tells whether a request that failed may have been carried out all
// the same: all that were not refused, or not even sent.
func lostAnswer(err error) bool {
	if err == nil {
		return false
	}
	if code, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok {
		return code.Actual >= http.StatusInternalServerError || code.Actual == http.StatusRequestTimeout
	}
	if _, ok := errors.AsType[*trove.Error](err); ok { // of the gate: it was not sent
		return false
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return false
	}
	return true
}
