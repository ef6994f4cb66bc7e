// Package seal keeps payloads on the bus secret, in one of two ways: the
// original's serializers (spec: SecureSerializer, ConductorGuestSerializer),
// which Python's services understand, and an authenticated one for our own.
//
// A key says which way it is for, so that neither end can be talked into the
// other: its text begins with AuthenticatedPrefix, or it is of the original's
// way. The package turns requests and replies of package wire into others. It
// knows no keys but those it is given, and no rule about who must seal what:
// that is in package keyring.
package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/gotrove/gotrove/internal/rpc"
	"github.com/gotrove/gotrove/internal/rpc/wire"
	"github.com/gotrove/gotrove/internal/secret"
	"github.com/gotrove/gotrove/internal/trove"
)

// AuthenticatedPrefix begins the keys of the authenticated way.
const AuthenticatedPrefix = "v2."

// keyLength is that of a key we make: 190 bits.
const keyLength = 32

// Road is who speaks to whom.
type Road string

// The roads. Replies take the same one back.
const (
	ToTaskManager Road = "taskmanager"
	ToGuest       Road = "guest"
	ToConductor   Road = "conductor" // from a guest
)

// What a request looks like on the bus.
type Form uint8

// The forms.
const (
	Plain Form = iota
	Original
	Authenticated
)

func (f Form) String() string { return [...]string{"plain", "original", "authenticated"}[f] }

// Errors of opening, for errors.Is. They are all there is to know: none says
// what was in the message or where exactly it was wrong.
var (
	ErrPlain = errors.New("it is not sealed, though its receiver has a key for its sender")
	ErrForm  = errors.New("it is not sealed in the way its key is for")
	ErrKey   = errors.New("it is sealed with another key, or damaged")
)

// Members of the context that say how a request is sealed.
const (
	memberContext  = "context"         // the original's: the sealed context
	memberInstance = "csz-instance-id" // the original's: whose key
	memberEntity   = "entity"
	memberSeal     = "gotrove_seal" // ours
	memberPayload  = "gotrove_payload"
)

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	codec
	form Form
}

// codec is a way of sealing.
type codec interface {
	sealRequest(road Road, instance string, r *wire.Request) error
	// openRequest changes r only if it succeeds.
	openRequest(road Road, instance string, r *wire.Request) error
	// replies make what seals and what opens the reply to r, which is open.
	sealReply(road Road, instance string, r *wire.Request) rpc.ReplyCodec
	openReply(road Road, instance string, r *wire.Request) rpc.ReplyCodec
}

// NewKey readies a key, given as text.
func NewKey(text secret.String) (*Key, error) {
	rest, ours := strings.CutPrefix(text.Reveal(), AuthenticatedPrefix)
	switch {
	case text.IsZero():
		return nil, trove.Errorf(trove.KindBadRequest, "a key is empty")
	case ours && len(rest) < keyLength:
		return nil, trove.Errorf(trove.KindBadRequest, "a key is too short: %s and %d characters are needed", AuthenticatedPrefix, keyLength)
	case ours:
		return &Key{authenticated{secret.NewGCM(text, "rpc v2")}, Authenticated}, nil
	}
	return &Key{original{secret.NewCBC(text)}, Original}, nil
}

// MakeKey makes a key at random.
func MakeKey(f Form) secret.String {
	k := secret.Password(keyLength, secret.Alphanumeric)
	if f == Authenticated {
		return secret.New(AuthenticatedPrefix + k.Reveal())
	}
	return k
}

// Form is the way the key is for.
func (k *Key) Form() Form { return k.form }

// SealRequest seals r in place and gives what opens the reply. instance is the
// instance whose key it is; empty if it is none's.
func (k *Key) SealRequest(road Road, instance string, r *wire.Request) (rpc.ReplyCodec, error) {
	if err := k.sealRequest(road, instance, r); err != nil {
		return nil, err
	}
	return k.openReply(road, instance, r), nil
}

// OpenRequest opens r in place with the first of keys that opens it, and gives
// what seals the reply with the same. The error is one of this package's, and r
// then as it was.
func OpenRequest(keys []*Key, road Road, instance string, r *wire.Request) (*Key, rpc.ReplyCodec, error) {
	form := FormOf(r)
	if form == Plain {
		return nil, nil, ErrPlain
	}
	err := ErrForm
	for _, k := range keys {
		if k.form != form {
			continue
		}
		if k.openRequest(road, instance, r) == nil {
			return k, k.sealReply(road, instance, r), nil
		}
		err = ErrKey
	}
	return nil, nil, err
}

// FormOf tells how r is sealed, by what it says of itself.
func FormOf(r *wire.Request) Form {
	if _, ours := r.Context[memberSeal]; ours {
		return Authenticated
	}
	if c := r.Context[memberContext]; len(c) > 0 && c[0] == '"' {
		return Original
	}
	return Plain
}

// Claimed is the instance whose key r says it is sealed with; empty if it names
// none.
func Claimed(r *wire.Request) (instance string) {
	instance, _ = wire.Text(r.Context[memberInstance])
	return instance
}

// quoted is b, of base64, as a JSON string.
func quoted(b []byte) json.RawMessage {
	out := make([]byte, 0, len(b)+2)
	return append(append(append(out, '"'), b...), '"')
}

// unquoted is the base64 in a JSON string; nil if it is none.
func unquoted(v json.RawMessage) []byte {
	if len(v) < 2 || v[0] != '"' {
		return nil
	}
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') >= 0 { // Python and others may escape the slash
		s, _ := wire.Text(v)
		return []byte(s)
	}
	return inner
}

func text(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always has a form
	return b
}
